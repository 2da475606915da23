//! What a fault costs: real processes under load, one fault a test, and effects counted where they happen.
//!
//! The claim is always the same one. Nothing that was promised is lost, and nothing is done twice. How long recovery
//! takes is measured and printed, never asserted.

pub mod engine;
pub mod load;
mod proxy;
mod stage;
pub mod verdict;

use std::time::Duration;

use self::{
    load::CONTAINERS,
    stage::{Stage, Wanted},
    verdict::Verdict,
};
use crate::harness::nap;

/// Has `fault` done to a loaded stage and judges what comes of it; `row` orders and names its row of the matrix.
///
/// Gives the number of tasks that took more than one run, by which a test knows that its fault hit something.
async fn survives(
    row: &str,
    fault: &str,
    wanted: Wanted,
    inject: impl AsyncFnOnce(&mut Stage),
) -> usize {
    let mut stage = Stage::open(wanted).await;
    stage.under_load().await;
    inject(&mut stage).await;
    // Whatever was stopped or held up stays in the stage's hands until the verdict is there.
    let verdict = Verdict::on(stage).await;
    verdict.report(row, fault);
    verdict.run_again
}

#[tokio::test]
async fn without_a_fault_everything_happens_once() {
    survives("01-none", "none", Wanted::default(), async |stage| {
        stage.fault_ends();
    })
    .await;
}

#[tokio::test]
async fn a_killed_worker_is_replaced() {
    let fault = "kill -9 of a worker";
    let run_again = survives("02-worker", fault, Wanted::default(), async |stage| {
        stage.kill_worker(0).await;
        stage.fault_ends();
        nap(1000).await;
        stage.start_worker(0).await;
    })
    .await;
    assert!(run_again > 0, "no run was in the middle");
}

#[tokio::test]
async fn both_workers_are_killed_and_replaced() {
    let fault = "kill -9 of both workers";
    let run_again = survives("03-workers", fault, Wanted::default(), async |stage| {
        stage.kill_worker(0).await;
        stage.kill_worker(1).await;
        stage.fault_ends();
        nap(1000).await;
        stage.start_worker(0).await;
        stage.start_worker(1).await;
    })
    .await;
    assert!(run_again > 0, "no run was in the middle");
}

#[tokio::test]
async fn a_worker_frozen_beyond_its_lease_thaws() {
    let fault = "SIGSTOP of a worker for 8 s";
    let run_again = survives("04-frozen", fault, Wanted::default(), async |stage| {
        stage.worker(0).signal("-STOP").await;
        // Its lease is 2 s, its lead of the sweeps 5 s: both have long been another's.
        nap(8000).await;
        stage.worker(0).signal("-CONT").await;
        stage.fault_ends();
    })
    .await;
    assert!(run_again > 0, "no run was in the middle");
}

#[tokio::test]
async fn the_web_server_is_killed_while_it_accepts() {
    let fault = "kill -9 of the web server";
    survives("05-web", fault, Wanted::default(), async |stage| {
        // Held up first, so that there are requests that were granted and whose answers are lost.
        stage.door.hold_answers();
        nap(300).await;
        stage.kill_web().await;
        stage.door.cut();
        stage.door.resume();
        stage.fault_ends();
        stage.start_web().await;
        let repeated = stage.client.repeated();
        assert!(repeated > 0, "no request was in the middle");
    })
    .await;
}

#[tokio::test]
async fn redis_is_killed_and_comes_back_empty() {
    let fault = "Redis away for 2 s, back empty";
    let wanted = Wanted {
        is_direct: true,
        ..Wanted::default()
    };
    survives("06-redis-restart", fault, wanted, async |stage| {
        stage.kill_redis().await;
        nap(2000).await;
        stage.start_redis();
        stage.fault_ends();
    })
    .await;
}

#[tokio::test]
async fn redis_is_flushed_three_times() {
    let fault = "Redis FLUSHALL, three times";
    survives("07-redis-flush", fault, Wanted::default(), async |stage| {
        for _ in 0..3 {
            stage.redis.as_ref().unwrap().flush_all().await;
            nap(500).await;
        }
        stage.fault_ends();
    })
    .await;
}

#[tokio::test]
async fn redis_connections_are_cut() {
    let fault = "Redis connections reset, three times";
    survives("08-redis-cut", fault, Wanted::default(), async |stage| {
        for _ in 0..3 {
            stage.cache.cut();
            nap(500).await;
        }
        stage.fault_ends();
    })
    .await;
}

#[tokio::test]
async fn postgres_is_stopped_at_once_and_started() {
    let fault = "PostgreSQL immediate stop, back after 1 s";
    let wanted = Wanted {
        own_postgres: true,
        is_direct: true,
        ..Wanted::default()
    };
    survives("09-postgres-restart", fault, wanted, async |stage| {
        let postgres = stage.postgres.as_ref().unwrap();
        postgres.stop().await;
        nap(1000).await;
        postgres.start().await;
        stage.fault_ends();
    })
    .await;
}

#[tokio::test]
async fn postgres_connections_are_cut() {
    let fault = "PostgreSQL connections reset, three times";
    survives("10-postgres-cut", fault, Wanted::default(), async |stage| {
        for _ in 0..3 {
            stage.database.cut();
            nap(500).await;
        }
        stage.fault_ends();
    })
    .await;
}

#[tokio::test]
async fn postgres_cannot_be_reached_for_a_while() {
    let fault = "PostgreSQL unreachable for 3 s";
    survives(
        "11-postgres-down",
        fault,
        Wanted::default(),
        async |stage| {
            stage.database.down();
            // Longer than a lease: who comes back first finds every run expired.
            nap(3000).await;
            stage.database.up();
            stage.fault_ends();
        },
    )
    .await;
}

#[tokio::test]
async fn postgres_holds_its_breath() {
    let fault = "PostgreSQL stalled for 3 s";
    survives(
        "12-postgres-stall",
        fault,
        Wanted::default(),
        async |stage| {
            stage.database.stall();
            nap(3000).await;
            stage.database.resume();
            stage.fault_ends();
        },
    )
    .await;
}

#[tokio::test]
async fn the_network_becomes_slow() {
    let fault = "20 ms more each way, to the end";
    survives("13-slow", fault, Wanted::default(), async |stage| {
        let delay = Duration::from_millis(20);
        stage.database.slow(delay);
        stage.cache.slow(delay);
        stage.fault_ends();
    })
    .await;
}

#[tokio::test]
async fn the_engines_answers_are_lost() {
    let fault = "first answer to every creation lost";
    let wanted = Wanted {
        loses_first_answers: true,
        ..Wanted::default()
    };
    let run_again = survives("14-answers", fault, wanted, async |stage| {
        stage.fault_ends();
    })
    .await;
    assert!(run_again >= CONTAINERS, "each lost answer costs a run");
}

#[tokio::test]
async fn workers_are_replaced_one_after_the_other() {
    let fault = "SIGTERM of each worker in turn";
    survives("15-rolling", fault, Wanted::default(), async |stage| {
        for number in 0..2 {
            let leaving = stage.workers[number].take().unwrap();
            assert_eq!(leaving.end("-TERM").await.code(), Some(0));
            stage.start_worker(number).await;
        }
        stage.fault_ends();
    })
    .await;
}
