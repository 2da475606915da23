//! SQLite: a copy of one moment while the service writes on, packed and unpacked a piece at a time.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    str::FromStr as _,
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use futures_util::TryStreamExt as _;
use ring::digest::{SHA256, digest};
use sea_orm::sqlx::{
    self, AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, SqliteConnection,
    sqlite::SqliteConnectOptions,
};
use tokio::sync::mpsc;

use super::{BackupError, manifest::Table};

/// Bytes read from a file at once.
const PIECE: usize = 256 * 1024;
/// How long a lock is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// The file of a `sqlite:` URL.
pub(super) fn file(url: &str) -> Result<PathBuf, BackupError> {
    if url.contains(":memory:") || url.contains("mode=memory") {
        return Err(BackupError::InMemory);
    }
    Ok(SqliteConnectOptions::from_str(url)?
        .get_filename()
        .to_owned())
}

async fn open(file: &Path) -> Result<SqliteConnection, BackupError> {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .busy_timeout(BUSY)
        .disable_statement_logging();
    Ok(SqliteConnection::connect_with(&options).await?)
}

/// Writes what `database` has at this moment to `copy`, which must not be there.
pub(super) async fn copy(database: &Path, copy: &Path) -> Result<(), BackupError> {
    if !database.exists() {
        let error = io::Error::from(io::ErrorKind::NotFound);
        return Err(BackupError::file(database)(error));
    }
    let mut connection = open(database).await?;
    sqlx::query("VACUUM INTO $1")
        .bind(copy.display().to_string())
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// The engine's version, the steps that were applied, and every table with its rows and the sum of their hashes.
pub(super) async fn look(file: &Path) -> Result<(String, Vec<String>, Vec<Table>), BackupError> {
    let mut connection = open(file).await?;
    let version = sqlx::query_scalar("SELECT sqlite_version()")
        .fetch_one(&mut connection)
        .await?;
    let names = names(&mut connection).await?;
    let migrations = if names.iter().any(|name| name == "seaql_migrations") {
        sqlx::query_scalar("SELECT version FROM seaql_migrations ORDER BY version")
            .fetch_all(&mut connection)
            .await?
    } else {
        Vec::new()
    };
    let mut tables = Vec::new();
    for name in names {
        tables.push(table(&mut connection, name).await?);
    }
    connection.close().await?;
    Ok((version, migrations, tables))
}

/// Whether it has no table at all; one that is not there has none.
pub(super) async fn is_empty(file: &Path) -> Result<bool, BackupError> {
    if !file.exists() {
        return Ok(true);
    }
    let mut connection = open(file).await?;
    let is_empty = names(&mut connection).await?.is_empty();
    connection.close().await?;
    Ok(is_empty)
}

async fn names(connection: &mut SqliteConnection) -> Result<Vec<String>, BackupError> {
    let names = sqlx::query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    );
    Ok(names.fetch_all(connection).await?)
}

async fn table(connection: &mut SqliteConnection, name: String) -> Result<Table, BackupError> {
    let columns: Vec<String> = sqlx::query_scalar("SELECT name FROM pragma_table_info($1)")
        .bind(&name)
        .fetch_all(&mut *connection)
        .await?;
    let values: Vec<String> = columns
        .iter()
        .map(|column| format!("quote({})", quoted(column)))
        .collect();
    let sql = format!(
        "SELECT {} FROM {}",
        values.join(" || ',' || "),
        quoted(&name)
    );
    let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(connection);
    let (mut count, mut sum) = (0, 0_u128);
    while let Some(row) = rows.try_next().await? {
        let text: String = row.try_get(0)?;
        let hash = digest(&SHA256, text.as_bytes());
        let first = hash.as_ref().first_chunk().copied().unwrap_or_default();
        sum = sum.wrapping_add(u64::from_be_bytes(first).into());
        count += 1;
    }
    drop(rows);
    Ok(Table {
        name,
        rows: count,
        checksum: sum.to_string(),
    })
}

/// Packs a file and sends it to `out`.
pub(super) async fn pack(file: PathBuf, out: mpsc::Sender<Bytes>) -> Result<(), BackupError> {
    let path = file.clone();
    let packed = tokio::task::spawn_blocking(move || {
        let mut file = File::open(file)?;
        let mut packer = GzEncoder::new(Pipe(out), Compression::fast());
        let mut piece = vec![0; PIECE];
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                return packer.finish().map(|_| ());
            }
            packer.write_all(&piece[..read])?;
        }
    });
    joined(packed.await).map_err(BackupError::file(&path))
}

/// Unpacks what comes from `input` into a new file.
pub(super) async fn unpack(input: mpsc::Receiver<Bytes>, file: PathBuf) -> Result<(), BackupError> {
    let path = file.clone();
    let unpacked = tokio::task::spawn_blocking(move || {
        let mut options = File::options();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(file)?;
        let packed = Tap {
            input,
            piece: Bytes::new(),
        };
        io::copy(
            &mut GzDecoder::new(io::BufReader::with_capacity(PIECE, packed)),
            &mut file,
        )?;
        file.sync_all()
    });
    joined(unpacked.await).map_err(BackupError::file(&path))
}

fn joined(done: Result<io::Result<()>, tokio::task::JoinError>) -> io::Result<()> {
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Puts `new` in the place of `target`, which goes to `aside`, where it is there. Nobody may have it open.
pub(super) async fn swap(new: &Path, target: &Path, aside: &Path) -> Result<(), BackupError> {
    if target.exists() {
        let mut connection = open(target).await?;
        // The journal can only be given up by the last one who has the file open.
        let mode: Result<String, _> = sqlx::query_scalar("PRAGMA journal_mode = DELETE")
            .fetch_one(&mut connection)
            .await;
        if !mode.is_ok_and(|mode| mode == "delete") {
            return Err(BackupError::InUse {
                target: target.display().to_string(),
            });
        }
        connection.close().await?;
        // A name more for the old one first: there is a database at every moment.
        std::fs::hard_link(target, aside).map_err(BackupError::file(aside))?;
    }
    std::fs::rename(new, target).map_err(BackupError::file(target))?;
    if let Some(folder) = target
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(BackupError::file(folder))?;
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A channel to write to.
struct Pipe(mpsc::Sender<Bytes>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A channel to read from.
struct Tap {
    input: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Tap {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.input.blocking_recv().unwrap_or_default();
        }
        let count = bytes.len().min(self.piece.len());
        bytes[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}
