//! Virtual machines, as the fleet's keeper sees them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::ActiveValue::Set;
use uuid::Uuid;

use super::{
    Action, Care, Finding, Keeper, Kept, Kind, Phase, Want,
    act::{ActError, change},
    engines,
};
use crate::{
    domain::{
        Id,
        id::VirtualMachine,
        virtual_machine::{MachineEvent, MachineState},
    },
    error::{AppError, StoreError},
    providers::{Address, Engine, Hypervisor, Instance, ProviderError, Providers, Status},
    store::{
        Store, Tx,
        machines::{self, ActiveModel, Model},
        tasks,
    },
    tasks::{
        delete_machine,
        machine::{self, address_of, found, last_words},
        run_machine, stop_machine,
    },
};

/// One that was killed so soon after its guest was up is not started again.
const LASTING: TimeDelta = TimeDelta::seconds(30);
/// Seconds a guest gets to power off, where the task that should have asked it is gone.
const GRACE: u32 = 60;

fn engine(keeper: &Keeper, address: &Address) -> Result<Arc<dyn Hypervisor>, ProviderError> {
    keeper
        .providers
        .machines
        .at(address)
        .ok_or(ProviderError::Stopped)
}

#[async_trait]
impl Kept for VirtualMachine {
    type Row = Model;

    fn engine(providers: &Providers, address: &Address) -> Option<Arc<dyn Engine<Self>>> {
        let engine: Arc<dyn Engine<Self>> = providers.machines.at(address)?;
        Some(engine)
    }

    async fn addresses(
        store: &Store,
        providers: &Providers,
    ) -> Result<BTreeSet<Address>, StoreError> {
        engines::of_machines(store, providers).await
    }

    fn want(row: &Model) -> Result<Want<Self>, StoreError> {
        use MachineState as S;
        Ok(Want {
            id: row.id(),
            phase: match row.state()? {
                S::Requested | S::Provisioning | S::Booting | S::Stopping | S::Deleting => {
                    Phase::Underway
                }
                S::Running => Phase::Running,
                S::Stopped | S::Failed => Phase::Resting,
                S::Unknown => Phase::Lost,
                S::Deleted => Phase::Over,
            },
            state: row.state.clone(),
            generation: row.generation,
            updated_at: row.updated_at,
            host_id: row.host_id,
            address: address_of(row),
            node: row.node.clone(),
            ip: row.ip.clone(),
            ports: row.ports.0.clone(),
        })
    }

    /// What was on its disk is lost, so none is made in its place.
    fn when_missing(phase: Phase) -> Option<Action> {
        match phase {
            Phase::Running | Phase::Lost => Some(Action::Fail),
            Phase::Underway | Phase::Leaving | Phase::Resting | Phase::Over => None,
        }
    }

    fn when_so(phase: Phase, status: Status) -> Option<(Kind, Action)> {
        match (phase, status) {
            (Phase::Running, Status::Exited { .. }) => Some((Kind::Ended, Action::Recreate)),
            (Phase::Running, Status::Off) => Some((Kind::Ended, Action::Rest)),
            (Phase::Running, Status::Unhealthy) => Some((Kind::Panicked, Action::Fail)),
            (Phase::Lost, Status::Off | Status::Exited { .. }) => Some((Kind::Seen, Action::Rest)),
            (Phase::Resting, Status::Ready | Status::Starting | Status::Unhealthy) => {
                Some((Kind::Running, Action::End))
            }
            _ => None,
        }
    }

    fn grace(care: &Care) -> TimeDelta {
        care.machine_grace
    }

    async fn live_on(store: &Store, address: &Address) -> Result<Vec<Model>, StoreError> {
        let (provider, endpoint) = (&*address.provider, address.endpoint.as_deref());
        machines::unscoped_live_on(store.db(), provider, endpoint).await
    }

    async fn by_ids(store: &Store, ids: Vec<Uuid>) -> Result<Vec<Model>, StoreError> {
        machines::unscoped_by_ids(store.db(), ids).await
    }

    async fn underway(store: &Store, before: DateTime<Utc>) -> Result<Vec<Model>, StoreError> {
        machines::unscoped_underway(store.db(), before).await
    }

    async fn locked(
        tx: &Tx<'_>,
        id: Id<Self>,
    ) -> Result<Option<(Vec<tasks::Model>, Model)>, StoreError> {
        machine::locked(tx, id).await
    }

    /// Its engine's process was ended from outside; its disk is there.
    async fn recreate(tx: &mut Tx<'_>, row: &Model) -> Result<(), AppError> {
        let lived = row
            .running_at
            .map_or(TimeDelta::MAX, |since| tx.now() - since);
        if lived >= LASTING {
            let again = run_machine::request_again(tx, row, MachineEvent::Died, None);
            return again.await.map(|_| ());
        }
        let patch = ActiveModel {
            failure_code: Set(Some("EXITED".to_owned())),
            failure_reason: Set(Some(format!(
                "its engine's process was ended from outside {} s after its guest was up",
                lived.num_seconds()
            ))),
            ended_at: Set(Some(tx.now())),
            ..ActiveModel::default()
        };
        machines::transition(tx, row, MachineEvent::Fail, patch).await?;
        Ok(())
    }

    async fn delete(tx: &mut Tx<'_>, row: &Model, live: &[tasks::Model]) -> Result<(), AppError> {
        delete_machine::request(tx, row, live, None)
            .await
            .map(|_| ())
    }

    async fn update(
        tx: &mut Tx<'_>,
        row: &Model,
        instance: &Instance<Self>,
        nodes: &HashMap<String, Uuid>,
    ) -> Result<(), AppError> {
        let mut patch = found(instance);
        if let Some(host) = instance.node.as_ref().and_then(|node| nodes.get(node)) {
            patch.host_id = Set(Some(*host));
        }
        if row.state()? == MachineState::Unknown {
            machines::transition(tx, row, MachineEvent::Seen, patch).await?;
        } else {
            machines::change(tx, row, patch).await?;
        }
        Ok(())
    }

    async fn rest(tx: &mut Tx<'_>, row: &Model) -> Result<(), AppError> {
        let patch = ActiveModel {
            ended_at: Set(Some(tx.now())),
            ..ActiveModel::default()
        };
        machines::transition(tx, row, MachineEvent::Ended, patch).await?;
        Ok(())
    }

    async fn enqueue(tx: &mut Tx<'_>, row: &Model, live: &[tasks::Model]) -> Result<(), AppError> {
        use MachineState as S;
        if !live.is_empty() {
            return Err(AppError::Conflict("it is worked on"));
        }
        let task = match row.state()? {
            S::Requested | S::Provisioning | S::Booting => run_machine::task_of(row)?,
            S::Stopping => {
                let input = stop_machine::Input {
                    machine: row.id,
                    grace: GRACE,
                    restart: false,
                };
                tasks::TaskInput::into_task(input, Some(row.owner()), Some(row.id))?
            }
            S::Deleting => {
                delete_machine::request(tx, row, live, None).await?;
                return Ok(());
            }
            S::Running | S::Stopped | S::Deleted | S::Failed | S::Unknown => {
                return Err(AppError::Conflict("it is not on its way any more"));
            }
        };
        tasks::insert(tx, task).await?;
        Ok(())
    }

    async fn fail(keeper: &Keeper, address: &Address, id: Id<Self>) -> Result<bool, ActError> {
        let engine = engine(keeper, address)?;
        let (kind, code, reason) = match engine.inspect(id).await?.map(|there| there.status) {
            None => (
                Kind::Vanished,
                "VANISHED",
                "its engine has nothing of it any more, its disk included".to_owned(),
            ),
            Some(Status::Unhealthy) => {
                let said = last_words(&*engine, id).await;
                (
                    Kind::Panicked,
                    machine::PANICKED,
                    format!("its guest's kernel has panicked{said}"),
                )
            }
            Some(
                Status::Created
                | Status::Starting
                | Status::Ready
                | Status::Off
                | Status::Exited { .. },
            ) => return Ok(false),
        };
        let finding = Finding::<Self> {
            id,
            kind,
            action: Action::Fail,
            detail: reason,
        };
        let has_changed = change(
            keeper,
            &finding,
            async |tx: &mut Tx<'_>, row: &Model, _: &[tasks::Model]| {
                let patch = ActiveModel {
                    failure_code: Set(Some(code.to_owned())),
                    failure_reason: Set(Some(finding.detail.clone())),
                    ended_at: Set(Some(tx.now())),
                    ..ActiveModel::default()
                };
                if !matches!(row.state()?, MachineState::Running | MachineState::Unknown) {
                    return Err(AppError::Conflict("it has moved on"));
                }
                machines::transition(tx, row, MachineEvent::Fail, patch).await?;
                Ok(())
            },
        )
        .await?;
        if has_changed {
            engine.kill(id).await?;
        }
        Ok(has_changed)
    }

    async fn end(keeper: &Keeper, address: &Address, id: Id<Self>) -> Result<(), ActError> {
        Ok(engine(keeper, address)?.kill(id).await?)
    }

    async fn measure(keeper: &Keeper, address: &Address, rows: &[Model]) -> Result<(), StoreError> {
        let Ok(engine) = engine(keeper, address) else {
            return Ok(());
        };
        for row in rows {
            // What does not answer now is measured at another time.
            if let Ok(Some(usage)) = engine.usage(row.id()).await {
                let used = machines::Used {
                    cpu_micros: usage.cpu_micros,
                    memory_bytes: usage.memory_bytes,
                    disk_bytes: usage.disk_bytes,
                };
                machines::measured(&keeper.store, row, used).await?;
            }
        }
        Ok(())
    }
}
