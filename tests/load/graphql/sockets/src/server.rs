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
                tell(redis, &told.to_string()).await
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

    /// Copies of the first of `tasks`; all of them with it.
    pub async fn copy(&mut self, task: &str, count: usize) -> Vec<String> {
        let Outlet::Row { database, .. } = &self.outlet else {
            return Vec::new();
        };
        let copy = "INSERT INTO task SELECT r.* FROM task AS t CROSS JOIN generate_series(2, $2::int8) AS n \
            CROSS JOIN LATERAL jsonb_populate_record(t, jsonb_build_object('id', overlay(gen_random_uuid()::text placing lpad(n::text, 8, '0') from 1 for 8))) AS r WHERE t.id = $1::text::uuid";
        let uuid = task.trim_start_matches("task_");
        let many = i64::try_from(count).unwrap();
        database.execute(copy, &[&uuid, &many]).await.unwrap();
        database.batch_execute("ANALYZE task").await.unwrap();
        let rows = database
            .query("SELECT replace(id::text, '-', '') FROM task", &[])
            .await;
        let id = |row: &tokio_postgres::Row| format!("task_{}", row.get::<_, &str>(0));
        rows.unwrap().iter().map(id).collect()
    }

    /// Changes many rows by one transaction, and tells of all of them; the time of the commit.
    pub async fn publish_all(&mut self, tasks: &[String], event: usize) -> Instant {
        let Outlet::Row {
            database, redis, ..
        } = &mut self.outlet
        else {
            unreachable!("only rows are many");
        };
        let message = format!("#{event}#");
        let ids: Vec<&str> = tasks
            .iter()
            .map(|task| task.trim_start_matches("task_"))
            .collect();
        let change = "UPDATE task SET version = version + 1, progress_message = $1 WHERE id = ANY ($2::text[]::uuid[]) \
            RETURNING replace(id::text, '-', ''), version, replace(owner_id::text, '-', '')";
        let rows = database.query(change, &[&message, &ids]).await.unwrap();
        let committed = Instant::now();
        assert_eq!(rows.len(), tasks.len());
        let told = rows.iter().map(|row| {
            let (id, version, owner): (&str, i64, Option<&str>) = (row.get(0), row.get(1), row.get(2));
            json!({ "table": "task", "id": id, "version": version, "owner": owner, "kind": "updated" })
        });
        tell(redis, &serde_json::Value::from_iter(told).to_string()).await;
        committed
    }

    /// Milliseconds of processor time: the server's, and of all processes of the database.
    pub fn cpu_millis(&self) -> [f64; 2] {
        let database: u32 = setting("DATABASE_PID").parse().unwrap();
        [
            cpu_of(self.child.id().unwrap()),
            cpu_of(database) + children(database).map(cpu_of).sum::<f64>(),
        ]
    }

    /// How many statements with `text` in them have read the server's database.
    pub async fn reads(&self, text: &str) -> i64 {
        let Outlet::Row { database, .. } = &self.outlet else {
            return 0;
        };
        let count = "SELECT COALESCE(sum(calls), 0)::bigint FROM pg_stat_statements \
            WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) \
            AND query ILIKE 'SELECT%' AND query LIKE '%' || $1::text || '%'";
        database.query_one(count, &[&text]).await.unwrap().get(0)
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

/// Says it as a worker does; the time just before it can be heard.
async fn tell(redis: &mut TcpStream, changes: &str) -> Instant {
    let channel = setting("CHANNEL");
    let command = format!(
        "*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n{changes}\r\n",
        channel.len(),
        changes.len()
    );
    let published = Instant::now();
    redis.write_all(command.as_bytes()).await.unwrap();
    // `:1`, the number of who heard it.
    let mut answer = [0; 16];
    let length = redis.read(&mut answer).await.unwrap();
    assert_eq!(&answer[..length], b":1\r\n", "one server hears of it");
    published
}

/// The fields of `/proc/PID/stat` behind the name.
fn stat(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default();
    fields.split_whitespace().map(str::to_owned).collect()
}

/// User and system time of a process, a tick being 10 ms.
fn cpu_of(pid: u32) -> f64 {
    let fields = stat(pid);
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok());
    [11, 12].into_iter().filter_map(ticks).sum::<f64>() * 10.0
}

fn children(of: u32) -> impl Iterator<Item = u32> {
    let all = std::fs::read_dir("/proc").unwrap();
    let pids = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(move |pid| stat(*pid).get(1) == Some(&of.to_string()))
}
