//! Containers, as the fleet's keeper sees them.

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
        container::{ContainerEvent, ContainerState},
        id::Container,
    },
    error::{AppError, StoreError},
    providers::{Address, Engine, Instance, Provider, ProviderError, Providers, Status},
    store::{
        Store, Tx,
        containers::{self, ActiveModel, Model},
        tasks,
    },
    tasks::{
        create_container::{EXITED, GRACE, address_of, found, last_words, request_again, task_of},
        delete_container, locked,
    },
};

#[async_trait]
impl Kept for Container {
    type Row = Model;

    fn engine(providers: &Providers, address: &Address) -> Option<Arc<dyn Engine<Self>>> {
        let engine: Arc<dyn Engine<Self>> = providers.containers.at(address)?;
        Some(engine)
    }

    async fn addresses(
        store: &Store,
        providers: &Providers,
    ) -> Result<BTreeSet<Address>, StoreError> {
        engines::of_containers(store, providers).await
    }

    fn want(row: &Model) -> Result<Want<Self>, StoreError> {
        use ContainerState as S;
        Ok(Want {
            id: row.id(),
            phase: match row.state()? {
                S::Requested | S::Creating | S::Deleting => Phase::Underway,
                S::Running => Phase::Running,
                S::Draining => Phase::Leaving,
                S::Stopped => Phase::Resting,
                S::Unknown => Phase::Lost,
                S::Deleted | S::Failed => Phase::Over,
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

    fn when_missing(phase: Phase) -> Option<Action> {
        match phase {
            Phase::Running | Phase::Lost => Some(Action::Recreate),
            Phase::Leaving | Phase::Resting => Some(Action::Delete),
            Phase::Underway | Phase::Over => None,
        }
    }

    fn when_so(phase: Phase, status: Status) -> Option<(Kind, Action)> {
        match (phase, status) {
            (Phase::Running | Phase::Leaving, Status::Exited { .. }) => {
                Some((Kind::Ended, Action::Fail))
            }
            _ => None,
        }
    }

    fn grace(care: &Care) -> TimeDelta {
        care.orphan_grace
    }

    async fn live_on(store: &Store, address: &Address) -> Result<Vec<Model>, StoreError> {
        let (provider, endpoint) = (&*address.provider, address.endpoint.as_deref());
        containers::unscoped_live_on(store.db(), provider, endpoint).await
    }

    async fn by_ids(store: &Store, ids: Vec<Uuid>) -> Result<Vec<Model>, StoreError> {
        containers::unscoped_by_ids(store.db(), ids).await
    }

    async fn underway(store: &Store, before: DateTime<Utc>) -> Result<Vec<Model>, StoreError> {
        containers::unscoped_underway(store.db(), before).await
    }

    async fn locked(
        tx: &Tx<'_>,
        id: Id<Self>,
    ) -> Result<Option<(Vec<tasks::Model>, Model)>, StoreError> {
        locked(tx, id).await
    }

    async fn recreate(tx: &mut Tx<'_>, row: &Model) -> Result<(), AppError> {
        let event = match row.state()? {
            ContainerState::Unknown => ContainerEvent::Replace,
            _ => ContainerEvent::Vanish,
        };
        request_again(tx, row, event, None).await.map(|_| ())
    }

    async fn delete(tx: &mut Tx<'_>, row: &Model, live: &[tasks::Model]) -> Result<(), AppError> {
        delete_container::request(tx, row, live, None)
            .await
            .map(|_| ())
    }

    async fn update(
        tx: &mut Tx<'_>,
        row: &Model,
        instance: &Instance,
        nodes: &HashMap<String, Uuid>,
    ) -> Result<(), AppError> {
        let mut patch = found(instance);
        if let Some(host) = instance.node.as_ref().and_then(|node| nodes.get(node)) {
            patch.host_id = Set(Some(*host));
        }
        if row.state()? == ContainerState::Unknown {
            containers::seen_again(tx, row, patch).await?;
        } else {
            containers::change(tx, row, patch).await?;
        }
        Ok(())
    }

    /// No container rests.
    async fn rest(_: &mut Tx<'_>, _: &Model) -> Result<(), AppError> {
        Err(AppError::Conflict("a container does not rest"))
    }

    async fn enqueue(tx: &mut Tx<'_>, row: &Model, live: &[tasks::Model]) -> Result<(), AppError> {
        enqueue_again(tx, row, live).await
    }

    async fn fail(keeper: &Keeper, address: &Address, id: Id<Self>) -> Result<bool, ActError> {
        let engine = keeper.providers.containers.at(address);
        let engine = engine.ok_or(ProviderError::Stopped)?;
        has_failed(keeper, &*engine, id).await
    }

    async fn end(keeper: &Keeper, address: &Address, id: Id<Self>) -> Result<(), ActError> {
        let engine = keeper.providers.containers.at(address);
        Ok(engine
            .ok_or(ProviderError::Stopped)?
            .remove(id, GRACE)
            .await?)
    }
}

/// Marks a container as failed when it has ended by itself, and removes what is left of it.
///
/// Two workers that notice at once do no harm: the row changes once.
async fn has_failed(
    keeper: &Keeper,
    engine: &dyn Provider,
    id: Id<Container>,
) -> Result<bool, ActError> {
    let status = engine.inspect(id).await?.map(|instance| instance.status);
    let Some(Status::Exited { code }) = status else {
        return Ok(false);
    };
    let said = last_words(engine, id).await;
    let finding = Finding {
        id,
        kind: Kind::Ended,
        action: Action::Fail,
        detail: format!("it ended by itself with code {code}{said}"),
    };
    let has_changed = change(
        keeper,
        &finding,
        async |tx: &mut Tx<'_>, row: &Model, _: &[tasks::Model]| {
            if !matches!(
                row.state()?,
                ContainerState::Running | ContainerState::Draining
            ) {
                return Err(AppError::Conflict("it has moved on"));
            }
            let patch = ActiveModel {
                failure_code: Set(Some(EXITED.to_owned())),
                failure_reason: Set(Some(finding.detail.clone())),
                ended_at: Set(Some(tx.now())),
                ..ActiveModel::default()
            };
            containers::transition(tx, row, ContainerEvent::Fail, patch).await?;
            Ok(())
        },
    )
    .await?;
    if has_changed {
        engine.remove(id, GRACE).await?;
    }
    Ok(has_changed)
}

/// Adds the task that a container on its way has to have.
async fn enqueue_again(
    tx: &mut Tx<'_>,
    row: &Model,
    live: &[tasks::Model],
) -> Result<(), AppError> {
    use ContainerState as S;
    if !live.is_empty() {
        return Err(AppError::Conflict("it is worked on"));
    }
    match row.state()? {
        S::Requested | S::Creating => {
            let task = task_of(row)?;
            tasks::insert(tx, task).await?;
        }
        S::Draining | S::Deleting => {
            delete_container::request(tx, row, live, None).await?;
        }
        S::Running | S::Stopped | S::Deleted | S::Failed | S::Unknown => {
            return Err(AppError::Conflict("it is not on its way any more"));
        }
    }
    Ok(())
}
