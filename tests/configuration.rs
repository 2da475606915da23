//! Where settings come from, what is made of them, and how running processes follow their changes.

mod bad_starts;
mod following;
mod rotation;
mod sources;

use sea_orm::{ConnectionTrait as _, Database, Statement};

use crate::harness::{Ground, process::output};

const CONFIG_KEY: &str = "a key of thirty-two characters or more, for the configuration";

/// A ground with a configuration database that has its table and nothing in it.
async fn ground() -> Ground {
    with_database(Ground::new().await).await
}

/// The same on a ground there is.
pub async fn with_database(ground: Ground) -> Ground {
    let url = match std::env::var("TEST_DATABASE_URL") {
        Ok(_) => ground.setting("DATABASE_URL").to_owned(),
        Err(_) => format!(
            "sqlite://{}/config.sqlite3?mode=rwc",
            ground.folder().display()
        ),
    };
    let ground = ground
        .with("CONFIG_DB_URL", &url)
        .with("CONFIG_KEY", CONFIG_KEY)
        .with("ENVIRONMENT", "staging");
    assert_eq!(
        said(&ground, &["config", "init"]).await.trim(),
        "the table of settings is there"
    );
    ground
}

/// What a command says that succeeds.
async fn said(ground: &Ground, arguments: &[&str]) -> String {
    let (code, out, err) = output(ground, arguments).await;
    assert_eq!((code, err.as_str()), (0, ""), "{arguments:?}: {out}{err}");
    out
}

/// What a command complains of that fails.
async fn refused(ground: &Ground, arguments: &[&str]) -> String {
    let (code, out, err) = output(ground, arguments).await;
    assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}: {err}");
    err.trim().to_owned()
}

async fn connect(ground: &Ground) -> sea_orm::DatabaseConnection {
    Database::connect(ground.setting("CONFIG_DB_URL"))
        .await
        .unwrap()
}

async fn execute(ground: &Ground, sql: &str) {
    let db = connect(ground).await;
    assert_eq!(
        db.execute_unprepared(sql).await.unwrap().rows_affected(),
        1,
        "{sql}"
    );
    db.close().await.unwrap();
}

async fn stored_text(ground: &Ground, name: &str) -> String {
    let db = connect(ground).await;
    let sql = format!("SELECT value FROM configuration WHERE name = '{name}'");
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql));
    let text = row.await.unwrap().unwrap().try_get("", "value").unwrap();
    db.close().await.unwrap();
    text
}
