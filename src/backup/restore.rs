//! Restoring a backup: beside what is there, compared and brought up to date, and only then put in its place.

use migration::{Migrator, MigratorTrait as _};

use super::{
    BackupError, Backups, Engine, Manifest, Watcher, manifest::difference, postgres::Server, sqlite,
};
use crate::{
    config::{Database, Secret},
    domain::keyring::hex,
    store::migrate,
};

/// Where a backup is restored to.
#[derive(Clone, Debug)]
pub struct Target {
    pub database: Database,
    /// Whether it takes the place of a database that has tables; whoever is connected to it is cut off.
    pub is_forced: bool,
}

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    pub rows: u64,
    pub took_millis: u64,
    /// Steps the tables were brought up by.
    pub steps: usize,
    /// Where what was there before is now.
    pub kept_as: Option<String>,
}

impl Backups {
    /// Restores `backup` to `target`, all of it or nothing.
    pub async fn restore(
        &self,
        backup: &Manifest,
        target: &Target,
        watcher: &dyn Watcher,
    ) -> Result<Restored, BackupError> {
        let started = self.now();
        let engine = Self::engine_of(&target.database);
        if engine != backup.database {
            return Err(BackupError::OtherDatabase {
                name: backup.name.clone(),
                of: backup.database.name(),
                target: engine.name(),
            });
        }
        let known: Vec<String> = Migrator::migrations()
            .iter()
            .map(|step| step.name().to_owned())
            .collect();
        if let Some(step) = backup.migrations.iter().find(|step| !known.contains(step)) {
            return Err(BackupError::Newer {
                name: backup.name.clone(),
                step: step.clone(),
            });
        }
        let kept_as = match &target.database {
            Database::Postgres(url) => {
                let target_server = Server::parse(url)?;
                self.restore_postgres(backup, &target_server, target.is_forced, watcher)
                    .await?
            }
            Database::Sqlite(url) => {
                self.restore_sqlite(backup, url, target.is_forced, watcher)
                    .await?
            }
        };
        Ok(Restored {
            rows: backup.rows(),
            took_millis: self.millis_since(started),
            steps: known.len() - backup.migrations.len(),
            kept_as,
        })
    }

    async fn restore_postgres(
        &self,
        backup: &Manifest,
        target: &Server,
        is_forced: bool,
        watcher: &dyn Watcher,
    ) -> Result<Option<String>, BackupError> {
        let is_there = target.exists().await?;
        let is_empty = !is_there || target.is_empty().await?;
        if !is_empty && !is_forced {
            return Err(BackupError::NotEmpty {
                target: target.shown(),
            });
        }
        let new = target.at(&self.name_beside(target.database(), "restored"));
        new.create().await?;
        let aside = is_there.then(|| self.name_beside(target.database(), "before"));
        let restored = async {
            self.fill(&new, backup, watcher).await?;
            Self::compare(backup, &new.tables().await?)?;
            migrate(&Database::Postgres(new.secret())).await?;
            watcher.progress(98, "putting it in its place").await?;
            target.swap(&new, aside.as_deref(), is_forced).await
        };
        if let Err(error) = restored.await {
            if let Err(error) = new.discard(true).await {
                tracing::warn!(%error, database = new.database(), "an unfinished database stays");
            }
            return Err(error);
        }
        match aside {
            // Nothing was in it.
            Some(aside) if is_empty => {
                target.at(&aside).discard(false).await?;
                Ok(None)
            }
            aside => Ok(aside),
        }
    }

    async fn restore_sqlite(
        &self,
        backup: &Manifest,
        url: &str,
        is_forced: bool,
        watcher: &dyn Watcher,
    ) -> Result<Option<String>, BackupError> {
        let file = sqlite::file(url)?;
        let is_there = file.exists();
        let is_empty = sqlite::is_empty(&file).await?;
        if !is_empty && !is_forced {
            return Err(BackupError::NotEmpty {
                target: file.display().to_string(),
            });
        }
        if let Some(folder) = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            std::fs::create_dir_all(folder).map_err(BackupError::file(folder))?;
        }
        // Beside it, so that it is put in its place by a change of names.
        let beside = |what| file.with_file_name(self.name_beside(&file_name(&file), what));
        let (new, aside) = (beside("restored"), beside("before"));
        let restored = async {
            self.unpack(&new, backup, watcher).await?;
            let (_, _, tables) = sqlite::look(&new).await?;
            Self::compare(backup, &tables)?;
            migrate(&Database::Sqlite(format!("sqlite://{}", new.display()))).await?;
            // Its journal goes back into it with the last connection, and a name is all that is changed.
            watcher.progress(98, "putting it in its place").await?;
            sqlite::swap(&new, &file, &aside).await
        };
        if let Err(error) = restored.await {
            for ending in ["", "-wal", "-shm"] {
                let _ = std::fs::remove_file(format!("{}{ending}", new.display()));
            }
            return Err(error);
        }
        if is_there && is_empty {
            std::fs::remove_file(&aside).map_err(BackupError::file(&aside))?;
            return Ok(None);
        }
        Ok(is_there.then(|| aside.display().to_string()))
    }

    fn compare(backup: &Manifest, tables: &[super::Table]) -> Result<(), BackupError> {
        match difference(&backup.tables, tables) {
            Some(problem) => Err(BackupError::Differs {
                name: backup.name.clone(),
                problem,
            }),
            None => Ok(()),
        }
    }

    /// A name like `of`, not longer than PostgreSQL's 63 bytes.
    fn name_beside(&self, of: &str, what: &str) -> String {
        let now = self.now();
        let unique = hex(&self.entropy.uuid(now).as_bytes()[14..]);
        let ending = format!("_{what}_{}_{unique}", now.format("%Y%m%d%H%M%S"));
        let mut kept = of.to_owned();
        while kept.len() + ending.len() > 63 {
            kept.pop();
        }
        kept + &ending
    }
}

fn file_name(file: &std::path::Path) -> String {
    let name = file.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Brings the tables up to this version.
async fn migrate(database: &Database) -> Result<(), BackupError> {
    let failed = |error: sea_orm::DbErr| BackupError::Migration(error.to_string());
    let url = match database {
        Database::Postgres(url) => url.clone(),
        Database::Sqlite(url) => Secret::new(url.clone()),
    };
    let mut options = sea_orm::ConnectOptions::new(url.expose().to_owned());
    // The steps run on one connection, the lock that keeps others off is on the second.
    options.max_connections(2).sqlx_logging(false);
    let db = sea_orm::Database::connect(options).await.map_err(failed)?;
    let migrated = migrate::migrate(&db).await;
    db.close().await.map_err(failed)?;
    migrated.map_err(failed)
}

impl Target {
    /// The service's own database.
    pub const fn own(database: Database, is_forced: bool) -> Self {
        Self {
            database,
            is_forced,
        }
    }

    /// What it is, for people.
    pub fn shown(&self) -> String {
        match &self.database {
            Database::Postgres(url) => url.without_password(),
            Database::Sqlite(url) => url.clone(),
        }
    }

    pub const fn engine(&self) -> Engine {
        Backups::engine_of(&self.database)
    }
}
