//! Connections kept for what runs as single statements: the reading of lists, and the task engine's claims.
//!
//! A connection that goes back into the driver's pool asks the server first whether it is well, which costs both sides as much
//! as a short statement does. These stay with us between statements, and go only when one has failed.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, PoisonError},
};

use futures_util::TryStreamExt as _;
use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr, QueryResult, RuntimeErr, Statement,
    Value, Values,
    sea_query::{PostgresQueryBuilder, QueryBuilder as _},
    sqlx::{
        self, Either, Postgres, Row as _,
        pool::PoolConnection,
        postgres::{PgPool, PgRow},
    },
};
use sea_query_sqlx::SqlxValues;
use tokio::{sync::Semaphore, time::Instant};

use super::together::{self, Lines};
use crate::telemetry::slow;

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
        let most = size_of(db).saturating_sub(2).max(1);
        Self::Postgres {
            kept: Kept::new(db, most, most),
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
            kept.release();
        }
    }
}

/// Runs the task engine's single statements.
#[derive(Clone)]
pub enum Writers {
    Postgres(Kept),
    Sqlite(DatabaseConnection),
}

impl Writers {
    /// Keeps a third of the pool's connections; the rest is for its transactions.
    pub fn new(db: &DatabaseConnection) -> Self {
        if db.get_database_backend() != DbBackend::Postgres {
            return Self::Sqlite(db.clone());
        }
        let size = size_of(db);
        Self::Postgres(Kept::new(db, size, size / 3))
    }

    /// Runs a statement; its rows.
    pub async fn write(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match self {
            Self::Postgres(kept) => kept.write(statement).await,
            Self::Sqlite(db) => db.query_all_raw(statement).await,
        }
    }

    /// The connections to PostgreSQL, where it is the database.
    pub const fn kept(&self) -> Option<&Kept> {
        match self {
            Self::Postgres(kept) => Some(kept),
            Self::Sqlite(_) => None,
        }
    }

    /// Gives the connections back.
    pub fn release(&self) {
        if let Self::Postgres(kept) = self {
            kept.release();
        }
    }
}

/// The most connections of a pool.
fn size_of(db: &DatabaseConnection) -> usize {
    let size = db.get_postgres_connection_pool().options();
    usize::try_from(size.get_max_connections()).unwrap_or(1)
}

/// Connections to PostgreSQL that are kept.
#[derive(Clone)]
pub struct Kept(Arc<Connections>);

struct Connections {
    pool: PgPool,
    /// How many are used at once.
    turns: Semaphore,
    /// How many stay when nobody uses them.
    most_idle: usize,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: PoolConnection<Postgres>,
    since: Instant,
}

impl Connections {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>, DbErr> {
        self.pool.acquire().await.map_err(connection_error)
    }
}

impl Kept {
    /// Connections of the pool of `db`: `turns` at once, and so many of them kept.
    pub fn new(db: &DatabaseConnection, turns: usize, most_idle: usize) -> Self {
        Self(Arc::new(Connections {
            pool: db.get_postgres_connection_pool().clone(),
            turns: Semaphore::new(turns),
            most_idle,
            idle: Mutex::default(),
        }))
    }

    /// Gives the connections back.
    pub fn release(&self) {
        self.0.idle().clear();
    }

    /// Reads the rows of a statement.
    pub async fn read(&self, text: &str, values: Values) -> Result<Vec<QueryResult>, DbErr> {
        let rows = self.read_rows(text, values).await?;
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
            Some(idle) => idle.connection,
            None => kept.acquire().await?,
        };
        let result = match (execute(&mut connection, text, values).await, again) {
            // It has gone while nobody looked; reading again does no harm.
            (Err(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)), Some(values)) => {
                kept.idle().clear();
                connection = kept.acquire().await?;
                execute(&mut connection, text, values).await
            }
            (result, _) => result,
        };
        let rows = result.map_err(query_error)?;
        self.keep(connection);
        Ok(rows)
    }

    /// Runs a statement that changes something: not twice, and not on a connection nobody has heard of for a while.
    pub async fn write(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        let _turn = self.0.turns.acquire().await;
        let mut connection = self.fresh().await?;
        let values = statement.values.unwrap_or(Values(Vec::new()));
        let result = execute(&mut connection, &statement.sql, values).await;
        let rows = result.map_err(query_error)?;
        self.keep(connection);
        Ok(rows.into_iter().map(QueryResult::from).collect())
    }

    /// The same for two statements in one round trip and one transaction, each with a snapshot of its own; the rows of the
    /// second.
    pub async fn write_both(&self, both: [&Statement; 2]) -> Result<Vec<QueryResult>, DbErr> {
        let _turn = self.0.turns.acquire().await;
        let mut connection = self.fresh().await?;
        let rows = execute_both(&mut connection, both).await;
        let rows = rows.map_err(query_error)?;
        self.keep(connection);
        Ok(rows.into_iter().map(QueryResult::from).collect())
    }

    async fn fresh(&self) -> Result<PoolConnection<Postgres>, DbErr> {
        let idle = self.0.idle().pop();
        match idle {
            Some(idle) if idle.since.elapsed() < super::connection::IDLE => Ok(idle.connection),
            // The pool asks the old one how it is.
            _ => self.0.acquire().await,
        }
    }

    fn keep(&self, connection: PoolConnection<Postgres>) {
        let mut idle = self.0.idle();
        if idle.len() < self.0.most_idle {
            let since = Instant::now();
            idle.push(Idle { connection, since });
        }
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

/// How a statement begins that packs its rows into one value, and counts them.
pub const PACKED: &str = "SELECT string_agg(record_send(q), ''), count(*) FROM (";

/// How many rows were read, those in one value too.
fn count_of(text: &str, rows: &[PgRow]) -> usize {
    if !text.contains(PACKED) {
        return rows.len();
    }
    let packed = rows.iter().filter_map(|row| row.try_get::<i64, _>(1).ok());
    usize::try_from(packed.sum::<i64>()).unwrap_or_default()
}

pub fn query_error(error: sqlx::Error) -> DbErr {
    DbErr::Query(RuntimeErr::SqlxError(Arc::new(error)))
}

async fn execute(
    connection: &mut PoolConnection<Postgres>,
    text: &str,
    values: Values,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let began = Instant::now();
    let rows = sqlx::query_with(sqlx::AssertSqlSafe(text), SqlxValues(values))
        .fetch_all(&mut **connection)
        .await;
    let count = rows.as_ref().ok().map(|rows| count_of(text, rows));
    slow::statement(text, began.elapsed(), count, rows.is_err());
    rows
}

/// The driver sends one statement at a time, but for a simple query; and what a simple query is to run without being
/// planned anew has a name.
async fn execute_both(
    connection: &mut PoolConnection<Postgres>,
    both: [&Statement; 2],
) -> Result<Vec<PgRow>, sqlx::Error> {
    /// There is no statement of this name.
    const UNKNOWN: &str = "26000";
    /// There is one already.
    const KNOWN: &str = "42P05";
    fn is(error: &sqlx::Error, code: &str) -> bool {
        matches!(error, sqlx::Error::Database(error) if error.code().is_some_and(|it| it == code))
    }
    let began = Instant::now();
    let text = both.map(call_by_name).join("; ");
    let mut rows = rows_of_second(connection, &text).await;
    if rows.as_ref().is_err_and(|error| is(error, UNKNOWN)) {
        for statement in both {
            let text = format!("PREPARE {} AS {}", name_of(&statement.sql), statement.sql);
            match rows_of_second(connection, &text).await {
                Err(error) if !is(&error, KNOWN) => return Err(error),
                _ => {}
            }
        }
        rows = rows_of_second(connection, &text).await;
    }
    let count = rows.as_ref().ok().map(Vec::len);
    slow::statement(&both[1].sql, began.elapsed(), count, rows.is_err());
    rows
}

async fn rows_of_second(
    connection: &mut PoolConnection<Postgres>,
    text: &str,
) -> Result<Vec<PgRow>, sqlx::Error> {
    let mut parts = sqlx::raw_sql(sqlx::AssertSqlSafe(text)).fetch_many(&mut **connection);
    let (mut rows, mut ended) = (Vec::new(), 0);
    while let Some(part) = parts.try_next().await? {
        match part {
            Either::Left(_) => ended += 1,
            Either::Right(row) if ended == 1 => rows.push(row),
            Either::Right(_) => {}
        }
    }
    Ok(rows)
}

/// The name a session knows a text by.
fn name_of(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("kept_{:016x}", hasher.finish())
}

/// A value as it stands in a text for PostgreSQL; the library writes it, strings escaped.
pub(super) fn literal(value: &Value) -> String {
    let literal = PostgresQueryBuilder.value_to_string(value);
    match value {
        Value::Array(kind, _) => format!("{literal}::{}[]", together::name(kind)),
        _ => literal,
    }
}

/// Runs a statement by its name. Its parameters stand in the text.
fn call_by_name(statement: &Statement) -> String {
    let values = statement.values.as_ref();
    let literals = values.map_or_else(Vec::new, |values| values.0.iter().map(literal).collect());
    format!(
        "EXECUTE {} ({})",
        name_of(&statement.sql),
        literals.join(", ")
    )
}
