//! kill -9 at each step of a backup: there is no half backup, the task ends, and nothing is left of the first try.

use std::path::{Path, PathBuf};

use sea_orm::{ConnectionTrait as _, Database};

use super::{programs, s3::S3};
use crate::{
    backup::{databases, forget, ground, names, own, store, succeed},
    harness::{
        ADMIN_PASSWORD, Ground, Person, process::Process, servers::Postgres, until, until_within,
    },
};

/// Waits in `$HERE` for as long as there is `hold`, and says that it does.
const HOLD: &str = "touch \"$HERE/held\"; while [ -e \"$HERE/hold\" ]; do sleep 0.05; done";
const PASS_ON: &str = "exec \"$REAL/${0##*/}\" \"$@\"";
/// A dump that stops after its first bytes, and goes on.
const HALF: &str = "\"$REAL/pg_dump\" \"$@\" >\"$HERE/dump.$$\"; head -c 20000 \"$HERE/dump.$$\"; HOLD; tail -c +20001 \"$HERE/dump.$$\"";
const LONGEST: std::time::Duration = std::time::Duration::from_secs(60);

async fn administrator(serve: &Process) -> Person {
    serve
        .person()
        .log_in("admin@localhost", ADMIN_PASSWORD)
        .await
}

async fn ask(serve: &Process) -> String {
    let admin = administrator(serve).await;
    let asked = admin
        .ask("mutation { backUp(input: {}) { task { id } } }")
        .await;
    asked.text("/backUp/task/id")
}

/// A new process ends the task; there is one good backup, and nothing else anywhere.
async fn is_ended_well(ground: &Ground, serve: &Process, task: &str, step: &str) {
    let admin = administrator(serve).await;
    let done = crate::harness::client::in_state_within(LONGEST, "SUCCEEDED", async || {
        admin.task(task).await
    })
    .await;
    let backups = admin
        .ask("{ backups { name verifiedAt problem } }")
        .await
        .ok("/backups");
    let backups = backups.as_array().unwrap();
    assert_eq!(backups.len(), 1, "{step}: {backups:?}");
    assert!(backups[0]["verifiedAt"].is_string() && backups[0]["problem"].is_null());
    let scratch = names(&ground.folder().join("scratch"));
    assert!(
        scratch.iter().all(|name| name == "backup.lock"),
        "{step}: {scratch:?}"
    );
    eprintln!(
        "{step:<42} attempts {}  backups {}  left over 0",
        done["attempt"],
        backups.len()
    );
}

fn only_a_backup_is_left(folder: &Path, step: &str) {
    let files = names(folder);
    assert_eq!(files.len(), 2, "{step}: {files:?}");
    assert!(
        files.iter().any(|name| name.ends_with(".json")),
        "{step}: {files:?}"
    );
}

/// A service one of whose programs waits in the middle of what it does.
struct Held {
    ground: Ground,
    serve: Process,
    task: String,
    /// Where its programs are.
    here: PathBuf,
}

impl Held {
    /// Asks for a backup with such programs, and waits until one of them is held.
    async fn at(ground: Ground, step: &str, dump: &str, restore: &str) -> Self {
        let here = programs(
            &ground,
            &dump.replace("HOLD", HOLD),
            &restore.replace("HOLD", HOLD),
        );
        let ground = ground.with("PG_BIN", here.to_str().unwrap());
        std::fs::write(here.join("hold"), "").unwrap();
        let serve = Process::start(&ground, "serve").await;
        let task = ask(&serve).await;
        until(step, async || here.join("held").exists().then_some(())).await;
        Self {
            ground,
            serve,
            task,
            here,
        }
    }

    /// Lets the program go on.
    fn let_go(&self) {
        std::fs::remove_file(self.here.join("hold")).unwrap();
    }

    /// Kills the service; what is left is where it was, and its task.
    async fn kill(self) -> (Ground, String) {
        self.serve.kill().await;
        // Its program goes on for nobody, unless it was let go already.
        let _ = std::fs::remove_file(self.here.join("hold"));
        (self.ground, self.task)
    }
}

/// Starts another service, which ends the task well.
async fn another(ground: &Ground, task: &str, step: &str) {
    let serve = Process::start(ground, "serve").await;
    is_ended_well(ground, &serve, task, step).await;
    serve.end("-TERM").await;
}

/// Kills the service while a program is held in the middle of what it does.
async fn killed_while_held(ground: Ground, step: &str, dump: &str, restore: &str) -> Ground {
    let held = Held::at(ground, step, dump, restore).await;
    let shown = administrator(&held.serve)
        .await
        .ask("{ backups { name verifiedAt } }")
        .await;
    let shown = shown.ok("/backups");
    // What is being tried is whole already.
    let is_made = restore.contains("HOLD");
    assert_eq!(
        shown.as_array().unwrap().len(),
        usize::from(is_made),
        "{step}: {shown}"
    );
    let (ground, task) = held.kill().await;
    another(&ground, &task, step).await;
    only_a_backup_is_left(&store(&ground), step);
    ground
}

#[tokio::test]
async fn while_pg_dump_begins() {
    let dump = format!("HOLD; {PASS_ON}");
    let ground = killed_while_held(ground().await, "pg_dump begins", &dump, PASS_ON).await;
    ground.clear().await;
}

#[tokio::test]
async fn while_half_of_it_is_written() {
    let ground = killed_while_held(ground().await, "half of it is written", HALF, PASS_ON).await;
    ground.clear().await;
}

/// On a server of its own, where every scratch database is this test's.
#[tokio::test]
async fn while_it_is_tried() {
    const SCRATCH: &str = "main_webserver_scratch_";
    let server = Postgres::create().await;
    server.start().await;
    let ground = ground().await.with("DATABASE_URL", &server.url());
    let restore = format!("HOLD; {PASS_ON}");
    let ground = killed_while_held(ground, "it is restored to be tried", PASS_ON, &restore).await;
    // What is younger than a minute may be somebody else's who has not connected yet, so it is left to a later run.
    let left = databases(&own(&ground), SCRATCH).await;
    assert_eq!(left.len(), 1, "{left:?}");
    let db = Database::connect(own(&ground)).await.unwrap();
    let rename = format!("ALTER DATABASE {} RENAME TO {SCRATCH}1000_aa", left[0]);
    db.execute_unprepared(&rename).await.unwrap();
    db.close().await.unwrap();
    succeed(&ground, &["backup", "prune"]).await;
    let left = databases(&own(&ground), SCRATCH).await;
    assert!(left.is_empty(), "{left:?}");
    ground.clear().await;
}

#[tokio::test]
async fn when_its_data_are_written_and_its_manifest_is_not() {
    let step = "its data are written, its manifest is not";
    let held = Held::at(ground().await, step, HALF, PASS_ON).await;
    // The word that its data are written waits for this lock.
    let lock = Database::connect(own(&held.ground)).await.unwrap();
    let locked = sea_orm::TransactionTrait::begin(&lock).await.unwrap();
    locked
        .execute_unprepared("LOCK TABLE task IN EXCLUSIVE MODE")
        .await
        .unwrap();
    held.let_go();
    let folder = store(&held.ground);
    let is_there = |ending: &str| names(&folder).iter().any(|name| name.ends_with(ending));
    until("its data are written", async || {
        is_there(".dump").then_some(())
    })
    .await;
    assert!(!is_there(".json"));
    let (ground, task) = held.kill().await;
    locked.rollback().await.unwrap();
    lock.close().await.unwrap();
    another(&ground, &task, step).await;
    only_a_backup_is_left(&store(&ground), step);
    ground.clear().await;
}

#[tokio::test]
async fn in_the_middle_of_an_upload_to_an_s3() {
    let step = "half of it is uploaded to an S3";
    let s3 = S3::start().await;
    let held = Held::at(s3.ground().await, step, HALF, PASS_ON).await;
    assert_eq!(s3.unfinished().await, 1);
    let (ground, task) = held.kill().await;
    another(&ground, &task, step).await;
    assert_eq!(s3.unfinished().await, 0);
    assert_eq!(s3.objects().await.len(), 2);
    ground.clear().await;
}

/// SQLite: killed when a file of the step appears.
#[tokio::test]
async fn of_a_sqlite_file_at_each_step() {
    for (step, file) in [
        ("the file is copied", "copy.sqlite3"),
        ("the copy is written", ".gz#1"),
        ("it is tried", "tried.sqlite3"),
    ] {
        let ground = ground().await;
        let url = format!("sqlite://{}/kill.sqlite3", ground.folder().display());
        let ground = ground.with("DATABASE_URL", &url).with("REDIS_URL", "");
        let serve = Process::start(&ground, "serve").await;
        // Enough that each step lasts.
        let db = Database::connect(&url).await.unwrap();
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) \
            INSERT INTO log_line (subject_id, line, mark, at, is_error, message) \
            SELECT randomblob(16), i, i, '2026-01-01 00:00:00+00:00', 0, hex(randomblob(5000)) FROM n";
        db.execute_unprepared(fill).await.unwrap();
        db.close().await.unwrap();
        let task = ask(&serve).await;
        let folder = ground.folder().to_owned();
        until_within(LONGEST, step, async || {
            let within = names(&folder.join("scratch"))
                .iter()
                .flat_map(|name| names(&folder.join("scratch").join(name)))
                .chain(names(&folder.join("backups")))
                .any(|name| name.ends_with(file));
            within.then_some(())
        })
        .await;
        serve.kill().await;
        let serve = Process::start(&ground, "serve").await;
        is_ended_well(&ground, &serve, &task, &format!("SQLite: {step}")).await;
        only_a_backup_is_left(&store(&ground), step);
        serve.end("-TERM").await;
        forget(&url).await;
        ground.clear().await;
    }
}
