//! What operators see of the queue and do with it, over GraphQL and as Prometheus' text.

use serde_json::{Value, json};

use crate::harness::{Ground, HTTP, Person, QUICK, Reply, World, until};
use main_webserver::app::Role;

async fn create_task(person: &Person, input: Value) -> Reply {
    person
        .send(
            "mutation($input: CreateTaskInput!) { createTask(input: $input) { task { id kind state priority } } }",
            json!({ "input": input }),
        )
        .await
}

async fn new_task(person: &Person, input: Value) -> String {
    create_task(person, input).await.text("/createTask/task/id")
}

async fn set_paused(person: &Person, kind: &str, is_paused: bool) -> Reply {
    let mutation = if is_paused {
        "pauseTaskKind"
    } else {
        "resumeTaskKind"
    };
    person
        .ask(&format!(
            "mutation {{ {mutation}(input: {{ kind: \"{kind}\" }}) {{ pausedKinds }} }}"
        ))
        .await
}

#[tokio::test]
async fn the_queue_is_the_administrators_alone() {
    let world = World::start().await;
    let operations = [
        "{ queue { at } }",
        "{ workers { id } }",
        "mutation { createTask(input: { kind: \"noop\" }) { task { id } } }",
        "mutation { createTasks(input: { tasks: [{ kind: \"noop\" }] }) { tasks { id } } }",
        "mutation { pauseTaskKind(input: { kind: \"noop\" }) { pausedKinds } }",
        "mutation { resumeTaskKind(input: { kind: \"noop\" }) { pausedKinds } }",
        "mutation { retryDeadLetters(input: {}) { tasks { id } } }",
        "mutation { putSchedule(input: { name: \"s\", kind: \"noop\", cron: \"* * * * *\" }) { schedule { id } } }",
        "mutation { deleteSchedule(input: { id: \"schedule_00000000000000000000000000000001\" }) { schedule { id } } }",
        "mutation { setTaskPriority(input: { id: \"task_00000000000000000000000000000001\", priority: NORMAL }) { task { id } } }",
    ];
    let (ada, nobody) = (world.person("ada").await, world.anonymous());
    for operation in operations {
        assert_eq!(ada.ask(operation).await.code(), "FORBIDDEN", "{operation}");
        let refused = nobody.ask(operation).await;
        assert_eq!(refused.code(), "UNAUTHENTICATED", "{operation}");
    }
    let schedules = ada
        .ask("{ schedules { totalCount } archivedTasks { totalCount } }")
        .await;
    assert_eq!(schedules.ok("/schedules/totalCount"), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_task_is_asked_for_by_its_kind_and_bad_input_is_named() {
    let world = World::start().await;
    let root = world.admin().await;
    let id = new_task(&root, json!({ "kind": "noop" })).await;
    root.task_in(&id, "SUCCEEDED").await;
    let demo = json!({ "kind": "demo", "input": { "steps": 2, "stepMillis": 1 }, "priority": "BACKGROUND", "idempotencyKey": "k1" });
    let id = new_task(&root, demo.clone()).await;
    root.task_in(&id, "SUCCEEDED").await;
    assert_eq!(new_task(&root, demo).await, id, "the same key again");
    for (input, code, field) in [
        (
            json!({ "kind": "create_container" }),
            "BAD_USER_INPUT",
            Some("kind"),
        ),
        (json!({ "kind": "" }), "BAD_USER_INPUT", Some("kind")),
        (
            json!({ "kind": "noop", "input": { "a": 1 } }),
            "BAD_USER_INPUT",
            Some("input"),
        ),
        (
            json!({ "kind": "demo", "input": { "steps": 0, "stepMillis": 1 } }),
            "BAD_USER_INPUT",
            Some("input"),
        ),
        (
            json!({ "kind": "demo", "input": [] }),
            "BAD_USER_INPUT",
            Some("input"),
        ),
        (
            json!({ "kind": "noop", "idempotencyKey": "" }),
            "BAD_USER_INPUT",
            Some("idempotencyKey"),
        ),
        (
            json!({ "kind": "noop", "uniqueKey": "\u{7f}" }),
            "BAD_USER_INPUT",
            Some("uniqueKey"),
        ),
        (
            json!({ "kind": "noop", "idempotencyKey": "k1" }),
            "CONFLICT",
            None,
        ),
    ] {
        let reply = create_task(&root, input.clone()).await;
        assert_eq!((reply.code(), reply.field()), (code, field), "{input}");
    }
    let many = |count: usize| {
        let tasks = vec![json!({ "kind": "noop" }); count];
        let query =
            "mutation($input: CreateTasksInput!) { createTasks(input: $input) { tasks { id } } }";
        let variables = json!({ "input": { "tasks": tasks } });
        let root = root.clone();
        async move { root.send(query, variables).await }
    };
    let reply = many(300).await;
    assert_eq!(
        reply.ok("/createTasks/tasks").as_array().unwrap().len(),
        300
    );
    for count in [0, 1001] {
        assert_eq!(many(count).await.field(), Some("tasks"));
    }
    // All or none: the last one's key has been used for something else.
    let used = json!({ "kind": "demo", "input": { "steps": 1, "stepMillis": 1 }, "idempotencyKey": "used" });
    create_task(&root, used).await.ok("/createTask");
    let query = "mutation($tasks: [CreateTaskInput!]!) { createTasks(input: { tasks: $tasks }) { tasks { id } } }";
    let mixed = json!([{ "kind": "noop", "idempotencyKey": "fresh" }, { "kind": "noop", "idempotencyKey": "used" }]);
    let refused = root.send(query, json!({ "tasks": mixed })).await;
    assert_eq!(refused.code(), "CONFLICT");
    let demo = json!({ "kind": "demo", "input": { "steps": 1, "stepMillis": 1 }, "idempotencyKey": "fresh" });
    create_task(&root, demo).await.ok("/createTask");
    until("all have ended", async || {
        let left = root
            .ask("{ tasks(filter: {kind: {eq: \"noop\"}, state: {in: [QUEUED, RUNNING]}}) { totalCount } }")
            .await;
        (left.ok("/tasks/totalCount") == 0).then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn too_much_unfinished_work_is_refused_and_room_is_found_again() {
    let ground = Ground::new()
        .await
        .with("TASKS_PER_OWNER", "3")
        .with("TASKS_TOTAL", "5");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let root = world.admin().await;
    set_paused(&root, "demo", true).await.ok("/pauseTaskKind");
    let (ada, ben) = (world.person("ada").await, world.person("ben").await);
    let start = async |person: &Person| {
        person
            .ask("mutation { startDemoTask(input: { steps: 1, stepMillis: 1 }) { task { id } } }")
            .await
    };
    let keyed = || {
        ada.ask(
            "mutation { startDemoTask(input: { steps: 1, stepMillis: 1, idempotencyKey: \"first\" }) { task { id } } }",
        )
    };
    let first = keyed().await.text("/startDemoTask/task/id");
    for _ in 0..2 {
        start(&ada).await.ok("/startDemoTask");
    }
    assert_eq!(start(&ada).await.code(), "QUOTA_EXCEEDED");
    // What repeats an earlier request needs no room: it has been let in.
    assert_eq!(keyed().await.text("/startDemoTask/task/id"), first);
    for _ in 0..2 {
        start(&ben).await.ok("/startDemoTask");
    }
    // The total is counted every few seconds and by what this process lets in.
    assert_eq!(start(&ben).await.code(), "UNAVAILABLE");
    set_paused(&root, "demo", false).await.ok("/resumeTaskKind");
    ada.task_in(&first, "SUCCEEDED").await;
    until("there is room again", async || {
        start(&ada).await.0.get("errors").is_none().then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_paused_kind_waits_in_sight_and_goes_on_when_it_is_resumed() {
    let world = World::start().await;
    let root = world.admin().await;
    let paused = set_paused(&root, "noop", true).await;
    assert_eq!(paused.ok("/pauseTaskKind/pausedKinds"), json!(["noop"]));
    let id = new_task(&root, json!({ "kind": "noop" })).await;
    let depth = until("it is counted", async || {
        let queue = root
            .ask(
                "{ queue { at pausedKinds unknownKinds depths { kind state count oldestDueAt } } }",
            )
            .await
            .ok("/queue");
        let depths = queue["depths"].as_array().unwrap().clone();
        assert_eq!(queue["pausedKinds"], json!(["noop"]));
        depths.into_iter().find(|depth| depth["kind"] == "noop")
    })
    .await;
    assert_eq!(
        (&depth["state"], &depth["count"]),
        (&"QUEUED".into(), &1.into())
    );
    assert!(depth["oldestDueAt"].is_string());
    let reply = root
        .ask(&format!(
            "mutation {{ setTaskPriority(input: {{ id: \"{id}\", priority: INTERACTIVE }}) {{ task {{ priority state }} }} }}"
        ))
        .await;
    assert_eq!(reply.text("/setTaskPriority/task/priority"), "INTERACTIVE");
    let resumed = set_paused(&root, "noop", false).await;
    assert_eq!(resumed.ok("/resumeTaskKind/pausedKinds"), json!([]));
    root.task_in(&id, "SUCCEEDED").await;
    let late = root
        .ask(&format!(
            "mutation {{ setTaskPriority(input: {{ id: \"{id}\", priority: NORMAL }}) {{ task {{ id }} }} }}"
        ))
        .await;
    assert_eq!(late.code(), "ILLEGAL_STATE");
    for kind in ["", "No Such Kind"] {
        assert_eq!(set_paused(&root, kind, true).await.field(), Some("kind"));
    }
    world.stop().await;
}

#[tokio::test]
async fn dead_letters_are_listed_and_tried_again_one_by_one_or_together() {
    let world = World::start().await;
    let (root, ada) = (world.admin().await, world.person("ada").await);
    let mut dead = Vec::new();
    for _ in 0..3 {
        let created = ada.create("missing-app").await;
        ada.task_in(&created.task, "FAILED").await;
        dead.push(created.task);
    }
    let list = root
        .ask("{ tasks(filter: {state: {eq: FAILED}, kind: {eq: \"create_container\"}}) { totalCount nodes { error { code } input } } }")
        .await;
    assert_eq!(list.ok("/tasks/totalCount"), 3);
    let retry = async |person: &Person, id: &str| {
        person
            .ask(&format!(
                "mutation {{ retryTask(input: {{ id: \"{id}\" }}) {{ task {{ state failures attempt }} }} }}"
            ))
            .await
    };
    let before = ada.task(&dead[0]).await;
    let reply = retry(&ada, &dead[0]).await;
    assert_eq!(
        reply.ok("/retryTask/task"),
        json!({ "state": "QUEUED", "failures": 0, "attempt": before["attempt"] })
    );
    // The container it was to make has failed for good: nobody wants it any more, which another attempt finds.
    let after = ada.task_in(&dead[0], "CANCELLED").await;
    assert!(after["attempt"].as_i64() > before["attempt"].as_i64());
    let stranger = world.person("eve").await;
    assert_eq!(retry(&stranger, &dead[1]).await.code(), "NOT_FOUND");
    let together = root
        .ask("mutation { retryDeadLetters(input: { kind: \"create_container\", errorCode: \"NO_SUCH_IMAGE\", first: 10 }) { tasks { id } } }")
        .await;
    let mut again: Vec<String> = together
        .ok("/retryDeadLetters/tasks")
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["id"].as_str().unwrap().to_owned())
        .collect();
    again.sort();
    assert_eq!(again, dead[1..]);
    let none = root
        .ask("mutation { retryDeadLetters(input: { kind: \"noop\" }) { tasks { id } } }")
        .await;
    assert_eq!(none.ok("/retryDeadLetters/tasks"), json!([]));
    let done = ada.demo(1, 0).await;
    ada.task_in(&done, "SUCCEEDED").await;
    assert_eq!(retry(&ada, &done).await.code(), "ILLEGAL_STATE");
    world.stop().await;
}

#[tokio::test]
async fn a_worker_is_seen_with_what_it_holds() {
    let world = World::start().await;
    let root = world.admin().await;
    let task = root.demo(100, 100).await;
    root.task_in(&task, "RUNNING").await;
    let worker = until("the worker shows itself", async || {
        let workers = root
            .ask("{ workers { id host pid version concurrency running draining startedAt seenAt kinds { name inputVersion } leases { taskId kind attempt until } } }")
            .await
            .ok("/workers");
        workers.as_array().unwrap().first().cloned()
    })
    .await;
    assert_eq!(worker["pid"], std::process::id());
    assert_eq!(worker["draining"], false);
    assert!(
        worker["kinds"]
            .as_array()
            .unwrap()
            .contains(&json!({ "name": "create_container", "inputVersion": 1 }))
    );
    assert_eq!(worker["leases"][0]["taskId"], task.as_str());
    assert_eq!(worker["leases"][0]["attempt"], 1);
    root.cancel(&task).await.ok("/cancelTask");
    root.task_in(&task, "CANCELLED").await;
    world.stop().await;
}

#[tokio::test]
async fn a_schedule_makes_tasks_until_it_is_removed() {
    let world = World::start().await;
    let root = world.admin().await;
    let put = async |fields: &str| {
        root.ask(&format!(
            "mutation {{ putSchedule(input: {{ name: \"tick\", {fields} }}) {{ schedule {{ id version enabled nextAt kind }} }} }}"
        ))
        .await
    };
    for (fields, field) in [
        ("kind: \"noop\", cron: \"every day\"", "cron"),
        ("kind: \"noop\", cron: \"0 0 30 2 *\"", "cron"),
        (
            "kind: \"noop\", cron: \"* * * * *\", timeZone: \"Moon/Sea\"",
            "cron",
        ),
        ("kind: \"delete_container\", cron: \"* * * * *\"", "kind"),
        ("kind: \"demo\", input: {}, cron: \"* * * * *\"", "input"),
    ] {
        assert_eq!(put(fields).await.field(), Some(field), "{fields}");
    }
    let schedule = put("kind: \"noop\", cron: \"* * * * * *\", timeZone: \"Europe/Berlin\"").await;
    let id = schedule.text("/putSchedule/schedule/id");
    until("it has made three", async || {
        let made = root
            .ask("{ tasks(filter: {kind: {eq: \"noop\"}, state: {eq: SUCCEEDED}}) { totalCount } }")
            .await;
        (made.ok("/tasks/totalCount").as_i64()? >= 3).then_some(())
    })
    .await;
    let list = root
        .ask("{ schedules { nodes { name cron timeZone input lastAt lastTask { kind } } } }")
        .await;
    assert_eq!(list.ok("/schedules/nodes/0/lastTask/kind"), "noop");
    let off = put("kind: \"noop\", cron: \"* * * * * *\", enabled: false").await;
    assert_eq!(off.ok("/putSchedule/schedule/id"), id.as_str());
    assert_eq!(off.ok("/putSchedule/schedule/nextAt"), Value::Null);
    let delete = format!(
        "mutation {{ deleteSchedule(input: {{ id: \"{id}\" }}) {{ schedule {{ name }} }} }}"
    );
    assert_eq!(
        root.ask(&delete)
            .await
            .text("/deleteSchedule/schedule/name"),
        "tick"
    );
    assert_eq!(root.ask(&delete).await.code(), "NOT_FOUND");
    world.stop().await;
}

#[tokio::test]
async fn the_meters_say_what_the_worker_has_done() {
    let world = World::start().await;
    let root = world.admin().await;
    let done = root.demo(1, 0).await;
    root.task_in(&done, "SUCCEEDED").await;
    let url = format!("http://{}/metrics", world.address());
    let lines = [
        r#"main_webserver_tasks_claimed_total{kind="demo"} 1"#,
        r#"main_webserver_tasks_settled_total{kind="demo",outcome="succeeded"} 1"#,
        r#"main_webserver_task_run_seconds_count{kind="demo"} 1"#,
        "main_webserver_workers 1",
    ];
    until("all stands there", async || {
        let answer = HTTP.get(&url).send().await.unwrap();
        let kind = answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
        let text = answer.text().await.unwrap();
        lines.iter().all(|line| text.contains(line)).then_some(())
    })
    .await;
    let rates = root
        .ask("{ queue { rates { kind succeededPerMinute wait { p50 p99 } run { p50 p95 } } } }")
        .await;
    assert!(rates.ok("/queue/rates").is_array());
    world.stop().await;
}
