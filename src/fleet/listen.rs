//! Listening to the engines: what happens to a container wakes the tasks that wait for it, and is looked at once.

use std::{collections::HashMap, time::Duration};

use chrono::TimeDelta;
use futures_util::StreamExt as _;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Action, Engine, Keeper, Seen,
    act::{ActError, act},
    addresses,
    hosts::known_hosts,
    plan,
};
use crate::{
    domain::{Id, container::ContainerState, id::Container},
    providers::Address,
    store::{containers, tasks},
    tasks::create_container::{address_of, topic},
};

/// Pause before listening again after an engine's connection ended.
const RECONNECT: Duration = Duration::from_secs(2);
/// Time between two looks at which engines there are.
const REFRESH: Duration = Duration::from_secs(5);

/// Listens to every engine there is, until `stop`.
pub async fn run(keeper: Keeper, stop: CancellationToken) {
    let mut heard: HashMap<Address, DropGuard> = HashMap::new();
    let listeners = TaskTracker::new();
    while !stop.is_cancelled() {
        match addresses(&keeper.store, &keeper.providers).await {
            Ok(there) => {
                heard.retain(|address, _| there.contains(address));
                for address in there {
                    let Some(engine) = keeper.providers.at(&address) else {
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

async fn listen(keeper: Keeper, address: Address, engine: Engine) {
    loop {
        // The version of the API is agreed on before the events are asked for.
        if engine.ping().await.is_ok() {
            let mut events = engine.events();
            while let Some(event) = events.next().await {
                let id = event.id;
                if let Err(error) = tasks::wake(&keeper.store, &topic(id)).await {
                    tracing::debug!(%error, "an event woke nobody; the clock will");
                }
                if let Err(error) = look(&keeper, &address, &engine, id).await {
                    tracing::debug!(%error, container = %id, "it was not looked at; the next look at its engine will tell");
                }
            }
        }
        keeper.store.clock.sleep(RECONNECT).await;
    }
}

/// Looks at one container that something happened to, and does what the look at its whole engine would do.
async fn look(
    keeper: &Keeper,
    address: &Address,
    engine: &Engine,
    id: Id<Container>,
) -> Result<(), ActError> {
    let store = &keeper.store;
    let row = containers::unscoped_by_id(store.db(), id).await?;
    let Some(row) = row.filter(|row| address_of(row).as_ref() == Some(address)) else {
        return Ok(());
    };
    match row.state()? {
        ContainerState::Running | ContainerState::Draining | ContainerState::Unknown => {}
        // These have a task of their own, or are over.
        ContainerState::Requested
        | ContainerState::Creating
        | ContainerState::Stopped
        | ContainerState::Deleting
        | ContainerState::Deleted
        | ContainerState::Failed => return Ok(()),
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
        grace: keeper.care.orphan_grace,
        settle: TimeDelta::zero(),
        is_whole: true,
    };
    for finding in plan(&seen)? {
        // That it has failed is no guess.
        if keeper.mends() || finding.action == Action::Fail {
            act(keeper, engine, &finding, instance.as_ref(), &nodes).await?;
        }
    }
    Ok(())
}
