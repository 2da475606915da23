//! Backups and what is not ours: kills at every step, an S3, the programs, age. `tests/run.sh backup` has what they need.

mod age;
mod figures;
mod kills;
mod programs;
mod s3;

use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, process::Output};

use crate::harness::{Ground, required};

/// What a program that has succeeded has said.
pub fn said(output: Output) -> Vec<u8> {
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{problem}");
    output.stdout
}

/// A folder with `pg_dump` and `pg_restore` that do `dump` and `restore` in bash; `$REAL` is the program's own folder, `$HERE`
/// this one.
pub fn programs(ground: &Ground, dump: &str, restore: &str) -> PathBuf {
    let here = ground.folder().join("programs");
    std::fs::create_dir_all(&here).unwrap();
    for (name, does) in [("pg_dump", dump), ("pg_restore", restore)] {
        let path = here.join(name);
        let text = format!(
            "#!/bin/bash\nREAL={}; HERE={}\n[ \"$1\" = --version ] && exec \"$REAL/{name}\" --version\n{does}\n",
            required("TEST_POSTGRES_BIN"),
            here.display(),
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    here
}
