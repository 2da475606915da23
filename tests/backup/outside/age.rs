//! The program age opens what is written here, and closes what is read here.

use tokio::process::Command;

use super::said;
use crate::backup::{KEY, ground, names, own, store, succeed};

#[tokio::test]
async fn age_and_the_databases_own_programs_open_a_backup_without_ours() {
    let ground = ground().await.with("BACKUP_KEY", KEY);
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["user", "create", "somebody@example.com"]).await;
    succeed(&ground, &["backup", "now"]).await;
    let key = ground.folder().join("key.txt");
    std::fs::write(&key, KEY).unwrap();
    let data = names(&store(&ground))
        .into_iter()
        .find(|name| name.ends_with(".age"))
        .unwrap();
    let read = if own(&ground).starts_with("postgres") {
        "pg_restore --data-only --table=account --file=-"
    } else {
        "gunzip"
    };
    let line = format!("age --decrypt --identity {} {data} | {read}", key.display());
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-c", &line])
        .current_dir(store(&ground))
        .output()
        .await
        .unwrap();
    let found = said(output)
        .windows(20)
        .any(|window| window == b"somebody@example.com");
    assert!(found, "the account is not in it");
    ground.clear().await;
}

#[tokio::test]
async fn a_key_printed_here_is_one_of_ages() {
    let ground = ground().await;
    let printed = succeed(&ground, &["backup", "key"]).await;
    let key = ground.folder().join("key.txt");
    std::fs::write(&key, &printed).unwrap();
    let output = Command::new("age-keygen")
        .arg("-y")
        .arg(&key)
        .output()
        .await
        .unwrap();
    let recipient = String::from_utf8(said(output)).unwrap();
    assert!(
        printed.contains(recipient.trim()) && recipient.starts_with("age1"),
        "{printed}"
    );
    ground.clear().await;
}
