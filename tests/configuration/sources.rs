//! The command line: `config`, its database, and which value is the stronger one.

use sea_orm::ConnectionTrait as _;

use super::{CONFIG_KEY, connect, execute, ground, refused, said, stored_text};
use crate::harness::{Ground, process::output};

/// The line of a setting, as words.
fn words<'a>(out: &'a str, name: &str) -> Vec<&'a str> {
    let line = out
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_default().split_whitespace().collect()
}

#[tokio::test]
async fn the_stronger_source_wins_and_each_value_tells_where_it_is_from() {
    let ground = ground().await;
    let set = async |name: &str, value: &str, level: &str| {
        said(
            &ground,
            &["config", "set", name, value, "--environment", level],
        )
        .await;
    };
    set("TASKS_TOTAL", "11", "all").await;
    set("TASKS_PER_OWNER", "21", "all").await;
    set("TASKS_PER_OWNER", "22", "staging").await;
    set("TASKS_PER_OWNER", "23", "prod").await;
    for name in [
        "CONTAINERS_PER_OWNER",
        "MACHINES_PER_OWNER",
        "REQUEST_SECONDS",
    ] {
        set(name, "31", "staging").await;
    }
    std::fs::create_dir(ground.folder().join("docker")).unwrap();
    std::fs::write(
        ground.folder().join("docker/.env"),
        "CONTAINERS_PER_OWNER=41\nMACHINES_PER_OWNER=42\nREQUEST_SECONDS=43\nWEB_PORT=7730\nENGINE_RATE=\n",
    )
    .unwrap();
    let environment = ground
        .with("MACHINES_PER_OWNER", "51")
        .with("REQUEST_SECONDS", "52");
    let out = said(&environment, &["config", "--set", "REQUEST_SECONDS=61"]).await;
    for (name, value, origin) in [
        ("TASKS_TOTAL", "11", "the configuration database, all"),
        (
            "TASKS_PER_OWNER",
            "22",
            "the configuration database, staging",
        ),
        ("CONTAINERS_PER_OWNER", "41", "docker/.env"),
        ("MACHINES_PER_OWNER", "51", "environment"),
        ("REQUEST_SECONDS", "61", "command line"),
    ] {
        let expected: Vec<&str> = [name, value].into_iter().chain(origin.split(' ')).collect();
        assert_eq!(words(&out, name), expected, "{out}");
    }
    assert!(
        !out.contains("ENGINE_RATE"),
        "an empty value is none: {out}"
    );
    let all = said(&environment, &["config", "all"]).await;
    assert_eq!(words(&all, "ENGINE_RATE"), ["ENGINE_RATE", "0", "defaults"]);
    for key in main_webserver::config::KEYS.iter() {
        assert!(
            all.contains(&key.expected()) && all.contains(&key.what),
            "{}",
            key.name
        );
    }
    environment.clear().await;
}

#[tokio::test]
async fn secrets_are_masked_where_they_are_shown_and_encrypted_where_they_are_stored() {
    let ground = ground()
        .await
        .with("REDIS_URL", "redis://u:hunter2@localhost:1/0");
    let secret = "hunter2 hunter2 hunter2 hunter2 hunter2";
    said(
        &ground,
        &[
            "config",
            "set",
            "ADMIN_PASSWORD",
            secret,
            "--environment",
            "staging",
        ],
    )
    .await;
    let shown = said(&ground, &["config"]).await + &said(&ground, &["config", "list"]).await;
    assert!(
        !shown.contains("hunter2") && !shown.contains(CONFIG_KEY),
        "{shown}"
    );
    assert!(shown.contains("redis://u:…@localhost:1/0"), "{shown}");
    assert!(shown.contains("(encrypted)"), "{shown}");

    let stored = stored_text(&ground, "ADMIN_PASSWORD").await;
    assert!(
        stored.starts_with("v1:") && !stored.contains("hunter2"),
        "{stored}"
    );
    // The value is bound to its place: it cannot be made another environment's.
    execute(
        &ground,
        "UPDATE configuration SET environment = 'all' WHERE name = 'ADMIN_PASSWORD'",
    )
    .await;
    let moved = refused(&ground, &["config", "env", "--environment", "staging"]).await;
    assert!(
        moved.contains("ADMIN_PASSWORD that this CONFIG_KEY does not open"),
        "{moved}"
    );
    execute(
        &ground,
        "UPDATE configuration SET environment = 'staging' WHERE name = 'ADMIN_PASSWORD'",
    )
    .await;

    let env = said(&ground, &["config", "env", "--environment", "staging"]).await;
    assert_eq!(
        env,
        format!("ENVIRONMENT=staging\nADMIN_PASSWORD='{secret}'\n")
    );
    assert_eq!(
        said(&ground, &["config", "env", "--environment", "prod"]).await,
        "ENVIRONMENT=prod\n"
    );

    let other = ground.with("CONFIG_KEY", &"x".repeat(40));
    let line = refused(&other, &["config"]).await;
    assert!(
        line.starts_with("error: CONFIG_DB_URL: ")
            && line.ends_with("ADMIN_PASSWORD that this CONFIG_KEY does not open"),
        "{line}"
    );
    let without = other.with("CONFIG_KEY", "");
    let line = refused(&without, &["config"]).await;
    assert_eq!(
        line,
        "error: CONFIG_KEY: needed to read ADMIN_PASSWORD of the configuration database"
    );
    let line = refused(&without, &["config", "set", "SECRET_KEY", &"s".repeat(40)]).await;
    assert_eq!(line, "error: CONFIG_KEY: needed to encrypt SECRET_KEY");
    let ground = without.with("CONFIG_KEY", CONFIG_KEY);
    execute(
        &ground,
        "UPDATE configuration SET value = 'hunter2hunter2', is_encrypted = false",
    )
    .await;
    let line = refused(&ground, &["config"]).await;
    assert!(
        line.contains("holds ADMIN_PASSWORD in clear") && !line.contains("hunter2"),
        "{line}"
    );
    ground.clear().await;
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_the_reason() {
    let ground = ground().await;
    for (arguments, line) in [
        (
            ["TASKS_TOTALS", "5"],
            "error: TASKS_TOTALS: no such setting; did you mean TASKS_TOTAL?",
        ),
        (
            ["TASKS_TOTAL", "0"],
            "error: TASKS_TOTAL: the value is not usable, 0 is out of range; 1 to 1000000000 [2000000] is expected",
        ),
        (
            ["CONFIG_KEY", "kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk"],
            "error: CONFIG_KEY: it says where the others are, so it is set where the process starts",
        ),
        (
            ["ENVIRONMENT", "prod"],
            "error: ENVIRONMENT: it says where the others are, so it is set where the process starts",
        ),
    ] {
        assert_eq!(
            refused(&ground, &["config", "set", arguments[0], arguments[1]]).await,
            line
        );
    }
    assert_eq!(
        refused(
            &ground,
            &["config", "unset", "TASKS_TOTAL", "--environment", "dev"]
        )
        .await,
        "error: TASKS_TOTAL: nothing is stored for dev"
    );
    // A newer version's name stops nobody: old and new processes share the database while one replaces the other.
    let db = connect(&ground).await;
    let row = "INSERT INTO configuration VALUES ('all', 'NOT_YET_KNOWN', '1', false, '2026-01-01T00:00:00Z', 'a test')";
    db.execute_unprepared(row).await.unwrap();
    db.close().await.unwrap();
    said(&ground, &["config"]).await;
    let none = ground.with("CONFIG_DB_URL", "");
    assert_eq!(
        refused(&none, &["config", "list"]).await,
        "error: CONFIG_DB_URL: needed for this; it names the configuration database"
    );
    none.clear().await;
}

#[tokio::test]
async fn a_secret_may_stand_in_a_file_of_its_own() {
    let ground = Ground::new().await.with("SECRET_KEY", "");
    let path = ground.folder().join("secret");
    std::fs::write(&path, "s".repeat(40) + "\n").unwrap();
    let ground = ground.with("SECRET_KEY_FILE", path.to_str().unwrap());
    let out = said(&ground, &["config"]).await;
    assert_eq!(
        words(&out, "SECRET_KEY"),
        ["SECRET_KEY", "…", "environment"],
        "{out}"
    );
    let both = ground.with("SECRET_KEY", &"t".repeat(40));
    assert_eq!(
        refused(&both, &["config"]).await,
        "error: SECRET_KEY: it is set by SECRET_KEY_FILE as well"
    );
    let gone = both
        .with("SECRET_KEY", "")
        .with("SECRET_KEY_FILE", "/no/such/file");
    let line = refused(&gone, &["config"]).await;
    assert!(
        line.starts_with("error: /no/such/file: SECRET_KEY_FILE, "),
        "{line}"
    );
    gone.clear().await;
}

#[tokio::test]
async fn a_file_with_an_unknown_name_is_refused_and_the_stacks_own_are_not() {
    let ground = Ground::new().await;
    let file = ground.folder().join("settings");
    std::fs::write(&file, "WEB_PORT=1\nAGENT_TOKEN=t\nTASK_TOTAL=5\n").unwrap();
    let (code, _, err) = output(&ground, &["config", "--env-file", file.to_str().unwrap()]).await;
    assert_eq!(
        (code, err.trim()),
        (
            1,
            "error: TASK_TOTAL: no such setting; did you mean TASKS_TOTAL?"
        )
    );
    ground.clear().await;
}
