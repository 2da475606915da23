//! Listening to the engines: what happens to a container or a machine wakes the tasks that wait for it, and is looked at once.

use std::{collections::HashMap, sync::Arc, time::Duration};

use chrono::TimeDelta;
use futures_util::StreamExt as _;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Action, Keeper, Kept, Phase, Seen,
    act::{ActError, act},
    hosts::known_hosts,
    plan,
};
use crate::{
    domain::Id,
    providers::{Address, Engine},
    store::tasks,
};

/// Pause before listening again after an engine's connection ended.
const RECONNECT: Duration = Duration::from_secs(2);
/// Time between two looks at which engines there are.
const REFRESH: Duration = Duration::from_secs(5);

/// Listens to every engine of the sort, until `stop`.
pub async fn run<T: Kept>(keeper: Keeper, stop: CancellationToken) {
    let mut heard: HashMap<Address, DropGuard> = HashMap::new();
    let listeners = TaskTracker::new();
    while !stop.is_cancelled() {
        match T::addresses(&keeper.store, &keeper.providers).await {
            Ok(there) => {
                heard.retain(|address, _| there.contains(address));
                for address in there {
                    let Some(engine) = T::engine(&keeper.providers, &address) else {
                        continue;
                    };
                    heard.entry(address.clone()).or_insert_with(|| {
                        let stop = stop.child_token();
                        let listening = Box::pin(listen(keeper.clone(), address, engine));
                        let until = stop.clone();
                        listeners.spawn(async move { until.run_until_cancelled(listening).await });
                        stop.drop_guard()
                    });
                }
            }
            Err(error) => tracing::debug!(%error, "the engines cannot be looked up for now"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = keeper.store.clock.sleep(REFRESH) => {}
        }
    }
    drop(heard);
    listeners.close();
    listeners.wait().await;
}

async fn listen<T: Kept>(keeper: Keeper, address: Address, engine: Arc<dyn Engine<T>>) {
    loop {
        // The version of the API is agreed on before the events are asked for.
        if engine.ping().await.is_ok() {
            let mut events = engine.events();
            while let Some(event) = events.next().await {
                let id = event.id;
                if let Err(error) = tasks::wake(&keeper.store, &id.to_string()).await {
                    tracing::debug!(%error, "an event woke nobody; the clock will");
                }
                if let Err(error) = look(&keeper, &address, &*engine, id).await {
                    tracing::debug!(%error, subject = %id, "it was not looked at; the next look at its engine will tell");
                }
            }
        }
        keeper.store.clock.sleep(RECONNECT).await;
    }
}

/// Looks at one that something happened to, and does what the look at its whole engine would do.
async fn look<T: Kept>(
    keeper: &Keeper,
    address: &Address,
    engine: &dyn Engine<T>,
    id: Id<T>,
) -> Result<(), ActError> {
    let store = &keeper.store;
    let row = T::by_ids(store, vec![id.uuid()]).await?;
    let row = row.first().map(T::want).transpose()?;
    let Some(row) = row.filter(|row| row.address.as_ref() == Some(address)) else {
        return Ok(());
    };
    match row.phase {
        Phase::Running | Phase::Leaving | Phase::Lost => {}
        // These have a task of their own, or are over.
        Phase::Underway | Phase::Resting | Phase::Over => return Ok(()),
    }
    let instance = engine.inspect(id).await?;
    let (silent, nodes) = known_hosts(store).await?;
    let seen = Seen {
        address,
        deployment: &keeper.deployment,
        now: store.now(),
        rows: std::slice::from_ref(&row),
        others: &[],
        instances: instance.as_slice(),
        silent: &silent,
        nodes: &nodes,
        orphans: &HashMap::new(),
        grace: T::grace(&keeper.care.get()),
        settle: TimeDelta::zero(),
        is_whole: true,
    };
    for finding in plan(&seen) {
        // That it has ended is no guess.
        if keeper.mends() || matches!(finding.action, Action::Fail | Action::Rest) {
            act(keeper, address, engine, &finding, instance.as_ref(), &nodes).await?;
        }
    }
    Ok(())
}
