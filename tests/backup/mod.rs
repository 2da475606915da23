//! Backups by the real programs: what is restored is what was there, or nothing.
#![expect(
    clippy::case_sensitive_file_extension_comparisons,
    reason = "the names are the service's own"
)]

mod damage;
mod life;
mod outside;
mod refusals;
mod service;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement};
use serde_json::json;

use crate::harness::{
    ADMIN_PASSWORD, Ground, Person,
    client::PASSWORD,
    process::{self, Process},
};

/// A key as age-keygen prints them, and another.
pub const KEY: &str = "AGE-SECRET-KEY-1QNDL8L5ZPZXL6US8FXHMKYSPJ3SYV2JPRUULYM6S98USEXDSMDRSV7DR4A";
pub const OTHER_KEY: &str =
    "AGE-SECRET-KEY-1HE0FJTYQ894V3KCNN3YU5678RZSVKVDYAMAGEF6QE0ZU5PANT5YQ6TKG4J";

/// A ground whose backups go to a folder of its own.
pub async fn ground() -> Ground {
    let ground = Ground::new().await.with("MACHINE_PROVIDER", "simulated");
    let store = format!("file://{}", store(&ground).display());
    ground.with("BACKUP_URL", &store).with("LOG", "warn")
}

pub fn store(ground: &Ground) -> PathBuf {
    ground.folder().join("backups")
}

/// What is in a folder, by name.
pub fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// Runs a command that has to succeed; what it says.
pub async fn succeed(ground: &Ground, arguments: &[&str]) -> String {
    let (code, said, complaint) = process::output(ground, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {said}{complaint}");
    said
}

/// Runs a command that has to fail; what it complains about.
pub async fn fail(ground: &Ground, arguments: &[&str]) -> String {
    let (code, said, complaint) = process::output(ground, arguments).await;
    assert_eq!(code, 1, "{arguments:?}: {said}{complaint}");
    let lines = complaint.lines().filter(|line| line.starts_with("error: "));
    let lines: Vec<&str> = lines.collect();
    assert_eq!(lines.len(), 1, "one clear line: {complaint}");
    lines[0].to_owned()
}

/// The URL of another database beside the ground's own.
pub fn beside(ground: &Ground, name: &str) -> String {
    match own(ground) {
        url if url.starts_with("postgres") => format!("{url}_{name}"),
        _ => format!(
            "sqlite://{}",
            ground.folder().join(format!("{name}.sqlite3")).display()
        ),
    }
}

/// The URL of the ground's own database.
pub fn own(ground: &Ground) -> String {
    let set = ground
        .settings
        .iter()
        .find(|(key, _)| key == "DATABASE_URL");
    set.map_or_else(
        || {
            format!(
                "sqlite://{}/main-webserver.sqlite3",
                ground.folder().display()
            )
        },
        |(_, url)| url.clone(),
    )
}

async fn server(url: &str) -> DatabaseConnection {
    let (base, _) = url.rsplit_once('/').unwrap();
    Database::connect(format!("{base}/postgres")).await.unwrap()
}

/// The databases of the server whose names begin so; none of SQLite.
pub async fn databases(url: &str, prefix: &str) -> Vec<String> {
    if !url.starts_with("postgres") {
        return Vec::new();
    }
    let server = server(url).await;
    let sql =
        format!("SELECT datname::text FROM pg_database WHERE starts_with(datname, '{prefix}')");
    let rows = server
        .query_all_raw(Statement::from_string(DbBackend::Postgres, sql))
        .await
        .unwrap();
    server.close().await.unwrap();
    rows.iter()
        .map(|row| row.try_get_by_index(0).unwrap())
        .collect()
}

/// Whether there is a database at `url`.
pub async fn exists(url: &str) -> bool {
    if let Some(file) = url.strip_prefix("sqlite://") {
        Path::new(file).exists()
    } else {
        let (_, name) = url.rsplit_once('/').unwrap();
        databases(url, name).await.iter().any(|found| found == name)
    }
}

/// Removes a database and those whose names begin like its own.
pub async fn forget(url: &str) {
    if url.starts_with("postgres") {
        let (_, name) = url.rsplit_once('/').unwrap();
        let found = databases(url, name).await;
        let server = server(url).await;
        for name in found {
            let sql = format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)");
            server.execute_unprepared(&sql).await.unwrap();
        }
        server.close().await.unwrap();
    }
}

/// Every row of every table, as text.
pub async fn rows(url: &str) -> BTreeMap<String, Vec<String>> {
    let db = Database::connect(url).await.unwrap();
    let texts = async |sql: String| -> Vec<String> {
        let statement = Statement::from_string(db.get_database_backend(), sql);
        let rows = db.query_all_raw(statement).await.unwrap();
        let texts = rows.iter().map(|row| row.try_get_by_index(0).unwrap());
        texts.collect()
    };
    let is_postgres = db.get_database_backend() == DbBackend::Postgres;
    let tables = if is_postgres {
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"
    } else {
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    };
    let mut all = BTreeMap::new();
    for table in texts(tables.to_owned()).await {
        let sql = if is_postgres {
            format!("SELECT t::text FROM \"{table}\" t ORDER BY 1")
        } else {
            let columns = texts(format!("SELECT name FROM pragma_table_info('{table}')")).await;
            let values: Vec<String> = columns
                .iter()
                .map(|name| format!("quote(\"{name}\")"))
                .collect();
            format!(
                "SELECT {} FROM \"{table}\" ORDER BY 1",
                values.join(" || ',' || ")
            )
        };
        all.insert(table, texts(sql).await);
    }
    db.close().await.unwrap();
    all
}

/// Fails with the first row that differs.
pub fn compare(
    one: &BTreeMap<String, Vec<String>>,
    other: &BTreeMap<String, Vec<String>>,
) -> usize {
    let tables = |all: &BTreeMap<String, Vec<String>>| all.keys().cloned().collect::<Vec<_>>();
    assert_eq!(tables(one), tables(other));
    for (table, rows) in one {
        assert_eq!(rows.len(), other[table].len(), "rows of {table}");
        for (row, restored) in rows.iter().zip(&other[table]) {
            assert_eq!(row, restored, "a row of {table}");
        }
    }
    one.values().map(Vec::len).sum()
}

/// Somebody with a container, a machine with a snapshot, tasks of every end, and an administrator's doings.
pub async fn lead_a_life(serve: &Process) -> (Person, String) {
    let ada = serve.person().sign_up("ada").await;
    let admin = serve
        .person()
        .log_in("admin@localhost", ADMIN_PASSWORD)
        .await;
    let container = ada.create("hello").await.container;
    ada.container_in(&container, "RUNNING").await;
    let demo = ada.demo(3, 1).await;
    ada.task_in(&demo, "SUCCEEDED").await;
    let long = ada.demo(100, 60_000).await;
    ada.cancel(&long).await.ok("/cancelTask/task/state");
    ada.task_in(&long, "CANCELLED").await;
    let image = admin.ask(
        "mutation { putMachineImage(input: {slug: \"tiny\", name: \"Tiny\", disk: \"tiny.qcow2\", ports: [22], \
         memoryMebibytes: 64, diskMebibytes: 64}) { image { id } } }",
    );
    image.await.ok("/putMachineImage/image/id");
    let machine = ada.ask(
        "mutation { createVirtualMachine(input: {name: \"box\", image: \"tiny\", region: \"us-east-1\"}) { task { id } } }",
    );
    let task = machine.await.text("/createVirtualMachine/task/id");
    ada.task_in(&task, "SUCCEEDED").await;
    let scheduled = admin.ask(
        "mutation { putSchedule(input: {name: \"yearly\", kind: \"noop\", cron: \"0 0 1 1 *\"}) { schedule { id } } }",
    );
    scheduled.await.ok("/putSchedule/schedule/id");
    let cluster = admin.send(
        "mutation($input: CreateClusterInput!) { createCluster(input: $input) { cluster { id } } }",
        json!({ "input": { "name": "some", "region": "us-east-1", "provider": "SIMULATED" } }),
    );
    let _ = cluster.await;
    (ada, container)
}

/// What somebody whose account was restored sees of their container after logging in.
pub async fn log_in_again(serve: &Process, email: &str, container: &str) {
    let again = serve.person().log_in(email, PASSWORD).await;
    let found = again.container(container).await;
    assert_eq!(found["app"]["slug"], "hello");
}
