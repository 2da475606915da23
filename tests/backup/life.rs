//! What is restored is what was there, row by row, and the service starts on it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sea_orm::{ConnectionTrait as _, Database, DbBackend, Statement};

use super::{
    KEY, beside, compare, exists, forget, ground, lead_a_life, log_in_again, own, rows, store,
    succeed,
};
use crate::harness::process::Process;

#[tokio::test]
async fn a_quiet_database_comes_back_row_by_row_and_the_service_starts_on_it() {
    let ground = ground().await.with("BACKUP_KEY", KEY);
    let serve = Process::start(&ground, "serve").await;
    let (ada, container) = lead_a_life(&serve).await;
    assert_eq!(serve.end("-TERM").await.code(), Some(0));
    let before = rows(&own(&ground)).await;
    for table in [
        "account",
        "container",
        "virtual_machine",
        "task",
        "task_log",
        "audit_event",
    ] {
        assert!(!before[table].is_empty(), "nothing to compare in {table}");
    }

    let said = succeed(&ground, &["backup", "now"]).await;
    assert!(
        said.contains("encrypted") && said.contains("restored and compared"),
        "{said}"
    );
    let target = beside(&ground, "again");
    succeed(&ground, &["restore", "latest", "--into", &target]).await;
    let count = compare(&before, &rows(&target).await);
    eprintln!("{count} rows of {} tables compared", before.len());

    let ground = ground.with("DATABASE_URL", &target);
    let serve = Process::start(&ground, "serve").await;
    log_in_again(&serve, &ada.email, &container).await;
    assert_eq!(serve.end("-TERM").await.code(), Some(0));
    forget(&target).await;
    ground.clear().await;
}

#[tokio::test]
async fn a_backup_made_while_writes_go_on_is_of_one_moment() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let (ada, container) = lead_a_life(&serve).await;
    let (is_over, made) = (AtomicBool::new(false), AtomicU32::new(0));
    let write = async |name: &str| {
        let person = serve.person().sign_up(name).await;
        while !is_over.load(Ordering::Relaxed) {
            person.create("hello").await;
            person.demo(2, 1).await;
            made.fetch_add(1, Ordering::Relaxed);
        }
    };
    let back_up = async {
        // They are at it.
        crate::harness::until("writes go on", async || {
            (made.load(Ordering::Relaxed) >= 3).then_some(())
        })
        .await;
        let before = made.load(Ordering::Relaxed);
        let said = succeed(&ground, &["backup", "now"]).await;
        let during = made.load(Ordering::Relaxed) - before;
        is_over.store(true, Ordering::Relaxed);
        (said, during)
    };
    let ((), (), (said, during)) = tokio::join!(write("one"), write("two"), back_up);
    assert!(during > 0, "nothing was written meanwhile");
    assert!(said.contains("restored and compared"), "{said}");
    serve.end("-TERM").await;

    let target = beside(&ground, "again");
    succeed(&ground, &["restore", "latest", "--into", &target]).await;
    let restored = rows(&target).await;
    eprintln!(
        "{during} rounds written meanwhile; {} rows restored",
        restored.values().map(Vec::len).sum::<usize>()
    );
    // A container and the task that makes it are written in one transaction.
    assert_eq!(
        count(&target, "SELECT count(*) FROM container c WHERE NOT EXISTS (SELECT 1 FROM task t WHERE t.subject_id = c.id)").await,
        0
    );
    assert_eq!(
        count(&target, "SELECT count(*) FROM task t WHERE t.kind = 'create_container' AND NOT EXISTS (SELECT 1 FROM container c WHERE c.id = t.subject_id)").await,
        0
    );
    if target.starts_with("sqlite") {
        // PostgreSQL checks every key when it restores.
        let broken = count(&target, "SELECT count(*) FROM pragma_foreign_key_check").await;
        assert_eq!(broken, 0);
    }
    // What is only ever added is still there in the one it was taken of.
    let newest = rows(&own(&ground)).await;
    for table in ["audit_event", "account"] {
        assert!(
            restored[table]
                .iter()
                .all(|row| newest[table].contains(row)),
            "{table}"
        );
    }

    let ground = ground.with("DATABASE_URL", &target);
    let serve = Process::start(&ground, "serve").await;
    log_in_again(&serve, &ada.email, &container).await;
    serve.end("-TERM").await;
    forget(&target).await;
    ground.clear().await;
}

async fn count(url: &str, sql: &str) -> i64 {
    let db = Database::connect(url).await.unwrap();
    let statement = Statement::from_string(db.get_database_backend(), sql);
    let row = db.query_one_raw(statement).await.unwrap().unwrap();
    let count = if db.get_database_backend() == DbBackend::Postgres {
        row.try_get_by_index(0).unwrap()
    } else {
        i64::from(row.try_get_by_index::<i32>(0).unwrap())
    };
    db.close().await.unwrap();
    count
}

#[tokio::test]
async fn older_tables_are_brought_up_to_date() {
    let ground = ground().await;
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["user", "create", "old@example.com"]).await;
    succeed(&ground, &["migrate", "down", "1"]).await;
    succeed(&ground, &["backup", "now"]).await;
    let target = beside(&ground, "again");
    let said = succeed(&ground, &["restore", "latest", "--into", &target]).await;
    assert!(said.contains("1 newer steps applied"), "{said}");
    let status = succeed(
        &ground.with("DATABASE_URL", &target),
        &["migrate", "status"],
    )
    .await;
    assert!(!status.contains("pending"), "{status}");
    forget(&target).await;
}

#[tokio::test]
async fn tables_are_replaced_only_by_force_and_kept_under_another_name() {
    let ground = ground().await;
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["user", "create", "first@example.com"]).await;
    succeed(&ground, &["backup", "now"]).await;
    let before = rows(&own(&ground)).await;
    succeed(&ground, &["user", "create", "second@example.com"]).await;
    let after = rows(&own(&ground)).await;

    let refused = super::fail(&ground, &["restore", "latest"]).await;
    assert!(refused.contains("has tables already; --force"), "{refused}");
    compare(&after, &rows(&own(&ground)).await);

    let said = succeed(&ground, &["restore", "latest", "--force"]).await;
    compare(&before, &rows(&own(&ground)).await);
    let (_, kept) = said.split_once("what was there before is ").unwrap();
    let kept = kept.split(' ').next().unwrap();
    let kept = if own(&ground).starts_with("sqlite") {
        format!("sqlite://{kept}")
    } else {
        format!("{}/{kept}", own(&ground).rsplit_once('/').unwrap().0)
    };
    assert!(exists(&kept).await);
    compare(&after, &rows(&kept).await);
    forget(&own(&ground)).await;
}

/// A forced restore under a running service on PostgreSQL: it is cut off and comes back to the restored rows. On SQLite, where
/// nobody can be cut off from a file, it is refused.
#[tokio::test]
async fn a_running_service_finds_what_was_restored_or_keeps_its_file() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let ada = serve.person().sign_up("ada").await;
    succeed(&ground, &["backup", "now"]).await;
    let late = serve.person().sign_up("late").await;
    if own(&ground).starts_with("sqlite") {
        let refused = super::fail(&ground, &["restore", "latest", "--force"]).await;
        assert!(
            refused.contains("is in use; stop the service first"),
            "{refused}"
        );
        let left: Vec<String> = super::names(ground.folder())
            .into_iter()
            .filter(|name| name.contains("restored") || name.contains("before"))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    } else {
        succeed(&ground, &["restore", "latest", "--force"]).await;
        crate::harness::until("the service is back", async || {
            let reply = serve
                .person()
                .try_log_in(&ada.email, crate::harness::client::PASSWORD)
                .await;
            reply.0["data"]["logIn"].is_object().then_some(())
        })
        .await;
        let refused = serve
            .person()
            .try_log_in(&late.email, crate::harness::client::PASSWORD)
            .await;
        assert_eq!(refused.code(), "UNAUTHENTICATED");
    }
    serve.end("-TERM").await;
    forget(&own(&ground)).await;
}

#[tokio::test]
async fn too_old_backups_go_and_the_newest_good_one_stays() {
    let ground = ground()
        .await
        .with("BACKUP_KEEP_DAILY", "0")
        .with("BACKUP_KEEP_WEEKLY", "0")
        .with("BACKUP_KEEP_MONTHLY", "0");
    succeed(&ground, &["migrate", "up"]).await;
    for _ in 0..2 {
        succeed(&ground, &["backup", "now"]).await;
    }
    succeed(&ground, &["backup", "now", "--unverified"]).await;
    let listed = succeed(&ground, &["backup", "list"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert_eq!(lines.len(), 3, "{listed}");
    let gone = succeed(&ground, &["backup", "prune"]).await;
    let oldest = lines[2].split(' ').next().unwrap();
    assert_eq!(gone.trim(), format!("{oldest}  removed"));
    let left = succeed(&ground, &["backup", "list"]).await;
    assert_eq!(left.lines().collect::<Vec<_>>(), &lines[..2]);
    assert_eq!(
        super::names(&store(&ground)).len(),
        4,
        "two data, two manifests"
    );
    ground.clear().await;
}
