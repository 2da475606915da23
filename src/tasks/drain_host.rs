//! Empties a host that goes away, or a cluster: what nobody has is removed, what somebody has is drained.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside, delete_container, delete_machine, drain_container, locked, machine, stop_machine,
};
use crate::{
    domain::{
        Id,
        container::ContainerState,
        host::{HostEvent, HostStatus},
        id::Host,
        virtual_machine::MachineState,
    },
    error::AppError,
    queue::{Run, TaskError, TaskKind},
    store::{
        Store, Tx,
        containers::{self, Place},
        hosts, machines,
        tasks::{self, TaskInput},
    },
};

/// Seconds a guest gets to power off.
const GRACE: u32 = 60;
/// Time between two looks at what is left.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub host: Uuid,
    /// Seconds a client may stay at most.
    pub patience: u32,
}

impl TaskInput for Input {
    const KIND: &'static str = "drain_host";
    const DEADLINE: Duration = Duration::from_secs(7 * 86_400);
}

#[derive(Serialize)]
pub struct Output {
    host: String,
}

/// Moves a host to `DRAINING` and adds the task that empties it.
pub async fn request(
    tx: &mut Tx<'_>,
    row: &hosts::Model,
    patience: Duration,
) -> Result<(hosts::Model, tasks::Model), AppError> {
    let row = hosts::transition(tx, row, HostEvent::Drain, hosts::ActiveModel::default()).await?;
    let task = again(tx, &row, patience).await?;
    Ok((row, task))
}

/// The task that empties a host that is draining already; added unless it is there.
pub async fn again(
    tx: &mut Tx<'_>,
    row: &hosts::Model,
    patience: Duration,
) -> Result<tasks::Model, AppError> {
    let input = Input {
        host: row.id,
        patience: u32::try_from(patience.as_secs()).unwrap_or(u32::MAX),
    };
    let mut task = input.into_task(None, Some(row.id))?;
    task.unique_key = Some(format!("{}:{}", Input::KIND, row.id.simple()));
    Ok(tasks::insert(tx, task).await?.task)
}

pub struct DrainHost(pub Outside);

#[async_trait]
impl TaskKind for DrainHost {
    type Input = Input;
    type Output = Output;

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id: Id<Host> = Id::new(input.host);
        let output = || Output {
            host: id.to_string(),
        };
        let status = async || {
            let row = hosts::unscoped_by_id(self.0.store.db(), id).await?;
            row.map(|row| row.status()).transpose()
        };
        if status().await? != Some(HostStatus::Draining) {
            return Ok(output());
        }
        let patience = Duration::from_secs(input.patience.into());
        let left = empty(&self.0.store, Place::Host(id), patience, run).await?;
        if left > 0 {
            return Err(TaskError::Wait {
                until: run.now() + LOOK,
                wake_on: None,
            });
        }
        let mut tx = run.begin(&self.0.store).await?;
        if let Some(row) = hosts::lock(&tx, id).await?
            && row.status()? == HostStatus::Draining
        {
            let patch = hosts::ActiveModel::default();
            hosts::transition(&mut tx, &row, HostEvent::Lost, patch).await?;
        }
        tx.commit().await?;
        Ok(output())
    }
}

/// Has each container of a place drained, or removed when nobody has it; how many are left.
pub async fn empty(
    store: &Store,
    place: Place,
    patience: Duration,
    run: &Run,
) -> Result<usize, TaskError> {
    let rows = containers::unscoped_in(store.db(), place, &ContainerState::LIVE).await?;
    for row in &rows {
        run.check_stop()?;
        let mut tx = run.begin(store).await?;
        let Some((live, row)) = locked(&tx, row.id()).await? else {
            continue;
        };
        let asked = match (row.state()?, row.owner_id) {
            (ContainerState::Running, Some(_)) => {
                drain_container::request(&mut tx, &row, patience, None)
                    .await
                    .map(|_| ())
            }
            // What is being made ends up running, and is drained then; what leaves already does so by itself.
            (
                ContainerState::Requested
                | ContainerState::Creating
                | ContainerState::Draining
                | ContainerState::Stopped
                | ContainerState::Deleting
                | ContainerState::Deleted
                | ContainerState::Failed
                | ContainerState::Unknown,
                Some(_),
            )
            | (ContainerState::Deleting, None) => Ok(()),
            (_, None) => delete_container::request(&mut tx, &row, &live, None)
                .await
                .map(|_| ()),
        };
        match asked {
            Ok(()) => tx.commit().await?,
            // It has moved on meanwhile; the next look finds it as it is.
            Err(AppError::Illegal(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rows.len() + stop_machines(store, place, run).await?)
}

/// Has each machine of a place that runs stopped; how many are not at rest yet.
async fn stop_machines(store: &Store, place: Place, run: &Run) -> Result<usize, TaskError> {
    use MachineState as S;
    let moving = [
        S::Requested,
        S::Provisioning,
        S::Booting,
        S::Running,
        S::Stopping,
        S::Deleting,
    ];
    let rows = machines::unscoped_in(store.db(), place, &moving).await?;
    for row in &rows {
        run.check_stop()?;
        let mut tx = run.begin(store).await?;
        let Some((live, row)) = machine::locked(&tx, row.id()).await? else {
            continue;
        };
        // What comes up ends up running, and is stopped then.
        if row.state()? == S::Running {
            let input = stop_machine::Input {
                machine: row.id,
                grace: GRACE,
                restart: false,
            };
            stop_machine::request(&mut tx, &row, &live, input, None).await?;
            tx.commit().await?;
        }
    }
    Ok(rows.len())
}

/// Has each machine of a place removed; how many are left.
async fn delete_machines(store: &Store, place: Place, run: &Run) -> Result<usize, TaskError> {
    let rows = machines::unscoped_in(store.db(), place, &MachineState::LIVE).await?;
    for row in &rows {
        run.check_stop()?;
        let mut tx = run.begin(store).await?;
        let Some((live, row)) = machine::locked(&tx, row.id()).await? else {
            continue;
        };
        if row.state()? != MachineState::Deleting {
            delete_machine::request(&mut tx, &row, &live, None).await?;
            tx.commit().await?;
        }
    }
    Ok(rows.len())
}

/// The same for everything that is left, whoever has it.
pub async fn clear(store: &Store, place: Place, run: &Run) -> Result<usize, TaskError> {
    let rows = containers::unscoped_in(store.db(), place, &ContainerState::LIVE).await?;
    for row in &rows {
        run.check_stop()?;
        let mut tx = run.begin(store).await?;
        let Some((live, row)) = locked(&tx, row.id()).await? else {
            continue;
        };
        if row.state()? == ContainerState::Deleting {
            continue;
        }
        match delete_container::request(&mut tx, &row, &live, None).await {
            Ok(_) => tx.commit().await?,
            Err(AppError::Illegal(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(rows.len() + delete_machines(store, place, run).await?)
}
