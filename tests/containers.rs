//! Containers from asking to being gone, and everything that can be asked wrongly.

use std::{sync::Arc, time::Duration};

use main_webserver::{
    app::Role,
    domain::{Id, id::Container},
    providers::{Engine as _, Faults, Provider as _, Spec},
    queue::{Dispatcher, MemoryQueue, Sweeper},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::harness::{HTTP, QUICK, World, nap, until};

#[tokio::test]
async fn a_container_comes_up_answers_and_goes() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let created = ada.create("hello").await;
    let task = ada.task_in(&created.task, "SUCCEEDED").await;
    assert_eq!(task["progress"], 100);
    let container = ada.container(&created.container).await;
    assert_eq!(container["state"], "RUNNING");
    let port = container["ports"][0]["published"].as_u64().unwrap();
    let page = HTTP
        .get(format!("http://127.0.0.1:{port}/"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(page.contains(&created.container), "{page}");
    let deleted = ada.delete(&created.container).await;
    assert_eq!(deleted.text("/deleteContainer/container/state"), "DELETING");
    ada.container_in(&created.container, "DELETED").await;
    assert!(world.engine.list().await.unwrap().is_empty());
    assert!(
        HTTP.get(format!("http://127.0.0.1:{port}/"))
            .send()
            .await
            .is_err()
    );
    world.stop().await;
}

#[tokio::test]
async fn the_secret_key_is_the_containers_own_and_shown_once() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let ask = async || {
        ada.send(
            "mutation($input: CreateContainerInput!) { createContainer(input: $input) { secretKey container { id } task { id } } }",
            json!({ "input": { "app": "hello", "region": "us-east-1", "idempotencyKey": "once" } }),
        )
        .await
    };
    let (first, again) = (ask().await, ask().await);
    let id = Id::<Container>::parse(&first.text("/createContainer/container/id")).unwrap();
    let keyring = world.keyring();
    assert_eq!(
        first.text("/createContainer/secretKey"),
        keyring.container_key(id)
    );
    assert_eq!(again.ok("/createContainer/secretKey"), json!(null));
    assert_eq!(
        first.ok("/createContainer/task"),
        again.ok("/createContainer/task")
    );
    assert_eq!(
        first.ok("/createContainer/container"),
        again.ok("/createContainer/container")
    );
    world.stop().await;
}

#[tokio::test]
async fn an_idempotency_key_of_another_request_is_a_conflict() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let ask = async |app: &str, dpi: i32| {
        ada.send(
            "mutation($input: CreateContainerInput!) { createContainer(input: $input) { container { id } } }",
            json!({ "input": { "app": app, "region": "us-east-1", "dpi": dpi, "idempotencyKey": "k" } }),
        )
        .await
    };
    ask("hello", 96).await.ok("/createContainer/container");
    assert_eq!(ask("hello", 120).await.code(), "CONFLICT");
    assert_eq!(ask("missing-app", 96).await.code(), "CONFLICT");
    let demo = ada
        .ask("mutation { startDemoTask(input: { idempotencyKey: \"k\" }) { task { id } } }")
        .await;
    assert_eq!(demo.code(), "CONFLICT");
    // Keys are each person's own.
    let bob = world.person("bob").await;
    let theirs = bob.ask("mutation { startDemoTask(input: { steps: 1, stepMillis: 0, idempotencyKey: \"k\" }) { task { id } } }");
    theirs.await.ok("/startDemoTask/task/id");
    world.stop().await;
}

#[tokio::test]
async fn bad_input_is_named() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    for (input, field) in [
        (json!({ "app": "nope", "region": "us-east-1" }), "app"),
        (json!({ "app": "Not A Slug", "region": "us-east-1" }), "app"),
        (json!({ "app": "hello", "region": "mars-1" }), "region"),
        (json!({ "app": "hello", "region": "" }), "region"),
        (
            json!({ "app": "hello", "region": "us-east-1", "dpi": 47 }),
            "dpi",
        ),
        (
            json!({ "app": "hello", "region": "us-east-1", "dpi": 65_632 }),
            "dpi",
        ),
        (
            json!({ "app": "hello", "region": "us-east-1", "dpi": -1 }),
            "dpi",
        ),
        (
            json!({ "app": "hello", "region": "us-east-1", "idempotencyKey": "" }),
            "idempotencyKey",
        ),
        (
            json!({ "app": "hello", "region": "us-east-1", "idempotencyKey": "a b" }),
            "idempotencyKey",
        ),
    ] {
        const CREATE: &str = "mutation($input: CreateContainerInput!) { createContainer(input: $input) { task { id } } }";
        let reply = ada.send(CREATE, json!({ "input": input })).await;
        assert_eq!(
            (reply.code(), reply.field()),
            ("BAD_USER_INPUT", Some(field)),
            "{input}"
        );
    }
    for wrong in [
        "first: 101",
        "first: -1",
        "last: 101",
        "first: 1, last: 1",
        "after: \"x\"",
    ] {
        assert_eq!(
            ada.ask(&format!("{{ containers({wrong}) {{ totalCount }} }}"))
                .await
                .code(),
            "BAD_USER_INPUT",
            "{wrong}"
        );
    }
    assert_eq!(
        ada.ask("{ containers(filter: {state: {eq: NOPE}}) { totalCount } }")
            .await
            .code(),
        "BAD_USER_INPUT"
    );
    let anonymous = world.anonymous();
    let create = "mutation { createContainer(input: { app: \"hello\", region: \"us-east-1\" }) { task { id } } }";
    assert_eq!(anonymous.ask(create).await.code(), "UNAUTHENTICATED");
    assert_eq!(
        anonymous.ask("{ containers { totalCount } }").await.code(),
        "UNAUTHENTICATED"
    );
    world.stop().await;
}

#[tokio::test]
async fn anothers_container_does_not_exist() {
    let world = World::start().await;
    let (ada, eve) = (world.person("ada").await, world.person("eve").await);
    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;
    let ids = json!({ "c": created.container, "t": created.task });
    let seen = eve
        .send(
            "query($c: ID!, $t: ID!) { container(id: $c) { id } task(id: $t) { id } }",
            ids,
        )
        .await;
    assert_eq!(seen.at("/container"), json!(null));
    assert_eq!(seen.at("/task"), json!(null));
    let codes: Vec<_> = seen.0["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|error| &error["extensions"]["code"])
        .collect();
    assert_eq!(codes, ["NOT_FOUND", "NOT_FOUND"]);
    assert_eq!(eve.delete(&created.container).await.code(), "NOT_FOUND");
    assert_eq!(eve.cancel(&created.task).await.code(), "NOT_FOUND");
    assert_eq!(eve.delete("container_nonsense").await.code(), "NOT_FOUND");
    assert_eq!(eve.delete(&created.task).await.code(), "NOT_FOUND");
    let lists = eve
        .ask("{ containers { totalCount nodes { id } } tasks { totalCount nodes { id } } }")
        .await;
    assert_eq!(
        lists.ok(""),
        json!({ "containers": { "totalCount": 0, "nodes": [] }, "tasks": { "totalCount": 0, "nodes": [] } })
    );
    for operation in [
        format!("containerUpdated(id: \"{}\")", created.container),
        format!("taskUpdated(id: \"{}\")", created.task),
    ] {
        let mut socket = eve.socket().await;
        socket
            .subscribe(&format!("subscription {{ {operation} {{ id }} }}"))
            .await;
        assert_eq!(
            socket.hear().await.unwrap()["payload"]["errors"][0]["extensions"]["code"],
            "NOT_FOUND"
        );
    }
    // Nothing of it harmed Ada's; an administrator sees it.
    assert_eq!(ada.container(&created.container).await["state"], "RUNNING");
    assert_eq!(
        world.admin().await.container(&created.container).await["state"],
        "RUNNING"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_container_that_cannot_be_made_says_why() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    for (app, code) in [("missing-app", "NO_SUCH_IMAGE"), ("exiting-app", "EXITED")] {
        let created = ada.create(app).await;
        let task = ada.task_in(&created.task, "FAILED").await;
        assert_eq!(task["error"]["code"], code);
        let container = ada.container(&created.container).await;
        assert_eq!(
            (&container["state"], &container["failure"]["code"]),
            (&json!("FAILED"), &json!(code))
        );
        assert_eq!(
            ada.delete(&created.container)
                .await
                .text("/deleteContainer/container/state"),
            "DELETING"
        );
        ada.container_in(&created.container, "DELETED").await;
        assert_eq!(ada.delete(&created.container).await.code(), "ILLEGAL_STATE");
    }
    assert!(world.engine.list().await.unwrap().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn an_unreliable_engine_ends_with_exactly_one_instance_each() {
    let faults = Faults {
        lost_calls: 120,
        lost_answers: 120,
        ..QUICK
    };
    let world = World::with(faults, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let mut created = Vec::new();
    for _ in 0..12 {
        created.push(ada.create("hello").await);
    }
    for one in &created {
        until("each creation ends", async || {
            let state = ada.task(&one.task).await["state"].clone();
            (state == "SUCCEEDED" || state == "FAILED").then_some(())
        })
        .await;
    }
    // What runs is what the engine has: a creation that was given up has been cleaned away.
    let running = ada
        .ask("{ containers(first: 100, filter: {state: {eq: RUNNING}}) { nodes { id } } }")
        .await;
    let mut running: Vec<String> = running
        .ok("/containers/nodes")
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["id"].as_str().unwrap().to_owned())
        .collect();
    let instances = until("the engine can be asked", async || {
        world.engine.list().await.ok()
    })
    .await;
    let mut there: Vec<String> = instances
        .iter()
        .map(|instance| instance.id.to_string())
        .collect();
    running.sort();
    there.sort();
    assert_eq!(running, there);
    world.stop().await;
}

#[tokio::test]
async fn deleting_during_creation_leaves_nothing() {
    let slow = Faults {
        delay: Duration::from_millis(60),
        boot: Duration::from_millis(200),
        ..QUICK
    };
    let world = World::with(slow, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    for wait in [0, 20, 50, 90, 130, 180, 250] {
        let created = ada.create("hello").await;
        nap(wait).await;
        let first = ada.delete(&created.container).await;
        let second = ada.delete(&created.container).await;
        if second.0.get("errors").is_none() {
            assert_eq!(
                first.ok("/deleteContainer/task/id"),
                second.ok("/deleteContainer/task/id"),
                "one deletion, not two"
            );
        } else {
            assert_eq!(second.code(), "ILLEGAL_STATE");
        }
        ada.container_in(&created.container, "DELETED").await;
        until("the creation ends", async || {
            let state = ada.task(&created.task).await["state"].clone();
            ["SUCCEEDED", "FAILED", "CANCELLED"]
                .iter()
                .any(|end| state == *end)
                .then_some(())
        })
        .await;
    }
    assert!(world.engine.list().await.unwrap().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn deletions_at_once_are_one_deletion() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    for wait in [0, 5, 15, 40] {
        let created = ada.create("hello").await;
        nap(wait).await;
        let replies =
            futures_util::future::join_all((0..6).map(|_| ada.delete(&created.container))).await;
        let mut tasks = Vec::new();
        for reply in &replies {
            match reply.0.get("errors") {
                None => tasks.push(reply.text("/deleteContainer/task/id")),
                Some(_) => assert_eq!(reply.code(), "ILLEGAL_STATE", "it was gone already"),
            }
        }
        tasks.dedup();
        assert_eq!(tasks.len(), 1, "{tasks:?}");
        ada.container_in(&created.container, "DELETED").await;
    }
    until("nothing is left", async || {
        world.engine.list().await.unwrap().is_empty().then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn cancelling_a_creation_undoes_it() {
    let slow = Faults {
        delay: Duration::from_millis(100),
        ..QUICK
    };
    let world = World::with(slow, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let created = ada.create("hello").await;
    ada.task_in(&created.task, "RUNNING").await;
    assert!(
        ada.cancel(&created.task)
            .await
            .ok("/cancelTask/task/cancelRequestedAt")
            .is_string()
    );
    ada.task_in(&created.task, "CANCELLED").await;
    let container = ada.container(&created.container).await;
    assert_eq!(
        (&container["state"], &container["failure"]["code"]),
        (&json!("FAILED"), &json!("CANCELLED"))
    );
    assert!(world.engine.list().await.unwrap().is_empty());
    assert_eq!(ada.cancel(&created.task).await.code(), "ILLEGAL_STATE");
    world.stop().await;
}

/// The engine's side of an overtaken run is not fenced by the database: it may make its container after the deletion.
#[tokio::test]
async fn a_late_creation_after_the_deletion_is_found_and_removed() {
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;
    ada.delete(&created.container).await;
    ada.container_in(&created.container, "DELETED").await;
    let late = Spec {
        container: Id::parse(&created.container).unwrap(),
        generation: 1,
        deployment: world.keyring().deployment(),
        cluster: None,
        image: "busybox:1.37".to_owned(),
        command: Vec::new(),
        env: Vec::new(),
        cpu_millis: 0,
        memory_bytes: 0,
        ports: Vec::new(),
        publish_address: [127, 0, 0, 1].into(),
    };
    let stranger = Spec {
        container: Id::new(uuid::Uuid::from_u128(1)),
        deployment: "another".to_owned(),
        ..late.clone()
    };
    for spec in [&late, &stranger] {
        let never = CancellationToken::new();
        world.engine.ensure(spec, &never).await.unwrap();
    }
    assert_eq!(world.engine.list().await.unwrap().len(), 2);
    // Young things are left to their own tasks.
    let young = world.reconcile().await;
    assert_eq!(young[0]["mended"], 0, "{young}");
    assert_eq!(young[0]["findings"][0]["action"], "WAIT", "{young}");
    world.age(&created.container, 60).await;
    let old = world.reconcile().await;
    assert_eq!(old[0]["mended"], 1, "{old}");
    let left = world.engine.list().await.unwrap();
    let left: Vec<_> = left.iter().map(|instance| instance.id).collect();
    assert_eq!(
        left,
        [stranger.container],
        "what is another deployment's is not ours to remove"
    );
    world.stop().await;
}

#[tokio::test]
async fn pages_do_not_move_when_rows_come() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let mut ids = Vec::new();
    for _ in 0..7 {
        ids.push(ada.create("hello").await.container);
    }
    ids.reverse();
    let page = async |arguments: &str| {
        let query = format!(
            "{{ containers({arguments}) {{ totalCount nodes {{ id }} pageInfo {{ hasNextPage hasPreviousPage startCursor endCursor }} }} }}"
        );
        ada.ask(&query).await.ok("/containers")
    };
    let of = |page: &serde_json::Value| -> Vec<String> {
        page["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|node| node["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = page("first: 3").await;
    assert_eq!(
        (
            of(&first),
            &first["totalCount"],
            &first["pageInfo"]["hasNextPage"]
        ),
        (ids[..3].to_vec(), &json!(7), &json!(true))
    );
    ada.create("hello").await;
    let cursor =
        |page: &serde_json::Value, end: &str| page["pageInfo"][end].as_str().unwrap().to_owned();
    let second = page(&format!(
        "first: 3, after: \"{}\"",
        cursor(&first, "endCursor")
    ))
    .await;
    assert_eq!(of(&second), ids[3..6]);
    let back = page(&format!(
        "last: 3, before: \"{}\"",
        cursor(&second, "startCursor")
    ))
    .await;
    assert_eq!(of(&back), ids[..3]);
    assert_eq!(
        back["pageInfo"]["hasPreviousPage"], true,
        "the newest one came in front"
    );
    let last = page(&format!(
        "first: 3, after: \"{}\"",
        cursor(&second, "endCursor")
    ))
    .await;
    assert_eq!(
        (of(&last), &last["pageInfo"]["hasNextPage"]),
        (ids[6..].to_vec(), &json!(false))
    );
    world.stop().await;
}

#[tokio::test]
async fn a_sweep_with_nothing_lost_changes_nothing() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let created = ada.create("hello").await;
    let before = ada.task_in(&created.task, "SUCCEEDED").await;
    let app = &world.apps[0];
    let dispatcher = Dispatcher {
        truth: Arc::new(app.store.clone()),
        queue: Arc::new(MemoryQueue::default()),
        bus: app.bus.clone(),
        meters: Arc::default(),
    };
    let clock = Arc::clone(&app.store.clock);
    let me = app.store.entropy.uuid(clock.now());
    Sweeper::new(dispatcher, clock, me, None)
        .once()
        .await
        .unwrap();
    assert_eq!(ada.task(&created.task).await, before);
    world.stop().await;
}
