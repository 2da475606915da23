//! Opening the database, with limits on every wait.

use std::{
    pin::Pin,
    str::FromStr as _,
    task::{Context, Poll, ready},
    time::Duration,
};

use sea_orm::{
    ConnectOptions, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    SqliteTransactionMode, TransactionOptions, TransactionTrait as _,
    sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous},
};

use tokio::runtime::Handle;

use crate::{
    config::{Database, Settings},
    telemetry::slow,
};

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
    watched(Box::pin(sea_orm::Database::connect(options)).await)
}

/// Opens a transaction. SQLite takes its write lock at once: one that upgrades later fails instead of waiting.
pub async fn begin(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    let db = db.clone();
    let opening = Box::pin(async move {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        db.begin_with_options(options).await
    });
    Opening(Some(opening)).await
}

/// Goes on without whoever waited for it, so that what it opened is closed: the driver leaves a connection whose `BEGIN`
/// was abandoned in its transaction and gives it to the next, whose writes are then never committed (sqlx 0.9, #4393).
struct Opening<F: Future + Send + 'static>(Option<Pin<Box<F>>>)
where
    F::Output: Send;

impl<F: Future + Send + 'static> Future for Opening<F>
where
    F::Output: Send,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let opening = self.0.as_mut().expect("it is not polled after its end");
        let opened = ready!(opening.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(opened)
    }
}

impl<F: Future + Send + 'static> Drop for Opening<F>
where
    F::Output: Send,
{
    fn drop(&mut self) {
        // Without a runtime the connections are gone as well.
        if let Some(opening) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { drop(opening.await) });
        }
    }
}

/// Has every statement that goes through the library told of; those of kept connections tell of themselves.
fn watched(opened: Result<DatabaseConnection, DbErr>) -> Result<DatabaseConnection, DbErr> {
    let mut db = opened?;
    db.set_metric_callback(|info| {
        slow::statement(&info.statement.sql, info.elapsed, None, info.failed);
    });
    Ok(db)
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
    watched(Box::pin(sea_orm::Database::connect(options)).await).map_err(|error| down(&error))
}

/// How a pool is.
#[derive(Clone, Copy, Debug)]
pub struct PoolState {
    pub name: &'static str,
    /// Connections in nobody's hands; those kept between statements count as busy.
    pub idle: usize,
    pub busy: usize,
    /// The most there may be.
    pub most: usize,
}

/// How the pools are; on SQLite both are one.
pub(super) fn pools(people: &DatabaseConnection, engine: &DatabaseConnection) -> Vec<PoolState> {
    let state = |name, (size, idle, most): (u32, usize, u32)| {
        let (size, most) = (size as usize, most as usize);
        PoolState {
            name,
            idle,
            busy: size.saturating_sub(idle),
            most,
        }
    };
    if people.get_database_backend() == DbBackend::Postgres {
        [("people", people), ("engine", engine)]
            .map(|(name, db)| {
                let pool = db.get_postgres_connection_pool();
                let most = pool.options().get_max_connections();
                state(name, (pool.size(), pool.num_idle(), most))
            })
            .to_vec()
    } else {
        let pool = people.get_sqlite_connection_pool();
        let most = pool.options().get_max_connections();
        vec![state("people", (pool.size(), pool.num_idle(), most))]
    }
}
