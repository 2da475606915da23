//! Kill, restart, upgrade and rollback of every part under load: how many requests fail, when, and what is lost.
//!
//! Nothing that was promised is lost or done twice, nobody who watches misses a line, and requests fail in a stated window
//! or, where a part ends in order, not at all.

mod balancer;
mod people;
mod stage;
mod watchers;

use std::{fs, path::Path, time::Duration};

use self::stage::{Action, Allowed, Stage, other_binary};
use crate::{
    chaos::verdict::Verdict,
    harness::{nap, process::own_binary, servers::Postgres},
};

/// How long the load goes on after the last action.
const AFTERWARDS_MILLIS: u64 = 3000;
/// How long watched tasks may take to their end.
const PATIENT: Duration = Duration::from_secs(100);
/// By when a balancer and its clients are over a server that was killed.
const UNTIL_NOTICED: Allowed = Allowed::FromBeginning(1500);
/// By when everyone is connected to a database that is back.
const UNTIL_CONNECTED: Allowed = Allowed::FromEnd(5000);

/// Has something done to a loaded stage; `row` orders and names its row of the table.
async fn drill(
    row: &str,
    what: &str,
    allowed: Allowed,
    from: std::ffi::OsString,
    action: impl AsyncFnOnce(&mut Stage),
) {
    let mut stage = Stage::open(&from).await;
    let done = stage.act(action).await;
    nap(AFTERWARDS_MILLIS).await;
    judge(row, what, allowed, done, stage).await;
}

async fn judge(row: &str, what: &str, allowed: Allowed, done: Action, stage: Stage) {
    let Stage {
        people,
        watchers,
        engine,
        ada,
        ground,
        webs,
        workers,
        redis,
        postgres,
        balancer,
        ..
    } = stage;
    let (mut gaps, mut stall, mut breaks) = (Vec::new(), 0, 0);
    for watcher in watchers {
        match watcher.done(PATIENT).await {
            Some(seen) => {
                stall = stall.max(seen.stall_millis);
                breaks += seen.breaks;
                if seen.gaps() > 0 {
                    gaps.push(seen);
                }
            }
            None => panic!("a watched task did not end"),
        }
    }
    let (requests, failures, accepted) = people.end().await;
    let verdict = Verdict::of(&ada, &engine, &accepted).await;
    drop((webs, workers, balancer));
    let window = done.window(allowed);
    let outside: Vec<_> = failures
        .iter()
        .filter(|failure| window.is_none_or(|(from, to)| failure.at < from || failure.at > to))
        .map(|failure| format!("{} {}", failure.at, failure.why))
        .collect();
    let last = failures
        .iter()
        .map(|failure| (failure.at - done.began).num_milliseconds());
    let line = format!(
        "{what} | {requests} | {} | {} | {} | {} | {} | {} | {} | {stall} | {breaks}\n",
        failures.len(),
        outside.len(),
        last.max().unwrap_or(0),
        verdict.tasks,
        verdict.lost.len(),
        verdict.duplicated.len(),
        gaps.len(),
    );
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drills");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(row).with_extension("row"), line).unwrap();
    assert!(outside.is_empty(), "failed when nothing may: {outside:#?}");
    assert!(verdict.lost.is_empty(), "lost: {:#?}", verdict.lost);
    assert!(
        verdict.duplicated.is_empty(),
        "done twice: {:#?}",
        verdict.duplicated
    );
    assert!(gaps.is_empty(), "missed: {gaps:#?}");
    drop((redis, postgres));
    ground.clear().await;
}

#[tokio::test]
async fn a_web_server_is_killed() {
    drill(
        "01",
        "web, kill -9",
        UNTIL_NOTICED,
        own_binary(),
        async |stage| {
            stage.webs[0].take().unwrap().kill().await;
            nap(1000).await;
            stage.bring_web(0, &own_binary()).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_web_server_is_restarted() {
    drill(
        "02",
        "web, restart",
        Allowed::Nothing,
        own_binary(),
        async |stage| {
            stage.end_web(0).await;
            stage.bring_web(0, &own_binary()).await;
        },
    )
    .await;
}

#[tokio::test]
async fn the_web_servers_are_upgraded_one_after_the_other() {
    drill(
        "03",
        "web, upgrade",
        Allowed::Nothing,
        other_binary(),
        async |stage| {
            // The workers stay what they were: old and new work side by side.
            for number in [0, 1] {
                stage.end_web(number).await;
                stage.bring_web(number, &own_binary()).await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn the_web_servers_are_rolled_back() {
    drill(
        "04",
        "web, rollback",
        Allowed::Nothing,
        own_binary(),
        async |stage| {
            for number in [0, 1] {
                stage.end_web(number).await;
                stage.bring_web(number, &other_binary()).await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn a_worker_is_killed() {
    drill(
        "05",
        "worker, kill -9",
        Allowed::Nothing,
        own_binary(),
        async |stage| {
            stage.workers[0].take().unwrap().kill().await;
            nap(1000).await;
            stage.start_worker(0, &own_binary()).await;
        },
    )
    .await;
}

#[tokio::test]
async fn a_worker_is_restarted() {
    drill(
        "06",
        "worker, restart",
        Allowed::Nothing,
        own_binary(),
        async |stage| {
            stage.end_worker(0).await;
            stage.start_worker(0, &own_binary()).await;
        },
    )
    .await;
}

#[tokio::test]
async fn the_workers_are_upgraded_one_after_the_other() {
    drill(
        "07",
        "worker, upgrade",
        Allowed::Nothing,
        other_binary(),
        async |stage| {
            for number in [0, 1] {
                stage.end_worker(number).await;
                stage.start_worker(number, &own_binary()).await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn the_workers_are_rolled_back() {
    drill(
        "08",
        "worker, rollback",
        Allowed::Nothing,
        own_binary(),
        async |stage| {
            for number in [0, 1] {
                stage.end_worker(number).await;
                stage.start_worker(number, &other_binary()).await;
            }
        },
    )
    .await;
}

#[tokio::test]
async fn redis_is_killed() {
    drill(
        "09",
        "Redis, kill -9, away for 2 s",
        Allowed::Nothing,
        own_binary(),
        async |stage| {
            stage.redis.take().unwrap().kill().await;
            nap(2000).await;
            stage.start_redis();
        },
    )
    .await;
}

#[tokio::test]
async fn redis_is_restarted() {
    drill(
        "10",
        "Redis, restart",
        Allowed::Nothing,
        own_binary(),
        async |stage| {
            stage.redis.take().unwrap().end().await;
            stage.start_redis();
        },
    )
    .await;
}

/// Stops as a crash would, and starts.
async fn crash(postgres: &Postgres) {
    postgres.stop().await;
    postgres.start().await;
}

#[tokio::test]
async fn postgres_is_killed() {
    drill(
        "11",
        "PostgreSQL, crash",
        UNTIL_CONNECTED,
        own_binary(),
        async |stage| {
            crash(&stage.postgres).await;
        },
    )
    .await;
}

#[tokio::test]
async fn postgres_is_restarted() {
    drill(
        "12",
        "PostgreSQL, restart",
        UNTIL_CONNECTED,
        own_binary(),
        async |stage| {
            stage.postgres.end().await;
            stage.postgres.start().await;
        },
    )
    .await;
}
