//! Running processes follow what changes, all of them, and keep what they have when a change cannot be used.

use serde_json::{Value, json};

use super::{ground, said};
use crate::harness::{Ground, Person, QUICK, World, process::Process, until};
use main_webserver::app::Role;

async fn set(admin: &Person, name: &str, value: &str) -> Value {
    let text = "mutation($name: String!, $value: String!) {
        setConfigValue(input: { environment: STAGING, name: $name, value: $value }) { applied needsRestart } }";
    let reply = admin
        .send(text, json!({ "name": name, "value": value }))
        .await;
    reply.ok("/setConfigValue")
}

async fn setting(admin: &Person, name: &str) -> Value {
    let reply = admin
        .ask("{ settings { name value origin isSecret reloads needsRestart } }")
        .await;
    let settings = reply.ok("/settings");
    let found = settings
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == name);
    found.unwrap().clone()
}

#[tokio::test]
async fn every_process_follows_a_stored_value_without_a_restart() {
    let mut world = World::on(ground().await, QUICK, &[Role::WebAndWorker]).await;
    // Without Redis each process has a bus of its own, and would look again after a while only.
    if std::env::var("TEST_REDIS_URL").is_ok() {
        world.add(Role::Web).await;
    }
    let admin = world.admin().await;
    let webs: Vec<Person> = world
        .apps
        .iter()
        .map(|app| admin.moved_to(app.address.unwrap()))
        .collect();
    let ada = world.person("ada").await;
    let unlimited = ada.demo(1, 1).await;
    ada.task_in(&unlimited, "SUCCEEDED").await;
    let found = set(&admin, "TASKS_PER_OWNER", "1").await;
    assert_eq!(
        found,
        json!({ "applied": ["TASKS_PER_OWNER"], "needsRestart": [] })
    );
    for web in &webs {
        until("the process follows", async || {
            (setting(web, "TASKS_PER_OWNER").await["value"] == "1").then_some(())
        })
        .await;
        let setting = setting(web, "TASKS_PER_OWNER").await;
        assert_eq!(setting["origin"], "the configuration database, staging");
        // What it says is what it does.
        let ada = ada.moved_to(web.address);
        let first = ada.demo(1000, 100).await;
        until("a second is refused", async || {
            let text =
                "mutation { startDemoTask(input: { steps: 1, stepMillis: 1 }) { task { id } } }";
            let reply = ada.ask(text).await;
            if let Some(accepted) = reply.0["data"]["startDemoTask"]["task"]["id"].as_str() {
                ada.task_in(accepted, "SUCCEEDED").await;
            }
            (reply.0["errors"][0]["extensions"]["code"] == "QUOTA_EXCEEDED").then_some(())
        })
        .await;
        ada.cancel(&first).await;
        ada.task_in(&first, "CANCELLED").await;
    }
    let found = set(&admin, "WORKER_CONCURRENCY", "3").await;
    assert_eq!(
        found,
        json!({ "applied": [], "needsRestart": ["WORKER_CONCURRENCY"] })
    );
    let waiting = setting(&admin, "WORKER_CONCURRENCY").await;
    assert_eq!(
        (&waiting["value"], &waiting["needsRestart"]),
        (&Value::Null, &json!(true))
    );

    let remove = "mutation { removeConfigValue(input: { environment: STAGING, name: \"TASKS_PER_OWNER\" }) { applied } }";
    assert_eq!(
        admin.ask(remove).await.ok("/removeConfigValue/applied/0"),
        "TASKS_PER_OWNER"
    );
    assert_eq!(admin.ask(remove).await.code(), "NOT_FOUND");
    assert_eq!(
        setting(&admin, "TASKS_PER_OWNER").await["origin"],
        "defaults"
    );
    let audit = admin
        .ask("{ auditEvents(filter: { object: { eq: \"setting\" } }, orderBy: [{ field: AT, direction: ASC }]) { nodes { action detail } } }")
        .await;
    let actions: Vec<Value> = audit
        .ok("/auditEvents/nodes")
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["action"].clone())
        .collect();
    assert_eq!(actions, ["set", "set", "remove"]);
    world.stop().await;
}

#[tokio::test]
async fn secrets_are_never_shown_and_bad_values_are_named() {
    let world = World::on(ground().await, QUICK, &[Role::WebAndWorker]).await;
    let admin = world.admin().await;
    let secret = "hunter2 hunter2 hunter2";
    set(&admin, "ADMIN_PASSWORD", secret).await;
    let all = admin
        .ask("{ settings { name value } configValues { environment name value updatedBy } }")
        .await;
    let text = all.0.to_string();
    assert!(
        !text.contains("hunter2")
            && !text.contains(super::CONFIG_KEY)
            && !text.contains(world.ground.setting("SECRET_KEY")),
        "{text}"
    );
    assert_eq!(all.ok("/configValues/0/name"), "ADMIN_PASSWORD");
    assert_eq!(all.ok("/configValues/0/environment"), "STAGING");
    assert_eq!(all.at("/configValues/0/value"), Value::Null);
    for (name, value, field) in [
        ("NO_SUCH", "1", "name"),
        ("CONFIG_DB_URL", "sqlite://x", "name"),
        ("PORT", "eighty", "value"),
        ("PORT", "", "value"),
        ("LOG", "info,=,", "value"),
        ("SECRET_KEY", "hunter2", "value"),
    ] {
        let text = "mutation($name: String!, $value: String!) {
            setConfigValue(input: { environment: ALL, name: $name, value: $value }) { applied } }";
        let reply = admin
            .send(text, json!({ "name": name, "value": value }))
            .await;
        assert_eq!(
            (reply.code(), reply.field()),
            ("BAD_USER_INPUT", Some(field)),
            "{name}"
        );
        assert!(!reply.0.to_string().contains("hunter2"));
    }
    world.stop().await;
}

#[tokio::test]
async fn without_a_configuration_database_there_is_nowhere_to_store() {
    let world = World::start().await;
    let admin = world.admin().await;
    assert_eq!(
        admin
            .ask("{ configValues { name } }")
            .await
            .ok("/configValues"),
        json!([])
    );
    let text = "mutation { setConfigValue(input: { environment: ALL, name: \"TASKS_TOTAL\", value: \"5\" }) { applied } }";
    assert_eq!(admin.ask(text).await.code(), "UNAVAILABLE");
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_a_hang_up_reads_the_file_again() {
    let ground = Ground::new().await.with("REDIS_URL", "");
    std::fs::create_dir(ground.folder().join("docker")).unwrap();
    let write = |text: &str| std::fs::write(ground.folder().join("docker/.env"), text).unwrap();
    write("TASKS_TOTAL=7\nREQUEST_SECONDS=11\n");
    let process = Process::start(&ground, "serve").await;
    let admin = process
        .person()
        .log_in("admin@localhost", crate::harness::ADMIN_PASSWORD)
        .await;
    let holds = async |name: &str| setting(&admin, name).await["value"].clone();
    assert_eq!(holds("REQUEST_SECONDS").await, "11");
    write("TASKS_TOTAL=none\nREQUEST_SECONDS=12\n");
    let refused = admin.ask("mutation { reloadConfig { applied } }").await;
    assert_eq!(
        (refused.code(), refused.field()),
        ("BAD_USER_INPUT", Some("settings"))
    );
    assert!(
        refused
            .0
            .to_string()
            .contains("TASKS_TOTAL: 'none' is not usable"),
        "{:?}",
        refused.0
    );
    assert_eq!(
        (holds("TASKS_TOTAL").await, holds("REQUEST_SECONDS").await),
        (json!("7"), json!("11"))
    );
    write("TASKS_TOTAL=8\nREQUEST_SECONDS=12\nPORT=1\n");
    process.signal("-HUP").await;
    until("the process follows its file", async || {
        (holds("TASKS_TOTAL").await == "8").then_some(())
    })
    .await;
    assert_eq!(holds("REQUEST_SECONDS").await, "12");
    assert_eq!(process.end("-TERM").await.code(), Some(0));
    ground.clear().await;
}

#[tokio::test]
async fn a_running_process_looks_into_the_database_by_itself_and_outlives_its_loss() {
    let ground = ground()
        .await
        .with("REDIS_URL", "")
        .with("CONFIG_RELOAD_SECONDS", "1");
    let process = Process::start(&ground, "serve").await;
    let admin = process
        .person()
        .log_in("admin@localhost", crate::harness::ADMIN_PASSWORD)
        .await;
    let holds = async || setting(&admin, "TASKS_TOTAL").await["value"].clone();
    said(&ground, &["config", "set", "TASKS_TOTAL", "9"]).await;
    until("the process has looked", async || {
        (holds().await == "9").then_some(())
    })
    .await;
    // The table goes, as if the database did: what held goes on to hold.
    let db = sea_orm::Database::connect(ground.setting("CONFIG_DB_URL"))
        .await
        .unwrap();
    sea_orm::ConnectionTrait::execute_unprepared(&db, "ALTER TABLE configuration RENAME TO away")
        .await
        .unwrap();
    let refused = admin.ask("mutation { reloadConfig { applied } }").await;
    assert_eq!(refused.code(), "BAD_USER_INPUT");
    assert_eq!(holds().await, "9");
    assert_eq!(
        admin.ask("{ configValues { name } }").await.code(),
        "UNAVAILABLE"
    );
    sea_orm::ConnectionTrait::execute_unprepared(&db, "ALTER TABLE away RENAME TO configuration")
        .await
        .unwrap();
    db.close().await.unwrap();
    said(&ground, &["config", "set", "TASKS_TOTAL", "10"]).await;
    until("the process has looked", async || {
        (holds().await == "10").then_some(())
    })
    .await;
    assert_eq!(process.end("-TERM").await.code(), Some(0));
    ground.clear().await;
}
