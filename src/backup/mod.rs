//! Backups of the database: made while the service runs, kept in a folder or an S3, closed with a key, tried, and restored.
//!
//! A backup is a dump of one moment and a manifest that says what every table had at that moment. Nothing here knows of
//! tasks or people: who wants one says so to a [`Watcher`].

mod age;
mod error;
mod flow;
mod manifest;
mod postgres;
mod program;
mod restore;
mod retention;
mod scratch;
mod sqlite;
mod take;
mod upload;
mod vault;
mod verify;

use std::{path::PathBuf, sync::Arc};

use chrono::{DateTime, Utc};

pub use age::{AgeError, Identity};
pub use error::BackupError;
pub use manifest::{Encryption, Engine, Manifest, Table, Verification};
pub use restore::{Restored, Target};
pub use retention::to_remove;
pub use vault::Vault;

use crate::{
    config::{self, Database, Settings},
    domain::{Clock, Entropy},
    telemetry::Meters,
};
use postgres::Server;
use program::Programs;

/// Who is told how far it has come, and may end it by an error.
#[async_trait::async_trait]
pub trait Watcher: Send + Sync {
    async fn progress(&self, percent: u8, message: &str) -> Result<(), BackupError>;
}

/// Everything that is done with backups of one database.
pub struct Backups {
    vault: Vault,
    database: Database,
    /// What is being tried lies here.
    within: PathBuf,
    keys: Vec<Identity>,
    settings: config::Backup,
    programs: Programs,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    meters: Arc<Meters>,
}

impl Backups {
    /// Opens the store of backups; `None` when there is to be none.
    pub fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
        meters: Arc<Meters>,
    ) -> Result<Option<Self>, BackupError> {
        let Some(place) = &settings.backup.place else {
            return Ok(None);
        };
        let keys = settings.backup.keys.iter().map(|key| {
            Identity::parse(key.expose())
                .map_err(|_| BackupError::Key("a letter of it is missing or wrong"))
        });
        Ok(Some(Self {
            keys: keys.collect::<Result<_, _>>()?,
            vault: Vault::open(place)?,
            database: settings.database.clone(),
            within: settings.data_dir.join("scratch"),
            settings: settings.backup.clone(),
            programs: Programs(settings.backup.programs.clone()),
            clock,
            entropy,
            meters,
        }))
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// The newest backups, the newest first.
    pub async fn list(&self, limit: usize) -> Result<Vec<Manifest>, BackupError> {
        self.vault.list(limit).await
    }

    /// The backup of that name, or the newest one for `latest`.
    pub async fn find(&self, name: &str) -> Result<Manifest, BackupError> {
        self.vault.find(name).await
    }

    /// Whether backups could be made now: the newest one there is, or why not.
    pub async fn check(&self) -> Result<Option<Manifest>, BackupError> {
        let newest = self.list(1).await?.into_iter().next();
        if let Database::Postgres(url) = &self.database {
            let moment = postgres::Moment::take(&Server::parse(url)?).await?;
            for program in ["pg_dump", "pg_restore"] {
                self.programs.check(program, moment.major).await?;
            }
        }
        Ok(newest)
    }

    /// Removes what the settings do not keep; the names of what is gone.
    pub async fn prune(&self) -> Result<Vec<String>, BackupError> {
        let backups = self.list(usize::MAX).await?;
        let mut gone = Vec::new();
        for backup in to_remove(&backups, self.settings.keep, &self.settings.time_zone) {
            self.vault.remove(backup, self.now()).await?;
            gone.push(backup.name.clone());
        }
        Ok(gone)
    }

    /// Takes away what crashes have left in the store, on disk and on the server.
    pub async fn clear(&self, origin: &str) -> Result<(), BackupError> {
        let remains = self.vault.clear(origin, self.now()).await?;
        let folders = scratch::clear_folders(&self.within)?;
        let databases = match self.scratch_server()? {
            Some(server) => scratch::clear_databases(&server, self.now()).await?,
            None => 0,
        };
        if remains + folders + databases > 0 {
            tracing::info!(remains, folders, databases, "what crashes had left is gone");
        }
        Ok(())
    }

    /// Has the meters count one that was not made, or not found good.
    pub fn count_failure(&self) {
        self.meters.backups_failed.inc();
    }

    /// Shows the newest backup to those who watch the meters.
    pub async fn show_newest(&self) -> Result<(), BackupError> {
        if let Some(newest) = self.list(1).await?.first() {
            self.show(newest);
        }
        Ok(())
    }

    fn show(&self, backup: &Manifest) {
        let ended = backup.started_at.timestamp_millis()
            + i64::try_from(backup.took_millis).unwrap_or_default();
        if backup.is_bad() {
            return;
        }
        self.meters.backed_up(
            ended / 1000,
            i64::try_from(backup.bytes).unwrap_or(i64::MAX),
            std::time::Duration::from_millis(backup.took_millis),
        );
    }

    /// The server whose databases backups are tried in; `None` when they are files.
    fn scratch_server(&self) -> Result<Option<Server>, BackupError> {
        match (&self.database, &self.settings.scratch) {
            (Database::Postgres(_), Some(url)) | (Database::Postgres(url), None) => {
                Server::parse(url).map(Some)
            }
            (Database::Sqlite(_), _) => Ok(None),
        }
    }

    fn millis_since(&self, start: DateTime<Utc>) -> u64 {
        u64::try_from((self.now() - start).num_milliseconds()).unwrap_or_default()
    }
}
