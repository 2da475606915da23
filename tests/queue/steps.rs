//! Recorded steps: a later attempt goes on after them, and what is given up undoes them.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use main_webserver::{
    queue::{GiveUp, Registry, Run, TaskError, TaskKind},
    store::tasks::{self, Step, TaskInput},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bench::{Bench, enqueue};

type Diary = Arc<Mutex<Vec<String>>>;

fn write(diary: &Diary, line: impl Into<String>) {
    diary.lock().unwrap().push(line.into());
}

/// Books a flight, a hotel and a car; the car is the trouble.
#[derive(Clone, Serialize, Deserialize)]
struct Journey {
    /// Attempts in which there is no car.
    no_car: i32,
}

impl TaskInput for Journey {
    const KIND: &'static str = "journey";
    const MAX_ATTEMPTS: i32 = 3;
    const DEADLINE: Duration = Duration::from_secs(10_000);
}

#[derive(Clone, Default)]
struct Agency(Diary);

#[async_trait]
impl TaskKind for Agency {
    type Input = Journey;
    type Output = Vec<String>;

    async fn run(&self, input: Journey, run: &Run) -> Result<Vec<String>, TaskError> {
        let mut booked: Vec<String> = Vec::new();
        for what in ["flight", "hotel", "car"] {
            let booking = run
                .step(what, || async {
                    if what == "car" && run.task.attempt <= input.no_car {
                        return Err(TaskError::Retryable {
                            code: "NO_CAR",
                            message: "there is no car".to_owned(),
                        });
                    }
                    write(&self.0, format!("book {what}"));
                    Ok(format!("{what} of attempt {}", run.task.attempt))
                })
                .await?;
            booked.push(booking);
        }
        Ok(booked)
    }

    async fn compensate(&self, step: &Step, _: &Journey, run: &Run) -> Result<(), TaskError> {
        // The first try to cancel the hotel goes wrong.
        if step.name == "hotel" && run.task.failures < Journey::MAX_ATTEMPTS {
            return Err(TaskError::Retryable {
                code: "BUSY",
                message: "the hotel's line is busy".to_owned(),
            });
        }
        write(&self.0, format!("cancel {}", step.output));
        Ok(())
    }

    async fn give_up(&self, _: Journey, _: &Run, _: &GiveUp) -> Result<(), TaskError> {
        write(&self.0, "give up");
        Ok(())
    }
}

async fn travelling() -> (Bench, Diary) {
    let mut bench = Bench::quiet().await;
    let agency = Agency::default();
    bench.registry = Registry::default().with(agency.clone());
    bench.add_worker(Duration::from_secs(5));
    let sweeper = bench.sweeper().run(bench.stop.clone());
    bench.parts.push(tokio::spawn(sweeper));
    (bench, agency.0)
}

#[tokio::test]
async fn a_later_attempt_goes_on_after_the_last_finished_step() {
    let (bench, diary) = travelling().await;
    let id = enqueue(&bench, Journey { no_car: 2 }).await;
    let row = bench.in_state_later(id, "succeeded").await;
    assert_eq!(
        row.result,
        Some(json!([
            "flight of attempt 1",
            "hotel of attempt 1",
            "car of attempt 3"
        ]))
    );
    assert_eq!(
        *diary.lock().unwrap(),
        ["book flight", "book hotel", "book car"]
    );
    bench.end().await;
}

#[tokio::test]
async fn the_steps_of_a_given_up_task_are_undone_the_last_first_until_each_is() {
    let (bench, diary) = travelling().await;
    let id = enqueue(&bench, Journey { no_car: 99 }).await;
    let row = bench.in_state_later(id, "failed").await;
    assert!(
        row.error_message.as_deref().unwrap().contains("no car"),
        "{row:?}"
    );
    assert_eq!(
        *diary.lock().unwrap(),
        [
            "book flight",
            "book hotel",
            "cancel \"hotel of attempt 1\"",
            "cancel \"flight of attempt 1\"",
            "give up"
        ]
    );
    // Tried again it begins anew, since nothing of it is left.
    let mut tx = bench.store.begin().await.unwrap();
    let revived = tasks::revive(&mut tx, &[row]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(
        (revived[0].failures, revived[0].state.as_str()),
        (0, "queued")
    );
    assert!(tasks::steps(&bench.store, id).await.unwrap().is_empty());
    bench.queue.announce(&[revived[0].hint()]).await.unwrap();
    bench.in_state_later(id, "failed").await;
    assert_eq!(diary.lock().unwrap().len(), 10);
    bench.end().await;
}
