//! Virtual machines: the rows, and the one function that moves their state.

use sea_orm::{
    ActiveValue::Set, ConnectionTrait, PaginatorTrait as _, QueryOrder as _, QuerySelect as _,
    entity::prelude::*,
};

use super::{
    Tx,
    apps::Strings,
    containers::{Place, PortMap},
    periods::{self, Runs},
    scoped::Scoped,
};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        id::{Cluster, Image, Region, User, VirtualMachine},
        policy::Resource,
        virtual_machine::{MachineEvent, MachineState},
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "virtual_machine")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub owner_id: Uuid,
    pub image_id: Uuid,
    pub region_id: Uuid,
    pub cluster_id: Option<Uuid>,
    pub host_id: Option<Uuid>,
    /// Its guest's host name.
    pub name: String,
    pub state: String,
    pub version: i64,
    pub cpus: i16,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub ssh_keys: Strings,
    /// How often its disk has been made.
    pub generation: i32,
    /// The engine that holds it, from the first attempt on.
    pub provider: Option<String>,
    /// Where that engine is; `None` for the worker's own.
    pub endpoint: Option<String>,
    /// The engine's own id of the computer it runs on.
    pub node: Option<String>,
    /// The engine's own id of it.
    pub handle: Option<String>,
    pub ip: Option<String>,
    pub ports: PortMap,
    /// Processor time since its start, in microseconds, as last measured.
    pub cpu_used_micros: Option<i64>,
    /// Bytes of the host's memory and disk, as last measured.
    pub memory_used_bytes: Option<i64>,
    pub disk_used_bytes: Option<i64>,
    pub measured_at: Option<DateTimeUtc>,
    pub failure_code: Option<String>,
    pub failure_reason: Option<String>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
    /// When its guest was up last.
    pub running_at: Option<DateTimeUtc>,
    pub ended_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::VirtualMachine;
    fn owner() -> Option<Column> {
        Some(Column::OwnerId)
    }
}

impl Model {
    pub const fn id(&self) -> Id<VirtualMachine> {
        Id::new(self.id)
    }

    pub const fn owner(&self) -> Id<User> {
        Id::new(self.owner_id)
    }

    pub fn state(&self) -> Result<MachineState, StoreError> {
        MachineState::parse(&self.state).ok_or(StoreError::Unreadable {
            column: "virtual_machine.state",
        })
    }

    /// What its running is recorded as.
    fn runs(&self) -> Runs {
        Runs {
            subject: "machine",
            id: self.id,
            owner: Some(self.owner_id),
            product: self.image_id,
            region: self.region_id,
            cluster: self.cluster_id,
            release_channel: None,
        }
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::VirtualMachine,
            id: self.id,
            version: self.version,
            owner: Some(self.owner_id),
            kind: ChangeKind::Updated,
        }
    }
}

/// A machine to be made.
#[derive(Clone)]
pub struct NewMachine {
    pub owner: Id<User>,
    pub image: Id<Image>,
    pub region: Id<Region>,
    /// The cluster it has to be in; `None` for any.
    pub cluster: Option<Id<Cluster>>,
    pub name: String,
    pub cpus: i16,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
    pub ssh_keys: Vec<String>,
}

/// Adds a machine nobody has begun to make.
pub async fn insert(tx: &mut Tx<'_>, machine: NewMachine) -> Result<Model, StoreError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<VirtualMachine>().uuid()),
        owner_id: Set(machine.owner.uuid()),
        image_id: Set(machine.image.uuid()),
        region_id: Set(machine.region.uuid()),
        cluster_id: Set(machine.cluster.map(Id::uuid)),
        host_id: Set(None),
        name: Set(machine.name),
        state: Set(MachineState::Requested.as_str().to_owned()),
        version: Set(1),
        cpus: Set(machine.cpus),
        memory_bytes: Set(machine.memory_bytes),
        disk_bytes: Set(machine.disk_bytes),
        ssh_keys: Set(Strings(machine.ssh_keys)),
        generation: Set(1),
        provider: Set(None),
        endpoint: Set(None),
        node: Set(None),
        handle: Set(None),
        ip: Set(None),
        ports: Set(PortMap::default()),
        cpu_used_micros: Set(None),
        memory_used_bytes: Set(None),
        disk_used_bytes: Set(None),
        measured_at: Set(None),
        failure_code: Set(None),
        failure_reason: Set(None),
        created_at: Set(now),
        updated_at: Set(now),
        running_at: Set(None),
        ended_at: Set(None),
    };
    let row = row.insert(tx).await?;
    tx.changed(row.change());
    Ok(row)
}

/// How many machines of an owner count against their quota: every one whose disk is kept.
pub async fn unscoped_count_of(
    db: &impl ConnectionTrait,
    owner: Id<User>,
) -> Result<u64, StoreError> {
    Ok(Entity::find()
        .filter(Column::OwnerId.eq(owner.uuid()))
        .filter(Column::State.ne(MachineState::Deleted.as_str()))
        .count(db)
        .await?)
}

/// The row, locked by this transaction.
pub async fn lock(tx: &Tx<'_>, id: Id<VirtualMachine>) -> Result<Option<Model>, StoreError> {
    let row = Entity::find_by_id(id.uuid()).lock_exclusive();
    Ok(row.one(tx).await?)
}

/// Those in `states` on a host, or in a cluster whichever host.
pub async fn unscoped_in(
    db: &impl ConnectionTrait,
    place: Place,
    states: &[MachineState],
) -> Result<Vec<Model>, StoreError> {
    let place = match place {
        Place::Host(host) => Column::HostId.eq(host.uuid()),
        Place::Cluster(cluster) => Column::ClusterId.eq(cluster.uuid()),
    };
    Ok(Entity::find()
        .filter(place)
        .filter(Column::State.is_in(states.iter().map(|state| state.as_str())))
        .order_by_asc(Column::Id)
        .limit(10_000)
        .all(db)
        .await?)
}

/// Those an engine has, or should have.
pub async fn unscoped_live_on(
    db: &impl ConnectionTrait,
    provider: &str,
    endpoint: Option<&str>,
) -> Result<Vec<Model>, StoreError> {
    let endpoint = match endpoint {
        None => Column::Endpoint.is_null(),
        Some(endpoint) => Column::Endpoint.eq(endpoint),
    };
    Ok(Entity::find()
        .filter(Column::Provider.eq(provider))
        .filter(endpoint)
        .filter(Column::State.ne(MachineState::Deleted.as_str()))
        .order_by_asc(Column::Id)
        .limit(100_000)
        .all(db)
        .await?)
}

/// Those of `ids` that there are.
pub async fn unscoped_by_ids(
    db: &impl ConnectionTrait,
    ids: Vec<Uuid>,
) -> Result<Vec<Model>, StoreError> {
    Ok(Entity::find().filter(Column::Id.is_in(ids)).all(db).await?)
}

/// Those on their way to another state since before `before`.
pub async fn unscoped_underway(
    db: &impl ConnectionTrait,
    before: DateTimeUtc,
) -> Result<Vec<Model>, StoreError> {
    let underway = [
        MachineState::Requested,
        MachineState::Provisioning,
        MachineState::Booting,
        MachineState::Stopping,
        MachineState::Deleting,
    ];
    Ok(Entity::find()
        .filter(Column::State.is_in(underway.map(MachineState::as_str)))
        .filter(Column::UpdatedAt.lt(before))
        .order_by_asc(Column::Id)
        .limit(1000)
        .all(db)
        .await?)
}

/// Moves `row` by `event` and writes `patch` with it, if nobody changed the row since it was read.
///
/// # Errors
/// [`StoreError::Illegal`] when the life cycle has no such step, [`StoreError::Stale`] when the row has changed.
pub async fn transition(
    tx: &mut Tx<'_>,
    row: &Model,
    event: MachineEvent,
    mut patch: ActiveModel,
) -> Result<Model, StoreError> {
    let (before, after) = (row.state()?, row.state()?.after(event)?);
    patch.state = Set(after.as_str().to_owned());
    let row = change(tx, row, patch).await?;
    periods::follow(tx, before.is_up(), after.is_up(), || row.runs(), row.id).await?;
    Ok(row)
}

/// Writes `patch`, if nobody changed the row since it was read.
///
/// # Errors
/// [`StoreError::Stale`] when the row has changed.
pub async fn change(
    tx: &mut Tx<'_>,
    row: &Model,
    mut patch: ActiveModel,
) -> Result<Model, StoreError> {
    patch.version = Set(row.version + 1);
    patch.updated_at = Set(tx.now());
    let changed = Entity::update_many()
        .set(patch)
        .filter(Column::Id.eq(row.id))
        .filter(Column::Version.eq(row.version))
        .exec_with_returning(tx)
        .await?;
    let row = changed.into_iter().next().ok_or(StoreError::Stale)?;
    tx.changed(row.change());
    Ok(row)
}

/// The row a task works on.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<VirtualMachine>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// What a machine takes of its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Used {
    pub cpu_micros: i64,
    pub memory_bytes: i64,
    pub disk_bytes: i64,
}

/// Writes down what a machine takes. It is no change of the machine, so its version stays.
pub async fn measured(store: &super::Store, row: &Model, used: Used) -> Result<(), StoreError> {
    let known = (
        row.cpu_used_micros,
        row.memory_used_bytes,
        row.disk_used_bytes,
    );
    if known
        == (
            Some(used.cpu_micros),
            Some(used.memory_bytes),
            Some(used.disk_bytes),
        )
    {
        return Ok(());
    }
    let mut tx = store.begin().await?;
    Entity::update_many()
        .col_expr(Column::CpuUsedMicros, Expr::value(used.cpu_micros))
        .col_expr(Column::MemoryUsedBytes, Expr::value(used.memory_bytes))
        .col_expr(Column::DiskUsedBytes, Expr::value(used.disk_bytes))
        .col_expr(Column::MeasuredAt, Expr::value(tx.now()))
        .filter(Column::Id.eq(row.id))
        .exec(&tx)
        .await?;
    tx.changed(row.change());
    tx.commit().await
}
