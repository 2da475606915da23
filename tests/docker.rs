//! A real Docker Engine: the conformance suite, containers end to end, a worker killed in the middle, and an agent.

mod agent;

mod fleet;

use std::{process::Stdio, sync::Arc};

use main_webserver::providers::Docker;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    harness::{Ground, HTTP, Person, process::Process, required, until},
    providers::{Images, conforms},
};

/// Runs the docker client on the test's engine.
async fn docker(arguments: &[&str]) -> String {
    let output = Command::new("docker")
        .args(["-H", &required("TEST_DOCKER_HOST")])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "docker {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `docker ps -a` shows with our label for this container.
async fn listed(container: &str) -> Vec<String> {
    let filter = format!("label=main-webserver.container={container}");
    docker(&[
        "ps",
        "-a",
        "--filter",
        &filter,
        "--format",
        "{{.Names}} {{.State}}",
    ])
    .await
    .lines()
    .map(str::to_owned)
    .collect()
}

async fn ground() -> Ground {
    let host = required("TEST_DOCKER_HOST");
    Ground::new()
        .await
        .with("PROVIDER", "docker")
        .with("DOCKER_HOST", &host)
}

async fn add_app(ground: &Ground, slug: &str, image: &str, command: &[&str]) {
    use main_webserver::{
        domain::{Entropy, SystemClock},
        store::{Store, apps, connection},
    };
    let db = connection::open(&ground.load()).await.unwrap();
    let (store, _) = Store::new(db, Arc::new(SystemClock), Arc::new(Entropy::from_os()));
    let mut tx = store.begin().await.unwrap();
    let app = apps::NewApp {
        slug: slug.to_owned(),
        name: slug.to_owned(),
        category: "Tests".to_owned(),
        description: "For tests.".to_owned(),
        image: image.to_owned(),
        images: std::collections::BTreeMap::new(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        ports: Vec::new(),
        cpu_millis: 100,
        memory_bytes: 32 << 20,
    };
    apps::insert(&mut tx, app).await.unwrap();
    tx.commit().await.unwrap();
}

async fn frames(person: &Person, operation: &str, fields: &str) -> Vec<Value> {
    let mut socket = person.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ it: {operation} {{ {fields} }} }}"
        ))
        .await;
    socket.rest("/it").await
}

#[tokio::test]
async fn the_docker_engine_conforms() {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let images = Images {
        serving: (
            "busybox:1.37",
            words(&["busybox", "httpd", "-f", "-p", "8080", "-h", "/bin"]),
        ),
        exiting: ("busybox:1.37", words(&["sh", "-c", "echo ending; exit 1"])),
        missing: "no-such-image-anywhere:1",
    };
    // `httpd` gives a directory no page of its own, so the suite's request needs an index.
    let serve = "mkdir -p /tmp/www; echo hello > /tmp/www/index.html; exec busybox httpd -f -p 8080 -h /tmp/www";
    let images = Images {
        serving: (images.serving.0, words(&["sh", "-c", serve])),
        ..images
    };
    conforms(Arc::new(Docker::at(&required("TEST_DOCKER_HOST"))), &images).await;
}

#[tokio::test]
async fn a_container_is_created_watched_used_and_removed() {
    let ground = ground().await;
    let (web, other_web) = (
        Process::start(&ground, "web").await,
        Process::start(&ground, "web").await,
    );
    let ada = web.person().sign_up("ada").await;
    let created = ada.create("hello").await;
    let mut socket = ada.moved_to(other_web.address.unwrap()).socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{}\") {{ state progress }} }}",
            created.task
        ))
        .await;
    assert_eq!(
        socket.next().await.unwrap()["data"]["taskUpdated"]["state"],
        "QUEUED"
    );
    let workers = [
        Process::start(&ground, "worker").await,
        Process::start(&ground, "worker").await,
    ];
    let seen = socket.rest("/taskUpdated").await;
    assert_eq!(seen.first().unwrap()["state"], "RUNNING");
    assert_eq!(
        seen.last().unwrap(),
        &json!({ "state": "SUCCEEDED", "progress": 100 })
    );
    assert!(
        seen.iter().any(|frame| frame["state"] == "RUNNING"
            && (1..100).contains(&frame["progress"].as_i64().unwrap())),
        "{seen:?}"
    );

    assert_eq!(
        listed(&created.container).await,
        [format!("main-{} running", created.container)]
    );
    let container = ada.container(&created.container).await;
    let port = container["ports"][0]["published"].as_u64().unwrap();
    let page = async || {
        HTTP.get(format!("http://127.0.0.1:{port}/"))
            .send()
            .await
            .ok()?
            .text()
            .await
            .ok()
    };
    let page = until("the published port answers", page).await;
    assert_eq!(
        page,
        format!("Hello from {} at 96 dpi\n", created.container)
    );
    let name = format!("main-{}", created.container);
    let inspected: Value = serde_json::from_str(&docker(&["inspect", &name]).await).unwrap();
    let (host, config) = (&inspected[0]["HostConfig"], &inspected[0]["Config"]);
    assert_eq!(
        (&host["Memory"], &host["NanoCpus"]),
        (&json!(64 << 20), &json!(250_000_000))
    );
    assert!(config["Env"].as_array().unwrap().contains(&json!(format!(
        "CONTAINER_SECRET_KEY={}",
        created.secret_key
    ))));

    ada.delete(&created.container).await;
    let states = frames(
        &ada,
        &format!("containerUpdated(id: \"{}\")", created.container),
        "state",
    )
    .await;
    assert_eq!(states.last().unwrap()["state"], "DELETED");
    assert!(listed(&created.container).await.is_empty());
    drop((workers, web, other_web));
    ground.clear().await;
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_a_creation_leaves_one_container() {
    let ground = ground().await.with("LEASE_SECONDS", "1");
    let web = Process::start(&ground, "web").await;
    // The health check passes a second after the start, so there is a middle at every progress.
    add_app(&ground, "healthy", "healthy:test", &[]).await;
    let ada = web.person().sign_up("ada").await;
    let mut worker = Process::start(&ground, "worker").await;
    for reached in [5, 60, 70, 80] {
        let created = ada.create("healthy").await;
        until("it is under way", async || {
            (ada.task(&created.task).await["progress"].as_i64()? >= reached).then_some(())
        })
        .await;
        worker.kill().await;
        worker = Process::start(&ground, "worker").await;
        ada.task_in(&created.task, "SUCCEEDED").await;
        assert_eq!(
            listed(&created.container).await,
            [format!("main-{} running", created.container)],
            "killed at {reached}"
        );
        ada.delete(&created.container).await;
        ada.container_in(&created.container, "DELETED").await;
        assert!(listed(&created.container).await.is_empty());
    }
    drop((web, worker));
    ground.clear().await;
}

#[tokio::test]
async fn health_decides_and_a_failure_says_why() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    add_app(&ground, "healthy", "healthy:test", &[]).await;
    add_app(&ground, "unhealthy", "unhealthy:test", &[]).await;
    add_app(
        &ground,
        "exits",
        "busybox:1.37",
        &["sh", "-c", "echo these are my last words; exit 3"],
    )
    .await;
    add_app(
        &ground,
        "wrong-command",
        "busybox:1.37",
        &["no-such-program"],
    )
    .await;
    let ada = serve.person().sign_up("ada").await;
    let healthy = ada.create("healthy").await;
    let done = ada.task_in(&healthy.task, "SUCCEEDED").await;
    let waited = done["logs"]
        .as_array()
        .unwrap()
        .iter()
        .any(|line| line["message"] == "waiting for its health check");
    assert!(
        waited && done["attempt"].as_i64().unwrap() > 1,
        "it was parked and woken: {done:#}"
    );
    for (app, code, words) in [
        ("unhealthy", "UNHEALTHY", "I am ill"),
        (
            "exits",
            "EXITED",
            "with code 3; it said last: these are my last words",
        ),
        ("wrong-command", "EXITED", "no-such-program"),
    ] {
        let created = ada.create(app).await;
        // One that ends soon after its start may have been seen running for a moment.
        let failure = ada.container_in(&created.container, "FAILED").await["failure"].clone();
        assert_eq!(failure["code"], code, "{failure}");
        assert!(
            failure["reason"].as_str().unwrap().contains(words),
            "{failure}"
        );
        let cleaned = async || listed(&created.container).await.is_empty().then_some(());
        until("what failed is cleaned away", cleaned).await;
    }
    ada.delete(&healthy.container).await;
    ada.container_in(&healthy.container, "DELETED").await;
    assert_eq!(serve.end("-INT").await.code(), Some(0));
    ground.clear().await;
}

#[tokio::test]
async fn an_engine_that_cannot_be_reached_is_tried_again_and_then_named() {
    let ground = ground().await.with("DOCKER_HOST", "unix:///no/such/socket");
    let serve = Process::start(&ground, "serve").await;
    let ada = serve.person().sign_up("ada").await;
    let created = ada.create("hello").await;
    let tried = async || {
        let task = ada.task(&created.task).await;
        (task["failures"].as_i64()? >= 1).then_some(task)
    };
    let task = until("it was tried", tried).await;
    assert_eq!(task["error"]["code"], "ENGINE_UNREACHABLE");
    drop(serve);
    ground.clear().await;
}
