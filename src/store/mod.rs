//! The truth: one file a table with its entity, its queries and its guarded transition.
//!
//! A change of state, the task that follows from it and the messages about both go into one [`Tx`]. Entities are
//! visible inside this room only; people's reads start at [`scoped::Scoped::visible_to`], the engine's at the
//! functions named `unscoped_…`.

pub mod accounts;
pub mod apps;
pub mod archive;
pub mod audit;
pub mod batch;
pub mod clusters;
pub mod connection;
pub mod connection_logs;
pub mod console_tokens;
pub mod containers;
pub mod engines;
pub mod host_commands;
pub mod hosts;
pub mod images;
pub mod kinds;
pub mod leader;
pub mod limits;
pub mod log_filter;
pub mod login_events;
pub mod logs;
pub mod machines;
pub mod migrate;
pub mod outbox;
pub mod periods;
pub mod pools;
mod readers;
pub mod regions;
pub mod registrations;
pub mod reports;
pub mod retention;
pub mod schedules;
pub mod scoped;
pub mod sessions;
pub mod snapshots;
mod source;
pub mod sql_roles;
pub mod standings;
pub mod statistics;
pub mod task_logs;
pub mod tasks;
pub mod together;
pub mod workers;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbErr, ExecResult, QueryResult,
    Statement,
};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::{
    domain::{Change, ChangeKind, Clock, Entropy, Id, Table, id},
    error::StoreError,
    telemetry::trace::{Kind, Span},
};
pub use outbox::Posted;
pub use readers::PACKED;
use readers::{Readers, Writers};
use tasks::Hint;

/// The database with the sources of time and ids its rows are made from.
#[derive(Clone)]
pub struct Store {
    db: DatabaseConnection,
    engine: DatabaseConnection,
    readers: Readers,
    writers: Writers,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<Entropy>,
    relay: mpsc::Sender<Posted>,
}

/// How many transactions' messages wait for the relay before the sweeper has to find them in the outbox.
const RELAY_CAPACITY: usize = 1024;

/// Longest wait for the answer to a ping.
const PING: Duration = Duration::from_secs(3);

/// Whether both databases keep the time and put it in its place among others.
pub fn keeps_time(at: DateTime<Utc>) -> bool {
    (0..10_000).contains(&chrono::Datelike::year(&at))
}

/// Whether both databases keep the text: PostgreSQL has none with a zero byte.
pub fn keeps_text(text: &str) -> bool {
    !text.contains('\0')
}

impl Store {
    /// A store over open connections, and the messages its transactions post, in order of commit.
    pub fn new(
        connections: connection::Connections,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
    ) -> (Self, mpsc::Receiver<Posted>) {
        let (relay, posted) = mpsc::channel(RELAY_CAPACITY);
        (
            Self {
                readers: Readers::new(&connections.people),
                writers: Writers::new(&connections.engine),
                db: connections.people,
                engine: connections.engine,
                clock,
                entropy,
                relay,
            },
            posted,
        )
    }

    /// The connection, for reads outside a transaction.
    pub const fn db(&self) -> &DatabaseConnection {
        &self.db
    }

    /// Reads the rows of a list's statement.
    pub async fn read(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.readers.read(statement).await
    }

    /// The task engine's own connections, whose statements always go by an index.
    const fn engine(&self) -> &DatabaseConnection {
        &self.engine
    }

    /// Runs a statement of the task engine; its rows.
    async fn write(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.writers.write(statement).await
    }

    /// How many connections there are, pool by pool.
    pub fn pools(&self) -> Vec<connection::PoolState> {
        connection::pools(&self.db, &self.engine)
    }

    /// Closes every connection.
    pub async fn close(&self) -> Result<(), DbErr> {
        self.readers.release();
        self.writers.release();
        let (people, engine) = tokio::join!(self.db.clone().close(), self.engine.clone().close());
        people.and(engine)
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    pub fn new_id<T>(&self) -> Id<T> {
        self.entropy.id(self.now())
    }

    /// Opens a transaction; dropping it undoes everything.
    pub async fn begin(&self) -> Result<Tx<'_>, StoreError> {
        self.begin_on(&self.db).await
    }

    /// The same on the task engine's connections.
    async fn begin_engine(&self) -> Result<Tx<'_>, StoreError> {
        self.begin_on(&self.engine).await
    }

    async fn begin_on(&self, db: &DatabaseConnection) -> Result<Tx<'_>, StoreError> {
        let span = Span::part(Kind::Internal, || "transaction".into());
        let inner = span.around(connection::begin(db)).await?;
        Ok(Tx {
            inner,
            store: self,
            posted: Posted::default(),
            span,
        })
    }

    /// Hands the messages of a commit to the relay.
    fn tell(&self, posted: Posted) {
        if !posted.is_empty() && self.relay.try_send(posted).is_err() {
            tracing::debug!("the relay is behind; the sweeper finds what is left");
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), DbErr> {
        let answer = tokio::time::timeout(PING, self.db.ping()).await;
        answer.unwrap_or_else(|_| Err(DbErr::Custom("no answer in time".to_owned())))
    }
}

/// An open transaction that collects the messages to send after its commit.
pub struct Tx<'a> {
    inner: DatabaseTransaction,
    store: &'a Store,
    posted: Posted,
    /// Its statements are parts of it.
    span: Span,
}

impl Tx<'_> {
    pub fn now(&self) -> DateTime<Utc> {
        self.store.now()
    }

    pub fn new_id<T>(&self) -> Id<T> {
        self.store.new_id()
    }

    /// Announces a changed row after the commit.
    pub fn changed(&mut self, change: Change) {
        self.posted.changes.push(change);
    }

    /// Announces a changed row of those that are not told apart by their versions.
    fn touched(&mut self, table: Table, id: Uuid, owner: Option<Uuid>) {
        self.changed(Change {
            table,
            id,
            version: self.now().timestamp_micros(),
            owner,
            kind: ChangeKind::Updated,
        });
    }

    /// Announces a task that can run after the commit.
    fn dispatch(&mut self, hint: Hint) {
        self.posted.hints.push(hint);
    }

    /// Foretells tasks with the commit.
    fn foretell(&mut self, tasks: Vec<Id<id::Task>>) {
        self.posted.foretold.extend(tasks);
    }

    /// Commits rows and messages together, then hands the messages to the relay.
    pub async fn commit(self) -> Result<(), StoreError> {
        let Self {
            inner,
            store,
            mut posted,
            span,
        } = self;
        posted.id = span
            .around(outbox::post(&inner, store, &posted.changes))
            .await?;
        store.tell(Posted {
            foretold: std::mem::take(&mut posted.foretold),
            ..Posted::default()
        });
        inner.commit().await?;
        span.set("db.transaction.committed", true);
        drop(span);
        store.tell(posted);
        Ok(())
    }
}

#[async_trait::async_trait]
impl ConnectionTrait for Tx<'_> {
    fn get_database_backend(&self) -> sea_orm::DbBackend {
        self.inner.get_database_backend()
    }
    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.span.around(self.inner.execute_raw(statement)).await
    }
    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.inner.execute_unprepared(sql).await
    }
    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.span.around(self.inner.query_one_raw(statement)).await
    }
    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.span.around(self.inner.query_all_raw(statement)).await
    }
    fn support_returning(&self) -> bool {
        self.inner.support_returning()
    }
}
