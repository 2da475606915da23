//! Tasks that wait: for their children, and for what happens outside.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use main_webserver::{
    domain::Id,
    error::StoreError,
    queue::{Registry, Run, TaskError, TaskKind},
    store::tasks::{self, TaskInput},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bench::{Bench, Input, Script, enqueue};
use crate::harness::until;

/// Splits into parts; a part is a [`Script`].
#[derive(Clone, Serialize, Deserialize)]
struct Split(Vec<Script>);

impl TaskInput for Split {
    const KIND: &'static str = "split";
    const DEADLINE: Duration = Duration::from_secs(10_000);
}

struct Splitter;

#[async_trait]
impl TaskKind for Splitter {
    type Input = Split;
    type Output = Vec<String>;

    async fn run(&self, Split(parts): Split, run: &Run) -> Result<Vec<String>, TaskError> {
        for (place, script) in parts.into_iter().enumerate() {
            let child =
                Input(script)
                    .into_task(None, None)
                    .map_err(|error| TaskError::Permanent {
                        code: "BAD_PART",
                        message: error.to_string(),
                    })?;
            run.spawn(&format!("part {place}"), child).await?;
        }
        let children = run.join().await?;
        Ok(children.into_iter().map(|child| child.state).collect())
    }
}

#[tokio::test]
async fn a_parent_waits_without_a_worker_until_its_last_child_has_ended() {
    let mut bench = Bench::quiet().await;
    bench.registry = Registry::default().with(bench.kind.clone()).with(Splitter);
    bench.add_worker(Duration::from_secs(5));
    let sweeper = bench.sweeper().run(bench.stop.clone());
    bench.parts.push(tokio::spawn(sweeper));
    let bell = "the last bell".to_owned();
    let parts = vec![
        Script::Succeed,
        Script::FailForGood,
        Script::WaitFor(bell.clone()),
    ];
    let id = enqueue(&bench, Split(parts)).await;
    let parked = bench.in_state_later(id, "waiting").await;
    assert_eq!(
        (parked.wake_on.as_deref(), parked.worker_id),
        (Some(tasks::CHILDREN), None)
    );
    until("the third child waits", async || {
        bench.clock.advance(Duration::from_millis(500));
        let children = tasks::children(&bench.store, id).await.unwrap();
        (children.len() == 3 && children[2].state == "waiting").then_some(())
    })
    .await;
    assert_eq!(bench.row(id).await.state, "waiting");
    tasks::wake(&bench.store, &bell).await.unwrap();
    let row = bench.in_state_later(id, "succeeded").await;
    assert_eq!(
        row.result,
        Some(json!(["succeeded", "failed", "succeeded"]))
    );
    assert_eq!(
        tasks::children(&bench.store, id).await.unwrap().len(),
        3,
        "the second run found the first one's children"
    );
    bench.end().await;
}

#[tokio::test]
async fn cancelling_a_parent_cancels_what_it_has_begun() {
    let mut bench = Bench::quiet().await;
    bench.registry = Registry::default().with(bench.kind.clone()).with(Splitter);
    bench.add_worker(Duration::from_secs(5));
    let sweeper = bench.sweeper().run(bench.stop.clone());
    bench.parts.push(tokio::spawn(sweeper));
    let parts = vec![Script::UntilStopped, Script::WaitFor("nothing".to_owned())];
    let id = enqueue(&bench, Split(parts)).await;
    bench.in_state_later(id, "waiting").await;
    let mut tx = bench.store.begin().await.unwrap();
    let row = bench.row_in(&tx, id).await;
    tasks::request_cancel(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    bench.in_state_later(id, "cancelled").await;
    for child in tasks::children(&bench.store, id).await.unwrap() {
        bench.in_state_later(Id::new(child.id), "cancelled").await;
    }
    bench.end().await;
}

#[tokio::test]
async fn a_task_that_is_to_stop_gets_no_more_children() {
    let bench = Bench::quiet().await;
    let id = enqueue(&bench, Input(Script::Succeed)).await;
    let claimed = tasks::claim(&bench.store, &[id], &bench.claimer(1))
        .await
        .unwrap();
    let mut tx = bench.store.begin().await.unwrap();
    let row = bench.row_in(&tx, id).await;
    tasks::request_cancel(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    let child = Input(Script::Succeed).into_task(None, None).unwrap();
    let spawned = tasks::spawn(&bench.store, claimed[0].lease(), vec![child]).await;
    assert!(
        matches!(spawned, Err(StoreError::CancelRequested)),
        "{spawned:?}"
    );
    assert_eq!(tasks::children(&bench.store, id).await.unwrap(), []);
    bench.end().await;
}

/// Expects a bell that rings before it has begun to wait.
#[derive(Clone, Serialize, Deserialize)]
struct Impatient {}

impl TaskInput for Impatient {
    const KIND: &'static str = "impatient";
    const DEADLINE: Duration = Duration::from_secs(10_000);
}

struct Waiter(main_webserver::store::Store);

#[async_trait]
impl TaskKind for Waiter {
    type Input = Impatient;
    type Output = i32;

    async fn run(&self, _: Impatient, run: &Run) -> Result<i32, TaskError> {
        if run.task.attempt > 1 {
            return Ok(run.task.attempt);
        }
        run.expect("early bell").await?;
        tasks::wake(&self.0, "early bell").await?;
        Err(TaskError::Wait {
            until: run.now() + TimeDelta::hours(1),
            wake_on: Some("early bell".to_owned()),
        })
    }
}

#[tokio::test]
async fn what_happens_between_the_look_and_the_wait_is_not_missed() {
    let mut bench = Bench::quiet().await;
    bench.registry = Registry::default().with(Waiter(bench.store.clone()));
    bench.add_worker(Duration::from_secs(5));
    let sweeper = bench.sweeper().run(bench.stop.clone());
    bench.parts.push(tokio::spawn(sweeper));
    let began = main_webserver::domain::Clock::now(&*bench.clock);
    let id = enqueue(&bench, Impatient {}).await;
    let row = bench.in_state_later(id, "succeeded").await;
    assert_eq!(row.result, Some(2.into()));
    assert!(row.finished_at.unwrap() - began < TimeDelta::minutes(5));
    bench.end().await;
}
