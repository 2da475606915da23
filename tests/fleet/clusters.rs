//! Clusters: made, filled to their bound, drained, used again and removed.

use serde_json::{Value, json};

use super::life::running;
use crate::harness::{Person, World, fleet, until};

async fn change(admin: &Person, field: &str, cluster: &str, more: &str) -> crate::harness::Reply {
    let below = if field == "updateCluster" {
        ""
    } else {
        "task { id }"
    };
    admin
        .ask(&format!(
            "mutation {{ {field}(input: {{id: \"{cluster}\"{more}}}) {{ cluster {{ status minContainers maxContainers placement }} {below} }} }}"
        ))
        .await
}

async fn create_in(person: &Person, region: &str, more: &str) -> crate::harness::Reply {
    person
        .ask(&format!(
            "mutation {{ createContainer(input: {{app: \"hello\", region: \"{region}\"{more}}}) {{ container {{ id }} task {{ id }} }} }}"
        ))
        .await
}

async fn capacity(admin: &Person, cluster: &str) -> Value {
    let query = format!(
        "{{ cluster(id: \"{cluster}\") {{ status capacity {{ hosts cpuMillis cpuTakenMillis memoryMebibytes memoryTakenMebibytes pending running }} }} }}"
    );
    admin.ask(&query).await.ok("/cluster")
}

#[tokio::test]
async fn a_cluster_takes_what_it_may_and_what_does_not_fit_waits() {
    let world = World::start().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let cluster = fleet::cluster_with(
        &admin,
        json!({ "name": "small", "region": "us-west-2", "provider": "simulated", "maxContainers": 2 }),
    )
    .await;
    let mut made = Vec::new();
    for _ in 0..2 {
        let created = create_in(&ada, "us-west-2", "").await;
        let container = created.text("/createContainer/container/id");
        ada.container_in(&container, "RUNNING").await;
        made.push(container);
    }
    let full = capacity(&admin, &cluster).await;
    assert_eq!(
        (
            &full["capacity"]["running"],
            &full["capacity"]["cpuTakenMillis"],
            &full["capacity"]["memoryTakenMebibytes"]
        ),
        (&json!(2), &json!(500), &json!(128))
    );
    let third = create_in(&ada, "us-west-2", "").await;
    let (container, task) = (
        third.text("/createContainer/container/id"),
        third.text("/createContainer/task/id"),
    );
    ada.task_in(&task, "WAITING").await;
    assert_eq!(ada.container(&container).await["state"], "REQUESTED");
    // Room is made, by hand and by a larger bound.
    change(
        &admin,
        "updateCluster",
        &cluster,
        ", maxContainers: 3, placement: PACK",
    )
    .await
    .ok("/updateCluster");
    ada.container_in(&container, "RUNNING").await;
    ada.delete(&made[0]).await;
    // A cluster that is asked for by its id has to be there.
    let elsewhere = create_in(&ada, "us-east-1", &format!(", cluster: \"{cluster}\"")).await;
    assert_eq!(
        (elsewhere.code(), elsewhere.field()),
        ("BAD_USER_INPUT", Some("cluster"))
    );
    let there = create_in(&ada, "us-west-2", &format!(", cluster: \"{cluster}\"")).await;
    ada.container_in(&there.text("/createContainer/container/id"), "RUNNING")
        .await;
    for wrong in [
        "minContainers: 5, maxContainers: 4",
        "maxContainers: 0",
        "minContainers: -1",
        "maxContainers: 1000001",
    ] {
        let reply = change(&admin, "updateCluster", &cluster, &format!(", {wrong}")).await;
        assert_eq!(reply.code(), "BAD_USER_INPUT", "{wrong}");
    }
    world.stop().await;
}

#[tokio::test]
async fn a_cluster_is_drained_used_again_and_removed() {
    let world = World::start().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let cluster = fleet::cluster(&admin, "west", "us-west-2").await;
    // An empty one is drained at once.
    let drained = change(&admin, "drainCluster", &cluster, "").await;
    assert_eq!(drained.text("/drainCluster/cluster/status"), "DRAINING");
    admin
        .task_in(&drained.text("/drainCluster/task/id"), "SUCCEEDED")
        .await;
    assert_eq!(
        change(&admin, "drainCluster", &cluster, "").await.code(),
        "ILLEGAL_STATE"
    );
    let refused = create_in(&ada, "us-west-2", &format!(", cluster: \"{cluster}\"")).await;
    assert_eq!(
        (refused.code(), refused.field()),
        ("BAD_USER_INPUT", Some("cluster"))
    );
    let again = change(&admin, "activateCluster", &cluster, "").await;
    admin
        .task_in(&again.text("/activateCluster/task/id"), "SUCCEEDED")
        .await;
    assert_eq!(capacity(&admin, &cluster).await["status"], "ACTIVE");
    let created = create_in(&ada, "us-west-2", "").await;
    let container = created.text("/createContainer/container/id");
    ada.container_in(&container, "RUNNING").await;
    let elsewhere = running(&ada).await;
    let deleted = change(&admin, "deleteCluster", &cluster, "").await;
    let (task, again) = (
        deleted.text("/deleteCluster/task/id"),
        change(&admin, "deleteCluster", &cluster, "").await,
    );
    assert_eq!(again.text("/deleteCluster/task/id"), task, "it is one");
    admin.task_in(&task, "SUCCEEDED").await;
    assert_eq!(capacity(&admin, &cluster).await["status"], "DELETED");
    assert_eq!(ada.container(&container).await["state"], "DELETED");
    assert_eq!(ada.container(&elsewhere).await["state"], "RUNNING");
    assert_eq!(
        change(&admin, "deleteCluster", &cluster, "").await.code(),
        "ILLEGAL_STATE"
    );
    let audit = "{ auditEvents(filter: {action: {prefix: \"cluster.\"}}, orderBy: [{field: AT}]) { nodes { action actor } } }";
    let audit = admin.ask(audit).await.ok("/auditEvents/nodes");
    let actions: Vec<&str> = audit
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "cluster.create",
            "cluster.drain",
            "cluster.activate",
            "cluster.delete"
        ]
    );
    world.stop().await;
}

#[tokio::test]
async fn a_cluster_whose_engine_does_not_answer_fails_with_its_words() {
    let world = World::start().await;
    let admin = world.admin().await;
    world.engine.set_away(true);
    let create = "mutation { createCluster(input: {name: \"far\", region: \"us-west-2\", provider: \"simulated\", endpoint: \"tcp://far:1\"}) { cluster { id } task { id } } }";
    let created = admin.ask(create).await;
    let cluster = created.text("/createCluster/cluster/id");
    until("its first attempt has failed", async || {
        let task = admin.task(&created.text("/createCluster/task/id")).await;
        (task["failures"].as_i64()? > 0).then_some(())
    })
    .await;
    admin
        .cancel(&created.text("/createCluster/task/id"))
        .await
        .ok("/cancelTask");
    let failed = until("it has failed", async || {
        let query = format!("{{ cluster(id: \"{cluster}\") {{ status failureReason }} }}");
        let row = admin.ask(&query).await.ok("/cluster");
        (row["status"] == "FAILED").then_some(row)
    })
    .await;
    assert_eq!(failed["failureReason"], "its creation was cancelled");
    world.engine.set_away(false);
    let again = change(&admin, "activateCluster", &cluster, "").await;
    admin
        .task_in(&again.text("/activateCluster/task/id"), "SUCCEEDED")
        .await;
    for (input, field) in [
        (
            "name: \"A B\", region: \"us-west-2\", provider: \"simulated\"",
            Some("name"),
        ),
        (
            "name: \"a\", region: \"mars\", provider: \"simulated\"",
            Some("region"),
        ),
        (
            "name: \"a\", region: \"us-west-2\", provider: \"ecs\"",
            Some("provider"),
        ),
        (
            "name: \"a\", region: \"us-west-2\", provider: \"docker\", endpoint: \"far\"",
            Some("endpoint"),
        ),
        (
            "name: \"a\", region: \"us-west-2\", provider: \"docker\", maxContainers: 0",
            Some("maxContainers"),
        ),
        (
            "name: \"far\", region: \"us-west-2\", provider: \"docker\"",
            None,
        ),
    ] {
        let reply = admin
            .ask(&format!(
                "mutation {{ createCluster(input: {{{input}}}) {{ task {{ id }} }} }}"
            ))
            .await;
        assert_eq!(
            (reply.code(), reply.field()),
            (
                if field.is_some() {
                    "BAD_USER_INPUT"
                } else {
                    "CONFLICT"
                },
                field
            ),
            "{input}"
        );
    }
    world.stop().await;
}
