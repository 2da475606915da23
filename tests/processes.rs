//! The real binary, as several processes on real PostgreSQL and Redis: kills, flushes, outages and bad settings.

mod migrations;
mod platform;

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde_json::Value;
use tokio::process::Command;

use crate::harness::{
    Ground, HTTP, PATIENCE, Person, nap,
    process::{Process, output},
    required,
    servers::{Postgres, Redis, free_port},
    until, until_within,
};

/// A ground on PostgreSQL and Redis; fails loudly without them.
async fn ground() -> Ground {
    required("TEST_DATABASE_URL");
    required("TEST_REDIS_URL");
    Ground::new().await
}

#[tokio::test]
async fn two_webs_and_two_workers_share_the_work_and_the_news() {
    let ground = ground().await;
    let (web, other_web) = (
        Process::start(&ground, "web").await,
        Process::start(&ground, "web").await,
    );
    let ada = web.person().sign_up("ada").await;
    let task = ada.demo(10, 30).await;
    let mut socket = ada.moved_to(other_web.address.unwrap()).socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state progress }} }}"
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
    let frames = socket.rest("/taskUpdated").await;
    let states: Vec<&str> = frames
        .iter()
        .map(|frame| frame["state"].as_str().unwrap())
        .collect();
    assert_eq!(
        (states[0], *states.last().unwrap()),
        ("RUNNING", "SUCCEEDED")
    );
    assert!(
        frames.len() >= 8,
        "progress came as it happened: {frames:#?}"
    );
    for process in workers.into_iter().chain([web, other_web]) {
        assert_eq!(
            process.end("-INT").await.code(),
            Some(0),
            "Ctrl-C drains and ends well"
        );
    }
    ground.clear().await;
}

async fn ends(person: &Person, tasks: &[String]) -> Vec<Value> {
    let check = async || {
        let count = person
            .ask("{ tasks(filter: {state: {in: [QUEUED, RUNNING, WAITING]}}) { totalCount } }")
            .await;
        (count.ok("/tasks/totalCount") == 0).then_some(())
    };
    until_within(Duration::from_secs(90), "every task has ended", check).await;
    stream::iter(tasks)
        .then(|task| person.task(task))
        .collect()
        .await
}

#[tokio::test]
async fn five_hundred_queued_tasks_survive_a_flush_and_run_once_each() {
    let port = free_port();
    let ground = ground().await.with("REDIS_URL", &Redis::url(port));
    let redis = Redis::start(port);
    let web = Process::start(&ground, "web").await;
    let ada = web.person().sign_up("ada").await;
    let tasks: Vec<String> = stream::iter(0..500)
        .map(|_| ada.demo(1, 1))
        .buffered(16)
        .collect()
        .await;
    redis.flush_all().await;
    let workers = [
        Process::start(&ground, "worker").await,
        Process::start(&ground, "worker").await,
    ];
    for task in ends(&ada, &tasks).await {
        assert_eq!(task["state"], "SUCCEEDED");
        assert_eq!(
            (task["attempt"].as_i64(), task["failures"].as_i64()),
            (Some(1), Some(0))
        );
        let steps = task["logs"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|line| line["message"] == "step 1 of 1")
            .count();
        assert_eq!(steps, 1, "{task:#}");
    }
    drop((web, workers, redis));
    ground.clear().await;
}

#[tokio::test]
async fn a_killed_workers_tasks_are_finished_by_another() {
    let ground = ground().await;
    let web = Process::start(&ground, "web").await;
    let ada = web.person().sign_up("ada").await;
    let doomed = Process::start(&ground, "worker").await;
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(ada.demo(20, 100).await);
    }
    until("half of one is done", async || {
        (ada.task(&tasks[9]).await["progress"].as_i64()? >= 40).then_some(())
    })
    .await;
    doomed.kill().await;
    let heir = Process::start(&ground, "worker").await;
    for task in ends(&ada, &tasks).await {
        assert_eq!(
            (
                &task["state"],
                task["attempt"].as_i64(),
                task["failures"].as_i64()
            ),
            (&"SUCCEEDED".into(), Some(2), Some(1))
        );
        // The second run went on where the first one was: each step stands in the log once.
        let mut steps: Vec<&str> = task["logs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|l| l["message"].as_str().unwrap())
            .collect();
        let all = steps.len();
        steps.sort_unstable();
        steps.dedup();
        assert_eq!((all, steps.len()), (20, 20), "{steps:?}");
    }
    drop((web, heir));
    ground.clear().await;
}

#[tokio::test]
async fn a_frozen_worker_that_thaws_cannot_write_any_more() {
    let ground = ground().await;
    let web = Process::start(&ground, "web").await;
    let ada = web.person().sign_up("ada").await;
    let frozen = Process::start(&ground, "worker").await;
    let task = ada.demo(10, 200).await;
    until("it has begun", async || {
        (ada.task(&task).await["progress"].as_i64()? >= 10).then_some(())
    })
    .await;
    frozen.signal("-STOP").await;
    let other = Process::start(&ground, "worker").await;
    until("another has taken it", async || {
        (ada.task(&task).await["attempt"] == 2).then_some(())
    })
    .await;
    frozen.signal("-CONT").await;
    let done = ada.task_in(&task, "SUCCEEDED").await;
    nap(500).await;
    assert_eq!(ada.task(&task).await, done, "nothing came after the end");
    let late = done["logs"]
        .as_array()
        .unwrap()
        .iter()
        .skip_while(|line| line["attempt"] == 1)
        .any(|line| line["attempt"] == 1);
    assert!(
        !late,
        "the first attempt wrote after the second had begun: {done:#}"
    );
    drop((web, frozen, other));
    ground.clear().await;
}

#[tokio::test]
async fn redis_may_be_away_at_the_start_and_go_at_any_time() {
    let port = free_port();
    let ground = ground().await.with("REDIS_URL", &Redis::url(port));
    // Away at the start: everything works, only later.
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let ada = web.person().sign_up("ada").await;
    let task = ada.demo(1, 1).await;
    ada.task_in(&task, "SUCCEEDED").await;
    // It comes: a subscription is live.
    let redis = Redis::start(port);
    let ready = async || {
        let body = HTTP
            .get(format!("http://{}/readyz", web.address.unwrap()))
            .send()
            .await
            .ok()?
            .text()
            .await
            .ok()?;
        body.contains(r#""events":"ok""#).then_some(())
    };
    until("the events are back", ready).await;
    let task = ada.demo(5, 100).await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state }} }}"
        ))
        .await;
    assert_eq!(
        socket.rest("/taskUpdated").await.last().unwrap()["state"],
        "SUCCEEDED"
    );
    // It goes in the middle and comes back: the subscriber catches up by itself.
    let task = ada.demo(20, 100).await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state progress }} }}"
        ))
        .await;
    socket.next().await.unwrap();
    redis.kill().await;
    ada.task_in(&task, "SUCCEEDED").await;
    let redis = Redis::start(port);
    assert_eq!(
        socket.rest("/taskUpdated").await.last().unwrap()["state"],
        "SUCCEEDED"
    );
    drop((web, worker, redis));
    ground.clear().await;
}

#[tokio::test]
async fn postgres_may_go_and_come_back_under_a_running_service() {
    let postgres = Postgres::create().await;
    let ground = ground().await.with("DATABASE_URL", &postgres.url());
    // Down at the start: one line, no hang.
    let (code, _, err) = output(&ground, &["web"]).await;
    assert_eq!(code, 1, "{err}");
    assert_eq!(
        err.lines()
            .filter(|line| line.starts_with("error: cannot use the database postgres://"))
            .count(),
        1,
        "{err}"
    );
    postgres.start().await;
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let ada = web.person().sign_up("ada").await;
    let task = ada.demo(30, 100).await;
    until("it has begun", async || {
        (ada.task(&task).await["progress"].as_i64()? >= 10).then_some(())
    })
    .await;
    postgres.stop().await;
    let reply = ada.ask("{ containers { totalCount } }").await;
    assert_eq!(reply.code(), "UNAVAILABLE");
    assert_eq!(
        HTTP.get(format!("http://{}/readyz", web.address.unwrap()))
            .send()
            .await
            .unwrap()
            .status(),
        503
    );
    assert_eq!(
        HTTP.get(format!("http://{}/healthz", web.address.unwrap()))
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
    postgres.start().await;
    let back = async || {
        ada.ask("{ viewer { email } }")
            .await
            .0
            .get("errors")
            .is_none()
            .then_some(())
    };
    until("it answers again", back).await;
    // The run that lost its database is tried again and comes to its end.
    let finished = async || {
        let task = ada.task(&task).await;
        (task["state"] == "SUCCEEDED").then_some(())
    };
    until_within(PATIENCE * 2, "the interrupted task is finished", finished).await;
    drop((web, worker));
    postgres.stop().await;
}

#[tokio::test]
async fn a_draining_worker_hands_its_long_task_to_another() {
    let ground = ground().await.with("DRAIN_SECONDS", "0");
    let web = Process::start(&ground, "web").await;
    let ada = web.person().sign_up("ada").await;
    let leaving = Process::start(&ground, "worker").await;
    let task = ada.demo(30, 100).await;
    until("it has begun", async || {
        (ada.task(&task).await["progress"].as_i64()? >= 10).then_some(())
    })
    .await;
    let staying = Process::start(&ground, "worker").await;
    assert_eq!(leaving.end("-TERM").await.code(), Some(0));
    let done = ada.task_in(&task, "SUCCEEDED").await;
    assert_eq!(done["failures"], 0, "handing back is no failure");
    drop((web, staying));
    ground.clear().await;
}

#[tokio::test]
async fn bad_settings_stop_the_start_with_one_line() {
    for (key, value, line) in [
        ("PORT", "eighty", "error: PORT: 'eighty' is not usable"),
        (
            "DATABASE_URL",
            "mysql://x",
            "error: DATABASE_URL: neither PostgreSQL nor SQLite",
        ),
        ("REDIS_URL", "redis://[", "error: REDIS_URL: "),
        (
            "LEASE_SECONDS",
            "-1",
            "error: LEASE_SECONDS: '-1' is not usable",
        ),
        (
            "PROVIDER",
            "kubernetes",
            "error: PROVIDER: 'kubernetes' is not known",
        ),
        ("ADMIN_PASSWORD", "short", "error: ADMIN_PASSWORD: "),
        (
            "SECRET_KEY",
            "",
            "error: SECRET_KEY: needed with PostgreSQL",
        ),
        (
            "REDIS_URL",
            "",
            "error: REDIS_URL: needed when web and worker are separate processes",
        ),
    ] {
        let ground = ground().await.with(key, value);
        let (code, out, err) = output(&ground, &["web"]).await;
        assert_eq!((code, out.as_str()), (1, ""), "{key}={value}: {err}");
        assert!(
            err.starts_with(line) && err.trim().lines().count() == 1,
            "{key}={value}: {err}"
        );
        ground.clear().await;
    }
    let ground = ground().await;
    let (_, _, err) = output(&ground, &["--set", "PROT=1"]).await;
    assert_eq!(
        err.trim(),
        "error: PROT: no such setting; did you mean PORT?"
    );
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!("PORT={}", taken.local_addr().unwrap().port());
    let (code, _, err) = output(&ground, &["--set", &port]).await;
    assert!(code == 1 && err.contains("cannot be listened on"), "{err}");
    ground.clear().await;
}

#[tokio::test]
async fn migrations_go_down_and_up_and_the_doctor_says_what_is_wrong() {
    let ground = ground().await;
    let (code, out, err) = output(&ground, &["migrate", "up"]).await;
    assert_eq!(code, 0, "{err}");
    let steps = out.lines().count();
    assert!(
        steps >= 4 && out.lines().all(|line| line.starts_with("applied")),
        "{out}"
    );
    let (code, out, err) = output(&ground, &["migrate", "down", &steps.to_string()]).await;
    assert!(
        code == 0 && out.lines().all(|line| line.starts_with("pending")),
        "{out}{err}"
    );
    let (code, out, _) = output(&ground, &["migrate", "up"]).await;
    assert!(
        code == 0 && out.lines().all(|line| line.starts_with("applied")),
        "{out}"
    );
    let (code, out, _) = output(&ground, &["doctor"]).await;
    assert!(code == 0 && !out.contains("WRONG"), "{out}");
    let sick = ground
        .with("REDIS_URL", "redis://127.0.0.1:1/0")
        .with("PROVIDER", "docker")
        .with("DOCKER_HOST", "unix:///no/socket");
    let (code, out, _) = output(&sick, &["doctor"]).await;
    let wrong: Vec<&str> = out
        .lines()
        .filter_map(|line| line.strip_prefix("WRONG"))
        .map(|l| l.split_whitespace().next().unwrap())
        .collect();
    assert_eq!((code, wrong), (1, vec!["redis", "engine"]), "{out}");
    sick.clear().await;
}

#[tokio::test]
async fn the_command_line_makes_accounts_that_can_log_in() {
    let ground = ground().await;
    let (code, out, err) =
        output(&ground, &["user", "create", "root@example.com", "--admin"]).await;
    assert_eq!(code, 0, "{err}");
    let password = |out: &str| {
        out.split("password ")
            .nth(1)
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap()
            .to_owned()
    };
    let web = Process::start(&ground, "web").await;
    let root = web
        .person()
        .log_in("root@example.com", &password(&out))
        .await;
    assert_eq!(
        root.ask("{ viewer { role } }").await.text("/viewer/role"),
        "ADMIN"
    );
    let (_, out, _) = output(&ground, &["user", "reset-password", "root@example.com"]).await;
    assert_eq!(
        root.ask("{ viewer { role } }").await.code(),
        "UNAUTHENTICATED",
        "a reset ends the sessions"
    );
    web.person()
        .log_in("root@example.com", &password(&out))
        .await;
    let (code, _, err) = output(&ground, &["user", "create", "root@example.com"]).await;
    assert_eq!(
        (code, err.trim()),
        (1, "error: an account with this e-mail address exists")
    );
    drop(web);
    ground.clear().await;
}

/// Runs a task and watches it, through whatever Redis the ground names.
async fn a_task_is_run_and_watched(ground: Ground) {
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let ready = async || {
        let url = format!("http://{}/readyz", web.address.unwrap());
        let body = HTTP.get(url).send().await.ok()?.text().await.ok()?;
        body.contains(r#""events":"ok""#).then_some(())
    };
    until("the events get through", ready).await;
    let ada = web.person().sign_up("ada").await;
    let task = ada.demo(5, 100).await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ taskUpdated(id: \"{task}\") {{ state progress }} }}"
        ))
        .await;
    let frames = socket.rest("/taskUpdated").await;
    assert_eq!(frames.last().unwrap()["state"], "SUCCEEDED");
    assert!(
        frames.len() >= 4,
        "progress came as it happened: {frames:#?}"
    );
    drop((web, worker));
    ground.clear().await;
}

async fn redis_cli(port: u16, arguments: &[&str]) -> String {
    let port = port.to_string();
    let output = Command::new("redis-cli")
        .args(["-p", &port])
        .args(arguments)
        .output()
        .await
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn redis_may_be_a_cluster() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let nodes = folder.path().join("nodes.conf").display().to_string();
    // Beside its own port a node listens ten thousand above it, unless told where.
    let bus = free_port().to_string();
    let more = [
        "--cluster-enabled",
        "yes",
        "--cluster-config-file",
        &nodes,
        "--cluster-port",
        &bus,
        // A node alone does not know its own address, and clients would be told none.
        "--cluster-announce-ip",
        "127.0.0.1",
    ];
    let redis = Redis::with(port, &more);
    until("the node has all slots", async || {
        redis_cli(port, &["cluster", "addslotsrange", "0", "16383"]).await;
        let info = redis_cli(port, &["cluster", "info"]).await;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    let url = format!("redis-cluster://127.0.0.1:{port}");
    a_task_is_run_and_watched(ground().await.with("REDIS_URL", &url)).await;
    drop(redis);
}

#[tokio::test]
async fn redis_may_stand_behind_a_sentinel() {
    let (folder, port, sentinel_port) = (tempfile::tempdir().unwrap(), free_port(), free_port());
    let redis = Redis::start(port);
    let file = folder.path().join("sentinel.conf");
    std::fs::write(&file, format!("sentinel monitor main 127.0.0.1 {port} 1\n")).unwrap();
    let sentinel = Redis::with(sentinel_port, &[&file.display().to_string(), "--sentinel"]);
    until("the sentinel knows the master", async || {
        let arguments = ["sentinel", "get-master-addr-by-name", "main"];
        let address = redis_cli(sentinel_port, &arguments).await;
        address.contains(&port.to_string()).then_some(())
    })
    .await;
    let url = format!("redis-sentinel://127.0.0.1:{sentinel_port}/0?sentinelServiceName=main");
    a_task_is_run_and_watched(ground().await.with("REDIS_URL", &url)).await;
    drop((redis, sentinel));
}
