//! Trying a backup: it is restored into a database of its own, which is gone afterwards, and every table is compared.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    BackupError, Backups, Engine, Manifest, Table, Verification, Watcher,
    flow::{self, PIECES, Span},
    manifest::difference,
    postgres::Server,
    scratch, sqlite,
};
use crate::config::Database;

impl Backups {
    /// Restores `backup` into a scratch database and compares every table; what came of it becomes part of the manifest.
    ///
    /// # Errors
    /// [`BackupError::Damaged`] and [`BackupError::Differs`] are about the backup and recorded; others about the attempt.
    pub async fn verify(
        &self,
        mut backup: Manifest,
        watcher: &dyn Watcher,
    ) -> Result<Manifest, BackupError> {
        let at = self.now();
        let tried = match backup.database {
            Engine::Postgresql => self.try_postgres(&backup, at, watcher).await,
            Engine::Sqlite => self.try_sqlite(&backup, watcher).await,
        };
        let problem = match tried {
            Ok(tables) => difference(&backup.tables, &tables).map(|problem| BackupError::Differs {
                name: backup.name.clone(),
                problem,
            }),
            Err(error @ BackupError::Damaged { .. }) => Some(error),
            Err(error) => return Err(error),
        };
        backup.verification = Some(Verification {
            at,
            took_millis: self.millis_since(at),
            problem: problem.as_ref().map(ToString::to_string),
        });
        self.vault.publish(&backup).await?;
        match problem {
            Some(problem) => Err(problem),
            None => Ok(backup),
        }
    }

    async fn try_postgres(
        &self,
        backup: &Manifest,
        now: chrono::DateTime<chrono::Utc>,
        watcher: &dyn Watcher,
    ) -> Result<Vec<Table>, BackupError> {
        let server = self.scratch_server()?.ok_or(BackupError::OtherDatabase {
            name: backup.name.clone(),
            of: Engine::Postgresql.name(),
            target: Engine::Sqlite.name(),
        })?;
        let scratch = scratch::database(&server, now);
        scratch.create().await?;
        let tried = async {
            // A connection for as long as it is used: what nobody is connected to is taken away by others.
            let _held = scratch.connect().await?;
            self.fill(&scratch, backup, watcher).await?;
            scratch.tables().await
        };
        let tried = tried.await;
        let gone = scratch.discard(true).await;
        match (tried, gone) {
            (Ok(tables), Ok(())) => Ok(tables),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    }

    async fn try_sqlite(
        &self,
        backup: &Manifest,
        watcher: &dyn Watcher,
    ) -> Result<Vec<Table>, BackupError> {
        let folder = scratch::Folder::make(&self.within)?;
        let file = folder.file("tried.sqlite3");
        self.unpack(&file, backup, watcher).await?;
        let (_, _, tables) = sqlite::look(&file).await?;
        Ok(tables)
    }

    /// Fills an empty PostgreSQL database with a backup.
    pub(super) async fn fill(
        &self,
        target: &Server,
        backup: &Manifest,
        watcher: &dyn Watcher,
    ) -> Result<(), BackupError> {
        let needs = backup
            .server
            .split('.')
            .next()
            .and_then(|major| major.parse().ok());
        self.programs
            .check("pg_restore", needs.unwrap_or_default())
            .await?;
        watcher
            .progress(61, "restoring into an empty database")
            .await?;
        let load = |dump| target.load(&self.programs, dump);
        self.read_back(backup, watcher, load).await
    }

    /// Makes a SQLite file of a backup.
    pub(super) async fn unpack(
        &self,
        file: &std::path::Path,
        backup: &Manifest,
        watcher: &dyn Watcher,
    ) -> Result<(), BackupError> {
        watcher.progress(61, "restoring into an empty file").await?;
        let unpack = |dump| sqlite::unpack(dump, file.to_owned());
        self.read_back(backup, watcher, unpack).await
    }

    /// Gives `load` what a backup has.
    async fn read_back<F>(
        &self,
        backup: &Manifest,
        watcher: &dyn Watcher,
        load: impl FnOnce(mpsc::Receiver<Bytes>) -> F,
    ) -> Result<(), BackupError>
    where
        F: Future<Output = Result<(), BackupError>>,
    {
        let span = Span {
            watcher,
            from: 61,
            to: 95,
            doing: "restoring",
            whole: backup.bytes,
        };
        let (pieces, dump) = mpsc::channel(PIECES);
        let (read, loaded) = tokio::join!(
            flow::back(&self.vault, backup, &self.keys, pieces, span),
            load(dump),
        );
        // What could not be read is why what was read could not be loaded.
        read?;
        loaded?;
        watcher.progress(95, "comparing every table").await
    }

    /// What kind of database the service's own is.
    pub(super) const fn engine_of(database: &Database) -> Engine {
        match database {
            Database::Postgres(_) => Engine::Postgresql,
            Database::Sqlite(_) => Engine::Sqlite,
        }
    }
}
