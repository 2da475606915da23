//! Machines in clusters: bound, counted, drained and removed as containers are.

use serde_json::json;

use crate::harness::{World, fleet::cluster_with, until};

#[tokio::test]
async fn a_cluster_of_machines_takes_no_containers_is_bound_drained_and_removed() {
    let world = World::start().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let input = json!({ "name": "machines", "region": "us-west-2", "provider": "simulated-machines", "maxContainers": 1 });
    let cluster = cluster_with(&admin, input).await;
    let token = format!(
        "mutation {{ createRegistrationToken(input: {{cluster: \"{cluster}\"}}) {{ token }} }}"
    );
    let token = admin.ask(&token).await;
    assert_eq!(
        (token.code(), token.field()),
        ("BAD_USER_INPUT", Some("cluster"))
    );

    let first = ada.running_machine().await;
    let container = ada.create("hello").await.container;
    ada.container_in(&container, "RUNNING").await;
    let places = format!(
        "{{ virtualMachine(id: \"{first}\") {{ cluster {{ id }} }} container(id: \"{container}\") {{ cluster {{ id }} }} \
           cluster(id: \"{cluster}\") {{ capacity {{ running pending cpuTakenMillis }} }} }}"
    );
    let places = admin.ask(&places).await;
    assert_eq!(places.text("/virtualMachine/cluster/id"), cluster);
    assert!(places.ok("/container")["cluster"].is_null());
    let taken = json!({ "running": 1, "pending": 0, "cpuTakenMillis": 1000 });
    assert_eq!(places.ok("/cluster/capacity"), taken);

    // One is all it takes.
    let second = ada.new_machine("tiny").await;
    until("it waits for room", async || {
        (ada.task(&second.task).await["state"] == "WAITING").then_some(())
    })
    .await;
    assert_eq!(ada.machine(&second.id).await["state"], "REQUESTED");
    let more = format!(
        "mutation {{ updateCluster(input: {{id: \"{cluster}\", maxContainers: 2}}) {{ cluster {{ id }} }} }}"
    );
    admin.ask(&more).await.ok("/updateCluster");
    ada.machine_in(&second.id, "RUNNING").await;

    let with = async |operation: &str| {
        let asked =
            format!("mutation {{ {operation}(input: {{id: \"{cluster}\"}}) {{ task {{ id }} }} }}");
        let asked = admin.ask(&asked).await;
        admin
            .task_in(&asked.text(&format!("/{operation}/task/id")), "SUCCEEDED")
            .await;
    };
    with("drainCluster").await;
    for machine in [&first, &second.id] {
        assert_eq!(ada.machine(machine).await["state"], "STOPPED");
    }
    with("deleteCluster").await;
    for machine in [&first, &second.id] {
        assert_eq!(ada.machine(machine).await["state"], "DELETED");
    }
    assert_eq!(ada.container(&container).await["state"], "RUNNING");
    world.stop().await;
}
