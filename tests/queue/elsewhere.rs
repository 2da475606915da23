//! Tasks that one of two workers can only leave to the other.

use std::time::Duration;

use async_trait::async_trait;
use main_webserver::{
    queue::{Registry, Run, TaskError, TaskKind},
    store::tasks::TaskInput,
};
use serde::{Deserialize, Serialize};

use super::{
    bench::{Bench, enqueue},
    own_prefix, redis_queue,
};

#[derive(Serialize, Deserialize)]
struct There(String);

impl TaskInput for There {
    const KIND: &'static str = "there";
    const DEADLINE: Duration = Duration::from_secs(10_000);
}

/// Does what is to be done where it is.
struct Here(&'static str);

#[async_trait]
impl TaskKind for Here {
    type Input = There;
    type Output = ();

    async fn run(&self, There(place): There, _: &Run) -> Result<(), TaskError> {
        if place == self.0 {
            Ok(())
        } else {
            Err(TaskError::Elsewhere)
        }
    }
}

async fn two_places(places: [&'static str; 2]) -> Option<Bench> {
    let mut bench = Bench::quiet().await;
    let (store, posted) = bench.another_store().await;
    std::mem::replace(&mut bench.store, store)
        .close()
        .await
        .unwrap();
    let prefix = own_prefix();
    for place in places {
        bench.queue = redis_queue(&prefix).await?;
        bench.registry = Registry::default().with(Here(place));
        bench.add_worker(Duration::ZERO);
    }
    let sending = bench.dispatcher().run(posted, bench.stop.clone());
    let sweeping = bench.sweeper().run(bench.stop.clone());
    bench
        .parts
        .extend([tokio::spawn(sending), tokio::spawn(sweeping)]);
    Some(bench)
}

#[tokio::test]
async fn a_task_left_to_another_worker_comes_to_that_one() {
    let Some(bench) = two_places(["west", "east"]).await else {
        return;
    };
    let mut attempts = Vec::new();
    for place in ["west", "east"].repeat(10) {
        let task = enqueue(&bench, There(place.to_owned())).await;
        attempts.push(bench.in_state_later(task, "succeeded").await.attempt);
    }
    // Whoever has it first, the other one has it next.
    let all: i32 = attempts.iter().sum();
    assert!(all <= 2 * 20, "{attempts:?}");
    bench.end().await;
}

#[tokio::test]
async fn a_task_nobody_can_work_on_rests_between_two_looks() {
    let Some(bench) = two_places(["west", "north"]).await else {
        return;
    };
    let task = enqueue(&bench, There("east".to_owned())).await;
    bench.in_state(task, "waiting").await;
    // The test's clock stands still, so that nothing wakes it.
    let resting = bench.row(task).await;
    crate::harness::nap(300).await;
    assert_eq!(bench.row(task).await.attempt, resting.attempt);
    assert!(resting.attempt <= 4, "{}", resting.attempt);
    bench.end().await;
}
