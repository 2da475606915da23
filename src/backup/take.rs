//! Making a backup.

use tokio::sync::mpsc;

use super::{
    BackupError, Backups, Encryption, Engine, Manifest, Table, Watcher,
    age::Recipient,
    flow::{self, PIECES, Span},
    postgres::{Moment, Server},
    retention, scratch, sqlite,
    upload::Upload,
    vault::Mark,
};
use crate::{config::Database, domain::keyring::hex};

/// What a dump is of.
struct Taken {
    engine: Engine,
    server: String,
    migrations: Vec<String>,
    tables: Vec<Table>,
    plain_bytes: u64,
}

impl Backups {
    /// Makes a backup; it is one when this has ended well, and nothing is left of it when it has not.
    ///
    /// `origin` names who wants it. What an earlier try of the same left behind is taken away first.
    pub async fn take(&self, origin: &str, watcher: &dyn Watcher) -> Result<Manifest, BackupError> {
        self.clear(origin).await?;
        let started_at = self.now();
        let distinction = hex(&self.entropy.uuid(started_at).as_bytes()[10..]);
        let name = retention::name(started_at, &distinction);
        let recipient = self.keys.first().map(super::Identity::recipient);
        let engine = match self.database {
            Database::Postgres(_) => Engine::Postgresql,
            Database::Sqlite(_) => Engine::Sqlite,
        };
        let ending = if recipient.is_some() { ".age" } else { "" };
        let object = format!("{name}.{}{ending}", engine.ending());
        let mark = Mark {
            name: name.clone(),
            object: object.clone(),
            origin: origin.to_owned(),
            at: started_at,
            upload: None,
            is_removal: false,
        };
        let mut upload = self.vault.begin(mark.clone()).await?;
        let taken = match &self.database {
            Database::Postgres(url) => {
                let server = Server::parse(url)?;
                self.dump_postgres(&server, recipient, &mut upload, watcher)
                    .await
            }
            Database::Sqlite(url) => self.dump_sqlite(url, recipient, &mut upload, watcher).await,
        };
        let written = match taken {
            Ok(taken) => upload.complete().await.map(|written| (taken, written)),
            Err(error) => {
                drop(upload);
                Err(error)
            }
        };
        let (taken, written) = match written {
            Ok(written) => written,
            Err(error) => {
                // The mark is there for the next run, should this fail as well.
                if let Err(error) = self.vault.clear(origin, self.now()).await {
                    tracing::warn!(%error, "what was written of a backup stays for now");
                }
                return Err(error);
            }
        };
        let manifest = Manifest {
            version: 1,
            name: name.clone(),
            object,
            database: taken.engine,
            server: taken.server,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            migrations: taken.migrations,
            tables: taken.tables,
            started_at,
            took_millis: self.millis_since(started_at),
            plain_bytes: taken.plain_bytes,
            bytes: written.bytes,
            sha256: written.sha256,
            encryption: recipient.map(|recipient| Encryption {
                format: "age-encryption.org/v1".to_owned(),
                recipient: recipient.to_string(),
            }),
            origin: origin.to_owned(),
            verification: None,
        };
        // Whoever has been overtaken ends here, before there is a backup.
        watcher.progress(60, "its data are written").await?;
        self.vault.publish(&manifest).await?;
        self.vault.unmark(&name).await?;
        self.show(&manifest);
        Ok(manifest)
    }

    async fn dump_postgres(
        &self,
        server: &Server,
        recipient: Option<Recipient>,
        upload: &mut Upload,
        watcher: &dyn Watcher,
    ) -> Result<Taken, BackupError> {
        let mut moment = Moment::take(server).await?;
        self.programs.check("pg_dump", moment.major).await?;
        let migrations = moment.migrations().await?;
        let version = moment.version.clone();
        let span = Span {
            watcher,
            from: 5,
            to: 60,
            doing: "dumping",
            whole: moment.size,
        };
        watcher.progress(5, "pg_dump begins").await?;
        let (pieces, dump) = mpsc::channel(PIECES);
        let (tables, plain_bytes) = tokio::try_join!(
            moment.dump(server, &self.programs, pieces),
            flow::out(dump, recipient, upload, span),
        )?;
        Ok(Taken {
            engine: Engine::Postgresql,
            server: version,
            migrations,
            tables,
            plain_bytes,
        })
    }

    async fn dump_sqlite(
        &self,
        url: &str,
        recipient: Option<Recipient>,
        upload: &mut Upload,
        watcher: &dyn Watcher,
    ) -> Result<Taken, BackupError> {
        let file = sqlite::file(url)?;
        let folder = scratch::Folder::make(&self.within)?;
        let copy = folder.file("copy.sqlite3");
        watcher.progress(5, "copying the database").await?;
        sqlite::copy(&file, &copy).await?;
        let (server, migrations, tables) = sqlite::look(&copy).await?;
        let whole = std::fs::metadata(&copy)
            .map_err(BackupError::file(&copy))?
            .len();
        let span = Span {
            watcher,
            from: 30,
            to: 60,
            doing: "writing",
            whole,
        };
        let (pieces, dump) = mpsc::channel(PIECES);
        let ((), plain_bytes) = tokio::try_join!(
            sqlite::pack(copy, pieces),
            flow::out(dump, recipient, upload, span),
        )?;
        Ok(Taken {
            engine: Engine::Sqlite,
            server,
            migrations,
            tables,
            plain_bytes,
        })
    }
}
