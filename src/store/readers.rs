//! Connections kept for reading lists.
//!
//! A connection that goes back into the driver's pool asks the server first whether it is well, which costs both sides as much
//! as a short statement does. These stay with us between statements, and go only when one has failed.

use std::sync::{Arc, Mutex, PoisonError};

use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr, Statement,
    Values,
    sqlx::{self, Postgres, pool::PoolConnection},
};
use sea_query_sqlx::SqlxValues;
use tokio::sync::Semaphore;

/// Kept connections to PostgreSQL; SQLite has none to keep.
#[derive(Clone)]
pub struct Readers {
    db: DatabaseConnection,
    kept: Option<Arc<Kept>>,
}

struct Kept {
    turns: Semaphore,
    idle: Mutex<Vec<PoolConnection<Postgres>>>,
}

impl Kept {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<PoolConnection<Postgres>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Readers {
    /// Keeps most of the pool's connections once they are needed; two stay for everybody else.
    pub fn new(db: DatabaseConnection) -> Self {
        let kept = (db.get_database_backend() == DbBackend::Postgres).then(|| {
            let size = db
                .get_postgres_connection_pool()
                .options()
                .get_max_connections();
            let most = usize::try_from(size.saturating_sub(2).max(1)).unwrap_or(1);
            Arc::new(Kept {
                turns: Semaphore::new(most),
                idle: Mutex::default(),
            })
        });
        Self { db, kept }
    }

    /// Reads the rows of a statement.
    pub async fn read(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let Some(kept) = &self.kept else {
            return self.db.query_all_raw(statement).await;
        };
        // Never closed.
        let Ok(_turn) = kept.turns.acquire().await else {
            return self.db.query_all_raw(statement).await;
        };
        let idle = kept.idle().pop();
        let was_kept = idle.is_some();
        let mut connection = if let Some(connection) = idle {
            connection
        } else {
            let pool = self.db.get_postgres_connection_pool();
            pool.acquire().await.map_err(conn_error)?
        };
        match execute(&mut connection, &statement).await {
            Ok(rows) => {
                kept.idle().push(connection);
                Ok(rows)
            }
            // It has gone while nobody looked; reading again does no harm.
            Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) if was_kept => {
                drop(connection);
                kept.idle().clear();
                self.db.query_all_raw(statement).await
            }
            Err(error) => Err(DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))),
        }
    }

    /// Gives the connections back.
    pub fn release(&self) {
        if let Some(kept) = &self.kept {
            kept.idle().clear();
        }
    }
}

fn conn_error(error: sqlx::Error) -> DbErr {
    match error {
        sqlx::Error::PoolTimedOut => DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::Timeout),
        sqlx::Error::PoolClosed => {
            DbErr::ConnectionAcquire(sea_orm::ConnAcquireErr::ConnectionClosed)
        }
        error => DbErr::Conn(RuntimeErr::SqlxError(Arc::new(error))),
    }
}

async fn execute(
    connection: &mut PoolConnection<Postgres>,
    statement: &Statement,
) -> Result<Vec<QueryResult>, sqlx::Error> {
    let values = statement.values.clone().unwrap_or(Values(Vec::new()));
    let sql = sqlx::AssertSqlSafe(statement.sql.as_str());
    let rows = sqlx::query_with(sql, SqlxValues(values))
        .fetch_all(&mut **connection)
        .await?;
    Ok(rows.into_iter().map(QueryResult::from).collect())
}
