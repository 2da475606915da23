//! Takes spare machines of an engine into service while a cluster needs them, and out of it when it has not for a while.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::Keeper;
use crate::{
    domain::{
        cluster::{ClusterStatus, Demand},
        container::ContainerState,
        policy::Viewer,
    },
    error::StoreError,
    providers::{Node, NodeHealth, Provider},
    store::{
        audit,
        clusters::{self, Model as Cluster},
        containers, hosts,
    },
};

/// When each machine was first seen to be more than its cluster needs, by the engine's id of it. A new leader begins anew.
#[derive(Default)]
pub struct Idle(HashMap<String, DateTime<Utc>>);

impl Idle {
    /// Compares what a cluster needs with the machines that serve it.
    pub async fn scale(
        &mut self,
        keeper: &Keeper,
        cluster: &Cluster,
        engine: &dyn Provider,
        nodes: &[Node],
    ) -> Result<(), StoreError> {
        let mut serving = Node::serving(nodes, &cluster.name);
        // One that is drained and no spare was drained by somebody.
        serving.retain(|node| match node.health {
            NodeHealth::Ready => true,
            NodeHealth::Draining => node.is_spare,
            NodeHealth::Down => false,
        });
        if !serving.iter().any(|node| node.is_spare) || cluster.status()? != ClusterStatus::Active {
            return Ok(());
        }
        // What is always there first, then what has been taken into service already.
        serving.sort_by_key(|node| (node.is_spare, node.health != NodeHealth::Ready));
        let machines: Vec<_> = serving
            .iter()
            .map(|node| (node.cpu_millis, node.memory_bytes))
            .collect();
        let needed = demand(keeper, cluster).await?.machines(&machines);
        for (at, node) in serving.iter().enumerate().filter(|(_, node)| node.is_spare) {
            let is_idle_since = if at < needed {
                self.0.remove(&node.id);
                None
            } else {
                Some(*self.0.entry(node.id.clone()).or_insert(keeper.store.now()))
            };
            match (is_idle_since, node.health) {
                (None, NodeHealth::Draining) if !is_cordoned(keeper, node).await? => {
                    set(keeper, cluster, engine, node, true).await?;
                }
                (Some(since), NodeHealth::Ready)
                    if keeper.store.now() - since >= keeper.care.get().spare_idle
                        && !is_in_use(keeper, node).await? =>
                {
                    set(keeper, cluster, engine, node, false).await?;
                }
                (None | Some(_), _) => {}
            }
        }
        Ok(())
    }
}

async fn demand(keeper: &Keeper, cluster: &Cluster) -> Result<Demand, StoreError> {
    let db = keeper.store.db();
    let taken = clusters::usage(db, cluster.id()).await?;
    Ok(Demand {
        cpu_millis: taken.cpu_taken_millis,
        memory_bytes: taken.memory_taken_bytes,
        containers: clusters::unscoped_count(db, cluster.id()).await?,
        min_containers: cluster.min_containers.into(),
        usual: clusters::unscoped_largest_app(db).await?,
    })
}

/// Whether containers of ours are on it; one that has any is left to them.
async fn is_in_use(keeper: &Keeper, node: &Node) -> Result<bool, StoreError> {
    let db = keeper.store.db();
    let Some(host) = hosts::unscoped_by_instance(db, &node.id).await? else {
        return Ok(false);
    };
    let live = ContainerState::LIVE;
    let there = containers::unscoped_in(db, containers::Place::Host(host.id()), &live).await?;
    Ok(!there.is_empty())
}

/// Whether somebody has taken it out of service by hand.
async fn is_cordoned(keeper: &Keeper, node: &Node) -> Result<bool, StoreError> {
    let host = hosts::unscoped_by_instance(keeper.store.db(), &node.id).await?;
    Ok(host.is_some_and(|host| host.cordoned))
}

async fn set(
    keeper: &Keeper,
    cluster: &Cluster,
    engine: &dyn Provider,
    node: &Node,
    is_in_service: bool,
) -> Result<(), StoreError> {
    let action = if is_in_service {
        "cluster.grow"
    } else {
        "cluster.shrink"
    };
    // Recorded first: what cannot be recorded is not done.
    let mut tx = keeper.store.begin().await?;
    audit::record(
        &mut tx,
        Viewer::System,
        action,
        cluster.id(),
        json!({ "node": node.name }),
    )
    .await?;
    tx.commit().await?;
    match engine.set_in_service(&node.id, is_in_service).await {
        Ok(()) => tracing::info!(
            cluster = cluster.name,
            node = node.name,
            is_in_service,
            "a spare machine"
        ),
        Err(error) => {
            tracing::warn!(%error, cluster = cluster.name, node = node.name, "it stays as it is; the next look tries again");
        }
    }
    Ok(())
}
