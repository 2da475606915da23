//! What the task queue does a second, and how soon, beside Celery and BullMQ in the same run.
//!
//! `tests/load/tasks/run.sh` starts a PostgreSQL that flushes to the disk and a Redis, and runs this. Everything is
//! printed as one table and a few lines; nothing is asserted, because machines are noisy.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a measurement: it prints, reads the machine's clock, and ends at the first thing that is wrong"
)]

mod mutations;
mod ours;
mod peers;
mod physics;
mod processes;

use std::time::Duration;

use ours::Bench;
use processes::Process;

/// Tasks of one measurement of the rate.
const TASKS: usize = 20_000;
/// Tasks that are started one after the other while the queue is idle.
const IDLE: usize = 300;
/// Rows of the backlog.
const BACKLOG: usize = 1_000_000;

/// A half and 99 in a hundred of them were no longer.
#[derive(Clone, Copy, Default)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
}

impl Spread {
    /// Of times in milliseconds.
    pub fn of(mut millis: Vec<f64>) -> Self {
        millis.sort_by(f64::total_cmp);
        // The nearest rank.
        let at = |per_cent: usize| millis[(millis.len() * per_cent).div_ceil(100).max(1) - 1];
        Self {
            p50: at(50),
            p99: at(99),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} / {:.2}", self.p50, self.p99)
    }
}

/// One line of the table.
pub struct Row {
    pub name: String,
    pub rate: f64,
    pub start: Option<Spread>,
    pub memory_mb: Option<f64>,
}

#[tokio::main]
async fn main() {
    let tasks: usize = std::env::var("TASKS").map_or(TASKS, |n| n.parse().unwrap());
    let backlog: usize = std::env::var("BACKLOG").map_or(BACKLOG, |n| n.parse().unwrap());
    let bench = Bench::open().await;

    let commit = physics::bare_commit(&bench, IDLE).await;
    let limit = physics::insert_and_two_updates(&bench, tasks).await;

    let mut workers = vec![bench.worker().await, bench.worker().await];
    bench.warm_up().await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(bench.enqueue_and_complete(tasks, &workers).await);
    }
    runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let run = runs.swap_remove(1);
    let one_by_one = bench.concurrent_single(tasks, 64).await;
    let idle = bench.idle_starts(IDLE).await;
    let memory_mb: f64 = workers.iter().map(Process::memory_mb).sum();

    let claim_before = bench.claim_time(200).await;
    bench.build_backlog(backlog).await;
    let claim_after = bench.claim_time(200).await;
    let idle_after = bench.idle_starts(IDLE).await;
    let run_after = bench.enqueue_and_complete(tasks, &workers).await;
    bench.drop_backlog().await;
    workers.clear();

    let mutations = mutations::measure(&bench, tasks, 64, false).await;
    let mutations_with_workers = mutations::measure(&bench, tasks, 64, true).await;

    let mut rows = vec![
        Row {
            name: "ours, batches of 500".to_owned(),
            rate: run.rate,
            start: Some(idle),
            memory_mb: Some(memory_mb),
        },
        Row {
            name: "ours, 64 single enqueues at once".to_owned(),
            rate: one_by_one,
            start: None,
            memory_mb: None,
        },
    ];
    if std::env::var_os("NO_PEERS").is_none() {
        rows.extend(peers::measure(&bench.redis_url).await);
    }

    print_table(&rows, tasks);
    println!("\nwhere a task's time goes, CPU µs a task");
    for (part, micros) in &run.cpu {
        println!("  {part:<30} {micros:>8.1}");
    }
    println!(
        "physical limit, insert and two updates in batches of 500, two connections: {:.0}/s; ours is {:.2} of it",
        limit,
        run.rate / limit
    );
    println!("\nidle: bare commit {commit} ms, enqueue to start {idle} ms (p50 / p99)");
    println!(
        "  above the bare commit: p50 {:+.2} ms",
        idle.p50 - commit.p50
    );
    println!("\nwith {backlog} queued rows          before          after      ratio");
    println!(
        "  claim of 100, p50 ms       {:>10.2}     {:>10.2} {:>9.2}x",
        claim_before.p50,
        claim_after.p50,
        claim_after.p50 / claim_before.p50
    );
    println!(
        "  idle start p50 / p99 ms {idle:>13}  {idle_after:>13} {:>9.2}x",
        idle_after.p50 / idle.p50
    );
    println!(
        "  tasks/s                    {:>10.0}     {:>10.0} {:>9.2}x",
        run.rate,
        run_after.rate,
        run.rate / run_after.rate
    );
    println!("\n64 concurrent createTask mutations over HTTP    per second   p50 / p99 ms");
    println!(
        "  no worker running                             {:>11.0}  {}",
        mutations.rate, mutations.latency
    );
    println!(
        "  two workers running and completing them       {:>11.0}  {}",
        mutations_with_workers.rate, mutations_with_workers.latency
    );
    bench.close().await;
}

/// The rates side by side.
fn print_table(rows: &[Row], tasks: usize) {
    println!("\nenqueue and complete {tasks} no-op tasks, two worker processes");
    println!(
        "{:<38} {:>10} {:>8} {:>20} {:>10}",
        "", "tasks/s", "ratio", "start p50 / p99 ms", "memory MB"
    );
    for row in rows {
        println!(
            "{:<38} {:>10.0} {:>7.2}x {:>20} {:>10}",
            row.name,
            row.rate,
            rows[0].rate / row.rate,
            row.start
                .map_or_else(String::new, |start| start.to_string()),
            row.memory_mb
                .map_or_else(String::new, |mb| format!("{mb:.0}")),
        );
    }
    println!(
        "(ratio: our batches to that row; the peers are not durable: a Redis without persistence)"
    );
}

/// A pause in real time.
pub async fn nap(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
