//! Subscriptions: nothing missed, nothing invented, whichever process the change happens in.

use main_webserver::app::Role;
use serde_json::{Value, json};

use crate::harness::{QUICK, World, nap};

fn versions(frames: &[Value]) -> Vec<i64> {
    frames
        .iter()
        .map(|frame| frame["version"].as_i64().unwrap())
        .collect()
}

#[tokio::test]
async fn a_tasks_frames_go_from_queued_to_succeeded_with_growing_versions() {
    // The worker comes later, so that the first frame is the waiting task.
    if std::env::var("TEST_REDIS_URL").is_err() {
        return a_running_tasks_frames_grow().await;
    }
    let mut world = World::with(QUICK, &[Role::Web]).await;
    let ada = world.person("ada").await;
    let task = ada.demo(5, 5).await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state progress version result }} }}"
        ))
        .await;
    let first = socket.next().await.unwrap();
    assert_eq!(first["data"]["taskUpdated"]["state"], "QUEUED");
    world.add(Role::Worker).await;
    check(&socket.rest("/taskUpdated").await);
    world.stop().await;
}

async fn a_running_tasks_frames_grow() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(5, 30).await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state progress version result }} }}"
        ))
        .await;
    check(&socket.rest("/taskUpdated").await);
    world.stop().await;
}

fn check(frames: &[Value]) {
    assert!(versions(frames).is_sorted_by(|a, b| a < b), "{frames:#?}");
    let progress: Vec<i64> = frames
        .iter()
        .map(|frame| frame["progress"].as_i64().unwrap())
        .collect();
    assert!(progress.is_sorted(), "{progress:?}");
    let last = frames.last().unwrap();
    assert_eq!(
        (&last["state"], &last["progress"], &last["result"]),
        (&json!("SUCCEEDED"), &json!(100), &json!({ "steps": 5 }))
    );
}

#[tokio::test]
async fn every_line_of_a_log_comes_once_whenever_its_reader_comes_back() {
    const STEPS: u32 = 25;
    let world = World::start().await;
    let (ada, eve) = (world.person("ada").await, world.person("eve").await);
    let task = ada.demo(STEPS, 10).await;
    let words = |after: &str| {
        format!("subscription {{ taskLogAdded(id: \"{task}\"{after}) {{ cursor message }} }}")
    };
    // One reader stays to the end; another leaves after every portion and goes on from the last line it has.
    let mut socket = ada.socket().await;
    socket.subscribe(&words("")).await;
    let mut pieces = Vec::new();
    let mut after = String::new();
    loop {
        let mut socket = ada.socket().await;
        socket.subscribe(&words(&after)).await;
        let Some(frame) = socket.next().await else {
            break;
        };
        let lines = frame["data"]["taskLogAdded"].as_array().unwrap().clone();
        let cursor = lines.last().unwrap()["cursor"].as_str().unwrap().to_owned();
        after = format!(", after: \"{cursor}\"");
        pieces.extend(lines);
    }
    let portions = socket.rest("/taskLogAdded").await;
    let whole: Vec<Value> = portions
        .iter()
        .flat_map(|portion| portion.as_array().unwrap().clone())
        .collect();
    let query =
        format!("{{ task(id: \"{task}\") {{ state logs(first: 500) {{ cursor message }} }} }}");
    let reply = ada.ask(&query).await;
    let kept = reply.ok("/task/logs");
    assert_eq!(reply.text("/task/state"), "SUCCEEDED");
    assert!(whole.len() > STEPS as usize / 2, "{whole:?}");
    assert_eq!((&json!(whole), &json!(pieces)), (&kept, &kept));

    let malformed = "subscription { taskLogAdded(id: \"task_0\") { message } }";
    let mut socket = world.anonymous().socket().await;
    socket.subscribe(malformed).await;
    let frame = socket.next().await.unwrap();
    assert_eq!(frame["errors"][0]["extensions"]["code"], "UNAUTHENTICATED");
    for (person, after, code) in [
        (&eve, "", "NOT_FOUND"),
        (&world.anonymous(), "", "UNAUTHENTICATED"),
        (&ada, ", after: \"1\"", "BAD_USER_INPUT"),
    ] {
        let mut socket = person.socket().await;
        socket.subscribe(&words(after)).await;
        let frame = socket.next().await.unwrap();
        assert_eq!(frame["errors"][0]["extensions"]["code"], code, "{frame}");
    }
    world.stop().await;
}

#[tokio::test]
async fn every_subscriber_ends_at_the_newest_version_whenever_it_came() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(20, 10).await;
    let mut watchers = Vec::new();
    for _ in 0..8 {
        let mut socket = ada.socket().await;
        socket
            .subscribe(&format!(
                "subscription {{ taskUpdated(id: \"{task}\") {{ state version }} }}"
            ))
            .await;
        watchers.push(tokio::spawn(
            async move { socket.rest("/taskUpdated").await },
        ));
        nap(25).await;
    }
    let done = ada.task_in(&task, "SUCCEEDED").await;
    for watcher in watchers {
        let frames = watcher.await.unwrap();
        assert!(versions(&frames).is_sorted_by(|a, b| a < b));
        assert_eq!(frames.last().unwrap()["version"], done["version"]);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_containers_frames_follow_its_life_to_the_end() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let created = ada.create("hello").await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!("subscription {{ containerUpdated(id: \"{}\") {{ state version ports {{ inside }} }} }}", created.container))
        .await;
    let mut states = Vec::new();
    while let Some(frame) = socket.next().await {
        let container = &frame["data"]["containerUpdated"];
        states.push(container["state"].as_str().unwrap().to_owned());
        if container["state"] == "RUNNING" {
            assert_eq!(container["ports"], json!([{ "inside": 8080 }]));
            ada.delete(&created.container).await;
        }
    }
    states.dedup();
    let tail: Vec<&str> = states
        .iter()
        .map(String::as_str)
        .skip_while(|state| *state != "RUNNING")
        .collect();
    assert_eq!(tail, ["RUNNING", "DELETING", "DELETED"]);
    world.stop().await;
}

#[tokio::test]
async fn a_subscription_hears_of_changes_made_through_another_process() {
    if std::env::var("TEST_REDIS_URL").is_err() {
        // Without Redis there is one process only; the other tests here cover it.
        return;
    }
    let world = World::with(QUICK, &[Role::Web, Role::Web, Role::Worker, Role::Worker]).await;
    let ada = world.person("ada").await;
    let other = ada.moved_to(world.apps[1].address.unwrap());
    let task = ada.demo(10, 10).await;
    let mut socket = other.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state version }} }}"
        ))
        .await;
    let frames = socket.rest("/taskUpdated").await;
    assert_eq!(frames.last().unwrap()["state"], "SUCCEEDED");
    assert!(
        frames.len() > 3,
        "progress arrived as it happened: {frames:#?}"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_stopping_server_closes_its_sockets_with_a_reason() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(1, 300).await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state }} }}"
        ))
        .await;
    socket.next().await.unwrap();
    let stopping = tokio::spawn(world.stop());
    let end = async {
        loop {
            if let Err(end) = socket.hear().await {
                return end;
            }
        }
    };
    assert_eq!(
        end.await,
        (1001, "the server is restarting, connect again".to_owned())
    );
    stopping.await.unwrap();
}
