//! What a backup costs beside `pg_dump` alone: printed, and its memory bounded.

use std::{path::Path, process::Stdio, time::Duration};

use sea_orm::{ConnectionTrait as _, Database, DbBackend};
use tokio::process::Command;

use crate::{
    backup::{KEY, beside, forget, ground, own, store, succeed},
    harness::{Ground, nap, process, required},
};

/// Adds rows of 4 KiB each that do not become smaller than a half.
pub async fn fill(url: &str, rows: u32) {
    let db = Database::connect(url).await.unwrap();
    let sql = if db.get_database_backend() == DbBackend::Postgres {
        format!(
            "INSERT INTO log_line (subject_id, line, mark, at, is_error, message) \
             SELECT gen_random_uuid(), i, i, now(), false, \
             (SELECT string_agg(md5(random()::text || g), '') FROM generate_series(1, 128) g WHERE g + i > 0) FROM generate_series(1, {rows}) i"
        )
    } else {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows}) \
             INSERT INTO log_line (subject_id, line, mark, at, is_error, message) \
             SELECT randomblob(16), i, i, '2026-01-01 00:00:00+00:00', 0, hex(randomblob(2048)) FROM n"
        )
    };
    db.execute_unprepared(&sql).await.unwrap();
    db.close().await.unwrap();
}

/// Runs a command of ours to its end: seconds, and the most memory it had, in KiB.
async fn measured(ground: &Ground, arguments: &[&str]) -> (f64, u64) {
    let mut command = process::command(ground, arguments);
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id().unwrap());
    let (start, mut peak) = (now(), 0);
    loop {
        if let Ok(text) = std::fs::read_to_string(&status) {
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(kibibytes.unwrap_or(0));
        }
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{arguments:?}");
            return (now().saturating_sub(start).as_secs_f64(), peak);
        }
        nap(5).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "what is measured is real time")]
fn now() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap()
}

fn size(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap();
    files
        .map(|file| file.unwrap().metadata().unwrap().len())
        .sum()
}

#[tokio::test]
async fn memory_stays_the_same_however_much_there_is() {
    let rows: u32 = std::env::var("BACKUP_ROWS").map_or(20_000, |rows| rows.parse().unwrap());
    let ground = ground().await.with("BACKUP_KEY", KEY);
    succeed(&ground, &["migrate", "up"]).await;
    let (_, small) = measured(&ground, &["backup", "now"]).await;
    fill(&own(&ground), rows).await;
    let before = size(&store(&ground));
    let (seconds, peak) = measured(&ground, &["backup", "now", "--unverified"]).await;
    let written = size(&store(&ground)) - before;
    let (verify, verify_peak) = measured(&ground, &["backup", "verify"]).await;
    let target = beside(&ground, "again");
    let (restore, restore_peak) =
        measured(&ground, &["restore", "latest", "--into", &target]).await;
    let mebibytes = |bytes: u64| f64::from(u32::try_from(bytes >> 10).unwrap()) / 1024.0;
    eprintln!(
        "{rows} rows of 4 KiB: {:.0} MiB written, {:.1} MiB/s of rows\n\
         backup {seconds:.1} s, {} MiB; verify {verify:.1} s, {} MiB; restore {restore:.1} s, {} MiB; of nothing {} MiB",
        mebibytes(written),
        f64::from(rows) * 4096.0 / f64::from(1 << 20) / seconds,
        peak >> 10,
        verify_peak >> 10,
        restore_peak >> 10,
        small >> 10,
    );
    if own(&ground).starts_with("postgres") {
        let start = now();
        let plain = ground.folder().join("plain.dump");
        let dumped = Command::new(format!("{}/pg_dump", required("TEST_POSTGRES_BIN")))
            .args([
                "--format=custom",
                "--file",
                plain.to_str().unwrap(),
                "--dbname",
                &own(&ground),
            ])
            .status()
            .await;
        assert!(dumped.unwrap().success());
        let alone = now().saturating_sub(start).as_secs_f64();
        eprintln!(
            "pg_dump alone {alone:.1} s; with a backup's counting, encryption and SHA-256 {:.2}x",
            seconds / alone
        );
    }
    // What is held at a time is the same; what is written is not.
    assert!(written > 30 << 20, "too little to tell");
    for peak in [peak, verify_peak, restore_peak] {
        assert!(
            peak < small + (24 << 10),
            "{peak} KiB beside {small} KiB of nothing"
        );
    }
    forget(&target).await;
    ground.clear().await;
}
