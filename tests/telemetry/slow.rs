//! Slow statements and operations are told, by their shape.

use sea_orm::{ConnectionTrait as _, Database};

use super::{ground, logged};
use crate::harness::until;

#[tokio::test]
async fn a_slow_statement_and_its_operation_are_told_without_their_values() {
    let ground = ground()
        .await
        .with("SLOW_QUERY_MS", "200")
        .with("SLOW_OPERATION_MS", "200");
    let (web, log) = logged(&ground, "web", "web").await;
    let ada = web.person().sign_up("ada").await;
    // Whoever logs in waits for a lock on the table for a while.
    let db = Database::connect(ground.setting("DATABASE_URL"))
        .await
        .unwrap();
    db.execute_unprepared(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.4); RETURN NEW; END $$; \
         CREATE TRIGGER slow BEFORE INSERT ON session FOR EACH ROW EXECUTE FUNCTION slow(); \
         ALTER TABLE app RENAME TO real_app; \
         CREATE VIEW app AS SELECT real_app.* FROM real_app, pg_sleep(0.4) AS pause, generate_series(1, 2)",
    )
    .await
    .unwrap();
    let text = "mutation Enter($input: LogInInput!) { logIn(input: $input) { accessToken } }";
    let input = serde_json::json!({ "input": { "email": ada.email, "password": crate::harness::client::PASSWORD } });
    ada.send(text, input).await.ok("/logIn");
    // The list's own way to the database.
    ada.ask("query Shelf { apps(filter: { slug: { eq: \"hello\" } }) { nodes { slug } } }")
        .await
        .ok("/apps");
    let told = until("all are told", async || {
        let told = log.with(|line| line["logger.name"] == "slow");
        let has = |name: &str, part: &str| {
            told.iter()
                .any(|line| line[name].as_str().is_some_and(|text| text.contains(part)))
        };
        (has("db.statement", "INSERT INTO \"session\"")
            && has("db.statement", "app")
            && has("graphql.operation.name", "Enter")
            && has("graphql.operation.name", "Shelf"))
        .then_some(told)
    })
    .await;
    let list = told
        .iter()
        .find(|line| {
            line["db.statement"]
                .as_str()
                .is_some_and(|text| text.contains("record_send"))
        })
        .expect("a list knows its rows");
    assert_eq!(list["db.rows"], 2, "packed into one");
    for line in &told {
        assert!(line["duration"].as_u64().unwrap() >= 200_000_000, "{line}");
        let text = line.to_string();
        for value in [
            "ada@example.com",
            crate::harness::client::PASSWORD,
            "'hello'",
        ] {
            assert!(!text.contains(value), "{value} in {text}");
        }
        if line["message"] == "slow operation" {
            assert_eq!(line["graphql.document.hash"].as_str().unwrap().len(), 64);
        }
    }
    db.close().await.unwrap();
    web.kill().await;
    ground.clear().await;
}

#[tokio::test]
async fn nothing_is_slow_when_nobody_asks() {
    let ground = ground()
        .await
        .with("SLOW_QUERY_MS", "0")
        .with("SLOW_OPERATION_MS", "0");
    let (web, log) = logged(&ground, "web", "web").await;
    web.person().sign_up("ada").await;
    assert_eq!(web.end("-INT").await.code(), Some(0));
    let told = log.with(|line| line["logger.name"] == "slow");
    assert_eq!(told, Vec::<serde_json::Value>::new());
    ground.clear().await;
}
