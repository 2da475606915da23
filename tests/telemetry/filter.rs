//! Changing what is logged while the service runs; and what the service says of its build and its health.

use serde_json::{Value, json};

use super::{ground, logged};
use crate::harness::{HTTP, Person, client::in_state, process::Process, until};

async fn set(admin: &Person, filter: &str, seconds: i32) -> crate::harness::Reply {
    let set = "mutation($input: SetLogFilterInput!) { setLogFilter(input: $input) { logFilter { filter until } } }";
    let input = json!({ "input": { "filter": filter, "seconds": seconds } });
    admin.send(set, input).await
}

#[tokio::test]
async fn a_filter_holds_for_every_process_until_its_time_is_over() {
    let ground = ground().await.with("LOG", "error");
    let (web, web_log) = logged(&ground, "web", "web").await;
    let (worker, worker_log) = logged(&ground, "worker", "worker").await;
    let admin = web
        .person()
        .log_in("admin@localhost", crate::harness::ADMIN_PASSWORD)
        .await;
    let logged_run = async |task: &str| {
        admin.task_in(task, "SUCCEEDED").await;
        let lines =
            worker_log.with(|line| line["task.id"] == task && line["logger.name"] == "task");
        lines.len()
    };
    let quiet = admin.demo(1, 1).await;
    assert_eq!(logged_run(&quiet).await, 0);

    let wanted = set(&admin, "info,access=debug", 3).await;
    assert_eq!(
        wanted.text("/setLogFilter/logFilter/filter"),
        "info,access=debug"
    );
    until("the worker has heard of it", async || {
        let task = admin.demo(1, 1).await;
        (logged_run(&task).await > 0).then_some(())
    })
    .await;
    let access = web_log.with(|line| line["logger.name"] == "access");
    assert!(!access.is_empty(), "this process as well");

    until("its time is over", async || {
        let now = admin.ask("{ logFilter { filter until } }").await;
        (now.ok("/logFilter/until") == Value::Null).then_some(now)
    })
    .await;
    until("the worker is quiet again", async || {
        let task = admin.demo(1, 1).await;
        (logged_run(&task).await == 0).then_some(())
    })
    .await;
    let now = admin.ask("{ logFilter { filter until } }").await;
    assert_eq!(now.text("/logFilter/filter"), "error");
    let audited = admin
        .ask("{ auditEvents(filter: { action: { eq: \"setLogFilter\" } }) { nodes { detail } } }")
        .await;
    assert_eq!(
        audited.ok("/auditEvents/nodes/0/detail"),
        json!({ "filter": "info,access=debug", "seconds": 3 })
    );
    drop((web, worker));
    ground.clear().await;
}

#[tokio::test]
async fn a_process_that_starts_later_keeps_to_it_and_it_can_be_ended_early() {
    let ground = ground().await.with("LOG", "error");
    let web = Process::start(&ground, "web").await;
    let admin = web
        .person()
        .log_in("admin@localhost", crate::harness::ADMIN_PASSWORD)
        .await;
    set(&admin, "info", 600).await.ok("/setLogFilter");
    let (worker, log) = logged(&ground, "worker", "worker").await;
    let count = async || {
        let task = admin.demo(1, 1).await;
        in_state("SUCCEEDED", async || admin.task(&task).await).await;
        log.with(|line| line["task.id"] == task.as_str()).len()
    };
    until("the worker keeps to it", async || {
        (count().await > 0).then_some(())
    })
    .await;
    let ended = set(&admin, "info", 0).await;
    assert_eq!(ended.ok("/setLogFilter/logFilter/until"), Value::Null);
    assert_eq!(ended.text("/setLogFilter/logFilter/filter"), "error");
    until("the worker is quiet", async || {
        (count().await == 0).then_some(())
    })
    .await;
    drop((web, worker));
    ground.clear().await;
}

#[tokio::test]
async fn a_filter_nobody_can_follow_is_refused_by_its_field() {
    let ground = ground().await;
    let web = Process::start(&ground, "web").await;
    let admin = web
        .person()
        .log_in("admin@localhost", crate::harness::ADMIN_PASSWORD)
        .await;
    for (filter, seconds, field) in [
        ("inof", 10, "filter"),
        ("main_webserver=loud", 10, "filter"),
        ("info,[", 10, "filter"),
        ("a\0b", 10, "filter"),
        (&"x=info,".repeat(200), 10, "filter"),
        ("info", -1, "seconds"),
        ("info", 86_401, "seconds"),
    ] {
        let refused = set(&admin, filter, seconds).await;
        assert_eq!(refused.code(), "BAD_USER_INPUT", "{filter}");
        assert_eq!(refused.field(), Some(field), "{filter}");
    }
    let ada = web.person().sign_up("ada").await;
    assert_eq!(set(&ada, "info", 1).await.code(), "FORBIDDEN");
    web.kill().await;
    ground.clear().await;
}

async fn get(web: &Process, path: &str) -> (u16, Value) {
    let answer = HTTP
        .get(format!("http://{}{path}", web.address.unwrap()))
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

#[tokio::test]
async fn a_build_says_which_it_is_and_health_says_what_is_wrong() {
    let port = crate::harness::servers::free_port();
    let redis = crate::harness::servers::Redis::start(port);
    let ground = ground()
        .await
        .with("ENVIRONMENT", "staging")
        .with("REDIS_URL", &crate::harness::servers::Redis::url(port));
    let web = Process::start(&ground, "web").await;
    let (status, version) = get(&web, "/version").await;
    assert_eq!(status, 200);
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["environment"], "staging");
    assert_eq!(version["schema"].as_str().unwrap().len(), 64);
    for name in ["commit", "built_at", "started_at"] {
        assert!(version[name].is_string(), "{name} in {version}");
    }
    let (_, alive) = get(&web, "/healthz?verbose").await;
    assert_eq!(alive["status"], "ok");
    assert!(alive["uptime_seconds"].is_u64(), "{alive}");
    let (status, ready) = get(&web, "/readyz?verbose").await;
    assert_eq!((status, &ready["ready"]), (200, &json!(true)));
    assert_eq!(ready["database"]["problem"], Value::Null);
    redis.kill().await;
    let ready = until("it is known that Redis is away", async || {
        let (status, ready) = get(&web, "/readyz?verbose").await;
        (ready["events"]["state"] == "away").then_some((status, ready))
    })
    .await;
    assert_eq!(ready.0, 200, "it works without, only later");
    let problem = ready.1["events"]["problem"].as_str().unwrap();
    assert!(problem.starts_with("Redis does not answer"), "{problem}");
    super::break_connections(&ground).await;
    let (status, ready) = until("it is known that the database is away", async || {
        let (status, ready) = get(&web, "/readyz?verbose").await;
        (status == 503).then_some((status, ready))
    })
    .await;
    assert_eq!((status, &ready["ready"]), (503, &json!(false)));
    assert!(ready["database"]["problem"].is_string(), "{ready}");
    web.kill().await;
    ground.clear().await;
}
