//! Which engine gets a container: of the region's clusters with room the least full one, and in it a host by the cluster's
//! placement.

use crate::{
    domain::{
        Id,
        cluster::{ClusterStatus, Room},
        id::Region,
    },
    error::StoreError,
    providers::{Address, Providers},
    store::{
        Tx,
        clusters::{self, Model as Cluster},
        containers::Model,
        regions,
    },
};

/// Where a container goes.
pub struct Placed {
    pub cluster: Option<uuid::Uuid>,
    pub host: Option<uuid::Uuid>,
    pub address: Address,
}

/// What came of looking for a place.
pub enum Found {
    Place(Placed),
    /// There are clusters and none of them has room now; why.
    Full(String),
    /// The region is gone.
    Nowhere,
}

/// Looks for a place for `row`. Those who look in the same cluster take turns until their transactions end, so that a place
/// is not given twice.
pub async fn find(tx: &Tx<'_>, row: &Model, providers: &Providers) -> Result<Found, StoreError> {
    let Some(region) = regions::unscoped_by_id(tx, Id::new(row.region_id)).await? else {
        return Ok(Found::Nowhere);
    };
    let open = match row.cluster_id {
        Some(id) => clusters::unscoped_by_id(tx, Id::new(id))
            .await?
            .into_iter()
            .collect(),
        None => open_clusters(tx, region.id()).await?,
    };
    if open.is_empty() {
        let mut address = providers.default_address();
        if let Some(provider) = region.provider {
            address.provider = provider;
        }
        return Ok(Found::Place(Placed {
            cluster: None,
            host: None,
            address,
        }));
    }
    let mut why = String::new();
    for cluster in open {
        if let Err(full) = in_cluster(tx, &cluster, row).await? {
            why = format!("cluster {} {full}", cluster.name);
            continue;
        }
        // Only this one is locked, so that nobody waits in a circle; when it has been filled meanwhile, there is another time.
        let Some(cluster) = clusters::lock(tx, cluster.id()).await? else {
            continue;
        };
        return Ok(match in_cluster(tx, &cluster, row).await? {
            Ok(place) => Found::Place(place),
            Err(full) => Found::Full(format!("cluster {} {full}", cluster.name)),
        });
    }
    Ok(Found::Full(why))
}

/// The region's clusters that take containers, the least full one first.
async fn open_clusters(tx: &Tx<'_>, region: Id<Region>) -> Result<Vec<Cluster>, StoreError> {
    let mut filled = Vec::new();
    for cluster in clusters::unscoped_open(tx, region).await? {
        let count = clusters::unscoped_count(tx, cluster.id()).await?;
        let permille = count * 1000 / i64::from(cluster.max_containers).max(1);
        filled.push((permille, cluster));
    }
    filled.sort_by_key(|(permille, cluster)| (*permille, cluster.id));
    Ok(filled.into_iter().map(|(_, cluster)| cluster).collect())
}

/// A place in a locked cluster, or why it has none.
async fn in_cluster(
    tx: &Tx<'_>,
    cluster: &Cluster,
    row: &Model,
) -> Result<Result<Placed, String>, StoreError> {
    let status = cluster.status()?;
    if status != ClusterStatus::Active {
        return Ok(Err(format!("is {}", status.as_str().to_uppercase())));
    }
    // One that has been given its cluster already counts in it.
    let others = clusters::unscoped_count(tx, cluster.id()).await?
        - i64::from(row.cluster_id == Some(cluster.id));
    if others >= i64::from(cluster.max_containers) {
        return Ok(Err(format!(
            "has its {} containers",
            cluster.max_containers
        )));
    }
    let mut place = Placed {
        cluster: Some(cluster.id),
        host: None,
        address: Address {
            provider: cluster.provider.clone(),
            endpoint: cluster.endpoint.clone(),
        },
    };
    // An engine of several machines places by itself.
    if crate::providers::has_nodes(&cluster.provider) {
        return Ok(Ok(place));
    }
    let hosts = clusters::unscoped_rooms(tx, cluster.id()).await?;
    if hosts.is_empty() {
        return Ok(if clusters::has_hosts(tx, cluster.id()).await? {
            Err("has no healthy host".to_owned())
        } else {
            // A cluster without agents is one engine.
            Ok(place)
        });
    }
    let rooms: Vec<Room> = hosts.iter().map(|(.., room)| *room).collect();
    let chosen = cluster
        .placement()?
        .choose(&rooms, row.cpu_millis, row.memory_bytes);
    let Some((host, endpoint, _)) = chosen.and_then(|at| hosts.get(at)) else {
        return Ok(Err(format!(
            "has no host with {} thousandths of a processor and {} MiB to spare",
            row.cpu_millis,
            row.memory_bytes >> 20
        )));
    };
    place.host = Some(*host);
    if endpoint.is_some() {
        place.address.endpoint.clone_from(endpoint);
    }
    Ok(Ok(place))
}
