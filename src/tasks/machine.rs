//! What the tasks about virtual machines share.

use std::{sync::Arc, time::Duration};

use sea_orm::ActiveValue::Set;

use super::Outside;
use crate::{
    domain::{
        Id,
        id::VirtualMachine,
        virtual_machine::{MachineEvent, MachineState},
    },
    error::StoreError,
    providers::{Address, Hypervisor, Instance},
    queue::{Run, TaskError},
    store::{
        Tx,
        containers::PortMap,
        machines::{self, ActiveModel, Model},
        tasks,
    },
};

/// The failure of a machine whose guest's kernel has panicked.
pub const PANICKED: &str = "GUEST_PANICKED";

/// The event a parked task about a machine waits for.
pub fn topic(id: Id<VirtualMachine>) -> String {
    id.to_string()
}

/// A machine and its tasks that have not ended, all locked by this transaction, in the order of [`super::locked`].
pub async fn locked(
    tx: &Tx<'_>,
    id: Id<VirtualMachine>,
) -> Result<Option<(Vec<tasks::Model>, Model)>, StoreError> {
    let live = tasks::lock_live_of(tx, id.uuid()).await?;
    let row = machines::lock(tx, id).await?;
    Ok(row.map(|row| (live, row)))
}

/// The engine at an address.
pub(super) fn find(outside: &Outside, address: &Address) -> Result<Arc<dyn Hypervisor>, TaskError> {
    let engine = outside.providers.machines.at(address);
    engine.ok_or_else(|| TaskError::Retryable {
        code: "ENGINE_ELSEWHERE",
        message: format!("{address} is not on this worker's host"),
    })
}

/// Leaves the task to a worker on the host that has the machine, unless this is one.
pub(super) fn leave_elsewhere(outside: &Outside, row: &Model) -> Result<(), TaskError> {
    match address_of(row) {
        Some(address) if outside.providers.machines.at(&address).is_none() => {
            Err(TaskError::Elsewhere)
        }
        Some(_) | None => Ok(()),
    }
}

/// Where the engine is that has a machine; `None` when none has been chosen yet.
pub fn address_of(row: &Model) -> Option<Address> {
    row.provider.clone().map(|provider| Address {
        provider,
        endpoint: row.endpoint.clone(),
    })
}

/// The engine that has a machine; `None` when none has been chosen yet.
pub(super) fn engine_of(
    outside: &Outside,
    row: &Model,
) -> Result<Option<Arc<dyn Hypervisor>>, TaskError> {
    address_of(row)
        .map(|address| find(outside, &address))
        .transpose()
}

/// What an instance says of itself.
pub fn found(instance: &Instance<VirtualMachine>) -> ActiveModel {
    ActiveModel {
        node: Set(instance.node.clone()),
        handle: Set(Some(instance.handle.clone())),
        ip: Set(instance.ip.clone()),
        ports: Set(PortMap(instance.ports.clone())),
        ..ActiveModel::default()
    }
}

/// Moves the row by `event` in a fenced transaction. A step that is not possible any more means it is not wanted.
pub(super) async fn record(
    outside: &Outside,
    run: &Run,
    id: Id<VirtualMachine>,
    event: MachineEvent,
    patch: ActiveModel,
) -> Result<Model, TaskError> {
    let mut tx = run.begin(&outside.store).await?;
    let row = machines::unscoped_by_id(&tx, id)
        .await?
        .ok_or(TaskError::Unwanted)?;
    let row = match machines::transition(&mut tx, &row, event, patch).await {
        Err(StoreError::Illegal(_)) => return Err(TaskError::Unwanted),
        row => row?,
    };
    tx.commit().await?;
    Ok(row)
}

/// Ends on the engine what is not to run any more. Right at any time and under any lease, so it is not fenced.
pub(super) async fn end_unwanted(outside: &Outside, id: Id<VirtualMachine>) {
    let Ok(Some(row)) = machines::unscoped_by_id(outside.store.db(), id).await else {
        return;
    };
    let (Ok(state), Ok(Some(engine))) = (row.state(), engine_of(outside, &row)) else {
        return;
    };
    let ended = match state {
        MachineState::Deleting | MachineState::Deleted => engine.remove(id, Duration::ZERO).await,
        MachineState::Stopped | MachineState::Failed => engine.kill(id).await,
        MachineState::Requested
        | MachineState::Provisioning
        | MachineState::Booting
        | MachineState::Running
        | MachineState::Stopping
        | MachineState::Unknown => return,
    };
    match ended {
        Ok(()) => tracing::info!(machine = %id, "it was not to run any more; it is ended"),
        Err(error) => {
            tracing::warn!(%error, machine = %id, "an unwanted machine stays for the reconciler");
        }
    }
}

/// The last lines of its serial console, to go behind an error message.
pub async fn last_words(engine: &dyn Hypervisor, id: Id<VirtualMachine>) -> String {
    match engine.logs(id, 5).await {
        Ok(lines) if !lines.is_empty() => format!("; its console said last: {}", lines.join(" | ")),
        Ok(_) | Err(_) => String::new(),
    }
}
