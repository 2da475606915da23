//! What is encrypted in the configuration database, put under another key.

use std::process::Stdio;

use tokio::process::Command;

use super::{CONFIG_KEY, execute, ground, refused, said, stored_text};
use crate::harness::{
    Ground,
    process::{Process, command, output_of},
};

const NEW_KEY: &str = "another key of thirty-two characters, which is to take its place";
const SAID: &str = "3 encrypted values are those of the new key; start every process with it as CONFIG_KEY, and until then store \
no secret by one that runs";

/// A ground with three secrets and one value that is none.
async fn with_secrets() -> Ground {
    let ground = ground().await.with("SECRET_KEY", "");
    let (secret, jwt) = (
        "hunter2 hunter2",
        "s3cret s3cret s3cret s3cret s3cret s3cret",
    );
    for (name, value, level) in [
        ("TASKS_TOTAL", "77", "all"),
        ("SECRET_KEY", jwt, "all"),
        ("ADMIN_PASSWORD", secret, "staging"),
        ("BACKUP_S3_SECRET", secret, "prod"),
    ] {
        let set = ["config", "set", name, value, "--environment", level];
        said(&ground, &set).await;
    }
    ground
}

/// Every value as it is stored.
async fn texts(ground: &Ground) -> [String; 4] {
    [
        stored_text(ground, "TASKS_TOTAL").await,
        stored_text(ground, "SECRET_KEY").await,
        stored_text(ground, "ADMIN_PASSWORD").await,
        stored_text(ground, "BACKUP_S3_SECRET").await,
    ]
}

/// `config rotate` with the new key as its standard input.
async fn rotate(ground: &Ground, input: &str) -> (i32, String, String) {
    let file = ground.folder().join("input");
    std::fs::write(&file, input).unwrap();
    let mut command = command(ground, &["config", "rotate"]);
    command.stdin(Stdio::from(std::fs::File::open(&file).unwrap()));
    output_of(command).await
}

#[tokio::test]
async fn every_secret_is_read_with_the_new_key_and_with_the_old_one_no_more() {
    let ground = with_secrets().await;
    let env = ["config", "env", "--environment", "staging"];
    let (read, listed) = (
        said(&ground, &env).await,
        said(&ground, &["config", "list"]).await,
    );
    let before = texts(&ground).await;
    let running = Process::start(&ground, "serve").await;
    let admin = running.person();
    let admin = admin
        .log_in("admin@localhost", crate::harness::ADMIN_PASSWORD)
        .await;
    let ground = ground.with("NEW_CONFIG_KEY", NEW_KEY);
    assert_eq!(said(&ground, &["config", "rotate"]).await.trim(), SAID);
    let ground = ground.with("NEW_CONFIG_KEY", "");
    let after = texts(&ground).await;
    assert_eq!(before[0], after[0]);
    for at in 1..4 {
        assert_ne!(before[at], after[at]);
        assert!(after[at].starts_with("v1:"), "{}", after[at]);
    }
    // Who stored what and when is as it was.
    assert_eq!(said(&ground, &["config", "list"]).await, listed);

    let line = refused(&ground, &["serve"]).await;
    assert!(
        line.starts_with("error: CONFIG_DB_URL: ")
            && line.ends_with("that this CONFIG_KEY does not open"),
        "{line}"
    );
    // One that runs keeps what it has.
    let reload = admin.ask("mutation { reloadConfig { applied } }").await;
    assert_eq!(reload.field(), Some("settings"));
    admin.ask("{ viewer { id } }").await.ok("/viewer");
    assert_eq!(running.end("-TERM").await.code(), Some(0));

    let ground = ground.with("CONFIG_KEY", NEW_KEY);
    assert_eq!(said(&ground, &env).await, read);
    let started = Process::start(&ground, "serve").await;
    // It has the same SECRET_KEY, which signed this token.
    let admin = admin.moved_to(started.address.unwrap());
    admin.ask("{ viewer { id } }").await.ok("/viewer");
    assert_eq!(started.end("-TERM").await.code(), Some(0));
    ground.clear().await;
}

#[tokio::test]
async fn the_new_key_comes_from_a_file_or_from_standard_input_as_well() {
    let ground = with_secrets().await;
    let env = ["config", "env", "--environment", "staging"];
    let read = said(&ground, &env).await;
    let (code, out, err) = rotate(&ground, &format!("{NEW_KEY}\n")).await;
    assert_eq!((code, out.trim(), err.as_str()), (0, SAID, ""));
    let ground = ground.with("CONFIG_KEY", NEW_KEY);
    assert_eq!(said(&ground, &env).await, read);

    let file = ground.folder().join("key");
    std::fs::write(&file, format!("{CONFIG_KEY}\n")).unwrap();
    let ground = ground.with("NEW_CONFIG_KEY_FILE", file.to_str().unwrap());
    assert_eq!(said(&ground, &["config", "rotate"]).await.trim(), SAID);
    let ground = ground.with("CONFIG_KEY", CONFIG_KEY);
    assert_eq!(said(&ground, &env).await, read);
    ground.clear().await;
}

#[tokio::test]
async fn a_rotation_that_cannot_be_changes_nothing_and_says_why() {
    let ground = with_secrets().await;
    let all = texts(&ground).await;
    for (name, value, line) in [
        (
            "NEW_CONFIG_KEY",
            "short",
            "error: NEW_CONFIG_KEY: too short; 32 characters or more is expected",
        ),
        (
            "NEW_CONFIG_KEY_FILE",
            "/no/such",
            "error: /no/such cannot be used, No such file or directory (os error 2)",
        ),
        (
            "CONFIG_KEY",
            "",
            "error: CONFIG_KEY: needed to read what is sealed now",
        ),
    ] {
        let mut rotation = command(&ground, &["config", "rotate"]);
        if name == "CONFIG_KEY" {
            rotation.env("NEW_CONFIG_KEY", NEW_KEY);
        }
        rotation.env(name, value);
        assert_eq!(complaint(rotation).await, line);
    }
    let mut twice = command(&ground, &["config", "rotate"]);
    twice.envs([
        ("NEW_CONFIG_KEY", NEW_KEY),
        ("NEW_CONFIG_KEY_FILE", "/no/such"),
    ]);
    assert_eq!(
        complaint(twice).await,
        "error: NEW_CONFIG_KEY: it is set by NEW_CONFIG_KEY_FILE as well"
    );
    // The last one, after others could be opened.
    let change = "UPDATE configuration SET environment = 'dev' WHERE name = 'SECRET_KEY'";
    execute(&ground, change).await;
    let (code, out, err) = rotate(&ground, NEW_KEY).await;
    assert_eq!((code, out.as_str()), (1, ""));
    let line = "holds a SECRET_KEY for dev that this CONFIG_KEY does not open; nothing is changed";
    assert!(
        err.starts_with("error: CONFIG_DB_URL: ") && err.trim().ends_with(line),
        "{err}"
    );
    assert_eq!(texts(&ground).await, all);
    ground.clear().await;
}

/// What a command says that is refused.
async fn complaint(command: Command) -> String {
    let (code, out, err) = output_of(command).await;
    assert_eq!((code, out.as_str()), (1, ""), "{err}");
    err.trim().to_owned()
}
