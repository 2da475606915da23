//! Hosts: how a machine becomes one, what its silence means, and whose word counts.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use main_webserver::{
    app::{App, Role, Seams},
    domain::{Entropy, Id, SystemClock},
    providers::{Engine as _, Provider, Providers, Simulated},
};
use serde_json::{Value, json};

use crate::harness::{Ground, Person, QUICK, Reply, World, fleet, until};

/// A world with engines of hosts' own beside its own, and hosts that are soon missed.
async fn world_with_engines(endpoints: &[&str]) -> (World, HashMap<String, Arc<Simulated>>) {
    let ground = Ground::new()
        .await
        .with("HEARTBEAT_SECONDS", "1")
        .with("HOST_STALE_SECONDS", "2")
        .with("HOST_DEAD_SECONDS", "5")
        .with("RECONCILE_SECONDS", "1");
    let make = |seed| {
        Arc::new(Simulated::new(
            Arc::new(SystemClock),
            Arc::new(Entropy::seeded(seed)),
            QUICK,
        ))
    };
    let engines: HashMap<String, Arc<Simulated>> = endpoints
        .iter()
        .zip(100..)
        .map(|(at, seed)| ((*at).to_owned(), make(seed)))
        .collect();
    let mut world = World::on(ground, QUICK, &[]).await;
    let (default, others) = (world.engine.clone(), engines.clone());
    let open = move |name: &str, endpoint: Option<&str>| -> Option<Arc<dyn Provider>> {
        let engine: Arc<dyn Provider> = match endpoint {
            None => default.clone(),
            Some(at) => others.get(at)?.clone(),
        };
        (name == "simulated").then_some(engine)
    };
    let seams = Seams {
        providers: Some(Providers::opened_by(
            world.engine.clone(),
            world.machines.clone(),
            open,
        )),
        ..Seams::default()
    };
    world.apps.push(
        App::start(
            &world.ground.configuration().await,
            seams,
            Role::WebAndWorker,
        )
        .await
        .unwrap(),
    );
    (world, engines)
}

async fn register_at(
    world: &World,
    admin: &Person,
    cluster: &str,
    instance: &str,
    endpoint: &str,
) -> Person {
    const REGISTER: &str = "mutation($input: RegisterHostInput!) { registerHost(input: $input) { host { id status } credential } }";
    let token = fleet::invitation(admin, cluster).await;
    let input = json!({ "token": token, "instanceId": instance, "endpoint": endpoint, "cpuMillis": 1000, "memoryBytes": 1_i64 << 30, "agentVersion": "test" });
    let reply = world
        .anonymous()
        .send(REGISTER, json!({ "input": input }))
        .await;
    assert_eq!(reply.text("/registerHost/host/status"), "REGISTERED");
    let agent = Person {
        token: Some(reply.text("/registerHost/credential")),
        email: reply.text("/registerHost/host/id"),
        ..world.anonymous()
    };
    assert_eq!(
        fleet::beat(&agent, 1).await.text("/heartbeat/host/status"),
        "HEALTHY"
    );
    agent
}

async fn create(person: &Person) -> String {
    let created = person.ask("mutation { createContainer(input: {app: \"hello\", region: \"us-west-2\"}) { container { id } } }").await;
    let container = created.text("/createContainer/container/id");
    person.container_in(&container, "RUNNING").await;
    container
}

async fn host_of(admin: &Person, container: &str) -> Value {
    let query =
        format!("{{ container(id: \"{container}\") {{ state host {{ id }} generation }} }}");
    admin.ask(&query).await.ok("/container")
}

async fn status(admin: &Person, agent: &Person) -> String {
    let query = format!("{{ host(id: \"{}\") {{ status }} }}", agent.email);
    admin.ask(&query).await.text("/host/status")
}

async fn is(admin: &Person, agent: &Person, wanted: &str) {
    until(&format!("the host is {wanted}"), async || {
        (status(admin, agent).await == wanted).then_some(())
    })
    .await;
}

async fn report(agent: &Person, container: &str, report: &str, generation: i64) -> Reply {
    let text = format!(
        "mutation {{ reportContainer(input: {{id: \"{container}\", report: {report}, generation: {generation}, exitCode: 3, message: \"oh\"}}) {{ container {{ state generation failure {{ code reason }} lastPingAt }} }} }}"
    );
    agent.ask(&text).await
}

#[tokio::test]
async fn a_silent_host_is_stale_then_dead_and_its_containers_are_made_anew_elsewhere() {
    let (world, engines) = world_with_engines(&["tcp://one:1", "tcp://two:1"]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let cluster = fleet::cluster(&admin, "west", "us-west-2").await;
    let one = register_at(&world, &admin, &cluster, "one", "tcp://one:1").await;
    let container = create(&ada).await;
    assert_eq!(
        host_of(&admin, &container).await["host"]["id"],
        one.email.as_str()
    );
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ containerUpdated(id: \"{container}\") {{ state generation }} }}"
        ))
        .await;
    assert_eq!(
        socket.hear().await.unwrap()["payload"]["data"]["containerUpdated"]["state"],
        "RUNNING"
    );
    // It says nothing: nobody knows how its containers are, and their owner is told.
    is(&admin, &one, "STALE").await;
    let told = socket.hear().await.unwrap();
    assert_eq!(
        told["payload"]["data"]["containerUpdated"]["state"],
        "UNKNOWN"
    );
    // It is heard of again, and asked for its containers.
    let heard = fleet::beat(&one, 2).await;
    assert_eq!(
        (
            heard.text("/heartbeat/host/status"),
            heard.ok("/heartbeat/reportAll")
        ),
        ("HEALTHY".to_owned(), json!(true))
    );
    assert_eq!(
        report(&one, &container, "READY", 1)
            .await
            .text("/reportContainer/container/state"),
        "RUNNING"
    );
    assert_eq!(
        socket.hear().await.unwrap()["payload"]["data"]["containerUpdated"]["state"],
        "RUNNING"
    );
    // It falls silent for good, and another host is there.
    let two = register_at(&world, &admin, &cluster, "two", "tcp://two:1").await;
    let beating = two.clone();
    let beats = tokio::spawn(async move {
        for number in 2.. {
            fleet::beat(&beating, number).await;
            crate::harness::nap(300).await;
        }
    });
    is(&admin, &one, "DEAD").await;
    let moved = until("it runs on the other host", async || {
        let row = host_of(&admin, &container).await;
        (row["state"] == "RUNNING" && row["host"]["id"] == two.email.as_str()).then_some(row)
    })
    .await;
    assert_eq!(moved["generation"], 2);
    // The lost one comes back with what it had: that is removed there, and only there.
    let id = Id::parse(&container).unwrap();
    assert!(engines["tcp://one:1"].inspect(id).await.unwrap().is_some());
    let number = AtomicI64::new(3);
    until("the old one is removed", async || {
        fleet::beat(&one, number.fetch_add(1, Ordering::Relaxed)).await;
        engines["tcp://one:1"]
            .inspect(id)
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
    assert!(engines["tcp://two:1"].inspect(id).await.unwrap().is_some());
    assert_eq!(host_of(&admin, &container).await["state"], "RUNNING");
    beats.abort();
    world.stop().await;
}

#[tokio::test]
async fn a_dying_host_is_drained_and_then_dead() {
    let (world, _) = world_with_engines(&["tcp://one:1"]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let cluster = fleet::cluster(&admin, "west", "us-west-2").await;
    let one = register_at(&world, &admin, &cluster, "one", "tcp://one:1").await;
    let container = create(&ada).await;
    let dying = "mutation { heartbeat(input: {number: 9, cpuUsedMillis: 0, memoryAvailableBytes: 0, containers: 1, dying: true}) { host { status } } }";
    assert_eq!(
        one.ask(dying).await.text("/heartbeat/host/status"),
        "DRAINING"
    );
    ada.container_in(&container, "DELETED").await;
    is(&admin, &one, "DEAD").await;
    world.stop().await;
}

#[tokio::test]
async fn a_host_taken_out_of_service_stays_out_and_one_that_was_only_restarted_comes_back() {
    let (world, _) = world_with_engines(&["tcp://one:1"]).await;
    let admin = world.admin().await;
    let cluster = fleet::cluster(&admin, "west", "us-west-2").await;
    let one = register_at(&world, &admin, &cluster, "one", "tcp://one:1").await;
    let act = async |field: &str| {
        let text = format!(
            "mutation {{ {field}(input: {{id: \"{}\"}}) {{ host {{ status cordoned }} }} }}",
            one.email
        );
        admin.ask(&text).await
    };
    assert_eq!(
        act("drainHost").await.text("/drainHost/host/status"),
        "DRAINING"
    );
    is(&admin, &one, "DEAD").await;
    assert_eq!(act("drainHost").await.code(), "ILLEGAL_STATE");
    assert_eq!(
        fleet::beat(&one, 2).await.text("/heartbeat/host/status"),
        "DEAD"
    );
    assert_eq!(
        act("activateHost").await.ok("/activateHost/host/cordoned"),
        false
    );
    assert_eq!(
        fleet::beat(&one, 3).await.text("/heartbeat/host/status"),
        "HEALTHY"
    );
    let dying = "mutation { heartbeat(input: {number: 4, cpuUsedMillis: 0, memoryAvailableBytes: 0, containers: 1, dying: true}) { host { status } } }";
    one.ask(dying).await.ok("/heartbeat");
    is(&admin, &one, "DEAD").await;
    assert_eq!(
        fleet::beat(&one, 5).await.text("/heartbeat/host/status"),
        "HEALTHY"
    );
    // Registered anew, it has another credential, and what the former one has opened ends.
    let mut socket = one.socket().await;
    socket
        .subscribe("subscription { hostCommands { id } }")
        .await;
    socket.hear().await.unwrap();
    register_at(&world, &admin, &cluster, "one", "tcp://one:1").await;
    assert_eq!(socket.hear().await.unwrap_err().0, 4403);
    world.stop().await;
}

#[tokio::test]
async fn hosts_share_what_comes_by_their_room() {
    let (world, _) = world_with_engines(&["tcp://one:1", "tcp://two:1"]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let cluster = fleet::cluster(&admin, "west", "us-west-2").await;
    let one = register_at(&world, &admin, &cluster, "one", "tcp://one:1").await;
    let two = register_at(&world, &admin, &cluster, "two", "tcp://two:1").await;
    let beating = [one.clone(), two.clone()];
    let beats = tokio::spawn(async move {
        for number in 2.. {
            for agent in &beating {
                fleet::beat(agent, number).await;
            }
            crate::harness::nap(300).await;
        }
    });
    let mut on: HashMap<String, usize> = HashMap::new();
    for _ in 0..6 {
        let host = host_of(&admin, &create(&ada).await).await;
        *on.entry(host["host"]["id"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert_eq!(
        on,
        HashMap::from([(one.email.clone(), 3), (two.email.clone(), 3)])
    );
    // Four of 250 thousandths fill a processor; a ninth waits.
    create(&ada).await;
    create(&ada).await;
    let ninth = ada.ask("mutation { createContainer(input: {app: \"hello\", region: \"us-west-2\"}) { task { id } } }").await;
    let waiting = ada
        .task_in(&ninth.text("/createContainer/task/id"), "WAITING")
        .await;
    assert_eq!(
        waiting["attempt"].as_i64().map(|attempt| attempt > 0),
        Some(true)
    );
    beats.abort();
    world.stop().await;
}

#[tokio::test]
async fn a_token_is_spent_once_and_a_credential_counts_for_its_host_only() {
    let (world, _) = world_with_engines(&["tcp://one:1", "tcp://two:1"]).await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let cluster = fleet::cluster(&admin, "west", "us-west-2").await;
    let token = fleet::invitation(&admin, &cluster).await;
    let register = async |token: &str, instance: &str| {
        let text = format!(
            "mutation {{ registerHost(input: {{token: \"{token}\", instanceId: \"{instance}\", cpuMillis: 1, memoryBytes: 1}}) {{ credential }} }}"
        );
        world.anonymous().ask(&text).await
    };
    let first = register(&token, "x").await.text("/registerHost/credential");
    // The same machine may have missed the answer; another may not have the token.
    let again = register(&token, "x").await.text("/registerHost/credential");
    assert_ne!(first, again);
    let of = |credential: &str| Person {
        token: Some(credential.to_owned()),
        ..world.anonymous()
    };
    assert_eq!(fleet::beat(&of(&first), 1).await.code(), "UNAUTHENTICATED");
    assert_eq!(register(&token, "y").await.code(), "UNAUTHENTICATED");
    fleet::beat(&of(&again), 1).await.ok("/heartbeat");
    // It has been heard of, so nothing was missed.
    for stolen in [token.as_str(), "", "guess"] {
        assert_eq!(register(stolen, "x").await.code(), "UNAUTHENTICATED");
    }
    let one = register_at(&world, &admin, &cluster, "one", "tcp://one:1").await;
    let container = create(&ada).await;
    let two = register_at(&world, &admin, &cluster, "two", "tcp://two:1").await;
    // Another host's credential reaches nothing of this one.
    assert_eq!(
        report(&two, &container, "EXITED", 1).await.code(),
        "NOT_FOUND"
    );
    let seen = two
        .ask("{ containers { totalCount } hosts { nodes { id } } }")
        .await;
    assert_eq!(
        (
            seen.ok("/containers/totalCount"),
            seen.text("/hosts/nodes/0/id")
        ),
        (json!(0), two.email.clone())
    );
    // A late heartbeat changes nothing.
    fleet::beat(&one, 50).await.ok("/heartbeat");
    let late = fleet::beat(&one, 49).await;
    assert_eq!(late.ok("/heartbeat/accepted"), false);
    // A report of an older time changes nothing; one of now does.
    assert_eq!(
        report(&one, &container, "EXITED", 0)
            .await
            .text("/reportContainer/container/state"),
        "RUNNING"
    );
    let ping = report(&one, &container, "CONNECTED", 1).await;
    assert!(ping.ok("/reportContainer/container/lastPingAt").is_string());
    let ended = report(&one, &container, "EXITED", 1)
        .await
        .ok("/reportContainer/container");
    assert_eq!(
        (&ended["state"], &ended["failure"]["code"]),
        (&json!("FAILED"), &json!("EXITED"))
    );
    // Another credential takes the place of the first, which counts a while longer; a revoked one ends everything open.
    let rotated = one
        .ask("mutation { rotateHostCredential { credential } }")
        .await
        .text("/rotateHostCredential/credential");
    let renewed = Person {
        token: Some(rotated),
        ..one.clone()
    };
    assert_eq!(
        fleet::beat(&renewed, 51).await.ok("/heartbeat/accepted"),
        true
    );
    assert_eq!(fleet::beat(&one, 52).await.ok("/heartbeat/accepted"), true);
    let mut socket = renewed.socket().await;
    socket
        .subscribe("subscription { hostCommands { id } }")
        .await;
    assert_eq!(
        socket.hear().await.unwrap()["payload"]["data"]["hostCommands"],
        json!([])
    );
    let revoke = format!(
        "mutation {{ revokeHost(input: {{id: \"{}\"}}) {{ host {{ id }} }} }}",
        one.email
    );
    admin.ask(&revoke).await.ok("/revokeHost");
    assert_eq!(socket.hear().await.unwrap_err().0, 4403);
    assert_eq!(fleet::beat(&renewed, 53).await.code(), "UNAUTHENTICATED");
    for person in [&ada, &admin] {
        assert_eq!(fleet::beat(person, 54).await.code(), "FORBIDDEN");
    }
    assert_eq!(
        fleet::beat(&world.anonymous(), 54).await.code(),
        "UNAUTHENTICATED"
    );
    world.stop().await;
}

#[tokio::test]
async fn what_a_cluster_is_told_is_done_by_each_of_its_hosts() {
    let (world, _) = world_with_engines(&["tcp://one:1", "tcp://two:1"]).await;
    let admin = world.admin().await;
    let cluster = fleet::cluster(&admin, "west", "us-west-2").await;
    let tell = async |more: &str| {
        let text = format!(
            "mutation {{ sendClusterCommand(input: {{id: \"{cluster}\", {more}}}) {{ task {{ id }} }} }}"
        );
        admin.ask(&text).await
    };
    let lonely = tell("command: DIAGNOSE")
        .await
        .text("/sendClusterCommand/task/id");
    assert_eq!(
        admin.task_in(&lonely, "FAILED").await["error"]["code"],
        "NO_HOSTS"
    );
    let one = register_at(&world, &admin, &cluster, "one", "tcp://one:1").await;
    let two = register_at(&world, &admin, &cluster, "two", "tcp://two:1").await;
    for wrong in [
        "command: PULL_IMAGE",
        "command: DIAGNOSE, argument: \"x\"",
        "command: PULL_IMAGE, argument: \"\"",
    ] {
        let reply = tell(wrong).await;
        assert_eq!(
            (reply.code(), reply.field()),
            ("BAD_USER_INPUT", Some("argument")),
            "{wrong}"
        );
    }
    let mut socket = one.socket().await;
    socket
        .subscribe("subscription { hostCommands { id command argument } }")
        .await;
    assert_eq!(
        socket.hear().await.unwrap()["payload"]["data"]["hostCommands"],
        json!([])
    );
    let task = tell("command: PULL_IMAGE, argument: \"app:2\"")
        .await
        .text("/sendClusterCommand/task/id");
    let pushed = socket.hear().await.unwrap()["payload"]["data"]["hostCommands"].clone();
    assert_eq!(
        (&pushed[0]["command"], &pushed[0]["argument"]),
        (&json!("PULL_IMAGE"), &json!("app:2"))
    );
    let by_beat = fleet::beat(&two, 2).await.ok("/heartbeat/commands");
    let done = async |agent: &Person, id: &Value, succeeded: bool| {
        let text = format!(
            "mutation {{ reportCommand(input: {{id: {id}, succeeded: {succeeded}, output: \"said\"}}) {{ ok }} }}"
        );
        agent.ask(&text).await
    };
    assert_eq!(
        done(&two, &pushed[0]["id"], true).await.code(),
        "NOT_FOUND",
        "it is another's"
    );
    done(&one, &pushed[0]["id"], true)
        .await
        .ok("/reportCommand/ok");
    assert_eq!(
        done(&one, &pushed[0]["id"], true).await.code(),
        "NOT_FOUND",
        "it has told"
    );
    done(&two, &by_beat[0]["id"], false)
        .await
        .ok("/reportCommand/ok");
    let failed = admin.task_in(&task, "FAILED").await;
    assert_eq!(failed["error"]["code"], "COMMAND_FAILED");
    assert!(
        failed["error"]["message"]
            .as_str()
            .unwrap()
            .contains("1 of 2 hosts"),
        "{failed}"
    );
    world.stop().await;
}
