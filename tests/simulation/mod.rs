//! The task engine in a world of its own: its real code over a modelled database, queue and bus, in stopped time, with
//! every message's way, every fault and every id drawn from one seed. A seed that breaks an invariant replays.
//!
//! `world` and `weather` are what nodes live in, `node`, `truth` and `transport` what stands between them and it,
//! `kinds` and `people` what happens, `chaos` what goes wrong, `oracle` what must hold, `model` the database.

mod chaos;
mod cluster;
mod kinds;
pub mod model;
mod node;
mod oracle;
mod people;
mod provider;
mod trace;
mod transport;
mod truth;
mod weather;
mod world;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use main_webserver::domain::Machine as _;

use cluster::Cluster;
use people::People;
use world::World;

/// How long everything may take to come to an end once the faults have stopped.
const PATIENCE: Duration = Duration::from_secs(120);
/// The same for what somebody has asked to stop: a lead that has to pass on, a lease, a hint.
const PROMPT: Duration = Duration::from_secs(45);
const FIRST_SEED: u64 = 1;

/// What one seed has come to.
struct Verdict {
    violation: Option<String>,
    hash: u64,
    counts: BTreeMap<String, u64>,
    trace: Vec<String>,
}

fn run(seed: u64, is_traced: bool) -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime starts");
    runtime.block_on(async {
        let world = Arc::new(World::new(seed, is_traced));
        if let Err(violation) = live(Arc::clone(&world), seed).await {
            world.state().oracle.fail(violation);
        }
        let mut state = world.state();
        Verdict {
            violation: state.oracle.violation.take(),
            hash: state.trace.hash(),
            counts: std::mem::take(&mut state.counts),
            trace: state.trace.last(usize::MAX).to_vec(),
        }
    })
}

/// A world from its beginning to its end: faults for a while, then none, then everything must come to an end.
async fn live(world: Arc<World>, seed: u64) -> Result<(), String> {
    let mut cluster = Cluster::new(Arc::clone(&world), seed);
    let people = People(cluster.start_web());
    people.schedule();
    for _ in 0..2 + world.state().below(2) {
        cluster.start_worker();
    }
    let (things, end) = {
        let mut state = world.state();
        (
            12 + state.below(8),
            Duration::from_millis(5_000 + state.below(5_000)),
        )
    };
    if world.state().oracle.is_clear {
        people.crowd().await;
    }
    tokio::join!(people.live(things), cluster.storm(end));
    people.finish().await;
    let (prompt, bound) = (world.elapsed() + PROMPT, world.elapsed() + PATIENCE);
    while !world.is_broken() && world.elapsed() < bound && !is_over(&world, |_| true) {
        if world.elapsed() > prompt && !is_over(&world, |row| row.kind == "endless") {
            return Err("a request to stop was not followed in time".to_owned());
        }
        world.nap(Duration::from_millis(250)).await;
    }
    if world.is_broken() {
        return Ok(());
    }
    oracle::check_end(&world.state())?;
    cluster.stop(Duration::from_secs(60)).await
}

fn is_over(world: &World, of: impl Fn(&model::Row) -> bool) -> bool {
    let state = world.state();
    let mut rows = state.db.tasks.values().filter(|row| of(row));
    rows.all(|row| model::state(row).is_terminal())
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Tells how a seed went wrong, and how to see it again.
fn tell(seed: u64) -> String {
    let verdict = run(seed, true);
    format!(
        "seed {seed}: {}\n{}\nreplay: SIM_SEED={seed} cargo test --test it simulation::one_seed -- --nocapture",
        verdict
            .violation
            .unwrap_or_else(|| "it does not happen again".to_owned()),
        verdict.trace[verdict.trace.len().saturating_sub(60)..].join("\n")
    )
}

#[test]
fn seeds_keep_every_invariant() {
    let first = setting("SIM_SEED").unwrap_or(FIRST_SEED);
    let count = setting("SIM_SEEDS").unwrap_or(2_000);
    let next = AtomicU64::new(first);
    let broken = Mutex::new(Vec::new());
    let counts = Mutex::new(BTreeMap::<String, u64>::new());
    let began = stopwatch();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count || broken.lock().unwrap().len() >= 3 {
                        return;
                    }
                    let verdict = run(seed, false);
                    let mut counts = counts.lock().unwrap();
                    for (what, times) in verdict.counts {
                        *counts.entry(what).or_default() += times;
                    }
                    if verdict.violation.is_some() {
                        broken.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let took = began.elapsed().as_millis().max(1);
    let broken = broken.into_inner().unwrap();
    let done = next.into_inner().min(first + count) - first;
    say(&format!(
        "seeds {done}  violations {}  seeds/s {}",
        broken.len(),
        u128::from(done) * 1_000 / took
    ));
    let counts = counts.into_inner().unwrap();
    if let Some(seed) = broken.iter().min() {
        panic!("{}", tell(*seed));
    }
    for (what, times) in &counts {
        say(&format!("{times:>9}  {what}"));
    }
    if count >= 2_000 {
        everything_has_happened(&counts);
    }
}

/// Every fault has struck, and every kind has come to the ends it can come to.
fn everything_has_happened(counts: &BTreeMap<String, u64>) {
    let faults = weather::Fault::ALL.map(|fault| format!("fault {fault:?}"));
    let ends = [
        "quick succeeded",
        "quick cancelled",
        "flaky retried",
        "flaky succeeded",
        "stepped succeeded",
        "stepped failed",
        "waiting parked",
        "waiting succeeded",
        "family parked",
        "family succeeded",
        "slow succeeded",
        "slow handed_back",
        "poison failed",
        "endless cancelled",
        "limited parked",
        "limited succeeded",
        "fault latency spike",
        "fault store refuses",
        "fault store answer lost",
        "fault claim forgotten",
        "fault hint lost",
        "fault hint twice",
        "fault hint late",
        "fault queue fails",
        "fault bus fails",
        "fault bus message lost",
        "fault provider fails",
        "fault provider answer lost",
        "fault two leaders",
        "effect lease expired",
        "effect step undone",
        "effect revived",
        "effect task left to others",
        "effect provider refused an old attempt",
    ];
    let never: Vec<&str> = faults
        .iter()
        .map(String::as_str)
        .chain(ends)
        .filter(|what| !counts.contains_key(*what))
        .collect();
    assert!(never.is_empty(), "never happened: {never:?}");
}

#[test]
fn one_seed() {
    let Some(seed) = setting("SIM_SEED") else {
        return;
    };
    let verdict = run(seed, true);
    say(&verdict.trace.join("\n"));
    say(&format!("trace {:016x}", verdict.hash));
    assert_eq!(verdict.violation, None);
}

#[test]
fn a_seed_replays() {
    for seed in 10..20 {
        assert_eq!(run(seed, false).hash, run(seed, true).hash, "seed {seed}");
    }
}

#[expect(clippy::print_stdout, reason = "numbers for whoever runs it")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(
    clippy::disallowed_methods,
    reason = "measures the machine, not the world"
)]
fn stopwatch() -> std::time::Instant {
    std::time::Instant::now()
}
