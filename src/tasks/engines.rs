//! What a worker listens to and looks after on its engines, beside the tasks themselves.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::{StreamExt as _, future};
use tokio_util::sync::CancellationToken;

use super::create_container::{GRACE, topic};
use crate::{
    error::StoreError,
    providers::{Provider, ProviderError, Providers},
    store::{Store, containers, tasks},
};

/// Pause before listening again after an engine's connection ended.
const RECONNECT: Duration = Duration::from_secs(2);
/// Time between two looks for what nobody wants.
const REAP: Duration = Duration::from_secs(15);
/// How long something unwanted is left to its own task.
const LEFT: TimeDelta = TimeDelta::seconds(15);

/// Wakes parked tasks by the engines' events, until `stop`.
pub async fn hear(store: Store, providers: Providers, stop: CancellationToken) {
    let each = providers
        .all()
        .map(|provider| hear_one(&store, Arc::clone(provider)));
    tokio::select! {
        _ = future::join_all(each) => {}
        () = stop.cancelled() => {}
    }
}

async fn hear_one(store: &Store, provider: Arc<dyn Provider>) {
    loop {
        // The version of the API is agreed on before the events are asked for.
        if provider.ping().await.is_ok() {
            let mut events = provider.events();
            while let Some(event) = events.next().await {
                if let Err(error) = tasks::wake(store, &topic(event.container)).await {
                    tracing::debug!(%error, "an event woke nobody; the clock will");
                }
            }
        }
        store.clock.sleep(RECONNECT).await;
    }
}

/// Removes from the engines, every now and then, what the database has as ended: the late work of overtaken runs.
///
/// Every worker looks after the engines it reaches; two that reach the same one do no harm.
pub async fn reap(store: Store, providers: Providers, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = store.clock.sleep(REAP) => {}
            () = stop.cancelled() => return,
        }
        for provider in providers.all() {
            match reap_once(&store, &**provider, LEFT).await {
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
pub enum ReapError {
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
) -> Result<usize, ReapError> {
    let there = provider.list().await?;
    let ids = there.iter().map(|instance| instance.container);
    let unwanted = containers::unscoped_unwanted(store.db(), ids, store.now() - left).await?;
    for id in &unwanted {
        provider.remove(*id, GRACE).await?;
    }
    Ok(unwanted.len())
}
