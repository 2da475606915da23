//! What a killed attempt has left on disk, and how it goes.

use std::{fs, io, path::Path};

use super::{folder::disk_in, process::Process};

/// Removes a folder with all that is in it; one that is not there is removed.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what a killed attempt has left, its tools first: they go on without it and would make its disk once more.
pub(super) fn remove_attempt(folder: &Path) -> io::Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    for tool in Process::all_on(&disk_in(folder)) {
        tool.kill();
    }
    // What one that is just ending has made meanwhile goes with the second.
    match remove_tree(folder) {
        Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => remove_tree(folder),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::super::folder::{Place, disk_in, prepare};
    use crate::domain::Id;

    #[test]
    fn a_tool_that_outlives_its_attempt_does_not_make_the_disk_again() {
        let folder = tempfile::tempdir().unwrap();
        let root = prepare(folder.path()).unwrap();
        let place = Place::new(Id::new(uuid::Uuid::from_u128(7)), root);
        let disk = disk_in(&place.begin().unwrap());
        let mut tool = std::process::Command::new("sh")
            .args(["-c", "while :; do : >\"$0\"; done"])
            .arg(&disk)
            .spawn()
            .unwrap();
        while !disk.exists() {
            std::thread::yield_now();
        }
        place.begin().unwrap();
        assert_eq!(tool.wait().unwrap().code(), None, "it was killed");
    }
}
