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

/// The database cannot be used, in one line for an operator.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the database {target}: {problem}")]
pub struct DatabaseDown {
    target: String,
    problem: String,
}

/// Connects as `settings` say.
pub async fn open(settings: &Settings) -> Result<DatabaseConnection, DatabaseDown> {
    let (url, target) = match &settings.database {
        Database::Sqlite(url) => (url.clone(), url.clone()),
        Database::Postgres(url) => (url.expose().to_owned(), url.without_password()),
    };
    let down = |error: &dyn std::fmt::Display| DatabaseDown {
        target: target.clone(),
        problem: error.to_string(),
    };
    let mut options = ConnectOptions::new(url.clone());
    options
        .max_connections(settings.database_connections)
        .connect_timeout(ACQUIRE)
        .acquire_timeout(ACQUIRE);
    options.sqlx_logging(false);
    // Nobody waits for ever: not for a lock, nor behind a transaction its owner has forgotten.
    options.map_sqlx_postgres_opts(|options| {
        options.options([
            ("lock_timeout", "10s"),
            ("idle_in_transaction_session_timeout", "60s"),
        ])
    });
    if let Database::Sqlite(url) = &settings.database {
        let parsed = SqliteConnectOptions::from_str(url).map_err(|error| down(&error))?;
        let file = parsed.get_filename();
        if let Some(folder) = file
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
