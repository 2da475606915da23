//! What a worker listens to and looks after on its engines, beside the tasks themselves.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::StreamExt as _;
use sea_orm::ActiveValue::Set;
use tokio_util::sync::CancellationToken;

use super::create_container::{EXITED, GRACE, last_words, topic};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        id::Container,
    },
    error::StoreError,
    providers::{Provider, ProviderError, Providers, Status},
    store::{
        Store,
        containers::{self, ActiveModel},
        tasks,
    },
};

/// Pause before listening again after an engine's connection ended.
const RECONNECT: Duration = Duration::from_secs(2);
/// Time between two looks for what nobody wants.
const REAP: Duration = Duration::from_secs(15);
/// How long something unwanted is left to its own task.
const LEFT: TimeDelta = TimeDelta::seconds(15);

/// Wakes parked tasks by the engines' events, until `stop`.
pub async fn hear(store: Store, providers: Providers, stop: CancellationToken) {
    tokio::select! {
        () = hear_one(&store, providers.default()) => {}
        () = stop.cancelled() => {}
    }
}

async fn hear_one(store: &Store, provider: Arc<dyn Provider>) {
    loop {
        // The version of the API is agreed on before the events are asked for.
        if provider.ping().await.is_ok() {
            let mut events = provider.events();
            while let Some(event) = events.next().await {
                let id = event.container;
                if let Err(error) = tasks::wake(store, &topic(id)).await {
                    tracing::debug!(%error, "an event woke nobody; the clock will");
                }
                if let Err(error) = notice_end(store, &*provider, id).await {
                    tracing::debug!(%error, container = %id, "it may have ended unnoticed; the next look will tell");
                }
            }
        }
        store.clock.sleep(RECONNECT).await;
    }
}

/// Marks a running container as failed when it has ended by itself, and removes what is left of it.
///
/// Two workers that notice at once do no harm: the row changes once.
async fn notice_end(
    store: &Store,
    provider: &dyn Provider,
    id: Id<Container>,
) -> Result<(), LookError> {
    let is_running = |row: &containers::Model| {
        row.state()
            .is_ok_and(|state| state == ContainerState::Running)
    };
    let row = containers::unscoped_by_id(store.db(), id).await?;
    let Some(row) =
        row.filter(|row| is_running(row) && row.provider.as_deref() == Some(provider.name()))
    else {
        return Ok(());
    };
    let Some(Status::Exited { code }) = provider.inspect(id).await?.map(|instance| instance.status)
    else {
        return Ok(());
    };
    let said = last_words(provider, id).await;
    let patch = ActiveModel {
        failure_code: Set(Some(EXITED.to_owned())),
        failure_reason: Set(Some(format!("it ended by itself with code {code}{said}"))),
        ended_at: Set(Some(store.now())),
        ..ActiveModel::default()
    };
    let mut tx = store.begin().await?;
    containers::transition(&mut tx, &row, ContainerEvent::Fail, patch).await?;
    tx.commit().await?;
    Ok(provider.remove(id, GRACE).await?)
}

/// Looks after the engines every now and then: notices containers that ended while nobody listened, and removes
/// what the database has as ended, the late work of overtaken runs.
///
/// Every worker looks after the engines it reaches; two that reach the same one do no harm.
pub async fn reap(store: Store, providers: Providers, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = store.clock.sleep(REAP) => {}
            () = stop.cancelled() => return,
        }
        for provider in [providers.default()] {
            match reap_once(&store, &*provider, LEFT).await {
                Ok(0) => {}
                Ok(removed) => tracing::warn!(
                    removed,
                    engine = provider.name(),
                    "removed what nobody wanted"
                ),
                Err(error) => {
                    tracing::debug!(%error, engine = provider.name(), "the look for the unwanted failed");
                }
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One look: removes what has ended in the database longer than `left` ago. What the database does not know at all
/// is left alone, because it may be another deployment's.
pub async fn reap_once(
    store: &Store,
    provider: &dyn Provider,
    left: TimeDelta,
) -> Result<usize, LookError> {
    let there = provider.list().await?;
    for ended in there
        .iter()
        .filter(|instance| matches!(instance.status, Status::Exited { .. }))
    {
        notice_end(store, provider, ended.container).await?;
    }
    let ids = there.iter().map(|instance| instance.container);
    let unwanted = containers::unscoped_unwanted(store.db(), ids, store.now() - left).await?;
    for id in &unwanted {
        provider.remove(*id, GRACE).await?;
    }
    Ok(unwanted.len())
}
