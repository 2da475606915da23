//! Takes a snapshot of a machine's disk, gives one back to it, or removes one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside,
    machine::{engine_of, leave_elsewhere},
};
use crate::{
    domain::{
        Id,
        task::Priority,
        virtual_machine::{SnapshotEvent, SnapshotState},
    },
    error::{AppError, StoreError},
    providers::Hypervisor,
    queue::{GiveUp, Run, TaskError, TaskKind},
    store::{
        machines,
        snapshots::{self, ActiveModel, Model},
        tasks::{NewTask, TaskInput},
    },
};

/// What is done with a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    Take,
    Restore,
    Forget,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub snapshot: Uuid,
    pub step: Step,
}

impl TaskInput for Input {
    const KIND: &'static str = "snapshot_machine";
    const PRIORITY: Priority = Priority::Interactive;
    const DEADLINE: Duration = Duration::from_secs(3600);
}

impl Input {
    /// The task that does it; it stands among those of the machine.
    pub fn task_of(row: &Model, step: Step) -> Result<NewTask, AppError> {
        let input = Self {
            snapshot: row.id,
            step,
        };
        input.into_task(Some(Id::new(row.owner_id)), Some(row.machine_id))
    }
}

#[derive(Serialize)]
pub struct Output {
    snapshot: String,
}

pub struct SnapshotMachine(pub Outside);

#[async_trait]
impl TaskKind for SnapshotMachine {
    type Input = Input;
    type Output = Output;
    const TIMEOUT: Duration = Duration::from_secs(1800);

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id = Id::new(input.snapshot);
        let row = snapshots::unscoped_by_id(self.0.store.db(), id)
            .await?
            .ok_or(TaskError::Unwanted)?;
        let (machine, engine) = (row.machine(), self.engine(&row).await?);
        match (input.step, engine) {
            (Step::Take, Some(engine)) => {
                engine.snapshot(machine, id).await?;
                self.record(run, &row, SnapshotEvent::Taken).await?;
            }
            (Step::Restore, Some(engine)) => {
                run.progress(10, "its disk is being put back").await?;
                engine.restore(machine, id).await?;
            }
            (Step::Forget, engine) => {
                if let Some(engine) = engine {
                    engine.forget(machine, id).await?;
                }
                self.record(run, &row, SnapshotEvent::Removed).await?;
            }
            (Step::Take | Step::Restore, None) => return Err(TaskError::Unwanted),
        }
        Ok(Output {
            snapshot: id.to_string(),
        })
    }

    async fn give_up(&self, input: Input, run: &Run, why: &GiveUp) -> Result<(), TaskError> {
        let id = Id::new(input.snapshot);
        let Some(row) = snapshots::unscoped_by_id(self.0.store.db(), id).await? else {
            return Ok(());
        };
        if input.step != Step::Take || row.state()? != SnapshotState::Creating {
            return Ok(());
        }
        if let Some(engine) = self.engine(&row).await? {
            engine.forget(row.machine(), id).await?;
        }
        let (code, reason) = match why {
            GiveUp::Cancelled => ("CANCELLED", "it was cancelled".to_owned()),
            GiveUp::Failed { code, message } => (*code, message.clone()),
        };
        let patch = ActiveModel {
            failure_code: Set(Some(code.to_owned())),
            failure_reason: Set(Some(reason)),
            ..Default::default()
        };
        let mut tx = run.begin(&self.0.store).await?;
        snapshots::transition(&mut tx, &row, SnapshotEvent::Fail, patch).await?;
        Ok(tx.commit().await?)
    }
}

impl SnapshotMachine {
    async fn engine(&self, row: &Model) -> Result<Option<Arc<dyn Hypervisor>>, TaskError> {
        let machine = machines::unscoped_by_id(self.0.store.db(), row.machine()).await?;
        match machine {
            Some(machine) => {
                leave_elsewhere(&self.0, &machine)?;
                engine_of(&self.0, &machine)
            }
            None => Ok(None),
        }
    }

    async fn record(&self, run: &Run, row: &Model, event: SnapshotEvent) -> Result<(), TaskError> {
        let mut tx = run.begin(&self.0.store).await?;
        let patch = <ActiveModel as Default>::default();
        match snapshots::transition(&mut tx, row, event, patch).await {
            // A second run of what has been done.
            Err(StoreError::Illegal(_)) => return Ok(()),
            done => done?,
        };
        Ok(tx.commit().await?)
    }
}
