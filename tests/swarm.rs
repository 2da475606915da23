//! Real swarms: the conformance suite on one node, and three nodes of which one is cut off and one is killed.

mod service;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use main_webserver::{
    domain::{Entropy, Id, id::Container},
    providers::{Engine as _, Instance, NodeHealth, Provider, Spec, Start, Status, Swarm},
};
use tokio::{process::Command, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    harness::{HTTP, required, until, until_within},
    providers::{Images, address, conforms, spec},
};

const IMAGE: &str = "busybox:1.37";
const SERVE: &str = "mkdir -p /tmp/www; echo hello > /tmp/www/index.html; exec busybox httpd -f -p 8080 -h /tmp/www";
/// A node is missed after three heartbeats of 2 s.
const MISSED: Duration = Duration::from_secs(30);

/// The times are what the run of these tests is read for.
#[expect(clippy::print_stdout, reason = "shown by the test's runner")]
fn say(what: &str) {
    println!("{what}");
}

fn took(what: &str, time: Duration) {
    say(&format!("{what} after {} ms", time.as_millis()));
}

fn shell(script: &str) -> (&'static str, Vec<String>) {
    (IMAGE, ["sh", "-c", script].map(str::to_owned).to_vec())
}

/// The sockets of the three engines; the first is the manager's.
fn hosts() -> Vec<String> {
    let hosts = required("TEST_SWARM_HOSTS");
    hosts.split(',').map(str::to_owned).collect()
}

async fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{program} {arguments:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn docker(host: &str, arguments: &[&str]) -> String {
    run("docker", &[&["-H", host], arguments].concat()).await
}

/// Does something to the node of a number, from 1: `cut`, `mend`, `kill`.
async fn fault(what: &str, number: usize) {
    run(&required("TEST_SWARM_FAULT"), &[what, &number.to_string()]).await;
}

/// Starts a killed node again.
pub async fn start(number: usize) {
    let id = restarted(number).await;
    healthy_within(&*swarm().await, &id, NodeHealth::Ready).await;
}

async fn restarted(number: usize) -> String {
    fault("start", number).await;
    until_within(MISSED, "the engine answers", async || {
        let host = &hosts()[number - 1];
        let told = Command::new("docker")
            .args(["-H", host, "info", "--format", "{{.Swarm.NodeID}}"])
            .stderr(Stdio::null())
            .output();
        let told = told.await.unwrap();
        let id = String::from_utf8(told.stdout).unwrap().trim().to_owned();
        (told.status.success() && !id.is_empty()).then_some(id)
    })
    .await
}

/// The id a node has in the swarm.
async fn node_id(number: usize) -> String {
    let host = &hosts()[number - 1];
    docker(host, &["info", "--format", "{{.Swarm.NodeID}}"]).await
}

async fn swarm() -> Arc<Swarm> {
    let swarm = Arc::new(Swarm::at(&hosts()[0]));
    let said = swarm.ping().await.unwrap();
    assert!(said.ends_with("manager of 3 nodes"), "{said}");
    swarm
}

async fn ensured(swarm: &Swarm, spec: &Spec) -> Instance {
    swarm.ensure(spec, &CancellationToken::new()).await.unwrap()
}

async fn ready(swarm: &Swarm, id: Id<Container>) -> Instance {
    until_within(MISSED, "it is ready", async || {
        let found = swarm.inspect(id).await.unwrap()?;
        (found.status == Status::Ready).then_some(found)
    })
    .await
}

async fn health(swarm: &Swarm, node: &str) -> NodeHealth {
    let nodes = swarm.nodes().await.unwrap().unwrap();
    nodes.iter().find(|found| found.id == node).unwrap().health
}

async fn healthy_within(swarm: &Swarm, node: &str, expected: NodeHealth) {
    until_within(MISSED, "the node is said to be so", async || {
        (health(swarm, node).await == expected).then_some(())
    })
    .await;
}

async fn answers(instance: &Instance) -> bool {
    let request = HTTP.get(address(instance)).timeout(Duration::from_secs(2));
    request.send().await.is_ok_and(|page| page.status() == 200)
}

/// Twelve that serve, all ready and answering, and how they are spread.
async fn twelve(swarm: &Swarm) -> BTreeMap<Id<Container>, Instance> {
    let (entropy, begun) = (Entropy::from_os(), Instant::now());
    let specs: Vec<Spec> = (0..12).map(|_| spec(&entropy, &shell(SERVE))).collect();
    join_all(specs.iter().map(|spec| ensured(swarm, spec))).await;
    let mut made = BTreeMap::new();
    for spec in &specs {
        let instance = ready(swarm, spec.container).await;
        until("its port answers", async || {
            answers(&instance).await.then_some(())
        })
        .await;
        made.insert(spec.container, instance);
    }
    took("12 containers answer", begun.elapsed());
    for node in swarm.nodes().await.unwrap().unwrap() {
        let here = made
            .values()
            .filter(|instance| instance.node.as_ref() == Some(&node.id))
            .count();
        say(&format!(
            "{}: {:?}, {here} containers",
            node.name, node.health
        ));
        assert_eq!(here > 0, node.health == NodeHealth::Ready, "{made:?}");
    }
    made
}

/// What the swarm's list has of these.
async fn listed(swarm: &Swarm, of: &BTreeMap<Id<Container>, Instance>) -> Vec<Instance> {
    let mut all = swarm.list().await.unwrap();
    all.retain(|instance| of.contains_key(&instance.id));
    all
}

async fn remove_all(swarm: &Swarm, made: &BTreeMap<Id<Container>, Instance>) {
    let begun = Instant::now();
    let removals = made.keys().map(|id| swarm.remove(*id, Duration::ZERO));
    for removed in join_all(removals).await {
        removed.unwrap();
    }
    took("all removed", begun.elapsed());
    assert!(listed(swarm, made).await.is_empty());
}

/// Loses a node by `what` and waits until every container answers from another, with what is told meanwhile.
async fn lose(
    swarm: &Arc<Swarm>,
    made: &BTreeMap<Id<Container>, Instance>,
    what: &str,
    number: usize,
) {
    let node = node_id(number).await;
    let lost: BTreeSet<Id<Container>> = made
        .iter()
        .filter(|(_, instance)| instance.node.as_ref() == Some(&node))
        .map(|(id, _)| *id)
        .collect();
    let mut events = swarm.events();
    let expected = lost.clone();
    let told = tokio::spawn(async move {
        let mut missing = expected;
        while !missing.is_empty() {
            missing.remove(&events.next().await.unwrap().id);
        }
        Instant::now()
    });
    fault(what, number).await;
    let begun = Instant::now();
    let missed = async || {
        let all = listed(swarm, made).await;
        assert_eq!(all.len(), made.len());
        let is_lost = |i: &&Instance| lost.contains(&i.id) && i.status != Status::Ready;
        let unready = all.iter().filter(is_lost).count();
        (unready > 0).then(|| (unready, begun.elapsed()))
    };
    let (unready, after) = until_within(MISSED, "the loss is missed", missed).await;
    took(
        &format!("{what}: {unready} of {} no longer ready", lost.len()),
        after,
    );
    healthy_within(swarm, &node, NodeHealth::Down).await;
    took(&format!("{what}: the node is down"), begun.elapsed());
    let replaced = async || {
        let all = listed(swarm, made).await;
        let is_well = |i: &Instance| i.status == Status::Ready && i.node.as_ref() != Some(&node);
        all.iter().all(is_well).then_some(all)
    };
    let all = until_within(MISSED, "all are ready on other nodes", replaced).await;
    took(&format!("{what}: all are ready elsewhere"), begun.elapsed());
    for instance in &all {
        assert_eq!(made[&instance.id].handle, instance.handle);
        let answered = async || answers(instance).await.then_some(());
        until("its new port answers", answered).await;
        let inspected = swarm.inspect(instance.id).await.unwrap().unwrap();
        assert_eq!(
            (&inspected.node, &inspected.ports),
            (&instance.node, &instance.ports)
        );
    }
    took(&format!("{what}: all answer"), begun.elapsed());
    let told = told.await.unwrap();
    took(&format!("{what}: events told of all"), told - begun);
}

#[tokio::test]
async fn a_swarm_of_one_node_conforms() {
    let images = Images {
        serving: shell(SERVE),
        exiting: shell("echo ending; exit 1"),
        missing: "no-such-image-anywhere:1",
    };
    conforms(Arc::new(Swarm::at(&required("TEST_SWARM_ALONE"))), &images).await;
}

/// The engine that has six ports to give away.
#[tokio::test]
async fn an_engine_without_a_port_left_is_full_until_one_is_given_back() {
    let (engine, entropy) = (
        main_webserver::providers::Docker::at(&required("TEST_SWARM_ALONE")),
        Entropy::from_os(),
    );
    let go = CancellationToken::new();
    let mut made = Vec::new();
    let refused = loop {
        assert!(made.len() < 20, "the ports do not end");
        let spec = spec(&entropy, &shell(SERVE));
        match engine.ensure(&spec, &go).await {
            Ok(_) => made.push(spec),
            Err(error) => break (spec, error),
        }
    };
    say(&format!("{} containers, then: {}", made.len(), refused.1));
    assert_eq!(
        (refused.1.code(), refused.1.is_retryable()),
        ("ENGINE_FULL", true),
        "{}",
        refused.1
    );
    let first = made.remove(0);
    engine
        .remove(first.container, Duration::ZERO)
        .await
        .unwrap();
    // The same one fits now, though its first attempt left something behind.
    let found = engine.ensure(&refused.0, &go).await.unwrap();
    assert_eq!(found.ports.len(), 1);
    for spec in made.iter().chain([&refused.0]) {
        engine.remove(spec.container, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test]
async fn nodes_are_lost_and_what_they_had_is_placed_anew() {
    let swarm = swarm().await;
    let made = twelve(&swarm).await;

    let cut = node_id(2).await;
    let running = async || docker(&hosts()[1], &["ps", "-q"]).await.lines().count();
    let before = running().await;
    lose(&swarm, &made, "cut", 2).await;
    assert_eq!(running().await, before, "what is cut off goes on, unheard");
    fault("mend", 2).await;
    let begun = Instant::now();
    healthy_within(&swarm, &cut, NodeHealth::Ready).await;
    took("mended: the node is ready", begun.elapsed());
    let ended = async || (running().await == 0).then_some(());
    until("nothing runs twice", ended).await;
    took("mended: nothing runs twice", begun.elapsed());
    remove_all(&swarm, &made).await;

    let made = twelve(&swarm).await;
    lose(&swarm, &made, "kill", 3).await;
    // A node that does not answer holds no removal up.
    remove_all(&swarm, &made).await;
    start(3).await;
}

#[tokio::test]
async fn a_drained_node_gives_away_what_it_has() {
    let (swarm, manager) = (swarm().await, &hosts()[0]);
    let spec = spec(&Entropy::from_os(), &shell(SERVE));
    ensured(&swarm, &spec).await;
    let before = ready(&swarm, spec.container).await.node.unwrap();
    let availability = async |availability: &str| {
        docker(
            manager,
            &["node", "update", "--availability", availability, &before],
        )
        .await
    };
    availability("drain").await;
    assert_eq!(health(&swarm, &before).await, NodeHealth::Draining);
    let moved = async || {
        let found = swarm.inspect(spec.container).await.unwrap()?;
        (found.status == Status::Ready && found.node.as_ref() != Some(&before)).then_some(found)
    };
    let found = until("it is ready on another", moved).await;
    until("it answers there", async || {
        answers(&found).await.then_some(())
    })
    .await;
    availability("active").await;
    healthy_within(&swarm, &before, NodeHealth::Ready).await;
    swarm.remove(spec.container, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_fits_nowhere_says_so_until_a_node_takes_it() {
    let (swarm, manager) = (swarm().await, &hosts()[0]);
    let (entropy, go) = (Entropy::from_os(), CancellationToken::new());
    let large = Spec {
        cpu_millis: 64_000,
        ..spec(&entropy, &shell(SERVE))
    };
    let blue = Spec {
        cluster: Some("blue".to_owned()),
        ..spec(&entropy, &shell(SERVE))
    };
    for spec in [&large, &blue] {
        let error = swarm.ensure(spec, &go).await.unwrap_err();
        assert_eq!(
            (error.code(), error.is_retryable()),
            ("ENGINE_FULL", true),
            "{error}"
        );
    }
    swarm.remove(large.container, Duration::ZERO).await.unwrap();
    let node = node_id(2).await;
    let label = "main-webserver.cluster=blue";
    docker(manager, &["node", "update", "--label-add", label, &node]).await;
    assert_eq!(ready(&swarm, blue.container).await.node, Some(node.clone()));
    let nodes = swarm.nodes().await.unwrap().unwrap();
    let labelled: Vec<_> = nodes
        .iter()
        .filter(|found| found.cluster.is_some())
        .collect();
    assert_eq!(labelled.len(), 1);
    assert_eq!(
        (&labelled[0].id, labelled[0].cluster.as_deref()),
        (&node, Some("blue"))
    );
    assert!(
        nodes
            .iter()
            .all(|node| node.cpu_millis > 0 && node.memory_bytes > 0)
    );
    swarm.remove(blue.container, Duration::ZERO).await.unwrap();
    docker(
        manager,
        &[
            "node",
            "update",
            "--label-rm",
            "main-webserver.cluster",
            &node,
        ],
    )
    .await;
}

#[tokio::test]
async fn a_log_goes_on_through_a_restart_and_ends_with_its_container() {
    let swarm = swarm().await;
    let say = r#"echo "begun with $TEMPLATE"; echo "an error" >&2; sleep 4; echo "dying"; exit 1"#;
    let mut spec = spec(&Entropy::from_os(), &shell(say));
    spec.env
        .push(("TEMPLATE".to_owned(), "{{.Node.ID}} {{".to_owned()));
    ensured(&swarm, &spec).await;
    ready(&swarm, spec.container).await;
    let mut said = swarm.follow(spec.container, Start::Last(10));
    let mut texts = Vec::new();
    while texts
        .iter()
        .filter(|text| *text == "begun with {{.Node.ID}} {{")
        .count()
        < 2
    {
        let line = tokio::time::timeout(MISSED, said.next())
            .await
            .unwrap()
            .unwrap();
        assert!(line.at.is_some());
        assert_eq!(line.is_error, line.text == "an error");
        texts.push(line.text);
    }
    assert!(texts.iter().any(|text| text == "dying"), "{texts:?}");
    let last = swarm.logs(spec.container, 1).await.unwrap();
    assert_eq!(last.len(), 1, "{last:?}");
    swarm.remove(spec.container, Duration::ZERO).await.unwrap();
    let rest = tokio::time::timeout(MISSED, said.count()).await;
    assert!(rest.is_ok(), "the log ends with its container");
}

#[tokio::test]
async fn a_new_generation_takes_the_place_of_the_old() {
    let swarm = swarm().await;
    let first = spec(&Entropy::from_os(), &shell(SERVE));
    let before = ensured(&swarm, &first).await;
    let second = Spec {
        generation: 2,
        ..first.clone()
    };
    let after = ensured(&swarm, &second).await;
    assert_eq!((before.generation, after.generation), (1, 2));
    assert_eq!(after.deployment.as_deref(), Some("conformance"));
    assert_ne!(before.handle, after.handle);
    assert_eq!(ensured(&swarm, &second).await.handle, after.handle);
    swarm.remove(first.container, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn an_engine_that_is_no_manager_says_how_to_make_it_one() {
    let worker = Swarm::at(&hosts()[1]);
    let error = worker.ping().await.unwrap_err();
    assert!(error.to_string().contains("docker swarm init"), "{error}");
    assert_eq!(error.code(), "ENGINE_REJECTED");
    // Not yet reached, it has nothing to tell, and says so by ending.
    let nowhere = Swarm::at("unix:///no/such/socket");
    assert_eq!(
        nowhere.ping().await.unwrap_err().code(),
        "ENGINE_UNREACHABLE"
    );
    assert!(nowhere.events().next().await.is_none());
}
