//! The task engine: claims, leases, fences, retries, waits, cancellations, and what happens when a part is lost.

mod bench;
mod day;
mod elsewhere;
mod families;
mod features;
mod foretold;
mod steps;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bench::{Bench, Input, LEASE, Script};
use chrono::DateTime;
use main_webserver::{
    domain::{Clock as _, Entropy, Id, SystemClock, id, task::Priority},
    error::StoreError,
    live::Topic,
    queue::{
        GiveUp, MemoryQueue, RedisQueue, Registry, TaskQueue, TaskStore, Worker, WorkerSettings,
    },
    store::{
        leader,
        task_logs::Level,
        tasks::{self, Hint, Lease, Outcome, Report, TaskInput},
    },
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::until;

#[tokio::test]
async fn eight_claimers_never_share_a_task() {
    let bench = Bench::quiet().await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(bench.enqueue(Script::Succeed).await);
    }
    let claimers = (0..8).map(|n| {
        let (store, ids, by) = (bench.store.clone(), ids.clone(), bench.claimer(n));
        tokio::spawn(async move {
            let mut mine = Vec::new();
            for batch in ids.chunks(7) {
                let claimed = tasks::claim(&store, batch, &by).await.unwrap();
                mine.extend(claimed.into_iter().map(|task| (task.id, task.attempt)));
            }
            mine
        })
    });
    let mut claimed = Vec::new();
    for claimer in futures_util::future::join_all(claimers).await {
        claimed.extend(claimer.unwrap());
    }
    claimed.sort_unstable();
    let mut wanted: Vec<_> = ids.iter().map(|id| (id.uuid(), 1)).collect();
    wanted.sort_unstable();
    assert_eq!(claimed, wanted);
    bench.end().await;
}

#[tokio::test]
async fn a_stale_attempt_writes_nothing() {
    let bench = Bench::quiet().await;
    let id = bench.enqueue(Script::Succeed).await;
    let old = tasks::claim(&bench.store, &[id], &bench.claimer(1))
        .await
        .unwrap()
        .remove(0)
        .lease();
    bench.clock.advance(LEASE + Duration::from_secs(1));
    assert_eq!(tasks::take_expired(&bench.store, 10).await.unwrap(), 1);
    let held = tasks::claim(&bench.store, &[id], &bench.claimer(2))
        .await
        .unwrap()
        .remove(0);
    assert_eq!((held.attempt, held.failures), (2, 1));
    let before = bench.row(id).await;
    let is_lost = |error: StoreError| matches!(error, StoreError::LeaseLost);
    let tx = bench.store.begin().await.unwrap();
    assert!(is_lost(tasks::fence(&tx, old).await.unwrap_err()));
    drop(tx);
    for outcome in [
        Outcome::Succeeded(1.into()),
        Outcome::Cancelled,
        Outcome::HandBack,
    ] {
        let settled = tasks::settle(&bench.store, &[(old, outcome)])
            .await
            .unwrap();
        assert!(settled.is_empty());
    }
    let late = Report {
        lease: old,
        percent: Some(50),
        level: Level::Info,
        message: "late".to_owned(),
    };
    assert!(
        tasks::report(&bench.store, &[late])
            .await
            .unwrap()
            .is_empty()
    );
    let truth: &dyn TaskStore = &bench.store;
    assert!(is_lost(truth.arm(old, "a bell").await.unwrap_err()));
    assert!(is_lost(
        truth.record_step(old, "step", 1.into()).await.unwrap_err()
    ));
    assert!(is_lost(truth.spawn(old, Vec::new()).await.unwrap_err()));
    assert!(truth.renew(&[old], LEASE).await.unwrap().is_empty());
    // The same attempt in another worker's hands is not this one's either.
    let namesake = Lease {
        worker: Uuid::from_u128(1),
        ..held.lease()
    };
    let stolen = [(namesake, Outcome::Succeeded(3.into()))];
    assert!(truth.settle(&stolen).await.unwrap().is_empty());
    assert_eq!(bench.row(id).await, before);
    let done = [(held.lease(), Outcome::Succeeded(2.into()))];
    assert_eq!(
        tasks::settle(&bench.store, &done).await.unwrap(),
        [held.lease()]
    );
    assert_eq!(bench.row(id).await.result, Some(2.into()));
    bench.end().await;
}

#[tokio::test]
async fn a_task_succeeds_once() {
    let bench = Bench::working().await;
    let id = bench.enqueue(Script::Succeed).await;
    let row = bench.in_state(id, "succeeded").await;
    assert_eq!(
        (row.attempt, row.failures, row.progress, row.result.clone()),
        (1, 0, 100, Some(1.into()))
    );
    // Hints that come late or twice change nothing.
    for _ in 0..10 {
        bench.queue.announce(&[row.hint()]).await.unwrap();
    }
    let other = bench.enqueue(Script::Succeed).await;
    bench.in_state(other, "succeeded").await;
    assert_eq!(bench.kind.runs.load(Ordering::SeqCst), 2);
    bench.end().await;
}

#[tokio::test]
async fn a_failed_attempt_is_retried_after_a_pause() {
    let bench = Bench::working().await;
    let id = bench.enqueue(Script::FailTimes(2)).await;
    let row = bench.in_state_later(id, "succeeded").await;
    assert_eq!((row.attempt, row.failures, row.error_code), (3, 2, None));
    assert!(bench.kind.given_up.lock().unwrap().is_empty());
    bench.end().await;
}

#[tokio::test]
async fn a_task_that_keeps_failing_or_panicking_is_given_up_with_its_last_error() {
    for (script, code, runs) in [
        (Script::FailTimes(99), "OOPS", 3),
        (Script::Panic, "INTERNAL", 3),
        (Script::FailForGood, "NEVER", 1),
    ] {
        let bench = Bench::working().await;
        let id = bench.enqueue(script).await;
        let row = bench.in_state_later(id, "failed").await;
        assert_eq!(
            (
                row.error_code.as_deref(),
                bench.kind.runs.load(Ordering::SeqCst)
            ),
            (Some(code), runs)
        );
        assert!(
            matches!(bench.kind.given_up.lock().unwrap()[..], [GiveUp::Failed { code: c, .. }] if c == code)
        );
        bench.end().await;
    }
}

#[tokio::test]
async fn a_waiting_task_holds_no_worker_and_is_woken_by_its_event_or_by_time() {
    let bench = Bench::working().await;
    let by_event = bench.enqueue(Script::WaitFor("the bell".to_owned())).await;
    let parked = bench.in_state(by_event, "waiting").await;
    assert_eq!((parked.worker_id, parked.lease_until), (None, None));
    assert_eq!(tasks::wake(&bench.store, "another bell").await.unwrap(), 0);
    assert_eq!(tasks::wake(&bench.store, "the bell").await.unwrap(), 1);
    bench.in_state_later(by_event, "succeeded").await;
    let by_time = bench.enqueue(Script::WaitFor("nothing".to_owned())).await;
    bench.in_state(by_time, "waiting").await;
    bench.clock.advance(Duration::from_secs(3601));
    let row = bench.in_state_later(by_time, "succeeded").await;
    assert_eq!((row.attempt, row.failures), (2, 0));
    bench.end().await;
}

#[tokio::test]
async fn a_cancellation_reaches_queued_running_and_waiting_tasks() {
    let bench = Bench::working().await;
    let cancel = async |id| {
        let mut tx = bench.store.begin().await.unwrap();
        let row = tasks::unscoped_by_id(&tx, id).await.unwrap().unwrap();
        tasks::request_cancel(&mut tx, &row).await.unwrap();
        tx.commit().await.unwrap();
    };
    let running = bench.enqueue(Script::UntilStopped).await;
    bench.in_state(running, "running").await;
    let waiting = bench.enqueue(Script::WaitFor("nothing".to_owned())).await;
    bench.in_state(waiting, "waiting").await;
    for id in [running, waiting] {
        cancel(id).await;
        let row = bench.in_state_later(id, "cancelled").await;
        assert_eq!(row.failures, 0);
    }
    assert_eq!(
        *bench.kind.given_up.lock().unwrap(),
        [GiveUp::Cancelled, GiveUp::Cancelled]
    );
    bench.end().await;
}

#[tokio::test]
async fn a_task_past_its_deadline_is_given_up() {
    let bench = Bench::quiet().await;
    let id = bench.enqueue(Script::Succeed).await;
    bench
        .clock
        .advance(Input::DEADLINE + Duration::from_secs(1));
    let mut bench = bench;
    bench.add_worker(Duration::from_secs(5));
    let row = bench.in_state(id, "failed").await;
    assert_eq!(
        (
            row.error_code.as_deref(),
            bench.kind.runs.load(Ordering::SeqCst)
        ),
        (Some("DEADLINE_EXCEEDED"), 0)
    );
    bench.end().await;
}

#[tokio::test]
async fn a_kind_nobody_knows_is_kept_for_a_worker_that_does() {
    let mut bench = Bench::quiet().await;
    let settings = WorkerSettings {
        concurrency: 2,
        lease: LEASE,
        drain: LEASE,
    };
    let ignorant = Worker::new(bench.outlook(), Registry::default(), settings);
    let stop = CancellationToken::new();
    let older = tokio::spawn(Arc::new(ignorant).run(stop.clone()));
    let id = bench.enqueue(Script::Succeed).await;
    until("the hint has been taken", async || {
        (bench.queue.backlog().await.unwrap() == 0).then_some(())
    })
    .await;
    let row = bench.row(id).await;
    assert_eq!((row.state.as_str(), row.attempt), ("queued", 0));
    stop.cancel();
    older.await.unwrap();
    bench.add_worker(Duration::from_secs(5));
    let sweeper = bench.sweeper().run(bench.stop.clone());
    bench.parts.push(tokio::spawn(sweeper));
    bench.in_state_later(id, "succeeded").await;
    bench.end().await;
}

#[tokio::test]
async fn a_stopping_worker_gives_back_what_does_not_finish() {
    let mut bench = Bench::quiet().await;
    let stop = bench.add_worker(Duration::ZERO);
    let id = bench.enqueue(Script::UntilStopped).await;
    bench.in_state(id, "running").await;
    stop.cancel();
    let row = bench.in_state(id, "queued").await;
    assert_eq!((row.attempt, row.failures, row.worker_id), (1, 0, None));
    assert!(bench.kind.given_up.lock().unwrap().is_empty());
    bench.end().await;
}

#[tokio::test]
async fn a_silent_workers_task_goes_to_another_and_one_that_kills_its_workers_is_not_fed_to_them_for_ever()
 {
    let mut bench = Bench::quiet().await;
    let poison = bench.enqueue(Script::Succeed).await;
    // Three workers take it, one after the other, and are never heard of again.
    for dead in 0..3 {
        let claimed = tasks::claim(&bench.store, &[poison], &bench.claimer(100 + dead))
            .await
            .unwrap();
        assert_eq!(claimed.len(), 1);
        bench.clock.advance(LEASE + Duration::from_secs(1));
        assert_eq!(tasks::take_expired(&bench.store, 10).await.unwrap(), 1);
    }
    bench.add_worker(Duration::from_secs(5));
    let row = bench.in_state(poison, "failed").await;
    assert_eq!(row.error_code.as_deref(), Some("ATTEMPTS_EXHAUSTED"));
    assert_eq!(bench.kind.runs.load(Ordering::SeqCst), 0);
    bench.end().await;
}

#[tokio::test]
async fn lost_hints_and_unsent_messages_are_found_by_the_sweep() {
    let bench = Bench::quiet().await;
    let mut listener = bench.bus.listen(Topic::Changes);
    let task = bench
        .insert(Input(Script::Succeed).into_task(None, None).unwrap())
        .await;
    let mut sweeper = bench.sweeper();
    let next = async || bench.queue.next(10, Duration::ZERO).await.unwrap().tasks;
    sweeper.once().await.unwrap();
    assert!(next().await.is_empty(), "too early to call it lost");
    bench.clock.advance(Duration::from_secs(3));
    sweeper.once().await.unwrap();
    assert!(next().await.is_empty(), "only its change was unsent");
    assert!(
        matches!(listener.next().await, Some(main_webserver::live::Heard::Change(change)) if change.id == task.id)
    );
    bench.clock.advance(Duration::from_secs(3));
    sweeper.once().await.unwrap();
    assert_eq!(next().await, [task.id()], "because nobody took it");
    sweeper.once().await.unwrap();
    assert!(next().await.is_empty(), "not again at once");
    bench.end().await;
}

#[tokio::test]
async fn one_process_leads_and_another_follows_when_it_is_gone() {
    let bench = Bench::quiet().await;
    let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let lead = async |who| leader::lead(&bench.store, "job", who, LEASE).await.unwrap();
    assert_eq!(
        (lead(one).await, lead(two).await, lead(one).await),
        (Some(1), None, Some(1))
    );
    bench.clock.advance(LEASE + Duration::from_secs(1));
    assert_eq!((lead(two).await, lead(one).await), (Some(2), None));
    leader::resign(&bench.store, "job", two).await.unwrap();
    assert_eq!(lead(one).await, Some(3));
    bench.end().await;
}

/// One queue of each kind there is to test here.
async fn queues() -> Vec<Arc<dyn TaskQueue>> {
    let mut queues: Vec<Arc<dyn TaskQueue>> = vec![Arc::new(MemoryQueue::default())];
    queues.extend(redis_queue(&own_prefix()).await);
    queues
}

/// A connection to the queue of that name, where there is a Redis.
async fn redis_queue(prefix: &str) -> Option<Arc<dyn TaskQueue>> {
    let url = main_webserver::config::Secret::new(std::env::var("TEST_REDIS_URL").ok()?);
    let pool = main_webserver::redis::pool(&url, 1).await.unwrap();
    let queue = RedisQueue::new(&url, prefix, pool).await.unwrap();
    Some(Arc::new(queue))
}

fn own_prefix() -> String {
    format!("t_{}", Entropy::from_os().uuid(SystemClock.now()))
}

#[tokio::test]
async fn every_queue_gives_the_urgent_first_and_nothing_from_nothing() {
    for queue in queues().await {
        let entropy = Entropy::seeded(1);
        let hint = |priority, share| Hint {
            trace: None,
            task: entropy.id::<id::Task>(DateTime::UNIX_EPOCH),
            priority,
            share: Uuid::from_u128(share),
        };
        let (low, normal) = (hint(Priority::Background, 1), hint(Priority::Normal, 1));
        let (high, high2) = (
            hint(Priority::Interactive, 1),
            hint(Priority::Interactive, 1),
        );
        let wait = Duration::from_millis(300);
        assert!(queue.next(5, wait).await.unwrap().tasks.is_empty());
        // Told twice is waiting once.
        for _ in 0..2 {
            queue.announce(&[low, normal, high, high2]).await.unwrap();
        }
        assert_eq!(queue.backlog().await.unwrap(), 4);
        assert_eq!(
            queue.next(3, wait).await.unwrap().tasks,
            [high.task, high2.task, normal.task]
        );
        assert_eq!(queue.next(3, wait).await.unwrap().tasks, [low.task]);
        // Somebody who waits already hears of it.
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.next(1, Duration::from_secs(10)).await.unwrap() }
        });
        queue.announce(&[low]).await.unwrap();
        assert_eq!(waiting.await.unwrap().tasks, [low.task]);
    }
}

#[tokio::test]
async fn every_queue_gives_every_share_its_turn_and_all_in_the_same_order() {
    let mut orders = Vec::new();
    for queue in queues().await {
        let entropy = Entropy::seeded(3);
        let hint = |share| Hint {
            trace: None,
            task: entropy.id::<id::Task>(DateTime::UNIX_EPOCH),
            priority: Priority::Normal,
            share: Uuid::from_u128(share),
        };
        // A thousand of one, then three of another, then one of a third.
        let mut hints: Vec<Hint> = (0..1000).map(|_| hint(1)).collect();
        hints.extend((0..3).map(|_| hint(2)));
        hints.push(hint(3));
        queue.announce(&hints).await.unwrap();
        let mut order = queue.next(7, Duration::ZERO).await.unwrap().tasks;
        let share_of = |id: &Id<id::Task>| {
            let hint = hints.iter().find(|hint| hint.task == *id);
            hint.unwrap().share.as_u128()
        };
        let mut first: Vec<u128> = order.iter().map(share_of).collect();
        first.sort_unstable();
        assert_eq!(first, [1, 1, 1, 2, 2, 2, 3], "the small shares are done");
        // Who comes later begins where the others are, not before them.
        queue.announce(&[hint(4)]).await.unwrap();
        while let [id] = queue.next(1, Duration::ZERO).await.unwrap().tasks[..] {
            order.push(id);
        }
        assert_eq!(order.len(), 1005);
        orders.push(order);
    }
    assert!(orders.iter().all(|order| *order == orders[0]));
}
