//! Whether the host has room for one more machine: memory, disk.

use std::{fs, path::Path};

use super::program::{failed, file_error, quota};
use crate::providers::ProviderError;

/// Refuses when less than `wanted` and `reserve` bytes of memory are to be had.
pub(super) fn for_memory(wanted: u64, reserve: u64) -> Result<(), ProviderError> {
    let host = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| available(&text));
    let group = fs::read_to_string("/proc/self/cgroup")
        .ok()
        .and_then(|text| left_to_group(Path::new("/sys/fs/cgroup"), &text));
    let Some(free) = [host, group].into_iter().flatten().min() else {
        return Err(failed("how much memory there is cannot be read".to_owned()));
    };
    if free < wanted.saturating_add(reserve) {
        let [wanted, free, reserve] = [wanted, free, reserve].map(mebibytes);
        return Err(quota(format!(
            "{wanted} MiB of memory are asked for; {free} MiB are there, {reserve} MiB of them are kept"
        )));
    }
    Ok(())
}

/// `MemAvailable` of `/proc/meminfo`, in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// What the control groups (version 2) this process is in leave it, as its children, machines among them, are in them too.
fn left_to_group(root: &Path, cgroup: &str) -> Option<u64> {
    let own = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let number = |path: std::path::PathBuf| fs::read_to_string(path).ok()?.trim().parse().ok();
    let own = root.join(own);
    let groups = own.ancestors().take_while(|path| path.starts_with(root));
    let left = groups.filter_map(|group| {
        // "max" is no number and no limit.
        let limit: u64 = number(group.join("memory.max"))?;
        let used: u64 = number(group.join("memory.current"))?;
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let cached = stat
            .lines()
            .find_map(|line| line.strip_prefix("inactive_file "));
        let cached = cached.and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(cached)))
    });
    left.min()
}

/// Refuses when the file system of `folder` has less than `reserve` bytes left.
pub(super) fn for_disk(folder: &Path, reserve: u64) -> Result<(), ProviderError> {
    let said = rustix::fs::statvfs(folder)
        .map_err(|error| file_error("its file system cannot be asked")(error.into()))?;
    let free = said.f_bavail.saturating_mul(said.f_frsize);
    if free < reserve {
        let [free, reserve] = [free, reserve].map(mebibytes);
        return Err(quota(format!(
            "{free} MiB of disk space are left; {reserve} MiB are kept"
        )));
    }
    Ok(())
}

const fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_group_leaves_is_what_the_tightest_one_above_leaves() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("outer/inner");
        fs::create_dir_all(&inner).unwrap();
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(root.path().join("outer/memory.max"), "1000\n").unwrap();
        fs::write(root.path().join("outer/memory.current"), "700\n").unwrap();
        fs::write(
            root.path().join("outer/memory.stat"),
            "anon 500\ninactive_file 200\n",
        )
        .unwrap();
        assert_eq!(left_to_group(root.path(), "0::/outer/inner\n"), Some(500));
        assert_eq!(left_to_group(root.path(), "0::/\n"), None);
    }
}
