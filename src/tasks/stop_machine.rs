//! Asks a guest to power off, ends it when it does not in time, and starts it again where that is wanted.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside,
    machine::{engine_of, leave_elsewhere, record, topic},
    run_machine,
};
use crate::{
    domain::{
        Id,
        id::VirtualMachine,
        task::Priority,
        value::IdempotencyKey,
        virtual_machine::{MachineEvent, MachineState},
    },
    error::AppError,
    providers::{Hypervisor, Status},
    queue::{GiveUp, Run, TaskError, TaskKind},
    store::{
        Tx,
        machines::{self, ActiveModel, Model},
        tasks::{self, Enqueued, TaskInput},
    },
};

/// Time between two requests to power off: a guest that is booting does not hear the first.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub machine: Uuid,
    /// Seconds the guest gets to power off before it is ended.
    pub grace: u32,
    /// Whether it is to run again afterwards.
    pub restart: bool,
}

impl TaskInput for Input {
    const KIND: &'static str = "stop_machine";
    const PRIORITY: Priority = Priority::Interactive;
    const DEADLINE: Duration = Duration::from_secs(86_400);
}

#[derive(Serialize)]
pub struct Output {
    machine: String,
    /// Whether its guest powered it off by itself.
    graceful: bool,
}

/// Moves a machine to `STOPPING`, stops what brings it up, and adds the task that ends it. The row and its `live` tasks are
/// locked by the transaction.
pub async fn request(
    tx: &mut Tx<'_>,
    row: &Model,
    live: &[tasks::Model],
    input: Input,
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let row = machines::transition(tx, row, MachineEvent::Stop, ActiveModel::default()).await?;
    for task in live {
        tasks::request_cancel(tx, task).await?;
    }
    let task = input.into_task(Some(row.owner()), Some(row.id))?;
    let task = tasks::insert(tx, task.with_key(key)).await?;
    Ok((row, task))
}

pub struct StopMachine(pub Outside);

#[async_trait]
impl TaskKind for StopMachine {
    type Input = Input;
    type Output = Output;
    const TIMEOUT: Duration = Duration::from_secs(600);

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id = Id::new(input.machine);
        let output = |graceful| Output {
            machine: id.to_string(),
            graceful,
        };
        // Armed before the look, so that what happens in between is not missed.
        run.expect(&topic(id)).await?;
        let Some(row) = machines::unscoped_by_id(self.0.store.db(), id).await? else {
            return Ok(output(true));
        };
        leave_elsewhere(&self.0, &row)?;
        let graceful = match row.state()? {
            MachineState::Stopping => self.end(&row, &input, run).await?,
            MachineState::Stopped => true,
            state if state.is_coming_up() && input.restart => {
                run_machine::bring_up(&self.0, id, run).await?;
                return Ok(output(true));
            }
            _ => return Ok(output(true)),
        };
        if input.restart {
            let restarted = record(&self.0, run, id, MachineEvent::Start, run_machine::fresh());
            restarted.await?;
            run_machine::bring_up(&self.0, id, run).await?;
        }
        Ok(output(graceful))
    }

    async fn give_up(&self, input: Input, run: &Run, why: &GiveUp) -> Result<(), TaskError> {
        run_machine::give_up(&self.0, Id::new(input.machine), run, why).await
    }
}

impl StopMachine {
    /// Until it has ended; whether it did so by itself.
    async fn end(&self, row: &Model, input: &Input, run: &Run) -> Result<bool, TaskError> {
        let id = row.id();
        let graceful = match engine_of(&self.0, row)? {
            Some(engine) => self.end_on(&*engine, row, input, run).await?,
            None => true,
        };
        let patch = ActiveModel {
            ended_at: Set(Some(run.now())),
            ..ActiveModel::default()
        };
        record(&self.0, run, id, MachineEvent::Ended, patch).await?;
        Ok(graceful)
    }

    async fn end_on(
        &self,
        engine: &dyn Hypervisor,
        row: &Model,
        input: &Input,
        run: &Run,
    ) -> Result<bool, TaskError> {
        let id: Id<VirtualMachine> = row.id();
        let runs = match engine.inspect(id).await?.map(|there| there.status) {
            Some(Status::Ready | Status::Starting) => true,
            Some(Status::Unhealthy) => {
                engine.kill(id).await?;
                return Ok(false);
            }
            None | Some(Status::Created | Status::Off | Status::Exited { .. }) => false,
        };
        if !runs {
            return Ok(true);
        }
        let must_end = row.updated_at + TimeDelta::seconds(input.grace.into());
        if run.now() >= must_end {
            run.progress(40, "its guest did not power off in time; it is ended")
                .await?;
            engine.kill(id).await?;
            return Ok(false);
        }
        engine.power_off(id).await?;
        if run.task.progress < 20 {
            run.progress(20, "its guest has been asked to power off")
                .await?;
        }
        Err(TaskError::Wait {
            until: must_end.min(run.now() + LOOK),
            wake_on: Some(topic(id)),
        })
    }
}
