//! Makes a virtual machine on an engine, or starts it again, and brings it to `RUNNING`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::TimeDelta;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside,
    machine::{self, engine_of, found, record, topic},
    place,
};
use crate::{
    domain::{
        Id,
        id::VirtualMachine,
        task::Priority,
        value::IdempotencyKey,
        virtual_machine::{MachineEvent, MachineState},
    },
    error::{AppError, StoreError},
    providers::{Guest, Hypervisor, Instance, Status},
    queue::{GiveUp, Run, TaskError, TaskKind},
    store::{
        Tx,
        containers::PortMap,
        images,
        machines::{self, ActiveModel, Model},
        tasks::{self, Enqueued, TaskInput},
    },
};

/// Longest time from the start of a machine until its guest is up.
const BOOT: TimeDelta = TimeDelta::minutes(10);
/// Looks again after this even if no event told of a change.
const LOOK: Duration = Duration::from_secs(2);

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub machine: Uuid,
}

impl TaskInput for Input {
    const KIND: &'static str = "run_machine";
    const PRIORITY: Priority = Priority::Interactive;
    const DEADLINE: Duration = Duration::from_secs(3600);
}

#[derive(Serialize)]
pub struct Output {
    machine: String,
    ports: PortMap,
}

/// Adds a machine with the task that makes it.
pub async fn request(
    tx: &mut Tx<'_>,
    wanted: machines::NewMachine,
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let row = machines::insert(tx, wanted).await?;
    let task = tasks::insert(tx, task_of(&row)?.with_key(key)).await?;
    Ok((row, task))
}

/// Has a machine that does not run started, by `event`, with what it is to have now.
///
/// # Errors
/// `ILLEGAL_STATE` when its life cycle has no such step now.
pub async fn request_again(
    tx: &mut Tx<'_>,
    row: &Model,
    event: MachineEvent,
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let row = machines::transition(tx, row, event, fresh()).await?;
    let task = tasks::insert(tx, task_of(&row)?.with_key(key)).await?;
    Ok((row, task))
}

/// What a machine forgets when it is started again.
pub fn fresh() -> ActiveModel {
    ActiveModel {
        ports: Set(PortMap::default()),
        failure_code: Set(None),
        failure_reason: Set(None),
        ended_at: Set(None),
        ..ActiveModel::default()
    }
}

/// The task that brings a machine up.
pub fn task_of(row: &Model) -> Result<tasks::NewTask, AppError> {
    let input = Input { machine: row.id };
    input.into_task(Some(row.owner()), Some(row.id))
}

pub struct RunMachine(pub Outside);

#[async_trait]
impl TaskKind for RunMachine {
    type Input = Input;
    type Output = Output;
    const TIMEOUT: Duration = Duration::from_secs(600);

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        bring_up(&self.0, Id::new(input.machine), run).await
    }

    async fn give_up(&self, input: Input, run: &Run, why: &GiveUp) -> Result<(), TaskError> {
        give_up(&self.0, Id::new(input.machine), run, why).await
    }
}

/// Brings a machine from wherever it is on its way to `RUNNING`.
pub(super) async fn bring_up(
    outside: &Outside,
    id: Id<VirtualMachine>,
    run: &Run,
) -> Result<Output, TaskError> {
    let result = advance(outside, id, run).await;
    if let Err(error) = &result
        && !matches!(error, TaskError::Wait { .. })
    {
        // This run may have been overtaken while the engine worked: what it made late must not stay.
        machine::end_unwanted(outside, id).await;
    }
    result
}

/// Records that a machine did not come up, and leaves nothing of one that never has.
pub(super) async fn give_up(
    outside: &Outside,
    id: Id<VirtualMachine>,
    run: &Run,
    why: &GiveUp,
) -> Result<(), TaskError> {
    let Some(row) = machines::unscoped_by_id(outside.store.db(), id).await? else {
        return Ok(());
    };
    if !row.state()?.is_coming_up() {
        return Ok(());
    }
    if let Some(engine) = engine_of(outside, &row)? {
        if row.running_at.is_none() {
            engine.remove(id, Duration::ZERO).await?;
        } else {
            engine.kill(id).await?;
        }
    }
    let (code, reason) = match why {
        GiveUp::Cancelled => ("CANCELLED", "its start was cancelled".to_owned()),
        GiveUp::Failed { code, message } => (*code, message.clone()),
    };
    let mut tx = run.begin(&outside.store).await?;
    let Some(row) = machines::unscoped_by_id(&tx, id).await? else {
        return Ok(());
    };
    if row.state()?.is_coming_up() {
        let patch = ActiveModel {
            failure_code: Set(Some(code.to_owned())),
            failure_reason: Set(Some(reason)),
            ended_at: Set(Some(run.now())),
            ..ActiveModel::default()
        };
        machines::transition(&mut tx, &row, MachineEvent::Fail, patch).await?;
    }
    Ok(tx.commit().await?)
}

async fn advance(
    outside: &Outside,
    id: Id<VirtualMachine>,
    run: &Run,
) -> Result<Output, TaskError> {
    // Armed before the look, so that what happens in between is not missed.
    run.expect(&topic(id)).await?;
    let row = machines::unscoped_by_id(outside.store.db(), id)
        .await?
        .ok_or(TaskError::Unwanted)?;
    machine::leave_elsewhere(outside, &row)?;
    let (row, engine) = match row.state()? {
        MachineState::Requested | MachineState::Provisioning => begin(outside, row, run).await?,
        MachineState::Booting => {
            let engine = engine_of(outside, &row)?.ok_or(TaskError::Unwanted)?;
            (row, engine)
        }
        MachineState::Running => return Ok(output(row)),
        MachineState::Stopping
        | MachineState::Stopped
        | MachineState::Deleting
        | MachineState::Deleted
        | MachineState::Failed
        | MachineState::Unknown => return Err(TaskError::Unwanted),
    };
    // What is booting is left to it, unless its process has been ended.
    let there = match row.state()? {
        MachineState::Booting => engine
            .inspect(id)
            .await?
            .filter(|there| !matches!(there.status, Status::Exited { .. } | Status::Created)),
        _ => None,
    };
    let instance = match there {
        Some(there) => there,
        None => launch(outside, &row, &*engine, run).await?,
    };
    let row = if row.state()? == MachineState::Provisioning {
        run.progress(40, "started; its guest is booting").await?;
        record(outside, run, id, MachineEvent::Launched, found(&instance)).await?
    } else {
        row
    };
    finish(outside, &*engine, row, instance, run).await
}

/// Moves to `PROVISIONING` and chooses the engine, once.
async fn begin(
    outside: &Outside,
    row: Model,
    run: &Run,
) -> Result<(Model, Arc<dyn Hypervisor>), TaskError> {
    if row.state()? == MachineState::Provisioning
        && let Some(engine) = engine_of(outside, &row)?
    {
        return Ok((row, engine));
    }
    let mut tx = run.begin(&outside.store).await?;
    let row = machines::unscoped_by_id(&tx, row.id())
        .await?
        .ok_or(TaskError::Unwanted)?;
    let own = outside.providers.machines.default_address();
    let placed = match place::find(&tx, &place::Wanted::of_machine(&row), own).await? {
        place::Found::Place(placed) => placed,
        place::Found::Nowhere => return Err(place::no_region()),
        place::Found::Full(why) => {
            let waited = run.now() - row.updated_at;
            return Err(place::wait_for_room(
                outside,
                waited,
                &why,
                topic(row.id()),
                run,
            ));
        }
    };
    let engine = machine::find(outside, &placed.address)?;
    let patch = ActiveModel {
        cluster_id: Set(placed.cluster),
        host_id: Set(placed.host),
        provider: Set(Some(placed.address.provider)),
        endpoint: Set(placed.address.endpoint),
        ..ActiveModel::default()
    };
    let row = match machines::transition(&mut tx, &row, MachineEvent::Begin, patch).await {
        Err(StoreError::Illegal(_)) => return Err(TaskError::Unwanted),
        row => row?,
    };
    tx.commit().await?;
    run.progress(5, &format!("taken by the {} engine", engine.name()))
        .await?;
    Ok((row, engine))
}

/// Has the engine make what is missing and start it.
async fn launch(
    outside: &Outside,
    row: &Model,
    engine: &dyn Hypervisor,
    run: &Run,
) -> Result<Instance<VirtualMachine>, TaskError> {
    outside.keep_rate(engine.name(), run).await?;
    let guest = guest(outside, row).await?;
    let disk = engine.check(&guest.image).await?;
    run.check_stop()?;
    run.progress(10, &format!("its image is there, {} MiB", disk >> 20))
        .await?;
    Ok(engine.ensure(&guest, run.stop.token()).await?)
}

async fn guest(outside: &Outside, row: &Model) -> Result<Guest, TaskError> {
    let image = images::unscoped_by_id(outside.store.db(), Id::new(row.image_id))
        .await?
        .ok_or(TaskError::Unwanted)?;
    Ok(Guest {
        id: row.id(),
        generation: row.generation,
        deployment: outside.keyring.deployment(),
        image: crate::providers::Image {
            disk: image.disk,
            kernel: image.kernel,
            initrd: image.initrd,
            command_line: image.command_line,
            ready_text: image.ready_text,
        },
        cpus: u16::try_from(row.cpus).unwrap_or(1),
        memory_bytes: u64::try_from(row.memory_bytes).unwrap_or_default(),
        disk_bytes: u64::try_from(row.disk_bytes).unwrap_or_default(),
        host_name: row.name.clone(),
        ssh_keys: row.ssh_keys.0.clone(),
        secret_key: outside.keyring.machine_key(row.id()),
        ports: image.ports.0,
        publish_address: outside.publish_address,
    })
}

async fn finish(
    outside: &Outside,
    engine: &dyn Hypervisor,
    row: Model,
    instance: Instance<VirtualMachine>,
    run: &Run,
) -> Result<Output, TaskError> {
    let id = row.id();
    match instance.status {
        Status::Ready => {
            let patch = ActiveModel {
                running_at: Set(Some(run.now())),
                ..found(&instance)
            };
            let row = record(outside, run, id, MachineEvent::Booted, patch).await?;
            run.progress(99, "its guest is up").await?;
            Ok(output(row))
        }
        Status::Created | Status::Starting => {
            // Every step of a row's life moves `updated_at`; the last one was the start on the engine.
            if run.now() - row.updated_at > BOOT {
                let said = machine::last_words(engine, id).await;
                return Err(TaskError::Permanent {
                    code: "NEVER_UP",
                    message: format!(
                        "its guest was not up within {} minutes{said}",
                        BOOT.num_minutes()
                    ),
                });
            }
            Err(TaskError::Wait {
                until: run.now() + LOOK,
                wake_on: Some(topic(id)),
            })
        }
        // Its guest has powered it off before it was up.
        Status::Off => {
            let patch = ActiveModel {
                ended_at: Set(Some(run.now())),
                ..ActiveModel::default()
            };
            Ok(output(
                record(outside, run, id, MachineEvent::Ended, patch).await?,
            ))
        }
        Status::Unhealthy => {
            let said = machine::last_words(engine, id).await;
            Err(TaskError::Permanent {
                code: machine::PANICKED,
                message: format!("its guest's kernel has panicked{said}"),
            })
        }
        Status::Exited { code } => {
            let said = machine::last_words(engine, id).await;
            Err(TaskError::Retryable {
                code: "EXITED",
                message: format!("its engine's process ended with code {code}{said}"),
            })
        }
    }
}

fn output(row: Model) -> Output {
    Output {
        machine: row.id().to_string(),
        ports: row.ports,
    }
}
