//! The credential between two starts: a file that only its owner reads, and that is there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use chrono::{DateTime, Utc};

use crate::config::Secret;

/// Where a credential is kept. What is done with it is small, so it is done at once and not on a thread of its own.
pub struct CredentialFile {
    path: PathBuf,
}

impl CredentialFile {
    pub fn within(folder: &Path) -> Self {
        Self {
            path: folder.join("agent.credential"),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The credential; `None` before the first start.
    pub fn read(&self) -> io::Result<Option<Secret>> {
        match fs::read_to_string(&self.path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(Secret::new(text.trim().to_owned()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// When it was written.
    pub fn written_at(&self) -> io::Result<DateTime<Utc>> {
        Ok(fs::metadata(&self.path)?.modified()?.into())
    }

    /// Whether it could be written, found out before there is something that must not be lost.
    pub fn try_out(&self) -> io::Result<()> {
        self.beside()?;
        fs::remove_file(self.new_path())
    }

    /// Replaces it; after a crash there is either the old one or this.
    pub fn write(&self, credential: &Secret) -> io::Result<()> {
        let mut file = self.beside()?;
        writeln!(file, "{}", credential.expose())?;
        file.sync_all()?;
        fs::rename(self.new_path(), &self.path)?;
        match self.path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }

    /// An empty file in the same folder, made anew so that its mode is not an older one's.
    fn beside(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(self.new_path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.new_path())
    }

    fn new_path(&self) -> PathBuf {
        self.path.with_extension("credential.new")
    }
}
