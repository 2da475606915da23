//! What the service says of itself: to receivers of traces and reports, to Prometheus, and in its log.

mod faults;
mod filter;
mod logs;
mod meters;
mod reports;
mod slow;
mod traces;

use std::path::PathBuf;

use sea_orm::{ConnectionTrait as _, Database};
use serde_json::Value;

use crate::harness::{
    Ground, HTTP, Person, Reply,
    process::{Process, command},
    required,
};

/// A ground on PostgreSQL and Redis; fails loudly without them.
async fn ground() -> Ground {
    required("TEST_DATABASE_URL");
    required("TEST_REDIS_URL");
    Ground::new().await.with("LOG_FORMAT", "json")
}

/// A process whose log goes into a file.
async fn logged(ground: &Ground, subcommand: &str, name: &str) -> (Process, Log) {
    let path = ground.folder().join(format!("{name}.log"));
    let file = std::fs::File::create(&path).unwrap();
    let mut command = command(ground, &[subcommand]);
    command.stderr(file);
    let last = if subcommand == "web" {
        "queue"
    } else {
        "engine"
    };
    (Process::until_it_says(command, last).await, Log(path))
}

/// A log in JSON lines.
struct Log(PathBuf);

impl Log {
    fn text(&self) -> String {
        std::fs::read_to_string(&self.0).unwrap()
    }

    /// Every whole line.
    fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = whole.lines().map(|line| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
        });
        read.collect()
    }

    fn with(&self, is_it: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| is_it(line));
        lines
    }
}

/// Asks with headers of one's own; the answer and its headers.
async fn ask_with(
    person: &Person,
    headers: &[(&str, &str)],
    query: &str,
    variables: Value,
) -> (Reply, reqwest::header::HeaderMap) {
    let url = format!("http://{}/graphql", person.address);
    let mut request = HTTP
        .post(url)
        .json(&serde_json::json!({ "query": query, "variables": variables }));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    if let Some(token) = &person.token {
        request = request.bearer_auth(token);
    }
    let answer = request.send().await.unwrap();
    let headers = answer.headers().clone();
    (Reply(answer.json().await.unwrap()), headers)
}

/// The meters of a process, as Prometheus would read them.
async fn meters(address: std::net::SocketAddr) -> String {
    let answer = HTTP.get(format!("http://{address}/metrics")).send().await;
    answer.unwrap().text().await.unwrap()
}

/// The count of a meter by its name and labels, as they are written.
fn value(meters: &str, name: &str) -> u64 {
    let line = meters.lines().find_map(|line| line.strip_prefix(name));
    let value = line.map(str::trim).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in\n{meters}"))
}

/// Takes a table away, so that whatever reads it meets an error nobody expects.
async fn break_table(ground: &Ground, table: &str) {
    let db = Database::connect(ground.setting("DATABASE_URL"))
        .await
        .unwrap();
    db.execute_unprepared(&format!("ALTER TABLE {table} RENAME TO {table}_gone"))
        .await
        .unwrap();
    db.close().await.unwrap();
}

/// Lets nobody into the test's database any more, and ends the connections to it.
async fn break_connections(ground: &Ground) {
    let url = ground.setting("DATABASE_URL");
    let (server, name) = url.rsplit_once('/').unwrap();
    let db = Database::connect(format!("{server}/postgres"))
        .await
        .unwrap();
    for statement in [
        format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"),
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"),
    ] {
        db.execute_unprepared(&statement).await.unwrap();
    }
    db.close().await.unwrap();
}
