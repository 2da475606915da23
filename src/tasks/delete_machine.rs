//! Removes a virtual machine from its engine, with its disk and its snapshots.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside,
    delete_container::is_on_a_lost_host,
    machine::{engine_of, leave_elsewhere},
};
use crate::{
    domain::{
        Id,
        task::Priority,
        value::IdempotencyKey,
        virtual_machine::{MachineEvent, MachineState, SnapshotEvent},
    },
    error::AppError,
    queue::{Run, TaskError, TaskKind},
    store::{
        Tx,
        machines::{self, ActiveModel, Model},
        snapshots,
        tasks::{self, Enqueued, TaskInput},
    },
};

/// Marks a machine as unwanted, stops what works on it, and adds the task that removes it. The row and its `live` tasks are
/// locked by the transaction.
///
/// Deleting what is being deleted gives the task that does it.
pub async fn request(
    tx: &mut Tx<'_>,
    row: &Model,
    live: &[tasks::Model],
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let row = if row.state()? == MachineState::Deleting {
        // Looked for again: it may have been added while this transaction waited for the row.
        let now = tasks::unscoped_live_of(tx, row.id).await?;
        if let Some(task) = now.into_iter().find(|task| task.kind == Input::KIND) {
            let task = Enqueued {
                task,
                is_new: false,
            };
            return Ok((row.clone(), task));
        }
        row.clone()
    } else {
        machines::transition(tx, row, MachineEvent::Delete, ActiveModel::default()).await?
    };
    for task in live {
        if task.kind != Input::KIND {
            tasks::request_cancel(tx, task).await?;
        }
    }
    let task = Input { machine: row.id }.into_task(Some(row.owner()), Some(row.id))?;
    let task = tasks::insert(tx, task.with_key(key)).await?;
    Ok((row, task))
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub machine: Uuid,
}

impl TaskInput for Input {
    const KIND: &'static str = "delete_machine";
    const PRIORITY: Priority = Priority::Interactive;
    const MAX_ATTEMPTS: i32 = 20;
    const DEADLINE: Duration = Duration::from_secs(86_400);
}

#[derive(Serialize)]
pub struct Output {
    machine: String,
}

pub struct DeleteMachine(pub Outside);

#[async_trait]
impl TaskKind for DeleteMachine {
    type Input = Input;
    type Output = Output;

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id = Id::new(input.machine);
        let output = || Output {
            machine: id.to_string(),
        };
        let Some(row) = machines::unscoped_by_id(self.0.store.db(), id).await? else {
            return Ok(output());
        };
        if row.state()? == MachineState::Deleted {
            return Ok(output());
        }
        leave_elsewhere(&self.0, &row)?;
        // What a lost host still has is removed when the host comes back.
        if !is_on_a_lost_host(&self.0, row.host_id).await?
            && let Some(engine) = engine_of(&self.0, &row)?
        {
            self.0.keep_rate(engine.name(), run).await?;
            run.progress(30, "being removed from its engine").await?;
            engine.remove(id, Duration::ZERO).await?;
        }
        let mut tx = run.begin(&self.0.store).await?;
        for snapshot in snapshots::unscoped_of(&tx, id).await? {
            let patch = <snapshots::ActiveModel as Default>::default();
            snapshots::transition(&mut tx, &snapshot, SnapshotEvent::Removed, patch).await?;
        }
        if let Some(row) = machines::unscoped_by_id(&tx, id).await? {
            let patch = ActiveModel {
                ended_at: Set(Some(run.now())),
                ..ActiveModel::default()
            };
            machines::transition(&mut tx, &row, MachineEvent::Removed, patch).await?;
        }
        tx.commit().await?;
        Ok(output())
    }
}
