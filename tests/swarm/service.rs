//! The service on a swarm of three nodes: its nodes are hosts, containers are spread over them, and a lost node's are told of and run
//! elsewhere.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{MISSED, docker, fault, hosts, node_id, start, took};
use crate::harness::{
    ADMIN_PASSWORD, Ground, HTTP, Person, fleet::cluster_with, process::Process, until,
    until_within,
};

const COUNT: usize = 9;

async fn nodes(admin: &Person) -> BTreeMap<String, String> {
    let query = "{ hosts { nodes { instanceId status cpuMillis memoryMebibytes agentVersion } } }";
    let hosts = admin.ask(query).await.ok("/hosts/nodes");
    let hosts = hosts.as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    hosts
        .map(|host| (text(&host["instanceId"]), text(&host["status"])))
        .collect()
}

/// Each container, the machine it is on, and whether it runs.
async fn placed(admin: &Person) -> BTreeMap<String, (String, bool)> {
    let query = "{ containers(first: 100, filter: {state: {notIn: [DELETED, FAILED]}}) { nodes { id state host { instanceId } } } }";
    let rows = admin.ask(query).await.ok("/containers/nodes");
    let placed = rows.as_array().unwrap().iter().map(|row| {
        let host = row["host"]["instanceId"].as_str().unwrap_or_default();
        let id = row["id"].as_str().unwrap().to_owned();
        (id, (host.to_owned(), row["state"] == "RUNNING"))
    });
    placed.collect()
}

async fn answers(person: &Person, container: &str) -> bool {
    let info =
        format!("{{ protocolInfo(id: \"{container}\") {{ address ports {{ published }} }} }}");
    let info = person.ask(&info).await;
    if info.0.get("errors").is_some() {
        return false;
    }
    let info = info.ok("/protocolInfo");
    let (Some(address), Some(port)) = (
        info["address"].as_str(),
        info["ports"][0]["published"].as_u64(),
    ) else {
        return false;
    };
    let request = HTTP.get(format!("http://{address}:{port}/"));
    let page = request
        .timeout(std::time::Duration::from_secs(2))
        .send()
        .await;
    match page {
        Ok(page) => page.text().await.is_ok_and(|text| text.contains(container)),
        Err(_) => false,
    }
}

/// Nine containers that answer, and where each is.
async fn spread(ada: &Person, admin: &Person) -> (Vec<String>, BTreeMap<String, (String, bool)>) {
    let began = Instant::now();
    let mut made = Vec::new();
    for _ in 0..COUNT {
        let created = ada.ask("mutation { createContainer(input: {app: \"hello\", region: \"us-west-2\"}) { container { id } } }");
        made.push(created.await.text("/createContainer/container/id"));
    }
    for container in &made {
        until_within(MISSED, "it runs and answers", async || {
            answers(ada, container).await.then_some(())
        })
        .await;
    }
    took(
        &format!("{COUNT} containers asked for answer"),
        began.elapsed(),
    );
    let before = until("each is known to be on a host", async || {
        let placed = placed(admin).await;
        placed
            .values()
            .all(|(host, runs)| *runs && !host.is_empty())
            .then_some(placed)
    })
    .await;
    let used: BTreeSet<&String> = before.values().map(|(host, _)| host).collect();
    assert_eq!(used.len(), 3, "they are spread: {before:?}");
    (made, before)
}

async fn has_capacity_of_three(admin: &Person, cluster: &str) {
    let capacity = format!(
        "{{ cluster(id: \"{cluster}\") {{ capacity {{ hosts running cpuTakenMillis }} }} }}"
    );
    let capacity = admin.ask(&capacity).await.ok("/cluster/capacity");
    assert_eq!(
        capacity,
        json!({ "hosts": 3, "running": COUNT, "cpuTakenMillis": 250 * COUNT })
    );
}

/// The lost node comes back, and everything is removed.
async fn return_of(lost: &str, made: &[String], ada: &Person, admin: &Person) {
    start(3).await;
    until("the host is heard of again", async || {
        (nodes(admin).await[lost] == "HEALTHY").then_some(())
    })
    .await;
    for container in made {
        ada.delete(container).await;
    }
    for container in made {
        ada.container_in(container, "DELETED").await;
    }
}

#[tokio::test]
async fn a_lost_nodes_containers_are_told_of_and_run_elsewhere() {
    let ground = Ground::new()
        .await
        .with("RECONCILE_SECONDS", "1")
        .with("HOST_STALE_SECONDS", "10")
        .with("HOST_DEAD_SECONDS", "120");
    let serve = Process::start(&ground, "serve").await;
    let ada = serve.person().sign_up("ada").await;
    let admin = serve
        .person()
        .log_in("admin@localhost", ADMIN_PASSWORD)
        .await;
    let input = json!({ "name": "swarm", "region": "us-west-2", "provider": "swarm", "endpoint": hosts()[0] });
    let cluster = cluster_with(&admin, input).await;
    let three = until("its nodes are hosts", async || {
        let nodes = nodes(&admin).await;
        (nodes.len() == 3).then_some(nodes)
    })
    .await;
    assert!(
        three.values().all(|status| status == "HEALTHY"),
        "{three:?}"
    );

    let (made, before) = spread(&ada, &admin).await;
    has_capacity_of_three(&admin, &cluster).await;

    let lost = node_id(3).await;
    let of_lost: Vec<&String> = before
        .iter()
        .filter(|(_, (host, _))| *host == lost)
        .map(|(id, _)| id)
        .collect();
    let watched = of_lost[0];
    let mut socket = ada.socket().await;
    socket.subscribe(&format!("subscription {{ containerUpdated(id: \"{watched}\") {{ state ports {{ published }} }} }}")).await;
    socket.next().await.unwrap();
    fault("kill", 3).await;
    let began = Instant::now();
    let state = |frame: &Value| {
        frame["data"]["containerUpdated"]["state"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let told = socket.next().await.unwrap();
    took(
        "killed: its owner is told that nobody knows",
        began.elapsed(),
    );
    assert_eq!(state(&told), "UNKNOWN", "{told}");
    until("the host is not heard of", async || {
        (nodes(&admin).await[&lost] == "STALE").then_some(())
    })
    .await;
    loop {
        let frame = socket.next().await.unwrap();
        if state(&frame) == "RUNNING" {
            break;
        }
    }
    took(
        "killed: its owner is told that it runs again",
        began.elapsed(),
    );
    let after = until_within(MISSED, "all run elsewhere", async || {
        let placed = placed(&admin).await;
        placed
            .values()
            .all(|(host, runs)| *runs && *host != lost)
            .then_some(placed)
    })
    .await;
    took(
        &format!(
            "killed: all {} of its containers run elsewhere",
            of_lost.len()
        ),
        began.elapsed(),
    );
    assert_eq!(after.len(), COUNT);
    for container in &made {
        until_within(MISSED, "it answers where it is now", async || {
            answers(&ada, container).await.then_some(())
        })
        .await;
    }
    took("killed: all answer", began.elapsed());
    for (id, (host, _)) in &before {
        assert!(
            of_lost.contains(&id) || after[id].0 == *host,
            "what was elsewhere stays"
        );
    }

    return_of(&lost, &made, &ada, &admin).await;
    drop(serve);
    ground.clear().await;
}

/// A node of three is in service only while it is needed: for what is asked for, and for the least there has to be room for.
#[tokio::test]
async fn a_spare_node_serves_while_it_is_needed() {
    let manager = &hosts()[0];
    let spare = node_id(3).await;
    let label = [
        "node",
        "update",
        "--label-add",
        "main-webserver.spare=true",
        "--availability",
        "drain",
    ];
    docker(manager, &[&label[..], &[&spare]].concat()).await;
    let ground = Ground::new()
        .await
        .with("RECONCILE_SECONDS", "1")
        .with("SPARE_IDLE_SECONDS", "2");
    let serve = Process::start(&ground, "serve").await;
    let ada = serve.person().sign_up("ada").await;
    let admin = serve
        .person()
        .log_in("admin@localhost", ADMIN_PASSWORD)
        .await;
    let input = json!({ "name": "growing", "region": "us-west-2", "provider": "swarm", "endpoint": manager });
    let cluster = cluster_with(&admin, input).await;
    let is = async |status: &str| {
        until_within(MISSED, status, async || {
            (nodes(&admin).await.get(&spare).map(String::as_str) == Some(status)).then_some(())
        })
        .await;
    };
    is("DRAINING").await;

    // Each processor holds four of a quarter each; one more than two nodes hold has room on none that serves.
    let processors = docker(manager, &["info", "--format", "{{.NCPU}}"]).await;
    let count = processors.parse::<usize>().unwrap() * 4 * 2 + 1;
    let began = Instant::now();
    let mut made = Vec::new();
    for _ in 0..count {
        let created = ada.ask("mutation { createContainer(input: {app: \"hello\", region: \"us-west-2\"}) { container { id } } }");
        made.push(created.await.text("/createContainer/container/id"));
    }
    for container in &made {
        ada.container_in(container, "RUNNING").await;
    }
    took(
        &format!("{count} containers run on two nodes and a spare one"),
        began.elapsed(),
    );
    is("HEALTHY").await;
    for container in &made {
        ada.delete(container).await;
    }
    for container in &made {
        ada.container_in(container, "DELETED").await;
    }
    is("DRAINING").await;

    let bounds = async |min: usize| {
        let change = format!(
            "mutation {{ updateCluster(input: {{id: \"{cluster}\", minContainers: {min}}}) {{ cluster {{ id }} }} }}"
        );
        admin.ask(&change).await.ok("/updateCluster");
    };
    bounds(count).await;
    is("HEALTHY").await;
    bounds(0).await;
    is("DRAINING").await;
    let done = admin.ask("{ auditEvents(first: 20, filter: {action: {prefix: \"cluster.\"}}, orderBy: [{field: AT}]) { nodes { action } } }").await;
    let done = done.ok("/auditEvents/nodes").to_string();
    for action in ["cluster.grow", "cluster.shrink"] {
        assert_eq!(done.matches(action).count(), 2, "{done}");
    }

    drop(serve);
    let back = [
        "node",
        "update",
        "--label-rm",
        "main-webserver.spare",
        "--availability",
        "active",
    ];
    docker(manager, &[&back[..], &[&spare]].concat()).await;
    ground.clear().await;
}
