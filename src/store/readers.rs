//! Connections kept for reading lists.
//!
//! A connection that goes back into the driver's pool asks the server first whether it is well, which costs both sides as much
//! as a short statement does. These stay with us between statements, and go only when one has failed.

use std::sync::{Arc, Mutex, PoisonError};

use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr, Statement,
    Values,
    sqlx::{
        self, Postgres,
        pool::PoolConnection,
        postgres::{PgPool, PgRow},
    },
};
use sea_query_sqlx::SqlxValues;
use tokio::sync::Semaphore;

use super::together::Lines;

/// Reads the statements of lists.
#[derive(Clone)]
pub enum Readers {
    Postgres { kept: Kept, lines: Lines },
    Sqlite(DatabaseConnection),
}

impl Readers {
    /// Keeps most of the pool's connections once they are needed; two stay for everybody else.
    pub fn new(db: &DatabaseConnection) -> Self {
        if db.get_database_backend() != DbBackend::Postgres {
            return Self::Sqlite(db.clone());
        }
        let pool = db.get_postgres_connection_pool().clone();
        let size = pool.options().get_max_connections();
        let most = usize::try_from(size.saturating_sub(2).max(1)).unwrap_or(1);
        Self::Postgres {
            kept: Kept(Arc::new(Connections {
                pool,
                turns: Semaphore::new(most),
                idle: Mutex::default(),
            })),
            lines: Lines::default(),
        }
    }

    /// Reads the rows of a statement.
    pub async fn read(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Postgres { kept, lines } => lines.read(kept, statement).await,
            Self::Sqlite(db) => db.query_all_raw(statement).await,
        }
    }

    /// Gives the connections back.
    pub fn release(&self) {
        if let Self::Postgres { kept, .. } = self {
            kept.0.idle().clear();
        }
    }
}

/// Connections to PostgreSQL that are kept.
#[derive(Clone)]
pub struct Kept(Arc<Connections>);

struct Connections {
    pool: PgPool,
    turns: Semaphore,
    idle: Mutex<Vec<PoolConnection<Postgres>>>,
}

impl Connections {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Reads the rows of a statement.
    pub async fn read(&self, statement: &Statement) -> Result<Vec<QueryResult>, DbErr> {
        let values = statement.values.clone().unwrap_or(Values(Vec::new()));
        let rows = self.read_rows(&statement.sql, values).await?;
        Ok(rows.into_iter().map(QueryResult::from).collect())
    }

    /// The same as the driver gives them.
    pub async fn read_rows(&self, text: &str, values: Values) -> Result<Vec<PgRow>, DbErr> {
        let kept = &self.0;
        // Never closed; held to the end.
        let _turn = kept.turns.acquire().await;
        let idle = kept.idle().pop();
        let again = idle.is_some().then(|| values.clone());
        let mut connection = match idle {
            Some(connection) => connection,
            None => kept.pool.acquire().await.map_err(connection_error)?,
        };
        let result = match (execute(&mut connection, text, values).await, again) {
            // It has gone while nobody looked; reading again does no harm.
            (Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)), Some(values)) => {
                kept.idle().clear();
                connection = kept.pool.acquire().await.map_err(connection_error)?;
                execute(&mut connection, text, values).await
            }
            (result, _) => result,
        };
        let rows = result.map_err(query_error)?;
        kept.idle().push(connection);
        Ok(rows)
    }
}

fn connection_error(error: sqlx::Error) -> DbErr {
    match error {
        sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout),
        sqlx::Error::PoolClosed => {
            DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::ConnectionClosed)
        }
        error => DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))),
    }
}

pub fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

async fn execute(
    connection: &mut PoolConnection<Postgres>,
    text: &str,
    values: Values,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query_with(sqlx::AssertSqlSafe(text), SqlxValues(values))
        .fetch_all(&mut **connection)
        .await
}
