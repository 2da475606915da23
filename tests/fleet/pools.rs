//! Warm pools: who asks gets what runs already, nobody gets what another has, and the pool is filled again.

use std::collections::BTreeSet;

use main_webserver::app::Role;
use serde_json::{Value, json};

use crate::harness::{Ground, Person, QUICK, Reply, World, until};

pub async fn set_pool(admin: &Person, size: u32) {
    let set = format!(
        "mutation {{ setWarmPool(input: {{app: \"hello\", region: \"us-east-1\", size: {size}}}) {{ warmPool {{ size }} task {{ id }} }} }}"
    );
    assert_eq!(admin.ask(&set).await.ok("/setWarmPool/warmPool/size"), size);
}

pub async fn warm(admin: &Person) -> Vec<Value> {
    let warm = "{ containers(first: 100, filter: {assignedAt: {isNull: true}, state: {in: [REQUESTED, CREATING, RUNNING]}}) { nodes { id state owner { id } } } }";
    let warm = admin.ask(warm).await.ok("/containers/nodes");
    warm.as_array().unwrap().clone()
}

pub async fn filled(admin: &Person, size: usize) {
    until(&format!("{size} warm containers run"), async || {
        let warm = warm(admin).await;
        let running = warm.iter().filter(|row| row["state"] == "RUNNING").count();
        (warm.len() == size && running == size).then_some(())
    })
    .await;
}

pub async fn assign(person: &Person, more: &str) -> Reply {
    let text = format!(
        "mutation {{ assignContainer(input: {{app: \"hello\", region: \"us-east-1\"{more}}}) {{ warm secretKey container {{ id state dpi owner {{ email }} }} task {{ id kind }} }} }}"
    );
    person.ask(&text).await
}

#[tokio::test]
async fn a_warm_container_is_had_at_once_and_the_pool_is_filled_again() {
    let world = World::start().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    set_pool(&admin, 2).await;
    filled(&admin, 2).await;
    assert!(warm(&admin).await.iter().all(|row| row["owner"].is_null()));
    assert_eq!(
        ada.ask("{ containers { totalCount } }")
            .await
            .ok("/containers/totalCount"),
        0
    );
    let got = assign(&ada, ", dpi: 120, idempotencyKey: \"once\"").await;
    let container = got.ok("/assignContainer/container");
    assert_eq!(got.ok("/assignContainer/warm"), true);
    assert_eq!(
        (
            &container["state"],
            &container["dpi"],
            &container["owner"]["email"]
        ),
        (&json!("RUNNING"), &json!(120), &json!("ada@example.com"))
    );
    let id = main_webserver::domain::Id::parse(container["id"].as_str().unwrap()).unwrap();
    assert_eq!(
        got.text("/assignContainer/secretKey"),
        world.keyring().container_key(id)
    );
    // The same request again gets the same, and the key is not shown again.
    let again = assign(&ada, ", dpi: 120, idempotencyKey: \"once\"").await;
    assert_eq!(again.ok("/assignContainer/container/id"), container["id"]);
    assert_eq!(again.ok("/assignContainer/secretKey"), json!(null));
    let task = got.text("/assignContainer/task/id");
    ada.task_in(&task, "SUCCEEDED").await;
    filled(&admin, 2).await;
    // A smaller pool gives up what is too much; an empty one makes what is asked for.
    set_pool(&admin, 0).await;
    filled(&admin, 0).await;
    let cold = assign(&ada, "").await;
    assert_eq!(
        (
            cold.ok("/assignContainer/warm"),
            cold.text("/assignContainer/container/state")
        ),
        (json!(false), "REQUESTED".to_owned())
    );
    ada.container_in(&cold.text("/assignContainer/container/id"), "RUNNING")
        .await;
    world.stop().await;
}

#[tokio::test]
async fn many_who_ask_at_once_get_one_each() {
    let world = World::start().await;
    let admin = world.admin().await;
    set_pool(&admin, 12).await;
    filled(&admin, 12).await;
    let mut people = Vec::new();
    for name in ["ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal"] {
        people.push(world.person(name).await);
    }
    let asked = people
        .iter()
        .flat_map(|person| (0..3).map(move |_| assign(person, "")));
    let got = futures_util::future::join_all(asked).await;
    let ids: BTreeSet<String> = got
        .iter()
        .map(|reply| reply.text("/assignContainer/container/id"))
        .collect();
    assert_eq!(ids.len(), 24, "no two have the same");
    let warm_ones = got
        .iter()
        .filter(|reply| reply.ok("/assignContainer/warm") == true)
        .count();
    assert!(warm_ones >= 12, "{warm_ones} were warm");
    for (at, reply) in got.iter().enumerate() {
        let container = reply.text("/assignContainer/container/id");
        people[at / 3].container_in(&container, "RUNNING").await;
    }
    filled(&admin, 12).await;
    world.stop().await;
}

#[tokio::test]
async fn a_pool_is_filled_whatever_becomes_of_what_is_in_it() {
    let world = World::start().await;
    let admin = world.admin().await;
    set_pool(&admin, 2).await;
    filled(&admin, 2).await;
    let one = warm(&admin).await[0]["id"].as_str().unwrap().to_owned();
    admin.delete(&one).await.ok("/deleteContainer");
    until("another has taken its place", async || {
        let warm = warm(&admin).await;
        let has_it = warm.iter().any(|row| row["id"] == one.as_str());
        let running = warm.iter().filter(|row| row["state"] == "RUNNING").count();
        (running == 2 && !has_it).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn who_is_on_another_release_channel_gets_none_of_the_pool() {
    let world = World::on(Ground::new().await, QUICK, &[Role::WebAndWorker]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    set_pool(&admin, 1).await;
    filled(&admin, 1).await;
    let id = ada.ask("{ viewer { id } }").await.text("/viewer/id");
    let beta = format!(
        "mutation {{ setReleaseChannel(input: {{user: \"{id}\", channel: \"beta\"}}) {{ user {{ id }} }} }}"
    );
    admin.ask(&beta).await.ok("/setReleaseChannel");
    assert_eq!(assign(&ada, "").await.ok("/assignContainer/warm"), false);
    world.stop().await;
}

#[tokio::test]
async fn a_pool_of_nonsense_is_refused() {
    let world = World::start().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    for (person, input, code) in [
        (
            &admin,
            "app: \"nope\", region: \"us-east-1\", size: 1",
            "BAD_USER_INPUT",
        ),
        (
            &admin,
            "app: \"hello\", region: \"nope\", size: 1",
            "BAD_USER_INPUT",
        ),
        (
            &admin,
            "app: \"hello\", region: \"us-east-1\", size: -1",
            "BAD_USER_INPUT",
        ),
        (
            &admin,
            "app: \"hello\", region: \"us-east-1\", size: 10001",
            "BAD_USER_INPUT",
        ),
        (
            &ada,
            "app: \"hello\", region: \"us-east-1\", size: 1",
            "FORBIDDEN",
        ),
    ] {
        let reply = person
            .ask(&format!(
                "mutation {{ setWarmPool(input: {{{input}}}) {{ task {{ id }} }} }}"
            ))
            .await;
        assert_eq!(reply.code(), code, "{input}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_pool_of_what_cannot_run_is_not_filled_without_end() {
    let world = World::start().await;
    let admin = world.admin().await;
    let set = "mutation { setWarmPool(input: {app: \"exiting-app\", region: \"us-east-1\", size: 2}) { task { id } } }";
    admin.ask(set).await.ok("/setWarmPool");
    let failed = async || {
        let failed = "{ containers(filter: {state: {eq: FAILED}}) { totalCount } }";
        admin.ask(failed).await.ok("/containers/totalCount")
    };
    until("three have failed", async || {
        (failed().await == 3).then_some(())
    })
    .await;
    // The pool is looked at every second.
    crate::harness::nap(3000).await;
    assert_eq!(failed().await, 3);
    world.stop().await;
}
