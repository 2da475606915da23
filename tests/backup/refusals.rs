//! What cannot be done is refused in one clear line.

use super::{beside, exists, fail, ground, names, store, succeed};
use crate::harness::Ground;

#[tokio::test]
async fn without_a_place_there_is_nothing_to_do() {
    let ground = Ground::new().await;
    let refused = fail(&ground, &["backup", "now"]).await;
    assert_eq!(
        refused,
        "error: BACKUP_URL is not set, so there is no place for backups"
    );
    ground.clear().await;
}

#[tokio::test]
async fn a_name_nobody_has_is_no_backup() {
    let ground = ground().await;
    for name in ["20200101T000000Z-0", "../secret", "latest"] {
        let refused = fail(
            &ground,
            &["restore", name, "--into", &beside(&ground, "never")],
        )
        .await;
        assert!(
            refused.starts_with("error: there is no backup "),
            "{refused}"
        );
    }
    ground.clear().await;
}

#[tokio::test]
async fn tables_of_a_later_version_are_left_to_it() {
    let ground = ground().await;
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["backup", "now"]).await;
    let file = names(&store(&ground))
        .into_iter()
        .find(|name| name.ends_with(".json"));
    let file = store(&ground).join(file.unwrap());
    let text = std::fs::read_to_string(&file).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let steps = manifest["migrations"].as_array_mut().unwrap();
    steps.push("m20990101_000099_flying_cars".into());
    std::fs::write(&file, manifest.to_string()).unwrap();
    let target = beside(&ground, "never");
    let refused = fail(&ground, &["restore", "latest", "--into", &target]).await;
    assert!(
        refused.contains("has the tables of a later version (m20990101_000099_flying_cars)"),
        "{refused}"
    );
    assert!(!exists(&target).await);
    ground.clear().await;
}

#[tokio::test]
async fn a_backup_goes_into_a_database_of_its_kind_only() {
    let ground = ground().await;
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["backup", "now"]).await;
    let other = if super::own(&ground).starts_with("sqlite") {
        "postgres://nobody@127.0.0.1:1/none".to_owned()
    } else {
        format!("sqlite://{}/x.sqlite3", ground.folder().display())
    };
    let refused = fail(&ground, &["restore", "latest", "--into", &other]).await;
    assert!(refused.contains("is a backup of "), "{refused}");
    ground.clear().await;
}

#[tokio::test]
async fn a_wrong_setting_is_named() {
    for (key, value, words) in [
        ("BACKUP_URL", "ftp://somewhere/x", "'ftp' is another scheme"),
        (
            "BACKUP_URL",
            "s3://key:secret@bucket/x",
            "keys have settings of their own",
        ),
        (
            "BACKUP_KEY",
            "hunter2hunter2",
            "not an identity as age-keygen prints it",
        ),
        ("BACKUP_CRON", "every night", "not a cron expression"),
        ("BACKUP_TIME_ZONE", "Mars/Olympus", "not a time zone"),
        ("BACKUP_KEEP_DAILY", "-1", "not usable"),
        (
            "BACKUP_SCRATCH_URL",
            "sqlite://x",
            "not the URL of a PostgreSQL",
        ),
    ] {
        let ground = ground().await.with(key, value);
        let refused = fail(&ground, &["backup", "list"]).await;
        assert!(refused.starts_with(&format!("error: {key}: ")), "{refused}");
        assert!(refused.contains(words), "{words} is expected: {refused}");
        assert!(!refused.contains("hunter2"), "{refused}");
        ground.clear().await;
    }
    // Of the right form, and not a key.
    let wrong = format!("AGE-SECRET-KEY-1{}", "Q".repeat(58));
    let ground = ground().await.with("BACKUP_KEY", &wrong);
    let refused = fail(&ground, &["backup", "list"]).await;
    assert_eq!(
        refused,
        "error: BACKUP_KEY: a letter of it is missing or wrong"
    );
    ground.clear().await;
}

#[tokio::test]
async fn a_database_in_memory_is_not_backed_up() {
    let ground = ground().await.with("DATABASE_URL", "sqlite::memory:");
    let refused = fail(&ground, &["backup", "now"]).await;
    assert_eq!(
        refused,
        "error: a database in memory has no file to back up"
    );
    let left = names(&store(&ground));
    assert!(left.is_empty(), "{left:?}");
    ground.clear().await;
}
