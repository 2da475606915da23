//! Which engines there are: the worker's own, those of clusters, and those of hosts.

use std::collections::BTreeSet;

use crate::{
    error::StoreError,
    providers::{Address, Providers, runs_machines},
    store::{Store, clusters, hosts},
};

/// The address of every engine that has, or may get, containers of this service.
pub async fn of_containers(
    store: &Store,
    providers: &Providers,
) -> Result<BTreeSet<Address>, StoreError> {
    addresses(store, providers.containers.default_address(), false).await
}

/// The same for virtual machines.
pub async fn of_machines(
    store: &Store,
    providers: &Providers,
) -> Result<BTreeSet<Address>, StoreError> {
    addresses(store, providers.machines.default_address(), true).await
}

async fn addresses(
    store: &Store,
    own: Address,
    of_machines: bool,
) -> Result<BTreeSet<Address>, StoreError> {
    let mut found = BTreeSet::from([own.clone()]);
    let clusters = clusters::unscoped_standing(store.db()).await?;
    let hosts = hosts::unscoped_standing(store.db()).await?;
    for cluster in clusters {
        if !cluster.status()?.has_engine() || runs_machines(&cluster.provider) != of_machines {
            continue;
        }
        for host in hosts.iter().filter(|host| host.cluster_id == cluster.id) {
            if let Some(endpoint) = &host.endpoint {
                found.insert(Address {
                    provider: cluster.provider.clone(),
                    endpoint: Some(endpoint.clone()),
                });
            }
        }
        // Those of machines are the workers' own.
        let is_own = cluster.provider == own.provider && !of_machines;
        if cluster.endpoint.is_some() || is_own {
            found.insert(Address {
                provider: cluster.provider,
                endpoint: cluster.endpoint,
            });
        }
    }
    Ok(found)
}
