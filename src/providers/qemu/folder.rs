//! Where machines live on disk: a folder for each, made whole beside its place and moved there, with a record in it.
//!
//! ```text
//! <directory>/main-machine_<hex>/   machine.json disk.qcow2 console.log pid tty vnc qmp seed/ firmware/
//! <directory>/.making-main-…/       an attempt under way, or what is left of one that was killed
//! <directory>/.removing-main-…/     the same of a removal
//! <directory>/.identity             what tells it from the directories of other hosts
//! <directory>/.locks/main-…         held by whoever makes, starts, ends or removes the machine
//! ```

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::remains::{remove_attempt, remove_tree};
use crate::{
    domain::{Id, entropy::secret_bytes, id::VirtualMachine, keyring::hex},
    providers::instance_name,
};

const RECORD: &str = "machine.json";
const LOCKS: &str = ".locks";
const IDENTITY: &str = ".identity";
const MAKING: &str = ".making-";
const REMOVING: &str = ".removing-";
/// Longest path of a Unix socket (`sun_path` of unix(7), less its end).
const LONGEST_SOCKET: usize = 107;

/// The paths of one machine.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) id: Id<VirtualMachine>,
    root: PathBuf,
}

/// What is known of a machine beside its disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) generation: i32,
    pub(super) deployment: String,
    /// Port inside → port of the host.
    pub(super) ports: BTreeMap<u16, u16>,
    /// The address of the host those are reached at.
    pub(super) ip: Option<String>,
    /// What it was last given.
    pub(super) cpus: u16,
    pub(super) memory_bytes: u64,
    pub(super) disk_bytes: u64,
    /// What its console says when it is up.
    pub(super) ready_text: Option<String>,
    pub(super) phase: Phase,
    /// How often it has been started.
    pub(super) starts: u32,
    /// Where in the console's log its last start begins.
    pub(super) log_start: u64,
}

/// How far somebody has come with a machine. What its process does is asked of the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Never started.
    Created,
    /// A process is about to be, or has just been started.
    Starting,
    /// It was started; without a process it has ended by itself.
    Started,
    /// Its end was in order, or ours.
    Off,
}

impl Place {
    pub(super) const fn new(id: Id<VirtualMachine>, root: PathBuf) -> Self {
        Self { id, root }
    }

    fn beside(&self, prefix: &str) -> PathBuf {
        self.root
            .join(format!("{prefix}{}", instance_name(self.id)))
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.beside("")
    }

    pub(super) fn is_there(&self) -> bool {
        self.folder().exists()
    }

    pub(super) fn disk(&self) -> PathBuf {
        disk_in(&self.folder())
    }

    pub(super) fn console_log(&self) -> PathBuf {
        self.folder().join("console.log")
    }

    pub(super) fn pid_file(&self) -> PathBuf {
        self.folder().join("pid")
    }

    pub(super) fn monitor(&self) -> PathBuf {
        self.folder().join("qmp")
    }

    pub(super) fn serial(&self) -> PathBuf {
        self.folder().join("tty")
    }

    pub(super) fn vnc(&self) -> PathBuf {
        self.folder().join("vnc")
    }

    /// `None` when there is no such machine.
    ///
    /// # Errors
    /// A folder without a record that can be read is somebody's machine all the same, and is not guessed at.
    pub(super) fn record(&self) -> io::Result<Option<Record>> {
        match fs::read(self.folder().join(RECORD)) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.is_there() => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn keep(&self, record: &Record) -> io::Result<()> {
        keep_in(&self.folder(), record)
    }

    /// An empty folder to make the machine in; what a killed attempt has left there goes.
    pub(super) fn begin(&self) -> io::Result<PathBuf> {
        let making = self.beside(MAKING);
        remove_attempt(&making)?;
        make_folder(&making)?;
        make_folder(&seed_in(&making))?;
        make_folder(&firmware_in(&making))?;
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(making.join("console.log"))?;
        Ok(making)
    }

    /// Gives up what [`Place::begin`] has begun.
    pub(super) fn give_up(&self) -> io::Result<()> {
        remove_tree(&self.beside(MAKING))
    }

    /// Moves what was made into its place.
    pub(super) fn finish(&self) -> io::Result<()> {
        fs::rename(self.beside(MAKING), self.folder())?;
        File::open(&self.root)?.sync_all()
    }

    /// Removes the folder: out of the way in one step, then what is in it.
    pub(super) fn remove(&self) -> io::Result<()> {
        let removing = self.beside(REMOVING);
        remove_tree(&removing)?;
        match fs::rename(self.folder(), &removing) {
            Ok(()) => remove_tree(&removing),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The machine for oneself; `None` while somebody else has it, in whatever process. It ends with the process.
    pub(super) fn try_lock(&self) -> io::Result<Option<Lock>> {
        let path = self.root.join(LOCKS).join(instance_name(self.id));
        loop {
            let file = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .mode(0o600)
                .open(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever had it before may have removed the file together with the machine.
            let is_same = fs::metadata(&path).is_ok_and(|now| {
                file.metadata()
                    .is_ok_and(|held| (held.dev(), held.ino()) == (now.dev(), now.ino()))
            });
            if is_same {
                return Ok(Some(Lock { _file: file, path }));
            }
        }
    }
}

/// The parts of a machine's folder, which is not in its place yet while they are made.
pub(super) fn disk_in(folder: &Path) -> PathBuf {
    folder.join("disk.qcow2")
}

pub(super) fn seed_in(folder: &Path) -> PathBuf {
    folder.join("seed")
}

pub(super) fn firmware_in(folder: &Path) -> PathBuf {
    folder.join("firmware")
}

pub(super) fn keep_in(folder: &Path, record: &Record) -> io::Result<()> {
    write_whole(&folder.join(RECORD), &serde_json::to_vec_pretty(record)?)
}

/// Holds a machine for one attempt.
pub(super) struct Lock {
    _file: File,
    path: PathBuf,
}

impl Lock {
    /// Leaves nothing of the machine, not even this; for when it is gone.
    pub(super) fn forget(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the directory of machines; the path by which everything in it is named.
///
/// # Errors
/// One whose sockets would have longer names than the system takes.
pub(super) fn prepare(directory: &Path) -> io::Result<PathBuf> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory.join(LOCKS))?;
    let root = directory.canonicalize()?;
    let place = Place::new(Id::new(uuid::Uuid::nil()), root.clone());
    let longest = place.monitor().as_os_str().len();
    if longest > LONGEST_SOCKET {
        let most = LONGEST_SOCKET - (longest - root.as_os_str().len());
        let why = format!(
            "{} is too long for the sockets in it: at most {most} bytes",
            root.display()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, why));
    }
    if root.to_str().is_none() {
        let why = format!("{} is not UTF-8", root.display());
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, why));
    }
    Ok(root)
}

/// What tells this directory from every other: made once, and kept in it.
pub(super) fn identity(root: &Path) -> io::Result<String> {
    let (path, new) = (root.join(IDENTITY), hex(&secret_bytes::<8>()));
    if !path.exists() {
        let beside = root.join(format!("{IDENTITY}-{new}"));
        // Of two that make it at once, one is first.
        let linked = fs::write(&beside, &new).and_then(|()| fs::hard_link(&beside, &path));
        let removed = fs::remove_file(&beside);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => removed?,
        }
    }
    fs::read_to_string(&path)
}

/// The machines there are.
pub(super) fn machines(root: &Path) -> io::Result<Vec<Place>> {
    named(root, "")
}

/// Removes what killed attempts have left. Whose lock is held is being worked on, and is left alone.
pub(super) fn sweep(root: &Path) -> io::Result<()> {
    for prefix in [MAKING, REMOVING] {
        for place in named(root, prefix)? {
            if let Some(lock) = place.try_lock()? {
                remove_attempt(&place.beside(prefix))?;
                if !place.is_there() {
                    lock.forget();
                }
            }
        }
    }
    Ok(())
}

fn named(root: &Path, prefix: &str) -> io::Result<Vec<Place>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root)? {
        let name = entry?.file_name();
        let id = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.strip_prefix("main-"))
            .and_then(Id::parse);
        found.extend(id.map(|id| Place::new(id, root.to_owned())));
    }
    Ok(found)
}

/// Writes a file that is there as a whole or not at all, also when the power fails; only its owner reads it.
pub(super) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Bytes a folder takes on the disk.
pub(super) fn allocated(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        let below = if metadata.is_dir() {
            allocated(&entry.path())
        } else {
            0
        };
        Some(metadata.blocks() * 512 + below)
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(root: &Path) -> Place {
        Place::new(Id::new(uuid::Uuid::from_u128(7)), prepare(root).unwrap())
    }

    #[test]
    fn one_has_a_machine_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let lock = place.try_lock().unwrap().unwrap();
        assert!(place.try_lock().unwrap().is_none());
        lock.forget();
        assert!(place.try_lock().unwrap().is_some());
    }

    #[test]
    fn what_a_killed_attempt_left_is_swept_and_one_under_way_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let place = place(folder.path());
        let making = place.begin().unwrap();
        let lock = place.try_lock().unwrap();
        sweep(&place.root).unwrap();
        assert!(making.exists());
        drop(lock);
        sweep(&place.root).unwrap();
        assert!(!making.exists());
        assert!(!place.is_there());
    }

    #[test]
    fn a_directory_too_long_for_sockets_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let error = prepare(&folder.path().join("a".repeat(100))).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error}");
    }
}
