//! Listening to the engines: what happens to a container wakes the tasks that wait for it, and is looked at once.

use std::{collections::HashMap, time::Duration};

use futures_util::StreamExt as _;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    Action, Engine, Finding, Keeper, Kind,
    act::{ActError, act, fail},
    addresses,
};
use crate::{
    domain::{Id, container::ContainerState, id::Container},
    providers::{Address, Status},
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
                        let listening = listen(keeper.clone(), address, engine);
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
                let id = event.container;
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

/// Looks at one container that something happened to.
async fn look(
    keeper: &Keeper,
    address: &Address,
    engine: &Engine,
    id: Id<Container>,
) -> Result<(), ActError> {
    let row = containers::unscoped_by_id(keeper.store.db(), id).await?;
    let Some(row) = row.filter(|row| address_of(row).as_ref() == Some(address)) else {
        return Ok(());
    };
    let state = row.state()?;
    if !matches!(state, ContainerState::Running | ContainerState::Draining) {
        return Ok(());
    }
    match engine.inspect(id).await? {
        Some(instance) if matches!(instance.status, Status::Exited { .. }) => {
            fail(keeper, engine, id).await?;
        }
        None if state == ContainerState::Running && keeper.mends() => {
            let finding = Finding {
                container_id: id,
                kind: Kind::Vanished,
                action: Action::Recreate,
                detail: "its engine has it no more".to_owned(),
            };
            act(keeper, engine, &finding, None, &HashMap::new()).await?;
        }
        Some(_) | None => {}
    }
    Ok(())
}
