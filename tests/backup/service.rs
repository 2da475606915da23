//! Backups as the service makes and shows them.

use main_webserver::app::Role;
use serde_json::Value;

use super::{ground, names, store};
use crate::harness::{Ground, HTTP, Person, QUICK, World, until, until_within};

async fn schedule(admin: &Person) -> Value {
    let listed = admin.ask("{ schedules(filter: {name: {eq: \"backup\"}}) { nodes { kind cron timeZone enabled nextAt } } }");
    listed.await.ok("/schedules/nodes/0")
}

async fn start(ground: Ground) -> World {
    World::on(ground, QUICK, &[]).await
}

#[tokio::test]
async fn an_administrator_asks_for_a_backup_and_sees_it() {
    let world = World::on(ground().await, QUICK, &[Role::WebAndWorker]).await;
    let (admin, ada) = (world.admin().await, world.person("ada").await);
    assert_eq!(ada.ask("{ backups { name } }").await.code(), "FORBIDDEN");
    assert_eq!(
        ada.ask("mutation { backUp(input: {}) { task { id } } }")
            .await
            .code(),
        "FORBIDDEN"
    );
    let ask = "mutation { backUp(input: {idempotencyKey: \"once\"}) { task { id } } }";
    let task = admin.ask(ask).await.text("/backUp/task/id");
    assert_eq!(admin.ask(ask).await.text("/backUp/task/id"), task);
    let done = admin.task_in(&task, "SUCCEEDED").await;
    let said: Vec<&str> = done["logs"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|line| line["message"].as_str())
        .collect();
    assert!(said.contains(&"its data are written"), "{said:?}");
    assert!(said.contains(&"comparing every table"), "{said:?}");

    let shown = admin.ask(
        "{ backups { name bytes rows sha256 database encryptedTo origin verifiedAt problem tables { name rows } } }",
    );
    let shown = shown.await.ok("/backups");
    assert_eq!(shown.as_array().unwrap().len(), 1);
    let backup = &shown[0];
    assert_eq!(backup["name"], done["result"]["name"]);
    assert_eq!(backup["sha256"], done["result"]["sha256"]);
    assert_eq!(backup["origin"], task.as_str());
    assert!(
        backup["verifiedAt"].is_string() && backup["problem"].is_null(),
        "{backup}"
    );
    let accounts = backup["tables"]
        .as_array()
        .unwrap()
        .iter()
        .find(|table| table["name"] == "account");
    assert_eq!(accounts.unwrap()["rows"], 2);

    let events = admin.ask("{ auditEvents(filter: {action: {prefix: \"backup.\"}}) { nodes { action actor detail } } }");
    let events = events.await.ok("/auditEvents/nodes");
    let actions: Vec<&str> = events
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|event| event["action"].as_str())
        .collect();
    assert!(
        actions.contains(&"backup.ask") && actions.contains(&"backup.make"),
        "{events}"
    );

    let metrics = HTTP
        .get(format!("http://{}/metrics", world.address()))
        .send()
        .await
        .unwrap();
    let metrics = metrics.text().await.unwrap();
    let size = format!("main_webserver_backup_size_bytes {}", backup["bytes"]);
    assert!(metrics.contains(&size), "{size} is missing in {metrics}");
    assert!(metrics.contains("main_webserver_backups_failed_total 0"));
    world.stop().await;
}

#[tokio::test]
async fn without_a_place_nobody_can_ask_for_one() {
    let world = World::start().await;
    let admin = world.admin().await;
    let asked = admin
        .ask("mutation { backUp(input: {}) { task { id } } }")
        .await;
    assert_eq!(asked.code(), "UNAVAILABLE");
    assert_eq!(
        admin.ask("{ backups { name } }").await.ok("/backups"),
        serde_json::json!([])
    );
    let scheduled = admin
        .ask("{ schedules(filter: {name: {eq: \"backup\"}}) { totalCount } }")
        .await;
    assert_eq!(scheduled.ok("/schedules/totalCount"), 0);
    world.stop().await;
}

#[tokio::test]
async fn the_nightly_schedule_follows_the_settings() {
    let mut world = start(ground().await.with("BACKUP_TIME_ZONE", "Europe/Berlin")).await;
    world.add(Role::WebAndWorker).await;
    let first = schedule(&world.admin().await).await;
    assert_eq!(first["kind"], "backup");
    assert_eq!(
        (&first["cron"], &first["timeZone"]),
        (&"0 2 * * *".into(), &"Europe/Berlin".into())
    );

    // A second process with the same settings moves nothing.
    world.add(Role::WebAndWorker).await;
    assert_eq!(
        schedule(&world.admin().await).await["nextAt"],
        first["nextAt"]
    );

    for app in std::mem::take(&mut world.apps) {
        app.stop().await;
    }
    world.ground = world.ground.with("BACKUP_CRON", "30 3 * * *");
    world.add(Role::WebAndWorker).await;
    assert_eq!(schedule(&world.admin().await).await["cron"], "30 3 * * *");

    for app in std::mem::take(&mut world.apps) {
        app.stop().await;
    }
    world.ground = world.ground.with("BACKUP_URL", "");
    world.add(Role::WebAndWorker).await;
    let admin = world.admin().await;
    let gone = admin.ask("{ schedules(filter: {name: {eq: \"backup\"}}) { totalCount } }");
    assert_eq!(gone.await.ok("/schedules/totalCount"), 0);
    world.stop().await;
}

#[tokio::test]
async fn when_its_time_comes_a_backup_is_made_once_by_all_workers() {
    // Every five seconds, so that it comes soon.
    let ground = ground().await.with("BACKUP_CRON", "*/5 * * * * *");
    let mut world = start(ground).await;
    world.add(Role::WebAndWorker).await;
    if world
        .ground
        .settings
        .iter()
        .any(|(key, _)| key == "REDIS_URL")
    {
        world.add(Role::Worker).await;
    }
    let admin = world.admin().await;
    let read = async || {
        let tasks = admin.ask(
            "{ tasks(filter: {kind: {eq: \"backup\"}}, first: 100) { nodes { state result idempotencyKey: id owner { id } } } }",
        );
        tasks.await.ok("/tasks/nodes")
    };
    let tasks = until_within(
        std::time::Duration::from_secs(90),
        "two backups are made",
        async || {
            let tasks = read().await;
            let ended = tasks
                .as_array()
                .unwrap()
                .iter()
                .filter(|task| task["state"] == "SUCCEEDED");
            (ended.count() >= 2).then_some(tasks)
        },
    )
    .await;
    let made: Vec<&str> = tasks
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|task| task["result"]["origin"].as_str())
        .collect();
    let mut once = made.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), made.len(), "one backup of each task");
    world.stop().await;
}

#[tokio::test]
async fn the_doctor_looks_at_backups_where_there_are_to_be_some() {
    let ground = ground().await.with("PORT", "0");
    super::succeed(&ground, &["migrate", "up"]).await;
    super::succeed(&ground, &["backup", "now"]).await;
    let (_, said, _) = crate::harness::process::output(&ground, &["doctor"]).await;
    assert!(said.contains("ok     backups   the newest is 20"), "{said}");
    std::fs::remove_dir_all(store(&ground)).unwrap();
    std::fs::write(store(&ground), "").unwrap();
    let (code, said, _) = crate::harness::process::output(&ground, &["doctor"]).await;
    assert!(
        code == 1 && said.contains("WRONG  backups   the store of backups: opening"),
        "{said}"
    );
    let ground = Ground::new().await;
    let (_, said, _) = crate::harness::process::output(&ground, &["doctor"]).await;
    assert!(!said.contains("backups"), "{said}");
    ground.clear().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_told_of_and_tried_again() {
    let world = World::on(ground().await, QUICK, &[Role::WebAndWorker]).await;
    let admin = world.admin().await;
    // A file where the folder was.
    let folder = store(&world.ground);
    std::fs::remove_dir(&folder).unwrap();
    std::fs::write(&folder, "").unwrap();
    assert_eq!(
        admin.ask("{ backups { name } }").await.code(),
        "UNAVAILABLE"
    );
    let asked = admin
        .ask("mutation { backUp(input: {}) { task { id } } }")
        .await;
    let task = asked.text("/backUp/task/id");
    until("it has failed once", async || {
        (admin.task(&task).await["failures"].as_i64() >= Some(1)).then_some(())
    })
    .await;
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    admin.task_in(&task, "SUCCEEDED").await;
    assert_eq!(names(&folder).len(), 2);
    world.stop().await;
}
