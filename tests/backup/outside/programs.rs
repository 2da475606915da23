//! PostgreSQL's programs: what they are told, and what is told when they do not do.

use super::programs;
use crate::backup::{fail, ground, names, own, store, succeed};

const PASS_ON: &str = "exec \"$REAL/${0##*/}\" \"$@\"";

#[tokio::test]
async fn a_password_goes_to_the_programs_and_stands_in_no_command_line() {
    let ground = ground().await;
    let url = own(&ground).replace("postgres@", "postgres:hunter2@");
    let tell = format!(
        "echo \"$*\" >>\"$HERE/words\"; echo \"$PGPASSWORD\" >>\"$HERE/passwords\"; {PASS_ON}"
    );
    let here = programs(&ground, &tell, &tell);
    let ground = ground
        .with("DATABASE_URL", &url)
        .with("PG_BIN", here.to_str().unwrap());
    succeed(&ground, &["migrate", "up"]).await;
    succeed(&ground, &["backup", "now"]).await;
    let words = std::fs::read_to_string(here.join("words")).unwrap();
    let passwords = std::fs::read_to_string(here.join("passwords")).unwrap();
    assert_eq!(passwords, "hunter2\nhunter2\n");
    assert!(
        words.contains("--dbname=postgres://postgres@127.0.0.1"),
        "{words}"
    );
    assert!(!words.contains("hunter2"), "{words}");
    ground.clear().await;
}

#[tokio::test]
async fn a_program_that_is_missing_too_old_or_fails_is_told_of() {
    let ground = ground().await.with("PG_BIN", "/nowhere");
    succeed(&ground, &["migrate", "up"]).await;
    let missing = fail(&ground, &["backup", "now"]).await;
    assert!(
        missing.contains("/nowhere/pg_dump is not there") && missing.contains("set PG_BIN"),
        "{missing}"
    );

    let here = programs(&ground, "echo 'disk on fire' >&2; exit 3", PASS_ON);
    let ground = ground.with("PG_BIN", here.to_str().unwrap());
    let failed = fail(&ground, &["backup", "now"]).await;
    assert_eq!(failed, "error: pg_dump: disk on fire");

    // Half of a dump, and then the end.
    programs(
        &ground,
        "\"$REAL/pg_dump\" \"$@\" | head -c 20000; echo 'connection lost' >&2; exit 1",
        PASS_ON,
    );
    let failed = fail(&ground, &["backup", "now"]).await;
    assert_eq!(failed, "error: pg_dump: connection lost");

    std::fs::write(
        here.join("pg_dump"),
        "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.2'\n",
    )
    .unwrap();
    let old = fail(&ground, &["backup", "now"]).await;
    assert!(
        old.contains("pg_dump is of version 9, and the server of "),
        "{old}"
    );
    let left = names(&store(&ground));
    assert!(left.is_empty(), "{left:?}");
    ground.clear().await;
}
