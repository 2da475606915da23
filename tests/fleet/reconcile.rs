//! What differs between database and engine is found, shown and mended, and nothing is concluded from an engine's silence.

use main_webserver::{
    app::Role,
    domain::{Id, id::Container},
    providers::{Engine as _, Provider as _, Spec},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::life::running;
use crate::harness::{Ground, Person, QUICK, World, until};

fn id(container: &str) -> Id<Container> {
    Id::parse(container).unwrap()
}

async fn audited(admin: &Person, action: &str) -> Vec<Value> {
    let query = format!(
        "{{ auditEvents(filter: {{action: {{eq: \"{action}\"}}}}) {{ nodes {{ actor objectId detail }} }} }}"
    );
    admin
        .ask(&query)
        .await
        .ok("/auditEvents/nodes")
        .as_array()
        .unwrap()
        .clone()
}

async fn engine(admin: &Person) -> Value {
    let query = "{ engines(filter: {provider: {eq: \"simulated\"}}) { nodes { provider state problem failures instances findings { subjectId kind action detail } } } }";
    admin.ask(query).await.ok("/engines/nodes/0")
}

fn by_hand(world: &World, container: u128) -> Spec {
    Spec {
        container: Id::new(uuid::Uuid::from_u128(container)),
        generation: 1,
        deployment: world.keyring().deployment(),
        cluster: None,
        image: "busybox:1.37".to_owned(),
        command: Vec::new(),
        env: Vec::new(),
        cpu_millis: 0,
        memory_bytes: 0,
        ports: vec![8080],
        publish_address: [127, 0, 0, 1].into(),
    }
}

#[tokio::test]
async fn what_vanished_is_made_anew_and_what_ended_has_failed() {
    let world = World::quiet().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let (lost, ended, fine) = (
        running(&ada).await,
        running(&ada).await,
        running(&ada).await,
    );
    world.engine.lose(id(&lost));
    world.engine.end(id(&ended), 7);
    for container in [&lost, &ended, &fine] {
        world.age(container, 60).await;
    }
    world.reconcile().await;
    let again = ada.container_in(&lost, "RUNNING").await;
    assert!(
        world
            .engine
            .inspect(id(&lost))
            .await
            .unwrap()
            .is_some_and(|instance| instance.generation == 2)
    );
    assert!(!again["ports"].as_array().unwrap().is_empty());
    let failed = ada.container_in(&ended, "FAILED").await;
    assert_eq!(failed["failure"]["code"], "EXITED");
    assert_eq!(ada.container(&fine).await["version"], 4);
    assert_eq!(
        audited(&admin, "reconcile.recreate").await[0]["objectId"],
        lost.as_str()
    );
    assert_eq!(
        audited(&admin, "reconcile.fail").await[0]["objectId"],
        ended.as_str()
    );
    world.stop().await;
}

#[tokio::test]
async fn what_no_row_knows_is_removed_after_a_while_and_shown_before() {
    let ground = Ground::new()
        .await
        .with("RECONCILE_SECONDS", "1")
        .with("ORPHAN_SECONDS", "3");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let admin = world.admin().await;
    let ours = by_hand(&world, 1);
    let theirs = Spec {
        deployment: "another".to_owned(),
        ..by_hand(&world, 2)
    };
    for spec in [&ours, &theirs] {
        world
            .engine
            .ensure(spec, &CancellationToken::new())
            .await
            .unwrap();
    }
    let shown = until("it is shown as an orphan that waits", async || {
        let engine = engine(&admin).await;
        (!engine["findings"].as_array()?.is_empty()).then_some(engine)
    })
    .await;
    let finding = &shown["findings"][0];
    assert_eq!(
        (&finding["kind"], &finding["action"]),
        (&json!("ORPHAN"), &json!("WAIT")),
        "{shown}"
    );
    until("it is removed", async || {
        world
            .engine
            .inspect(ours.container)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    assert!(
        world
            .engine
            .inspect(theirs.container)
            .await
            .unwrap()
            .is_some(),
        "another deployment's is left alone"
    );
    assert_eq!(
        audited(&admin, "reconcile.remove").await[0]["objectId"],
        ours.container.to_string()
    );
    world.stop().await;
}

#[tokio::test]
async fn a_dry_run_says_what_it_would_do_and_does_nothing() {
    let ground = Ground::new()
        .await
        .with("RECONCILE", "dry-run")
        .with("RECONCILE_SECONDS", "1");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let lost = running(&ada).await;
    world.engine.lose(id(&lost));
    world.age(&lost, 60).await;
    let task = admin
        .ask("mutation { reconcile(input: {dryRun: true}) { task { id } } }")
        .await
        .text("/reconcile/task/id");
    let result = admin.task_in(&task, "SUCCEEDED").await["result"].clone();
    assert_eq!(
        result["engines"][0]["findings"][0]["action"], "RECREATE",
        "{result}"
    );
    assert_eq!(result["engines"][0]["mended"], 0);
    let shown = until("the regular look shows it", async || {
        let engine = engine(&admin).await;
        (!engine["findings"].as_array()?.is_empty()).then_some(engine)
    })
    .await;
    assert_eq!(shown["findings"][0]["kind"], "VANISHED");
    assert_eq!(ada.container(&lost).await["state"], "RUNNING");
    assert!(world.engine.list().await.unwrap().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn an_engine_that_is_away_loses_nobody_anything() {
    let ground = Ground::new().await.with("RECONCILE_SECONDS", "1");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let container = running(&ada).await;
    world.age(&container, 60).await;
    world.engine.set_away(true);
    let down = until("it is seen that the engine is away", async || {
        let engine = engine(&admin).await;
        (engine["state"] == "DOWN" && engine["failures"].as_i64()? >= 2).then_some(engine)
    })
    .await;
    assert!(
        down["problem"].as_str().unwrap().contains("not reachable"),
        "{down}"
    );
    assert_eq!(ada.container(&container).await["state"], "RUNNING");
    assert_eq!(
        audited(&admin, "reconcile.recreate").await,
        Vec::<Value>::new()
    );
    world.engine.set_away(false);
    until("it answers again", async || {
        (engine(&admin).await["state"] == "UP").then_some(())
    })
    .await;
    assert_eq!(ada.container(&container).await["state"], "RUNNING");
    world.stop().await;
}

/// The rows of an hour ago beside the engine of now: what was made since is nobody's, what was removed since is wanted again, what
/// was on its way has lost its task.
#[tokio::test]
async fn a_database_restored_from_earlier_and_its_engine_come_together() {
    use main_webserver::store::{containers, tasks};
    use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};
    let ground = Ground::new()
        .await
        .with("RECONCILE_SECONDS", "1")
        .with("ORPHAN_SECONDS", "1");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let (stays, removed_since, under_way, made_since) = (
        running(&ada).await,
        running(&ada).await,
        running(&ada).await,
        running(&ada).await,
    );
    ada.delete(&removed_since).await;
    ada.container_in(&removed_since, "DELETED").await;
    let db = world.store().db();
    let row = |container: &str| containers::Column::Id.eq(id(container).uuid());
    let then = world.store().now() - chrono::TimeDelta::seconds(3600);
    let set = async |container: &str, state: &str| {
        containers::Entity::update_many()
            .col_expr(containers::Column::State, Expr::value(state))
            .col_expr(containers::Column::UpdatedAt, Expr::value(then))
            .filter(row(container))
            .exec(db)
            .await
            .unwrap();
    };
    tasks::Entity::delete_many().exec(db).await.unwrap();
    containers::Entity::delete_many()
        .filter(row(&made_since))
        .exec(db)
        .await
        .unwrap();
    set(&removed_since, "running").await;
    set(&under_way, "creating").await;
    set(&stays, "running").await;
    until("what nobody knows is removed", async || {
        world
            .engine
            .inspect(id(&made_since))
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    until("what is wanted is made anew", async || {
        world
            .engine
            .inspect(id(&removed_since))
            .await
            .unwrap()
            .map(|_| ())
    })
    .await;
    for container in [&stays, &removed_since, &under_way] {
        ada.container_in(container, "RUNNING").await;
    }
    assert_eq!(world.engine.list().await.unwrap().len(), 3);
    assert_eq!(
        audited(&admin, "reconcile.enqueue").await[0]["objectId"],
        under_way.as_str()
    );
    until("nothing is left to find", async || {
        engine(&admin).await["findings"]
            .as_array()?
            .is_empty()
            .then_some(())
    })
    .await;
    world.stop().await;
}
