//! Clusters: the rows, the one function that moves their state, and how much room they have.

use sea_orm::{
    ActiveValue::Set, ConnectionTrait, FromQueryResult, QueryOrder as _, QuerySelect as _, SqlErr,
    entity::prelude::*,
};

use super::{Tx, scoped::Scoped, source::statement};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        cluster::{ClusterEvent, ClusterStatus, Placement, Room},
        id::{Cluster, Region},
        policy::Resource,
    },
    error::{AppError, StoreError},
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "cluster")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub region_id: Uuid,
    pub provider: String,
    /// Where its engine is, for an engine of several machines; `None` for the worker's own.
    pub endpoint: Option<String>,
    pub status: String,
    pub version: i64,
    pub min_containers: i32,
    pub max_containers: i32,
    pub placement: String,
    pub failure_reason: Option<String>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Cluster;
    fn owner() -> Option<Column> {
        None
    }
}

impl Model {
    pub const fn id(&self) -> Id<Cluster> {
        Id::new(self.id)
    }

    pub fn status(&self) -> Result<ClusterStatus, StoreError> {
        ClusterStatus::parse(&self.status).ok_or(StoreError::Unreadable {
            column: "cluster.status",
        })
    }

    pub fn placement(&self) -> Result<Placement, StoreError> {
        Placement::parse(&self.placement).ok_or(StoreError::Unreadable {
            column: "cluster.placement",
        })
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::Cluster,
            id: self.id,
            version: self.version,
            owner: None,
            kind: ChangeKind::Updated,
        }
    }
}

/// A cluster to be made.
pub struct NewCluster {
    pub name: String,
    pub region: Id<Region>,
    pub provider: String,
    pub endpoint: Option<String>,
    pub min_containers: i32,
    pub max_containers: i32,
    pub placement: Placement,
}

/// Adds a cluster nobody has looked at yet; a second one with its name is a conflict.
pub async fn insert(tx: &mut Tx<'_>, cluster: NewCluster) -> Result<Model, AppError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<Cluster>().uuid()),
        name: Set(cluster.name),
        region_id: Set(cluster.region.uuid()),
        provider: Set(cluster.provider),
        endpoint: Set(cluster.endpoint),
        status: Set(ClusterStatus::Creating.as_str().to_owned()),
        version: Set(1),
        min_containers: Set(cluster.min_containers),
        max_containers: Set(cluster.max_containers),
        placement: Set(cluster.placement.as_str().to_owned()),
        failure_reason: Set(None),
        created_at: Set(now),
        updated_at: Set(now),
    };
    let row = row
        .insert(tx)
        .await
        .map_err(|error| match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => {
                AppError::Conflict("a cluster with this name exists")
            }
            _ => error.into(),
        })?;
    tx.changed(row.change());
    Ok(row)
}

/// Moves `row` by `event` and writes `patch` with it, if nobody changed the row since it was read.
pub async fn transition(
    tx: &mut Tx<'_>,
    row: &Model,
    event: ClusterEvent,
    mut patch: ActiveModel,
) -> Result<Model, StoreError> {
    patch.status = Set(row.status()?.after(event)?.as_str().to_owned());
    change(tx, row, patch).await
}

/// Writes `patch`, if nobody changed the row since it was read.
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

/// The row itself.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<Cluster>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// The row, locked by this transaction: those who place in it take turns.
pub async fn lock(tx: &Tx<'_>, id: Id<Cluster>) -> Result<Option<Model>, StoreError> {
    let row = Entity::find_by_id(id.uuid()).lock_exclusive();
    Ok(row.one(tx).await?)
}

/// Those that are not gone.
pub async fn unscoped_standing(db: &impl ConnectionTrait) -> Result<Vec<Model>, StoreError> {
    let standing = Entity::find()
        .filter(Column::Status.ne(ClusterStatus::Deleted.as_str()))
        .order_by_asc(Column::Id)
        .limit(1000);
    Ok(standing.all(db).await?)
}

/// Those of a region that take containers.
pub async fn unscoped_open(
    db: &impl ConnectionTrait,
    region: Id<Region>,
) -> Result<Vec<Model>, StoreError> {
    let open = Entity::find()
        .filter(Column::RegionId.eq(region.uuid()))
        .filter(Column::Status.eq(ClusterStatus::Active.as_str()))
        .order_by_asc(Column::Id)
        .limit(100);
    Ok(open.all(db).await?)
}

/// What is in a cluster: its hosts that serve, and its containers and machines that count.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq, FromQueryResult)]
pub struct Use {
    pub hosts: i64,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub cpu_used_millis: i64,
    pub memory_available_bytes: i64,
    pub pending: i64,
    pub running: i64,
    pub cpu_taken_millis: i64,
    pub memory_taken_bytes: i64,
}

/// How much a cluster has and how much of it is taken, counted from its hosts and its containers.
pub async fn usage(db: &impl ConnectionTrait, id: Id<Cluster>) -> Result<Use, StoreError> {
    const USE: &str = "SELECT h.*, c.* FROM \
        (SELECT COUNT(*) AS hosts, CAST(COALESCE(SUM(cpu_millis), 0) AS bigint) AS cpu_millis, \
           CAST(COALESCE(SUM(memory_bytes), 0) AS bigint) AS memory_bytes, \
           CAST(COALESCE(SUM(cpu_used_millis), 0) AS bigint) AS cpu_used_millis, \
           CAST(COALESCE(SUM(memory_available_bytes), 0) AS bigint) AS memory_available_bytes \
         FROM host WHERE cluster_id = $1 AND status = 'healthy') AS h, \
        (SELECT COUNT(CASE WHEN state IN ('requested', 'creating') THEN 1 END) AS pending, \
           COUNT(CASE WHEN state IN ('running', 'draining') THEN 1 END) AS running, \
           CAST(COALESCE(SUM(cpu_millis), 0) AS bigint) AS cpu_taken_millis, \
           CAST(COALESCE(SUM(memory_bytes), 0) AS bigint) AS memory_taken_bytes \
         FROM (SELECT state, cpu_millis, memory_bytes FROM container \
             WHERE cluster_id = $1 AND state NOT IN ('deleted', 'failed') \
           UNION ALL SELECT CASE WHEN state IN ('provisioning', 'booting') THEN 'creating' ELSE state END, \
             1000 * cpus, memory_bytes FROM virtual_machine WHERE cluster_id = $1 AND state <> 'deleted') AS a) AS c";
    let counted = statement(db, USE.to_owned(), [id.uuid().into()]);
    let row = db.query_one_raw(counted).await?;
    let found = row
        .map(|row| Use::from_query_result(&row, ""))
        .transpose()?;
    Ok(found.unwrap_or_default())
}

/// The room the largest app on offer takes: thousandths of a processor and bytes.
pub async fn unscoped_largest_app(db: &impl ConnectionTrait) -> Result<(i64, i64), StoreError> {
    const LARGEST: &str = "SELECT CAST(COALESCE(MAX(cpu_millis), 0) AS bigint) AS cpu, \
        CAST(COALESCE(MAX(memory_bytes), 0) AS bigint) AS memory FROM app WHERE active";
    let row = db.query_one_raw(statement(db, LARGEST, [])).await?;
    let row =
        row.map(|row| Ok::<_, StoreError>((row.try_get("", "cpu")?, row.try_get("", "memory")?)));
    Ok(row.transpose()?.unwrap_or_default())
}

/// How many containers and machines a cluster has that count against its bound.
pub async fn unscoped_count(db: &impl ConnectionTrait, id: Id<Cluster>) -> Result<i64, StoreError> {
    const COUNT: &str = "SELECT (SELECT COUNT(*) FROM container \
          WHERE cluster_id = $1 AND state NOT IN ('deleted', 'failed')) \
        + (SELECT COUNT(*) FROM virtual_machine WHERE cluster_id = $1 AND state <> 'deleted') AS count";
    let counted = statement(db, COUNT.to_owned(), [id.uuid().into()]);
    let row = db.query_one_raw(counted).await?;
    Ok(row.map_or(Ok(0), |row| row.try_get("", "count"))?)
}

#[derive(FromQueryResult)]
struct HostRoom {
    id: Uuid,
    endpoint: Option<String>,
    cpu_millis: i64,
    memory_bytes: i64,
    cpu_taken: i64,
    memory_taken: i64,
    containers: i64,
}

/// The hosts of a cluster that take containers: which, where its engine is, and its room.
pub async fn unscoped_rooms(
    db: &impl ConnectionTrait,
    id: Id<Cluster>,
) -> Result<Vec<(Uuid, Option<String>, Room)>, StoreError> {
    const ROOMS: &str = "SELECT h.id, h.endpoint, h.cpu_millis, h.memory_bytes, \
          CAST(COALESCE(SUM(c.cpu_millis), 0) AS bigint) AS cpu_taken, \
          CAST(COALESCE(SUM(c.memory_bytes), 0) AS bigint) AS memory_taken, COUNT(c.id) AS containers \
        FROM host AS h LEFT JOIN (SELECT id, host_id, cpu_millis, memory_bytes FROM container \
              WHERE cluster_id = $1 AND state NOT IN ('deleted', 'failed') \
            UNION ALL SELECT id, host_id, 1000 * cpus, memory_bytes FROM virtual_machine \
              WHERE cluster_id = $1 AND state <> 'deleted') AS c ON c.host_id = h.id \
        WHERE h.cluster_id = $1 AND h.status = 'healthy' \
        GROUP BY h.id, h.endpoint, h.cpu_millis, h.memory_bytes ORDER BY h.id";
    let rows = db
        .query_all_raw(statement(db, ROOMS.to_owned(), [id.uuid().into()]))
        .await?;
    let mut rooms = Vec::with_capacity(rows.len());
    for row in &rows {
        let host = HostRoom::from_query_result(row, "")?;
        let room = Room {
            cpu_millis: host.cpu_millis,
            memory_bytes: host.memory_bytes,
            cpu_taken: host.cpu_taken,
            memory_taken: host.memory_taken,
            containers: host.containers,
        };
        rooms.push((host.id, host.endpoint, room));
    }
    Ok(rooms)
}

/// Whether a cluster has hosts at all, however they are.
pub async fn has_hosts(db: &impl ConnectionTrait, id: Id<Cluster>) -> Result<bool, StoreError> {
    let any = statement(
        db,
        "SELECT 1 AS one FROM host WHERE cluster_id = $1 LIMIT 1",
        [id.uuid().into()],
    );
    Ok(db.query_one_raw(any).await?.is_some())
}
