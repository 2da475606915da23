//! Which engine gets a container or a machine: of the region's clusters with room the least full one, and in it a host by the cluster's
//! placement.

use std::time::Duration;

use chrono::TimeDelta;

use super::Outside;
use crate::{
    domain::{
        Id,
        cluster::{ClusterStatus, Room},
        id::{Cluster as ClusterId, Region},
    },
    error::StoreError,
    providers::{Address, runs_machines},
    queue::{Run, TaskError},
    store::{
        Tx,
        clusters::{self, Model as Cluster},
        containers, machines, regions,
    },
};

/// Longest wait for a place to run.
const ROOM: TimeDelta = TimeDelta::seconds(300);
/// Time between two looks for one.
const LOOK: Duration = Duration::from_secs(2);

/// Where it goes.
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

/// What needs a place.
pub struct Wanted {
    region: Id<Region>,
    /// The cluster it has to be in, or is counted in already.
    cluster: Option<Id<ClusterId>>,
    cpu_millis: i64,
    memory_bytes: i64,
    is_machine: bool,
}

impl Wanted {
    pub const fn of_container(row: &containers::Model) -> Self {
        Self {
            region: Id::new(row.region_id),
            cluster: match row.cluster_id {
                Some(id) => Some(Id::new(id)),
                None => None,
            },
            cpu_millis: row.cpu_millis,
            memory_bytes: row.memory_bytes,
            is_machine: false,
        }
    }

    pub fn of_machine(row: &machines::Model) -> Self {
        Self {
            region: Id::new(row.region_id),
            cluster: row.cluster_id.map(Id::new),
            cpu_millis: i64::from(row.cpus) * 1000,
            memory_bytes: row.memory_bytes,
            is_machine: true,
        }
    }
}

/// The failure of what was to run in a region that is not there any more.
pub fn no_region() -> TaskError {
    TaskError::Permanent {
        code: "NO_REGION",
        message: "its region is gone".to_owned(),
    }
}

/// Parks until there may be room, or gives up after a while.
pub fn wait_for_room(
    outside: &Outside,
    waited: TimeDelta,
    why: &str,
    topic: String,
    run: &Run,
) -> TaskError {
    if waited > ROOM {
        return TaskError::Permanent {
            code: "NO_CAPACITY",
            message: format!("no room within {} s: {why}", ROOM.num_seconds()),
        };
    }
    TaskError::Wait {
        until: run.now() + outside.store.entropy.jitter(LOOK) + LOOK,
        wake_on: Some(topic),
    }
}

/// Looks for a place for `wanted`, on the worker's `own` engine where no cluster takes any. Those who look in the same cluster take turns until their transactions end, so that a place
/// is not given twice.
pub async fn find(tx: &Tx<'_>, wanted: &Wanted, own: Address) -> Result<Found, StoreError> {
    let Some(region) = regions::unscoped_by_id(tx, wanted.region).await? else {
        return Ok(Found::Nowhere);
    };
    let open = match wanted.cluster {
        Some(id) => clusters::unscoped_by_id(tx, id)
            .await?
            .into_iter()
            .collect(),
        None => open_clusters(tx, wanted).await?,
    };
    if open.is_empty() {
        let mut address = own;
        if let Some(provider) = region.provider
            && runs_machines(&provider) == wanted.is_machine
        {
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
        if let Err(full) = in_cluster(tx, &cluster, wanted, &own).await? {
            why = format!("cluster {} {full}", cluster.name);
            continue;
        }
        // Only this one is locked, so that nobody waits in a circle; when it has been filled meanwhile, there is another time.
        let Some(cluster) = clusters::lock(tx, cluster.id()).await? else {
            continue;
        };
        return Ok(match in_cluster(tx, &cluster, wanted, &own).await? {
            Ok(place) => Found::Place(place),
            Err(full) => Found::Full(format!("cluster {} {full}", cluster.name)),
        });
    }
    Ok(Found::Full(why))
}

/// The region's clusters that take such things, the least full one first.
async fn open_clusters(tx: &Tx<'_>, wanted: &Wanted) -> Result<Vec<Cluster>, StoreError> {
    let mut filled = Vec::new();
    for cluster in clusters::unscoped_open(tx, wanted.region).await? {
        if runs_machines(&cluster.provider) != wanted.is_machine {
            continue;
        }
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
    wanted: &Wanted,
    own: &Address,
) -> Result<Result<Placed, String>, StoreError> {
    let status = cluster.status()?;
    if status != ClusterStatus::Active {
        return Ok(Err(format!("is {}", status.as_str().to_uppercase())));
    }
    // One that has been given its cluster already counts in it.
    let others = clusters::unscoped_count(tx, cluster.id()).await?
        - i64::from(wanted.cluster == Some(cluster.id()));
    if others >= i64::from(cluster.max_containers) {
        return Ok(Err(format!(
            "has its {} containers and machines",
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
    // A cluster of virtual machines is on the hosts of the workers: this one is as good as any.
    if wanted.is_machine && cluster.endpoint.is_none() && cluster.provider == own.provider {
        place.address = own.clone();
        return Ok(Ok(place));
    }
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
        .choose(&rooms, wanted.cpu_millis, wanted.memory_bytes);
    let Some((host, endpoint, _)) = chosen.and_then(|at| hosts.get(at)) else {
        return Ok(Err(format!(
            "has no host with {} thousandths of a processor and {} MiB to spare",
            wanted.cpu_millis,
            wanted.memory_bytes >> 20
        )));
    };
    place.host = Some(*host);
    if endpoint.is_some() {
        place.address.endpoint.clone_from(endpoint);
    }
    Ok(Ok(place))
}
