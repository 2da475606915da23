//! What is not as it was written is told so, and nothing of it is restored.

use std::path::PathBuf;

use super::{KEY, OTHER_KEY, beside, exists, fail, ground, names, store, succeed};
use crate::harness::Ground;

/// The file with a backup's data.
fn data(ground: &Ground) -> PathBuf {
    let name = names(&store(ground))
        .into_iter()
        .find(|name| !name.ends_with(".json"))
        .unwrap();
    store(ground).join(name)
}

async fn backed_up(key: Option<&str>) -> Ground {
    let ground = ground().await;
    let ground = match key {
        Some(key) => ground.with("BACKUP_KEY", key),
        None => ground,
    };
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["user", "create", "somebody@example.com"]).await;
    succeed(&ground, &["backup", "now"]).await;
    ground
}

/// Neither trying nor restoring gets anywhere, both say `why`, and no database is left of it.
async fn is_refused(ground: &Ground, why: &str) {
    let tried = fail(ground, &["backup", "verify", &name(ground)]).await;
    assert!(tried.contains(why), "{why} is expected: {tried}");
    let target = beside(ground, "never");
    let refused = fail(ground, &["restore", &name(ground), "--into", &target]).await;
    assert!(refused.contains(why), "{why} is expected: {refused}");
    assert!(!exists(&target).await, "something was restored");
    assert!(
        names(&ground.folder().join("scratch"))
            .iter()
            .all(|name| name == "backup.lock")
    );
    let left = super::databases(&super::own(ground), &format!("{}_", database(ground))).await;
    assert!(left.is_empty(), "{left:?}");
}

fn database(ground: &Ground) -> String {
    super::own(ground).rsplit_once('/').unwrap().1.to_owned()
}

fn name(ground: &Ground) -> String {
    let file = data(ground)
        .file_name()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    file.split('.').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_flipped_byte_is_seen_wherever_it_is() {
    for key in [None, Some(KEY)] {
        let ground = backed_up(key).await;
        let whole = std::fs::read(data(&ground)).unwrap();
        for at in [whole.len() / 3, whole.len() - 3] {
            let mut changed = whole.clone();
            changed[at] ^= 4;
            std::fs::write(data(&ground), changed).unwrap();
            is_refused(&ground, "is damaged: ").await;
        }
        let listed = succeed(&ground, &["backup", "list"]).await;
        assert!(listed.trim_end().ends_with("BAD"), "{listed}");
        // What was found bad is not the latest good one.
        let none = fail(
            &ground,
            &["restore", "latest", "--into", &beside(&ground, "never")],
        )
        .await;
        assert!(none.contains("there is no backup"), "{none}");
        std::fs::write(data(&ground), whole).unwrap();
        succeed(&ground, &["backup", "verify", &name(&ground)]).await;
        ground.clear().await;
    }
}

#[tokio::test]
async fn a_missing_end_is_seen() {
    for key in [None, Some(KEY)] {
        let ground = backed_up(key).await;
        let whole = std::fs::read(data(&ground)).unwrap();
        for length in [0, 20, whole.len() / 2, whole.len() - 1] {
            std::fs::write(data(&ground), &whole[..length]).unwrap();
            is_refused(&ground, "is damaged: ").await;
        }
        std::fs::remove_file(data(&ground)).unwrap();
        let manifest = &names(&store(&ground))[0];
        let gone = fail(
            &ground,
            &["backup", "verify", manifest.trim_end_matches(".json")],
        )
        .await;
        assert!(gone.contains("its data are gone"), "{gone}");
        ground.clear().await;
    }
}

#[tokio::test]
async fn another_key_and_no_key_are_told_from_damage() {
    let ground = backed_up(Some(KEY)).await.with("BACKUP_KEY", OTHER_KEY);
    is_refused(
        &ground,
        "cannot be opened with BACKUP_KEY: it is encrypted to age1",
    )
    .await;
    let ground = ground.with("BACKUP_KEY", "");
    is_refused(&ground, "is encrypted, and BACKUP_KEY is not set").await;
    // An older key after the new one still opens it.
    let ground = ground.with("BACKUP_KEY", &format!("{OTHER_KEY}, {KEY}"));
    succeed(&ground, &["backup", "verify"]).await;
    // Nothing that was refused has made the backup a bad one.
    let listed = succeed(&ground, &["backup", "list"]).await;
    assert!(listed.trim_end().ends_with("good"), "{listed}");
    ground.clear().await;
}

#[tokio::test]
async fn a_backup_that_holds_something_else_is_found_out() {
    let ground = backed_up(None).await;
    let file = store(&ground).join(format!("{}.json", name(&ground)));
    let text = std::fs::read_to_string(&file).unwrap();
    let mut manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let tables = manifest["tables"].as_array_mut().unwrap();
    let account = tables
        .iter_mut()
        .find(|table| table["name"] == "account")
        .unwrap();
    account["rows"] = 7.into();
    std::fs::write(&file, manifest.to_string()).unwrap();
    is_refused(&ground, "account has 1 rows instead of 7").await;
    ground.clear().await;
}

#[tokio::test]
async fn the_data_show_nothing_without_the_key() {
    let ground = backed_up(Some(KEY)).await;
    for name in names(&store(&ground)) {
        let bytes = std::fs::read(store(&ground).join(&name)).unwrap();
        for secret in ["somebody@example.com", "AGE-SECRET", "$argon2"] {
            let is_there = bytes
                .windows(secret.len())
                .any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret} stands in {name}");
        }
    }
    ground.clear().await;
}
