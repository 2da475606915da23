//! Looks after hosts: those with an agent by its silence, the others by what their engine says of its nodes.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::ActiveValue::Set;
use serde_json::json;
use uuid::Uuid;

use super::{Keeper, lost, scale::Idle, unless_overtaken};
use crate::{
    domain::{
        container::{ContainerEvent, ContainerState},
        host::{HostEvent, HostStatus},
        policy::Viewer,
    },
    error::StoreError,
    providers::{Address, Node, NodeHealth, has_nodes},
    store::{
        Store, audit,
        clusters::{self, Model as Cluster},
        containers::{self, Place},
        hosts::{self, ActiveModel, Model, NewHost},
        machines,
    },
    tasks::{create_container::request_again, locked},
};

/// How often it is written down that an engine's node is well.
const FRESH: TimeDelta = TimeDelta::seconds(5);

/// The hosts nobody hears of, and all by what their engines call them.
pub async fn known_hosts(
    store: &Store,
) -> Result<(HashSet<Uuid>, HashMap<String, Uuid>), StoreError> {
    let (mut silent, mut nodes) = (HashSet::new(), HashMap::new());
    for host in hosts::unscoped_every(store.db()).await? {
        match host.status()? {
            HostStatus::Stale | HostStatus::Dead => {
                silent.insert(host.id);
            }
            HostStatus::Registered | HostStatus::Healthy | HostStatus::Draining => {}
        }
        nodes.insert(host.instance_id, host.id);
    }
    Ok((silent, nodes))
}

/// Takes over what engines of several machines say of these, and has as many in service as are needed.
pub async fn ask_engines(keeper: &Keeper, idle: &mut Idle) -> Result<(), StoreError> {
    for cluster in clusters::unscoped_standing(keeper.store.db()).await? {
        if !has_nodes(&cluster.provider) || !cluster.status()?.has_engine() {
            continue;
        }
        let address = Address {
            provider: cluster.provider.clone(),
            endpoint: cluster.endpoint.clone(),
        };
        let Some(engine) = keeper.providers.containers.at(&address) else {
            continue;
        };
        // A ping ends sooner than anything else an engine may be asked.
        let nodes = match engine.ping().await {
            Ok(_) => engine.nodes().await,
            Err(error) => Err(error),
        };
        match nodes {
            Ok(nodes) => {
                let nodes = nodes.unwrap_or_default();
                take_over(keeper, &cluster, &nodes).await?;
                if keeper.mends() {
                    idle.scale(keeper, &cluster, &*engine, &nodes).await?;
                }
            }
            // Its silence says nothing of its nodes.
            Err(error) => tracing::debug!(%error, cluster = cluster.name, "its nodes are not told"),
        }
    }
    Ok(())
}

async fn take_over(keeper: &Keeper, cluster: &Cluster, nodes: &[Node]) -> Result<(), StoreError> {
    let now = keeper.store.now();
    let known = hosts::unscoped_of_cluster(keeper.store.db(), cluster.id()).await?;
    let serving = Node::serving(nodes, &cluster.name);
    for node in &serving {
        match known.iter().find(|host| host.instance_id == node.id) {
            Some(host) => compare(keeper, host, node).await?,
            None if node.health != NodeHealth::Down => {
                let mut tx = keeper.store.begin().await?;
                let host = NewHost {
                    cluster: cluster.id(),
                    instance_id: node.id.clone(),
                    instance_type: node.name.chars().take(64).collect(),
                    ip: node.ip.clone(),
                    endpoint: None,
                    cpu_millis: node.cpu_millis,
                    memory_bytes: node.memory_bytes,
                    agent_version: None,
                    credential_hash: None,
                };
                let host = hosts::register(&mut tx, host).await?;
                let detail = json!({ "cluster": cluster.name, "node": node.name });
                audit::record(&mut tx, Viewer::System, "host.join", host.id(), detail).await?;
                hosts::transition(&mut tx, &host, HostEvent::Heard, seen(now)).await?;
                tx.commit().await?;
            }
            None => {}
        }
    }
    // A node that has left its swarm, or is kept for another cluster now.
    for host in known.iter().filter(|host| host.agent_version.is_none()) {
        let is_there = serving.iter().any(|node| node.id == host.instance_id);
        if !is_there && host.status()? != HostStatus::Dead {
            lose(keeper, host, HostEvent::Lost).await?;
        }
    }
    Ok(())
}

fn seen(at: DateTime<Utc>) -> ActiveModel {
    ActiveModel {
        last_seen_at: Set(Some(at)),
        ..Default::default()
    }
}

async fn compare(keeper: &Keeper, host: &Model, node: &Node) -> Result<(), StoreError> {
    let (status, now) = (host.status()?, keeper.store.now());
    let is_fresh = host.last_seen_at.is_some_and(|seen| now - seen < FRESH);
    let event = match (node.health, status) {
        (NodeHealth::Down, HostStatus::Healthy) => {
            return lose(keeper, host, HostEvent::Silent).await;
        }
        (NodeHealth::Down, HostStatus::Stale | HostStatus::Draining)
            if host
                .last_seen_at
                .is_none_or(|seen| now - seen >= keeper.care.get().host_dead) =>
        {
            return lose(keeper, host, HostEvent::Lost).await;
        }
        (NodeHealth::Ready, HostStatus::Registered | HostStatus::Stale | HostStatus::Dead) => {
            Some(HostEvent::Heard)
        }
        // The engine takes its containers elsewhere by itself.
        (NodeHealth::Draining, HostStatus::Healthy) => Some(HostEvent::Drain),
        (NodeHealth::Ready, HostStatus::Draining) if !host.cordoned => Some(HostEvent::Returned),
        (NodeHealth::Ready | NodeHealth::Draining, _) if !is_fresh => None,
        (NodeHealth::Ready | NodeHealth::Draining | NodeHealth::Down, _) => return Ok(()),
    };
    let mut tx = keeper.store.begin().await?;
    match event {
        Some(event) => hosts::transition(&mut tx, host, event, seen(now)).await?,
        None => hosts::change(&mut tx, host, seen(now)).await?,
    };
    tx.commit().await
}

/// Draws the conclusions from the silence of agents.
pub async fn notice_silence(keeper: &Keeper) -> Result<(), StoreError> {
    let (db, now) = (keeper.store.db(), keeper.store.now());
    let stale = now - keeper.care.get().host_stale;
    for host in hosts::unscoped_silent(db, &[HostStatus::Healthy], stale).await? {
        lose(keeper, &host, HostEvent::Silent).await?;
    }
    let dead = now - keeper.care.get().host_dead;
    let silent = [HostStatus::Stale, HostStatus::Draining];
    for host in hosts::unscoped_silent(db, &silent, dead).await? {
        lose(keeper, &host, HostEvent::Lost).await?;
    }
    follow_up(keeper).await
}

/// Moves a host that is not heard of; what is on it follows.
async fn lose(keeper: &Keeper, host: &Model, event: HostEvent) -> Result<(), StoreError> {
    let mut tx = keeper.store.begin().await?;
    let moved = hosts::transition(&mut tx, host, event, <ActiveModel as Default>::default()).await;
    let moved = match moved {
        // It was heard of in this very moment.
        Err(StoreError::Stale | StoreError::Illegal(_)) => return Ok(()),
        moved => moved?,
    };
    let action = format!("host.{}", moved.status);
    let detail = json!({ "lastSeenAt": moved.last_seen_at });
    audit::record(&mut tx, Viewer::System, &action, host.id(), detail).await?;
    tx.commit().await?;
    tracing::warn!(host = %host.id(), status = moved.status, "a host is not heard of");
    conclude(keeper, &moved).await
}

/// What was not concluded before, because the leader before died over it.
async fn follow_up(keeper: &Keeper) -> Result<(), StoreError> {
    for host in hosts::unscoped_silenced(keeper.store.db()).await? {
        conclude(keeper, &host).await?;
    }
    Ok(())
}

async fn conclude(keeper: &Keeper, host: &Model) -> Result<(), StoreError> {
    use ContainerState as S;
    let states = match host.status()? {
        HostStatus::Stale => [S::Running, S::Draining].as_slice(),
        HostStatus::Dead => [S::Running, S::Draining, S::Unknown].as_slice(),
        HostStatus::Registered | HostStatus::Healthy | HostStatus::Draining => return Ok(()),
    };
    let place = Place::Host(host.id());
    for row in containers::unscoped_in(keeper.store.db(), place, states).await? {
        let mut tx = keeper.store.begin().await?;
        let Some((_, row)) = locked(&tx, row.id()).await? else {
            continue;
        };
        let patch = || <containers::ActiveModel as Default>::default();
        let row = match row.state()? {
            S::Running | S::Draining => {
                containers::transition(&mut tx, &row, ContainerEvent::LostHost, patch()).await?
            }
            S::Unknown => row,
            S::Requested | S::Creating | S::Stopped | S::Deleting | S::Deleted | S::Failed => {
                continue;
            }
        };
        if host.status()? == HostStatus::Dead {
            // Nobody waits for one without an owner, or for one that was leaving.
            if row.owner_id.is_some() && row.draining_at.is_none() {
                let again = request_again(&mut tx, &row, ContainerEvent::Replace, None).await;
                unless_overtaken(again)?;
            } else {
                let patch = containers::ActiveModel {
                    failure_code: Set(Some("HOST_LOST".to_owned())),
                    failure_reason: Set(Some("its host is lost".to_owned())),
                    ended_at: Set(Some(tx.now())),
                    ..Default::default()
                };
                containers::transition(&mut tx, &row, ContainerEvent::Fail, patch).await?;
            }
        }
        tx.commit().await?;
    }
    let running = machines::unscoped_in(keeper.store.db(), place, &lost::STATES).await?;
    lost::lose(keeper, running).await
}
