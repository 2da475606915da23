//! Folders and databases of one run, which nothing is left of: a run that could not clean up is cleaned up after.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};

use super::{
    BackupError,
    postgres::{Server, idle_databases},
};
use crate::{
    domain::{entropy::secret_bytes, keyring::hex},
    objects::make_private,
};

const FOLDER: &str = "backup-";
const LOCK: &str = "lock";
/// Held while a folder is made or found to be nobody's: between a folder and its lock there is a moment.
const DOOR: &str = "backup.lock";
const DATABASE: &str = "main_webserver_scratch_";
/// How young a database is left alone: whoever has made it may not have connected yet.
const YOUNG: i64 = 60;

/// A folder, removed with its end. It is locked, so that others know it is used.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn make(within: &Path) -> Result<Self, BackupError> {
        make_private(within).map_err(BackupError::file(within))?;
        let _door = door(within)?;
        let path = within.join(format!("{FOLDER}{}", hex(&secret_bytes::<8>())));
        make_private(&path).map_err(BackupError::file(&path))?;
        let lock = File::create(path.join(LOCK)).and_then(|lock| {
            lock.lock()?;
            Ok(lock)
        });
        Ok(Self {
            _lock: lock.map_err(BackupError::file(&path))?,
            path,
        })
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a folder could not be removed");
        }
    }
}

fn door(within: &Path) -> Result<File, BackupError> {
    let path = within.join(DOOR);
    let opened = File::create(&path).and_then(|door| door.lock().map(|()| door));
    opened.map_err(BackupError::file(&path))
}

/// Removes the folders of those who have not.
pub(super) fn clear_folders(within: &Path) -> Result<usize, BackupError> {
    let Ok(entries) = std::fs::read_dir(within) else {
        return Ok(0);
    };
    let _door = door(within)?;
    let mut cleared = 0;
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if !path.is_dir() || !entry.file_name().to_string_lossy().starts_with(FOLDER) {
            continue;
        }
        let is_used = match File::open(path.join(LOCK)).map(|lock| lock.try_lock()) {
            // Whoever made it came no further.
            Err(_) | Ok(Ok(())) => false,
            Ok(Err(TryLockError::WouldBlock | TryLockError::Error(_))) => true,
        };
        if !is_used {
            std::fs::remove_dir_all(&path).map_err(BackupError::file(&path))?;
            cleared += 1;
        }
    }
    Ok(cleared)
}

/// A name for a database, with the time it was made.
pub(super) fn database(server: &Server, now: DateTime<Utc>) -> Server {
    let name = format!(
        "{DATABASE}{}_{}",
        now.timestamp(),
        hex(&secret_bytes::<4>())
    );
    server.at(&name)
}

/// Drops the databases of those who have not.
pub(super) async fn clear_databases(
    server: &Server,
    now: DateTime<Utc>,
) -> Result<usize, BackupError> {
    let mut cleared = 0;
    for name in idle_databases(server, DATABASE).await? {
        let made = name[DATABASE.len()..].split('_').next();
        let made = made.and_then(|made| made.parse::<i64>().ok());
        if made.is_none_or(|made| made > now.timestamp() - YOUNG) {
            continue;
        }
        // Somebody may have been quicker, or have connected meanwhile.
        match server.at(&name).discard(false).await {
            Ok(()) => cleared += 1,
            Err(error) => tracing::debug!(%error, name, "a scratch database stays"),
        }
    }
    Ok(cleared)
}
