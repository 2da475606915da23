//! Backups of the database.

use async_graphql::{Context, Enum, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{services, task::Task, viewer};
use crate::backup::{self, Manifest};

/// What a database is.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum BackupDatabase {
    /// PostgreSQL; the backup is in `pg_dump`'s custom format.
    Postgresql,
    /// SQLite; the backup is the database's file, by gzip.
    Sqlite,
}

/// A table as it was at the moment of the backup.
#[derive(SimpleObject)]
pub struct BackupTable {
    /// Its name.
    name: String,
    /// How many rows it had.
    rows: i64,
}

/// A backup of the database: all of it, at one moment.
pub struct Backup(Manifest);

/// A backup of the database: all of it, at one moment.
#[Object]
impl Backup {
    /// Its name, which begins with its time.
    async fn name(&self) -> &str {
        &self.0.name
    }
    /// What it is a backup of.
    async fn database(&self) -> BackupDatabase {
        match self.0.database {
            backup::Engine::Postgresql => BackupDatabase::Postgresql,
            backup::Engine::Sqlite => BackupDatabase::Sqlite,
        }
    }
    /// The database server's version.
    async fn server_version(&self) -> &str {
        &self.0.server
    }
    /// The newest step of its tables.
    async fn schema_version(&self) -> &str {
        self.0.schema()
    }
    /// When it was begun.
    async fn started_at(&self) -> DateTime<Utc> {
        self.0.started_at
    }
    /// How long it took, in milliseconds.
    async fn took_millis(&self) -> i64 {
        clamped(self.0.took_millis)
    }
    /// Bytes it takes.
    async fn bytes(&self) -> i64 {
        clamped(self.0.bytes)
    }
    /// The SHA-256 of its data, in hexadecimal.
    async fn sha256(&self) -> &str {
        &self.0.sha256
    }
    /// How many rows it holds.
    async fn rows(&self) -> i64 {
        clamped(self.0.rows())
    }
    /// Its tables.
    async fn tables(&self) -> Vec<BackupTable> {
        let tables = self.0.tables.iter().map(|table| BackupTable {
            name: table.name.clone(),
            rows: clamped(table.rows),
        });
        tables.collect()
    }
    /// The recipient it is encrypted to, in age's form; null when it is in clear.
    async fn encrypted_to(&self) -> Option<&str> {
        let encryption = self.0.encryption.as_ref();
        encryption.map(|encryption| encryption.recipient.as_str())
    }
    /// What made it: a task's id, or the command line.
    async fn origin(&self) -> &str {
        &self.0.origin
    }
    /// When it was restored into a scratch database and compared; null when it has not been yet.
    async fn verified_at(&self) -> Option<DateTime<Utc>> {
        self.0.verification.as_ref().map(|tried| tried.at)
    }
    /// What was wrong with it then; null when nothing was.
    async fn problem(&self) -> Option<&str> {
        let tried = self.0.verification.as_ref();
        tried.and_then(|tried| tried.problem.as_deref())
    }
}

fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A backup to make now.
#[derive(InputObject)]
pub struct BackUpInput {
    /// The same key gives the same task, so that a request can be repeated.
    idempotency_key: Option<String>,
}

/// The backup is under way.
#[derive(SimpleObject)]
pub struct BackUpPayload {
    /// The task that makes it; its result is the backup's manifest.
    task: Task,
}

#[derive(Default)]
pub struct BackupQuery;

#[Object]
impl BackupQuery {
    /// The newest backups, the newest first. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`, `UNAVAILABLE`.
    #[graphql(
        complexity = "usize::try_from(first).unwrap_or(0).saturating_mul(1 + child_complexity)"
    )]
    async fn backups(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many, 1 to 100.", default = 20)] first: i32,
    ) -> Result<Vec<Backup>> {
        let backups = services(ctx).list_backups(viewer(ctx)?, first).await?;
        Ok(backups.into_iter().map(Backup).collect())
    }
}

#[derive(Default)]
pub struct BackupMutation;

#[Object]
impl BackupMutation {
    /// Makes a backup, tries it, and removes those that are too old. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `CONFLICT`, `UNAVAILABLE` without a place for backups.
    async fn back_up(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How.")] input: BackUpInput,
    ) -> Result<BackUpPayload> {
        let key = input.idempotency_key.as_deref();
        let task = services(ctx).back_up(viewer(ctx)?, key).await?;
        Ok(BackUpPayload {
            task: Task::of(&task),
        })
    }
}
