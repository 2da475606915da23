//! Steps of the database that a service under load does not notice, each with a way back.

mod dangers;

use std::collections::{BTreeMap, BTreeSet};

use main_webserver::store::migrate;
use migration::{
    Migrator, MigratorTrait as _, sea_orm_migration::SchemaManager, statements::build_index,
};
use sea_orm::{
    ConnectionTrait, Database, DatabaseConnection, DbBackend, Statement, TransactionTrait as _,
};

use super::{a_task_is_run_and_watched, ground};
use crate::harness::{
    process::{command, output},
    servers::Postgres,
    until,
};

/// Steps up to this one were done before there was anybody to disturb.
const FIRST_CAREFUL: u32 = 10;

/// The number in `mYYYYMMDD_NNNNNN_what`.
fn number(name: &str) -> u32 {
    name.split('_').nth(1).unwrap().parse().unwrap()
}

async fn texts(db: &impl ConnectionTrait, sql: &str) -> Vec<String> {
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let rows = db.query_all_raw(statement).await.unwrap();
    rows.iter()
        .map(|row| row.try_get_by_index(0).unwrap())
        .collect()
}

async fn tables(db: &DatabaseConnection) -> BTreeSet<String> {
    let all = texts(
        db,
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'",
    )
    .await;
    all.into_iter().collect()
}

/// The statements that the server has logged.
fn statements(log: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut is_statement = false;
    for line in log.lines() {
        if let Some(rest) = line.strip_prefix('\t') {
            if let Some(last) = found.last_mut().filter(|_| is_statement) {
                *last += "\n";
                *last += rest;
            }
            continue;
        }
        let said = line.split_once("LOG:  ").map(|(_, said)| said);
        let statement = said.and_then(|said| {
            let (how, statement) = said.split_once(": ")?;
            (how == "statement" || how.starts_with("execute")).then_some(statement)
        });
        is_statement = statement.is_some();
        found.extend(statement.map(str::to_owned));
    }
    found
}

#[tokio::test]
async fn no_step_stops_a_service_that_goes_on() {
    let postgres = Postgres::create().await;
    postgres.start().await;
    let db = Database::connect(postgres.url()).await.unwrap();
    db.execute_unprepared("ALTER DATABASE postgres SET log_statement = 'all'")
        .await
        .unwrap();
    db.close().await.unwrap();
    let db = Database::connect(postgres.url()).await.unwrap();
    let mut problems = Vec::new();
    let mut careful = 0;
    for step in Migrator::migrations() {
        let (name, old, from) = (
            step.name().to_owned(),
            tables(&db).await,
            postgres.log().len(),
        );
        Migrator::up(&db, Some(1)).await.unwrap();
        let done = statements(&postgres.log()[from..]);
        assert!(
            done.iter()
                .any(|it| it.contains("INSERT INTO \"seaql_migrations\"")),
            "the statements of {name} are in the server's log: {done:#?}"
        );
        if number(&name) < FIRST_CAREFUL {
            continue;
        }
        careful += 1;
        for statement in done {
            let contracts = name.ends_with("_contract");
            for danger in dangers::of(&statement, contracts, |table| old.contains(table)) {
                problems.push(format!("{name}: {danger}\n    {statement}"));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert_eq!(careful, Migrator::migrations().len() - 9);
    db.close().await.unwrap();
}

/// All there is of columns, indexes and constraints, by name.
async fn schema(db: &DatabaseConnection) -> BTreeSet<String> {
    const POSTGRES: [&str; 3] = [
        "SELECT concat_ws(' ', 'column', table_name, column_name, data_type, collation_name, is_nullable, column_default) \
            FROM information_schema.columns WHERE table_schema = 'public'",
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "SELECT concat_ws(' ', conrelid::regclass::text, conname, pg_get_constraintdef(oid)) FROM pg_constraint \
            WHERE connamespace = 'public'::regnamespace",
    ];
    const SQLITE: [&str; 2] = [
        "SELECT 'column ' || m.name || ' ' || c.name || ' ' || c.type || ' ' || c.\"notnull\" || ' ' || coalesce(c.dflt_value, '') \
            FROM sqlite_master m, pragma_table_info(m.name) c WHERE m.type = 'table'",
        "SELECT sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    ];
    let queries: &[&str] = match db.get_database_backend() {
        DbBackend::Postgres => &POSTGRES,
        _ => &SQLITE,
    };
    let mut found = BTreeSet::new();
    for query in queries {
        // What is written out by a library has quotes, what is written by hand has none.
        let all = texts(db, query).await;
        found.extend(all.into_iter().map(|text| text.replace('"', "")));
    }
    found
}

/// Each step up, down and up again, with the schema as it was each time.
async fn steps_go_both_ways(db: &DatabaseConnection) {
    for step in Migrator::migrations() {
        let (name, before) = (step.name().to_owned(), schema(db).await);
        Migrator::up(db, Some(1)).await.unwrap();
        let after = schema(db).await;
        Migrator::down(db, Some(1)).await.unwrap();
        // The library's own table stays.
        let own = |it: &&String| !it.contains("seaql_migrations");
        let back = schema(db).await;
        let differs: Vec<&String> = back.symmetric_difference(&before).filter(own).collect();
        assert!(differs.is_empty(), "{name} is not taken back: {differs:#?}");
        Migrator::up(db, Some(1)).await.unwrap();
        let again = schema(db).await;
        let differs: Vec<&String> = again.symmetric_difference(&after).collect();
        assert!(
            differs.is_empty(),
            "{name} is another the second time: {differs:#?}"
        );
    }
}

#[tokio::test]
async fn each_step_goes_up_down_and_up_again_on_both_databases() {
    let sqlite = Database::connect("sqlite::memory:").await.unwrap();
    steps_go_both_ways(&sqlite).await;
    let ground = ground().await;
    let postgres = Database::connect(ground.setting("DATABASE_URL"))
        .await
        .unwrap();
    steps_go_both_ways(&postgres).await;
    postgres.close().await.unwrap();
    ground.clear().await;
}

#[tokio::test]
async fn an_older_binary_starts_and_works_on_the_tables_of_a_newer_one() {
    let ground = ground().await;
    let (code, _, err) = output(&ground, &["migrate", "up"]).await;
    assert_eq!(code, 0, "{err}");
    let db = Database::connect(ground.setting("DATABASE_URL"))
        .await
        .unwrap();
    for newer in [
        "ALTER TABLE task ADD COLUMN later text",
        "CREATE TABLE later (id uuid PRIMARY KEY)",
        "INSERT INTO seaql_migrations (version, applied_at) VALUES ('m20991231_009999_later', 0)",
    ] {
        db.execute_unprepared(newer).await.unwrap();
    }
    db.close().await.unwrap();
    let (code, out, err) = output(&ground, &["migrate", "up"]).await;
    assert_eq!(
        (code, out.contains("newer    m20991231_009999_later")),
        (0, true),
        "{out}{err}"
    );
    let (_, out, _) = output(&ground, &["doctor"]).await;
    assert!(out.contains("tables are those of a newer version"), "{out}");
    a_task_is_run_and_watched(ground).await;
}

#[tokio::test]
async fn an_index_is_built_while_others_write_and_wait_for_their_turn() {
    let ground = ground().await;
    let url = ground.setting("DATABASE_URL").to_owned();
    let db = Database::connect(&url).await.unwrap();
    migrate::migrate(&db).await.unwrap();
    db.execute_unprepared("CREATE TABLE large AS SELECT n FROM generate_series(1, 1000) n")
        .await
        .unwrap();
    // A process that migrates has the turn; another one waits for it.
    let turn = db.begin().await.unwrap();
    turn.execute_unprepared("SELECT pg_advisory_xact_lock(7730)")
        .await
        .unwrap();
    let mut waiting = command(&ground, &["migrate", "up"]).spawn().unwrap();
    // It is asked with a statement that ends, and again.
    let waits = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event = 'advisory' AND datname = current_database()";
    until("another waits for its turn", async || {
        (texts(&db, waits).await == ["1"]).then_some(())
    })
    .await;
    // Somebody who reads for long: an index that is built beside the others has to wait for them, and nobody for it.
    let reader = db.begin().await.unwrap();
    reader
        .execute_unprepared("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        .await
        .unwrap();
    reader
        .execute_unprepared("SELECT count(*) FROM large")
        .await
        .unwrap();
    let builder = Database::connect(&url).await.unwrap();
    let building = tokio::spawn(async move {
        build_index(&SchemaManager::new(&builder), "large_n", "ON large (n)").await
    });
    let builds = "SELECT pid::text FROM pg_stat_activity WHERE query LIKE 'CREATE INDEX CONCURRENTLY%' \
        AND wait_event_type = 'Lock' AND datname = current_database()";
    let pid = until("the index waits for the reader", async || {
        texts(&db, builds).await.pop()
    })
    .await;
    let mut written = BTreeMap::new();
    for n in 1001..1011 {
        let done = db
            .execute_unprepared(&format!("INSERT INTO large VALUES ({n})"))
            .await;
        written.insert(n, done.is_ok());
    }
    assert!(written.values().all(|is_done| *is_done), "{written:?}");
    // Cut off in the middle, it leaves half an index, which the next try makes good.
    texts(&db, &format!("SELECT pg_terminate_backend({pid})::text")).await;
    assert!(building.await.unwrap().is_err());
    let valid = "SELECT indisvalid::text FROM pg_index WHERE indexrelid = 'large_n'::regclass";
    assert_eq!(texts(&db, valid).await, ["false"]);
    reader.rollback().await.unwrap();
    build_index(&SchemaManager::new(&db), "large_n", "ON large (n)")
        .await
        .unwrap();
    assert_eq!(texts(&db, valid).await, ["true"]);
    assert!(waiting.try_wait().unwrap().is_none(), "it still waits");
    turn.commit().await.unwrap();
    assert!(waiting.wait().await.unwrap().success());
    db.close().await.unwrap();
    ground.clear().await;
}
