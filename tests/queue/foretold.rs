//! Tasks that a worker hears of before their commit has ended.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use main_webserver::{
    domain::{Clock as _, Entropy, Id, id},
    error::TransportError,
    queue::{Taken, TaskQueue},
    store::{
        Posted,
        tasks::{self, Hint, TaskInput as _},
    },
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    bench::{Bench, Input, Script},
    queues,
};
use crate::harness::nap;

fn task() -> tasks::NewTask {
    Input(Script::Succeed).into_task(None, None).unwrap()
}

#[tokio::test]
async fn whoever_claims_a_foretold_task_waits_for_its_commit() {
    let bench = Bench::quiet().await;
    for commits in [true, false] {
        let mut tx = bench.store.begin().await.unwrap();
        let added = tasks::insert(&mut tx, task()).await.unwrap().task.id();
        let claiming = tokio::spawn({
            let (store, by) = (bench.store.clone(), bench.claimer(1));
            async move { tasks::claim_foretold(&store, &[added], &by).await.unwrap() }
        });
        if bench.is_postgres() {
            nap(20).await;
            assert!(!claiming.is_finished(), "it is not there yet");
        }
        if commits {
            tx.commit().await.unwrap();
        } else {
            drop(tx);
        }
        let claimed = claiming.await.unwrap();
        // SQLite has nothing to wait for: nothing is foretold there.
        if bench.is_postgres() {
            assert_eq!(claimed.len(), usize::from(commits));
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn a_commit_that_takes_long_is_not_waited_for() {
    let bench = Bench::quiet().await;
    let mut tx = bench.store.begin().await.unwrap();
    let added = tasks::insert(&mut tx, task()).await.unwrap().task.id();
    if bench.is_postgres() {
        let claimed = tasks::claim_foretold(&bench.store, &[added], &bench.claimer(1)).await;
        assert!(claimed.unwrap().is_empty());
    }
    tx.commit().await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn the_idle_are_told_before_and_nobody_who_waits_is_passed_by() {
    for queue in queues().await {
        let [one, two] = [1, 2].map(|n| Id::<id::Task>::new(uuid::Uuid::from_u128(n)));
        let wait = Duration::from_millis(100);
        queue.foretell(&[one]).await.unwrap();
        let taken = queue.next(5, wait).await.unwrap();
        // A queue may have no way to do so.
        if taken.are_foretold {
            assert_eq!(taken.tasks, [one]);
        } else {
            assert_eq!(taken, Taken::default());
        }
        queue.announce(&[hint(two)]).await.unwrap();
        queue.foretell(&[one]).await.unwrap();
        assert_eq!(queue.next(5, wait).await.unwrap().tasks, [two]);
        assert_eq!(queue.next(5, wait).await.unwrap(), Taken::default());
        // Where nobody takes them they are gone.
        queue.foretell(&[one]).await.unwrap();
        nap(1500).await;
        assert_eq!(queue.next(5, wait).await.unwrap(), Taken::default());
    }
}

fn hint(task: Id<id::Task>) -> Hint {
    Hint {
        task,
        priority: main_webserver::domain::task::Priority::Normal,
        share: uuid::Uuid::nil(),
        trace: None,
    }
}

#[tokio::test]
async fn a_worker_starts_what_was_only_foretold() {
    let Some(redis) = queues().await.pop().filter(|_| is_scaled_out()) else {
        return;
    };
    let mut bench = Bench::quiet().await;
    bench.queue = redis;
    bench.add_worker(Duration::ZERO);
    let mut tx = bench.store.begin().await.unwrap();
    let added = tasks::insert(&mut tx, task()).await.unwrap().task.id();
    bench.queue.foretell(&[added]).await.unwrap();
    nap(10).await;
    tx.commit().await.unwrap();
    // Nobody announces it, and nobody sweeps.
    let row = bench.in_state(added, "succeeded").await;
    assert_eq!(row.attempt, 1);
    bench.end().await;
}

#[tokio::test]
async fn a_worker_that_hears_of_a_task_before_it_is_added_looks_again() {
    let Some(redis) = queues().await.pop().filter(|_| is_scaled_out()) else {
        return;
    };
    let mut bench = Bench::quiet().await;
    bench.queue = redis;
    bench.add_worker(Duration::ZERO);
    let (store, _posted) = bench.another_store().await;
    // Its clock stands still and its generator is a seeded one.
    let next = Entropy::seeded(2).id(bench.clock.now());
    bench.queue.foretell(&[next]).await.unwrap();
    nap(100).await;
    let added = tasks::insert_batch(&store, vec![task()]).await.unwrap();
    assert_eq!(added[0].task.id(), next);
    let row = bench.in_state_later(next, "succeeded").await;
    assert_eq!(row.attempt, 1);
    store.close().await.unwrap();
    bench.end().await;
}

#[tokio::test]
async fn a_few_new_tasks_are_foretold_and_then_announced() {
    let bench = Bench::quiet().await;
    let (store, mut posted) = bench.another_store().await;
    for count in [1, 4, 5] {
        let batch = || (0..count).map(|_| task()).collect();
        let alone = tasks::insert_batch(&store, batch()).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        let within = tasks::insert_all(&mut tx, batch()).await.unwrap();
        tx.commit().await.unwrap();
        for added in [alone, within] {
            let ids: Vec<_> = added.iter().map(|added| added.task.id()).collect();
            if bench.is_postgres() && count <= 4 {
                let first = posted.recv().await.unwrap();
                assert_eq!((first.foretold, first.hints), (ids.clone(), Vec::new()));
            }
            let then = posted.recv().await.unwrap();
            let hinted: Vec<_> = then.hints.iter().map(|hint| hint.task).collect();
            assert_eq!((then.foretold, hinted), (Vec::new(), ids));
        }
    }
    store.close().await.unwrap();
    bench.end().await;
}

/// Keeps what it is told.
struct Recorder {
    has_idle_workers: bool,
    announced: Mutex<Vec<Id<id::Task>>>,
}

#[async_trait]
impl TaskQueue for Recorder {
    async fn announce(&self, hints: &[Hint]) -> Result<(), TransportError> {
        let mut announced = self.announced.lock().unwrap();
        announced.extend(hints.iter().map(|hint| hint.task));
        Ok(())
    }
    async fn foretell(&self, _: &[Id<id::Task>]) -> Result<bool, TransportError> {
        Ok(self.has_idle_workers)
    }
    async fn backlog(&self) -> Result<usize, TransportError> {
        Ok(0)
    }
    async fn next(&self, _: usize, _: Duration) -> Result<Taken, TransportError> {
        Ok(Taken::default())
    }
}

#[tokio::test]
async fn what_a_worker_was_foretold_is_announced_without_haste_and_never_forgotten() {
    let bench = Bench::quiet().await;
    let [one, two, three] = [1, 2, 3].map(|n| Id::<id::Task>::new(uuid::Uuid::from_u128(n)));
    tokio::time::pause();
    for has_idle_workers in [true, false] {
        let queue = Arc::new(Recorder {
            has_idle_workers,
            announced: Mutex::default(),
        });
        let announced = || queue.announced.lock().unwrap().clone();
        let (tell, told) = mpsc::channel(9);
        let mut dispatcher = bench.dispatcher();
        dispatcher.queue = queue.clone();
        let relay = tokio::spawn(dispatcher.run(told, CancellationToken::new()));
        let foretold = |task| Posted {
            foretold: vec![task],
            ..Posted::default()
        };
        let committed = |task| Posted {
            hints: vec![hint(task)],
            ..Posted::default()
        };
        let at_once = |task| {
            if has_idle_workers {
                Vec::new()
            } else {
                vec![task]
            }
        };
        tell.send(foretold(one)).await.unwrap();
        nap(2).await;
        tell.send(committed(one)).await.unwrap();
        nap(40).await;
        assert_eq!(announced(), at_once(one));
        nap(10).await;
        assert_eq!(announced(), [one]);
        // Whatever was not foretold is announced at once, and the end waits for nothing.
        tell.send(foretold(two)).await.unwrap();
        nap(2).await;
        for task in [two, three] {
            tell.send(committed(task)).await.unwrap();
        }
        nap(2).await;
        assert_eq!(announced().contains(&two), !has_idle_workers);
        assert!(announced().contains(&three));
        drop(tell);
        relay.await.unwrap();
        assert!(announced().contains(&two));
    }
    tokio::time::resume();
    bench.end().await;
}

/// Whether there are PostgreSQL and Redis, which it takes to be told before.
fn is_scaled_out() -> bool {
    ["TEST_DATABASE_URL", "TEST_REDIS_URL"]
        .iter()
        .all(|name| std::env::var_os(name).is_some())
}
