//! Lists and rows that are watched: as they are now, and again when they change for the one who watches.

use serde_json::{Value, json};

use crate::harness::{World, client::PASSWORD};

fn ids(frame: &Value) -> Vec<String> {
    let nodes = frame["data"]["containers"]["nodes"].as_array().unwrap();
    nodes
        .iter()
        .map(|node| node["id"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_list_changes_with_its_rows_and_with_nobody_elses() {
    let world = World::start().await;
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let mut socket = ada.socket().await;
    socket
        .subscribe("subscription { containers(filter: {state: {neq: DELETED}}) { totalCount nodes { id state app { slug } } } }")
        .await;
    let first = socket.next().await.unwrap();
    assert_eq!(first["data"]["containers"]["totalCount"], 0, "{first}");
    // Another's container is no change of this list; the next frame is about ada's own.
    let others = bob.create("hello").await;
    bob.container_in(&others.container, "RUNNING").await;
    let own = ada.create("hello").await;
    let mut frames = vec![socket.next().await.unwrap()];
    while frames.last().unwrap()["data"]["containers"]["nodes"][0]["state"] != "RUNNING" {
        frames.push(socket.next().await.unwrap());
    }
    for frame in &frames {
        assert_eq!(ids(frame), [own.container.as_str()], "{frame}");
        assert_eq!(
            frame["data"]["containers"]["nodes"][0]["app"]["slug"],
            "hello"
        );
    }
    assert!(
        frames.windows(2).all(|pair| pair[0] != pair[1]),
        "what has not changed is not sent: {frames:#?}"
    );
    ada.delete(&own.container).await.ok("");
    loop {
        let frame = socket.next().await.unwrap();
        if frame["data"]["containers"]["totalCount"] == 0 {
            break;
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watched_node_is_its_owners_alone() {
    let world = World::start().await;
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let own = ada.create("hello").await;
    let asked = format!(
        "subscription {{ node(id: \"{}\") {{ id ... on Container {{ state }} }} }}",
        own.container
    );
    let mut socket = ada.socket().await;
    socket.subscribe(&asked).await;
    loop {
        let frame = socket.next().await.unwrap();
        assert_eq!(frame["data"]["node"]["id"], json!(own.container));
        if frame["data"]["node"]["state"] == "RUNNING" {
            break;
        }
    }
    let mut others = bob.socket().await;
    others.subscribe(&asked).await;
    let refused = others.next().await.unwrap();
    assert_eq!(refused["data"]["node"], Value::Null, "{refused}");
    assert_eq!(refused["errors"][0]["extensions"]["code"], "NOT_FOUND");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_watched_list_hears_of_its_own_changes() {
    let world = World::start().await;
    let (ada, admin) = (world.person("ada").await, world.admin().await);
    let put = r#"mutation { putSchedule(input: {name: "nightly", kind: "noop", cron: "0 2 * * *"}) { schedule { id } } }"#;
    // The list, who watches it, and what changes it.
    let mut watched = Vec::new();
    for (list, person) in [
        ("schedules", &admin),
        ("users", &admin),
        ("loginEvents", &admin),
        ("apps", &ada),
        ("sessions", &ada),
    ] {
        let mut socket = person.socket().await;
        let query = format!("subscription {{ {list} {{ totalCount nodes {{ id }} }} }}");
        socket.subscribe(&query).await;
        let first = socket.next().await.unwrap();
        let count = first["data"][list]["totalCount"].as_u64();
        watched.push((list, socket, count.unwrap_or_else(|| panic!("{first}"))));
    }
    admin.ask(put).await.ok("");
    world.anonymous().sign_up("bob").await;
    world.add_app("another", "hello").await;
    ada.log_in(&ada.email, PASSWORD).await;
    for (list, mut socket, count) in watched {
        loop {
            let frame = socket.next().await.unwrap();
            let page = &frame["data"][list];
            assert_eq!(
                page["nodes"].as_array().unwrap().len() as u64,
                page["totalCount"]
            );
            if page["totalCount"] == count + 1 {
                break;
            }
        }
    }
    world.stop().await;
}
