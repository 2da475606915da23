//! The tables as people see them by a client of their own: described, read without what is secret, and never written.

use std::collections::BTreeMap;

use migration::dictionary;
use sea_orm::{ConnectionTrait as _, Database, DatabaseConnection, DbBackend, Statement};

use crate::harness::{Ground, process};

async fn texts(db: &DatabaseConnection, sql: &str) -> Vec<String> {
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let rows = db.query_all_raw(statement).await.unwrap();
    rows.iter()
        .map(|row| row.try_get_by_index(0).unwrap())
        .collect()
}

/// Each table's columns, as the database has them.
async fn columns(db: &DatabaseConnection) -> BTreeMap<String, Vec<String>> {
    let is_postgres = db.get_database_backend() == DbBackend::Postgres;
    let names = if is_postgres {
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'"
    } else {
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    };
    let mut all = BTreeMap::new();
    for table in texts(db, names).await {
        let sql = if is_postgres {
            format!(
                "SELECT column_name::text FROM information_schema.columns WHERE table_name = '{table}' ORDER BY 1"
            )
        } else {
            format!("SELECT name FROM pragma_table_info('{table}') ORDER BY 1")
        };
        all.insert(table, texts(db, &sql).await);
    }
    all
}

async fn migrated() -> (Ground, String) {
    let ground = Ground::new().await;
    let url = ground
        .settings
        .iter()
        .find(|(key, _)| key == "DATABASE_URL");
    let url = url.map_or_else(
        || {
            format!(
                "sqlite://{}/main-webserver.sqlite3",
                ground.folder().display()
            )
        },
        |(_, url)| url.clone(),
    );
    succeed(&ground, &["migrate", "up"]).await;
    (ground, url)
}

async fn succeed(ground: &Ground, arguments: &[&str]) -> String {
    let (code, said, complaint) = process::output(ground, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {said}{complaint}");
    said
}

#[tokio::test]
async fn every_table_and_column_is_described_and_nothing_else_is() {
    let (ground, url) = migrated().await;
    let db = Database::connect(&url).await.unwrap();
    let found = columns(&db).await;
    let described: BTreeMap<String, Vec<String>> = dictionary::tables()
        .iter()
        .map(|table| {
            let mut names: Vec<String> = table
                .columns
                .iter()
                .map(|column| column.name.to_owned())
                .collect();
            names.sort_unstable();
            (table.name.to_owned(), names)
        })
        .collect();
    assert_eq!(
        found, described,
        "migration/src/dictionary.txt is not what the tables are"
    );
    for table in dictionary::tables() {
        for (name, doc) in table
            .columns
            .iter()
            .map(|column| (column.name, column.doc))
            .chain([(table.name, table.doc)])
        {
            assert!(
                doc.ends_with('.') && doc.len() > 4,
                "{}.{name}: {doc}",
                table.name
            );
        }
    }
    if db.get_database_backend() == DbBackend::Postgres {
        let bare = texts(
            &db,
            "SELECT c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 \
             AND NOT a.attisdropped WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace \
             AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)",
        );
        assert_eq!(bare.await, [""; 0]);
    }
    db.close().await.unwrap();
    ground.clear().await;
}

/// Whatever is called a hash, a secret or a credential is one.
#[test]
fn what_sounds_like_a_secret_is_marked_as_one() {
    for table in dictionary::tables() {
        for column in &table.columns {
            let sounds = [
                "hash",
                "secret",
                "token",
                "credential_",
                "password",
                "encrypted",
                "private",
            ]
            .iter()
            .any(|word| column.name.contains(word));
            assert_eq!(sounds, column.is_secret, "{}.{}", table.name, column.name);
        }
    }
}

#[tokio::test]
async fn a_role_for_people_reads_all_but_secrets_and_writes_nothing() {
    let (ground, url) = migrated().await;
    let role = format!(
        "r{}",
        ground.setting("SECRET_KEY").rsplit('_').next().unwrap()
    );
    if !url.starts_with("postgres") {
        let (code, _, complaint) = process::output(&ground, &["sql-role", "create", &role]).await;
        assert_eq!(
            (code, complaint.trim()),
            (1, "error: roles are PostgreSQL's; SQLite has none")
        );
        return;
    }
    succeed(&ground, &["user", "create", "somebody@example.com"]).await;
    let said = succeed(&ground, &["sql-role", "create", &role]).await;
    let password = said.split_whitespace().nth(2).unwrap().to_owned();
    assert_eq!(succeed(&ground, &["sql-role", "list"]).await.trim(), role);
    let owner = Database::connect(&url).await.unwrap();
    let kept = texts(
        &owner,
        &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{role}'"),
    )
    .await;
    assert!(kept[0].starts_with("SCRAM-SHA-256$4096:"), "{kept:?}");

    let theirs = url.replace("postgres@", &format!("{role}:{password}@"));
    // One connection: the role has few, and each question comes after the other.
    let mut options = sea_orm::ConnectOptions::new(theirs.clone());
    options.max_connections(1);
    let db = Database::connect(options).await.unwrap();
    let emails = texts(&db, "SELECT email::text FROM account").await;
    assert_eq!(emails, ["somebody@example.com"]);
    for table in dictionary::tables() {
        for column in &table.columns {
            let sql = format!(
                "SELECT count(\"{}\")::text FROM \"{}\"",
                column.name, table.name
            );
            let read = db
                .query_all_raw(Statement::from_string(DbBackend::Postgres, sql))
                .await;
            assert_eq!(
                read.is_err(),
                column.is_secret,
                "{}.{}: {read:?}",
                table.name,
                column.name
            );
        }
    }
    // Even who switches off what protects them from themselves writes nothing.
    for sql in [
        "DELETE FROM account",
        "SET default_transaction_read_only = off; DELETE FROM account",
        "SET default_transaction_read_only = off; UPDATE account SET email = 'x'",
        "SET default_transaction_read_only = off; CREATE TABLE mine (x int)",
        "SET default_transaction_read_only = off; DROP TABLE account",
    ] {
        assert!(db.execute_unprepared(sql).await.is_err(), "{sql}");
    }
    db.execute_unprepared("RESET default_transaction_read_only")
        .await
        .unwrap();
    let limits = texts(&db, "SELECT current_setting('statement_timeout') || ' ' || current_setting('default_transaction_read_only')").await;
    assert_eq!(limits, ["30s on"]);

    // A later table: one that is described is read after the next start, one that is not, is not.
    owner
        .execute_unprepared("DROP TABLE connection_log; DELETE FROM seaql_migrations WHERE version LIKE '%connection_logs'; CREATE TABLE unknown (id int)")
        .await
        .unwrap();
    succeed(&ground, &["migrate", "up"]).await;
    texts(&db, "SELECT id::text FROM connection_log").await;
    let unknown = Statement::from_string(DbBackend::Postgres, "SELECT id FROM unknown");
    assert!(
        db.query_all_raw(unknown).await.is_err(),
        "nobody has said that it may be read"
    );

    let (code, _, complaint) = process::output(&ground, &["sql-role", "create", &role]).await;
    assert_eq!(
        (code, complaint.trim().to_owned()),
        (1, format!("error: there is a role {role} already"))
    );
    let (code, _, complaint) = process::output(&ground, &["sql-role", "revoke", "postgres"]).await;
    assert_eq!(code, 1);
    assert!(
        complaint.contains("is no role that sql-role has made"),
        "{complaint}"
    );
    let (code, _, complaint) =
        process::output(&ground, &["sql-role", "create", "a; DROP ROLE x"]).await;
    assert_eq!(code, 1);
    assert!(complaint.contains("is no name for a role"), "{complaint}");

    succeed(&ground, &["sql-role", "revoke", &role]).await;
    assert!(
        db.execute_unprepared("SELECT 1").await.is_err(),
        "its session has ended"
    );
    assert!(Database::connect(&theirs).await.is_err(), "it is gone");
    assert_eq!(succeed(&ground, &["sql-role", "list"]).await, "");
    owner.close().await.unwrap();
    ground.clear().await;
}
