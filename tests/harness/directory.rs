//! A directory of real machines: what is in it, and what runs there.

use std::path::{Path, PathBuf};

use main_webserver::domain::{Id, id::VirtualMachine};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::required;

/// A directory of a test's own; what still runs there ends with it.
pub struct Directory {
    folder: TempDir,
}

impl Directory {
    /// One whose name is short enough for the names of sockets.
    pub fn new() -> Self {
        let parent = PathBuf::from(required("TEST_QEMU_DIRECTORY"));
        let folder = tempfile::Builder::new().prefix("m").tempdir_in(parent);
        Self {
            folder: folder.unwrap(),
        }
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn machines(&self) -> PathBuf {
        self.path().join("machines")
    }

    pub fn folder_of(&self, id: Id<VirtualMachine>) -> PathBuf {
        self.machines().join(format!("main-{id}"))
    }

    /// The processes of QEMU here, and their command lines.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let here = self.path().to_str().unwrap();
        let entries = std::fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid: i32| {
            let line = command_line(pid)?;
            (line.starts_with("qemu-system") && line.contains(here)).then_some((pid, line))
        })
        .collect()
    }

    pub fn pids(&self) -> Vec<i32> {
        self.processes().into_iter().map(|(pid, _)| pid).collect()
    }

    pub fn kill(&self) {
        self.pids().into_iter().for_each(kill);
    }

    /// The names of what is in it, beside what tells it from other directories and what its machines are held by.
    pub fn files(&self) -> Vec<String> {
        names_in(&self.machines())
            .filter(|name| !matches!(&**name, ".locks" | ".identity"))
            .collect()
    }

    /// What is left of machines: empty when all are removed.
    pub fn remains(&self) -> Vec<String> {
        let running = self.processes().into_iter().map(|(_, line)| line);
        let locks = names_in(&self.machines().join(".locks"));
        running.chain(self.files()).chain(locks).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.kill();
    }
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
}

fn command_line(pid: i32) -> Option<String> {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    Some(String::from_utf8_lossy(&line).replace('\0', " "))
}

/// `kill -9`; one that is gone already is none.
pub fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

/// The processes that a process has started and that have not ended, and their command lines.
pub fn children(pid: i32) -> Vec<(i32, String)> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten();
    let lists = threads
        .filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("children")).ok());
    let pids: Vec<i32> = lists
        .flat_map(|list| {
            let pids = list.split_whitespace().map(|pid| pid.parse().unwrap());
            pids.collect::<Vec<_>>()
        })
        .collect();
    let lines = pids
        .into_iter()
        .filter_map(|pid| Some((pid, command_line(pid)?)));
    lines.collect()
}

/// A file system of so many kibibytes, gone with this.
pub struct Small(PathBuf);

impl Small {
    pub async fn at(path: PathBuf, kibibytes: u32) -> Self {
        std::fs::create_dir_all(&path).unwrap();
        let mount = tokio::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kibibytes}k"), "small"])
            .arg(&path)
            .status();
        assert!(mount.await.unwrap().success());
        Self(path)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}
