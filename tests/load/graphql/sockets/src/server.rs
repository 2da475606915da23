//! The servers that are measured: the service, a bare loop, and graphql-ws on node.

use std::{
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::{Child, ChildStdin, Command},
};
use tokio_postgres::NoTls;

use crate::clients::Client;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bare,
    Ours,
    /// Another build of the service, to compare with.
    Before,
    Node,
}

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare loop",
            Self::Ours => "main-webserver",
            Self::Before => "main-webserver, BEFORE",
            Self::Node => "graphql-ws on node",
        }
    }

    fn command(self) -> Option<Command> {
        let path = |variable| std::env::var(variable).ok();
        let mut command = match self {
            Self::Bare => Command::new(std::env::current_exe().unwrap()),
            Self::Ours => Command::new(path("SERVER").expect("SERVER names the binary")),
            Self::Before => Command::new(path("BEFORE")?),
            Self::Node => Command::new("node"),
        };
        match self {
            Self::Bare => command.arg("bare"),
            Self::Ours | Self::Before => {
                command.args(["web", "--set", "PORT=0"]).env("LOG", "warn")
            }
            Self::Node => command.arg(path("PEER")?),
        };
        Some(command)
    }
}

/// How an event is published.
enum Outlet {
    /// A row changed in the database, and the word of it in Redis, as a worker does it.
    Row {
        database: Box<tokio_postgres::Client>,
        redis: TcpStream,
        versions: std::collections::HashMap<String, i64>,
    },
    /// A line.
    Line(ChildStdin),
}

pub struct Server {
    child: Child,
    pub address: SocketAddr,
    outlet: Outlet,
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; run.sh does"))
}

async fn connect(database: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A database that no other build has changed the tables of.
async fn fresh_database() -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("load_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    let server = connect(&format!("{}/postgres", setting("POSTGRES"))).await;
    let create = format!("CREATE DATABASE {name}");
    server.batch_execute(&create).await.unwrap();
    name
}

impl Server {
    /// Starts it; `None` when there is nothing to start.
    pub async fn start(kind: Kind) -> Option<Self> {
        let mut command = kind.command()?;
        let database = format!("{}/{}", setting("POSTGRES"), fresh_database().await);
        let mut child = command
            .env("DATABASE_URL", &database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("an endpoint");
            if let Some(url) = line.trim().strip_prefix("endpoint") {
                let url = url.trim().trim_start_matches("http://");
                break url.split('/').next().unwrap().parse().unwrap();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let outlet = match kind {
            Kind::Ours | Kind::Before => {
                let database = Box::new(connect(&database).await);
                let redis = setting("REDIS_URL");
                let redis = redis.trim_start_matches("redis://").split('/').next();
                let redis = TcpStream::connect(redis.unwrap()).await.unwrap();
                redis.set_nodelay(true).unwrap();
                let versions = std::collections::HashMap::new();
                Outlet::Row {
                    database,
                    redis,
                    versions,
                }
            }
            Kind::Bare | Kind::Node => Outlet::Line(child.stdin.take().unwrap()),
        };
        Some(Self {
            child,
            address,
            outlet,
        })
    }

    /// An access token, and things to watch.
    pub async fn prepare(&mut self, tasks: usize) -> (String, Vec<String>) {
        if let Outlet::Line(_) = self.outlet {
            return (String::new(), vec!["the one".to_owned(); tasks]);
        }
        const SIGN_UP: &str =
            "mutation($input: SignUpInput!) { signUp(input: $input) { accessToken } }";
        const START: &str = "mutation($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id version } } }";
        let mut nobody = Client::open(self.address, "", 0).await;
        let email = format!("load-{}@example.com", self.child.id().unwrap());
        let person = json!({ "email": email, "name": "Load", "password": "correct horse battery" });
        let made = nobody.ask(SIGN_UP, json!({ "input": person })).await;
        let token = made["signUp"]["accessToken"].as_str().unwrap().to_owned();
        let mut person = Client::open(self.address, &token, 0).await;
        let mut ids = Vec::new();
        for _ in 0..tasks {
            let input = json!({ "input": { "steps": 1, "stepMillis": 1 } });
            let made = person.ask(START, input).await;
            let task = &made["startDemoTask"]["task"];
            let id = task["id"].as_str().unwrap().to_owned();
            if let Outlet::Row { versions, .. } = &mut self.outlet {
                versions.insert(id.clone(), task["version"].as_i64().unwrap());
            }
            ids.push(id);
        }
        (token, ids)
    }

    /// Makes an event happen; the time just before the watchers can hear of it.
    pub async fn publish(&mut self, task: &str, event: usize) -> Instant {
        let message = format!("#{event}# {}", "words ".repeat(10));
        match &mut self.outlet {
            Outlet::Row {
                database,
                redis,
                versions,
            } => {
                let version = versions.get_mut(task).unwrap();
                *version += 1;
                let uuid = task.trim_start_matches("task_");
                let change =
                    "UPDATE task SET version = $1, progress_message = $2 WHERE id = $3::text::uuid";
                let rows = database
                    .execute(change, &[version, &message, &uuid])
                    .await
                    .unwrap();
                assert_eq!(rows, 1);
                let told = json!([{ "table": "task", "id": uuid, "version": *version, "owner": null, "kind": "updated" }]);
                let (channel, told) = (setting("CHANNEL"), told.to_string());
                let command = format!(
                    "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{told}\r\n",
                    channel.len(),
                    told.len()
                );
                let published = Instant::now();
                redis.write_all(command.as_bytes()).await.unwrap();
                // `:1`, the number of who heard it.
                let mut answer = [0; 16];
                let length = redis.read(&mut answer).await.unwrap();
                assert_eq!(&answer[..length], b":1\r\n", "one server hears of it");
                published
            }
            Outlet::Line(line) => {
                let payload = json!({ "data": { "taskUpdated": { "id": task, "state": "QUEUED", "version": event, "progress": 0, "progressMessage": message } } });
                let text = json!({ "type": "next", "id": "0", "payload": payload });
                let published = Instant::now();
                line.write_all(format!("{text}\n").as_bytes())
                    .await
                    .unwrap();
                published
            }
        }
    }

    pub async fn query_one(&self, statement: &str) -> i64 {
        let Outlet::Row { database, .. } = &self.outlet else {
            return 0;
        };
        database.query_one(statement, &[]).await.unwrap().get(0)
    }

    /// The server's resident memory.
    pub fn resident_kib(&self) -> i64 {
        let status = format!("/proc/{}/status", self.child.id().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }

    pub async fn stop(mut self) {
        self.child.kill().await.unwrap();
    }
}
