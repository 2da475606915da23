//! Virtual machines of hosts that nobody hears of. They are not made elsewhere: their disks are where they were.

use chrono::TimeDelta;

use super::{Keeper, Kept as _};
use crate::{
    domain::{
        id::VirtualMachine,
        virtual_machine::{MachineEvent, MachineState},
    },
    error::StoreError,
    providers::{Address, MACHINE_KINDS},
    store::{
        engines,
        machines::{self, Model},
        tasks,
    },
    tasks::machine,
};

/// Those of which something has been known.
pub const STATES: [MachineState; 3] = [
    MachineState::Booting,
    MachineState::Running,
    MachineState::Stopping,
];

/// Draws the conclusions from engines that no worker looks at any more: each host's own workers look at its machines.
pub async fn notice_silence(keeper: &Keeper) -> Result<(), StoreError> {
    let (store, care) = (&keeper.store, &keeper.care.get());
    let pause = TimeDelta::from_std(care.pause).unwrap_or(TimeDelta::MAX);
    let silence = care
        .host_stale
        .max(pause.checked_mul(3).unwrap_or(TimeDelta::MAX));
    let before = store.now().checked_sub_signed(silence);
    let Some(before) = before.filter(|before| *before >= keeper.since) else {
        // Nobody has had the time to look since this worker began.
        return Ok(());
    };
    for engine in engines::unscoped_unseen(store.db(), &MACHINE_KINDS, before).await? {
        let address = Address {
            provider: engine.provider,
            endpoint: Some(engine.endpoint).filter(|endpoint| !endpoint.is_empty()),
        };
        let mut rows = VirtualMachine::live_on(store, &address).await?;
        rows.retain(|row| row.state().is_ok_and(|state| STATES.contains(&state)));
        if !rows.is_empty() {
            tracing::warn!(engine = %address, machines = rows.len(), "nobody looks at an engine's machines any more");
        }
        lose(keeper, rows).await?;
    }
    Ok(())
}

/// Records that nobody can tell how these are, and ends what works on them.
pub async fn lose(keeper: &Keeper, rows: Vec<Model>) -> Result<(), StoreError> {
    for row in rows {
        let mut tx = keeper.store.begin().await?;
        let Some((live, row)) = machine::locked(&tx, row.id()).await? else {
            continue;
        };
        let patch = <machines::ActiveModel as Default>::default();
        match machines::transition(&mut tx, &row, MachineEvent::LostHost, patch).await {
            Err(StoreError::Illegal(_)) => continue,
            lost => lost?,
        };
        for task in &live {
            tasks::request_cancel(&mut tx, task).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}
