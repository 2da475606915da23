//! Opening the database, with limits on every wait.

use std::{str::FromStr as _, time::Duration};

use migration::{Migrator, MigratorTrait as _};
use sea_orm::{
    ConnectOptions, DatabaseConnection, DbErr,
    sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use crate::config::{Database, Settings};

/// How long a request waits for a free or new connection before it is told `UNAVAILABLE`.
const ACQUIRE: Duration = Duration::from_secs(4);

/// A connection that has been idle for so long is tried before it is used; to try one every time would cost every
/// statement another round trip.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// The database cannot be used, in one line for an operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the database {target}: {problem}")]
pub struct DatabaseDown {
    target: String,
    problem: String,
}

/// Of the connections of a process, those the task engine gets: a third, so that neither side can starve the other.
const ENGINE_SHARE: u32 = 3;

/// The open connections of a process.
#[derive(Clone)]
pub struct Connections {
    /// What requests and tasks' own work use.
    pub people: DatabaseConnection,
    /// What the task engine's statements use; on SQLite the same.
    pub engine: DatabaseConnection,
}

/// Connects as `settings` say.
pub async fn open(settings: &Settings) -> Result<Connections, DatabaseDown> {
    match &settings.database {
        Database::Sqlite(url) => {
            let db = open_sqlite(url, settings.database_connections).await?;
            Ok(Connections {
                people: db.clone(),
                engine: db,
            })
        }
        Database::Postgres(url) => {
            let down = |error: DbErr| DatabaseDown {
                target: url.without_password(),
                problem: error.to_string(),
            };
            let engine_size = (settings.database_connections / ENGINE_SHARE).max(1);
            let people_size = settings
                .database_connections
                .saturating_sub(engine_size)
                .max(1);
            let people = open_postgres(url.expose(), people_size, &[]);
            // The tables of a queue grow from nothing to a million rows and back within minutes; a plan made for the
            // small table and kept would read the large one from end to end.
            let by_index = [
                ("enable_seqscan", "off"),
                ("enable_hashjoin", "off"),
                ("enable_mergejoin", "off"),
                // One plan for good: what it costs to make one is more than most of these statements cost.
                ("plan_cache_mode", "force_generic_plan"),
            ];
            let engine = open_postgres(url.expose(), engine_size, &by_index);
            Ok(Connections {
                people: people.await.map_err(down)?,
                engine: engine.await.map_err(down)?,
            })
        }
    }
}

fn options(url: &str, connections: u32) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.to_owned());
    options
        .max_connections(connections)
        .connect_timeout(ACQUIRE)
        .acquire_timeout(ACQUIRE)
        .test_before_acquire_if_idle_for(IDLE)
        .sqlx_logging(false);
    options
}

async fn open_postgres(
    url: &str,
    connections: u32,
    planner: &[(&'static str, &'static str)],
) -> Result<DatabaseConnection, DbErr> {
    let mut options = options(url, connections);
    let planner = planner.to_vec();
    // Nobody waits for ever: not for a lock, nor behind a transaction its owner has forgotten.
    options.map_sqlx_postgres_opts(move |options| {
        options
            .options([
                ("lock_timeout", "10s"),
                ("idle_in_transaction_session_timeout", "60s"),
                // Compiling takes longer than any statement here runs, and the planner, told to avoid a way of
                // reading, takes the only one left for so expensive that it would compile it.
                ("jit", "off"),
            ])
            .options(planner.iter().copied())
    });
    sea_orm::Database::connect(options).await
}

async fn open_sqlite(url: &str, connections: u32) -> Result<DatabaseConnection, DatabaseDown> {
    let down = |error: &dyn std::fmt::Display| DatabaseDown {
        target: url.to_owned(),
        problem: error.to_string(),
    };
    let mut options = options(url, connections);
    let parsed = SqliteConnectOptions::from_str(url).map_err(|error| down(&error))?;
    if let Some(folder) = parsed
        .get_filename()
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::create_dir_all(folder).map_err(|error| down(&error))?;
    }
    options.map_sqlx_sqlite_opts(|options| {
        options
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5))
    });
    if url.contains(":memory:") {
        options
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None);
    }
    sea_orm::Database::connect(options)
        .await
        .map_err(|error| down(&error))
}

/// Brings the tables up to this version; processes that start together take turns.
pub async fn migrate(db: &DatabaseConnection) -> Result<(), DbErr> {
    use sea_orm::{ConnectionTrait as _, DbBackend, TransactionTrait as _};
    if db.get_database_backend() != DbBackend::Postgres {
        return Migrator::up(db, None).await;
    }
    // The lock lives as long as this transaction, on a connection of its own; the steps run on others.
    let turn = db.begin().await?;
    // This one wait may be long: another process is at the same steps.
    turn.execute_unprepared("SET LOCAL lock_timeout = 0")
        .await?;
    turn.execute_unprepared("SET LOCAL idle_in_transaction_session_timeout = 0")
        .await?;
    turn.execute_unprepared("SELECT pg_advisory_xact_lock(7730)")
        .await?;
    Migrator::up(db, None).await?;
    turn.commit().await
}
