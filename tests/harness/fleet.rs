//! Clusters and hosts, asked for as an administrator and as an agent would.

use serde_json::json;

use super::{Person, until};

/// A cluster of simulated engines that takes containers; its id.
pub async fn cluster(admin: &Person, name: &str, region: &str) -> String {
    cluster_with(
        admin,
        json!({ "name": name, "region": region, "provider": "simulated" }),
    )
    .await
}

/// A cluster made from this input, once it takes containers.
pub async fn cluster_with(admin: &Person, input: serde_json::Value) -> String {
    const CREATE: &str =
        "mutation($input: CreateClusterInput!) { createCluster(input: $input) { cluster { id } } }";
    let reply = admin.send(CREATE, json!({ "input": input })).await;
    let id = reply.text("/createCluster/cluster/id");
    until("the cluster is active", async || {
        let status = format!("{{ cluster(id: \"{id}\") {{ status }} }}");
        let status = admin.ask(&status).await.text("/cluster/status");
        (status == "ACTIVE").then_some(())
    })
    .await;
    id
}

/// A registration token of a cluster.
pub async fn invitation(admin: &Person, cluster: &str) -> String {
    let invite = format!(
        "mutation {{ createRegistrationToken(input: {{cluster: \"{cluster}\"}}) {{ token }} }}"
    );
    admin
        .ask(&invite)
        .await
        .text("/createRegistrationToken/token")
}

/// Spends a token for a machine: an agent with the host's credential, its id in the place of the e-mail address.
pub async fn register(anybody: &Person, token: &str, instance: &str) -> Person {
    const REGISTER: &str = "mutation($input: RegisterHostInput!) { registerHost(input: $input) { host { id } credential } }";
    let input = json!({
        "token": token, "instanceId": instance, "instanceType": "test", "ip": "127.0.0.1",
        "cpuMillis": 4000, "memoryBytes": 8_i64 << 30, "agentVersion": "test",
    });
    let reply = anybody.send(REGISTER, json!({ "input": input })).await;
    Person {
        token: Some(reply.text("/registerHost/credential")),
        refresh_token: None,
        email: reply.text("/registerHost/host/id"),
        address: anybody.address,
    }
}

/// A sign of life.
pub async fn beat(agent: &Person, number: i64) -> super::Reply {
    const BEAT: &str = "mutation($input: HeartbeatInput!) { heartbeat(input: $input) { accepted reportAll host { status } commands { id command argument } } }";
    let input = json!({
        "number": number, "cpuUsedMillis": 100, "memoryAvailableBytes": 1_i64 << 30, "containers": 0,
    });
    agent.send(BEAT, json!({ "input": input })).await
}

/// A cluster with one host that is heard of: the cluster's id, and the host's agent.
pub async fn host(admin: &Person, name: &str, region: &str, instance: &str) -> (String, Person) {
    let cluster = cluster(admin, name, region).await;
    let token = invitation(admin, &cluster).await;
    let agent = register(admin, &token, instance).await;
    assert_eq!(beat(&agent, 1).await.ok("/heartbeat/accepted"), true);
    (cluster, agent)
}
