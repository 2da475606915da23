//! Containers: the rows, and the one function that moves their state.

use std::collections::BTreeMap;

use sea_orm::{
    ActiveValue::Set,
    Condition, ConnectionTrait, ExprTrait as _, PaginatorTrait as _, QueryOrder as _,
    QuerySelect as _, QueryTrait as _,
    entity::prelude::*,
    sea_query::{LockBehavior, LockType},
};
use serde::{Deserialize, Serialize};

use super::{
    Tx,
    periods::{self, Runs},
    scoped::Scoped,
};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        container::{ContainerEvent, ContainerState},
        id::{App, Cluster, Container, Host, Region, User},
        policy::Resource,
        value::Dpi,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "container")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub owner_id: Option<Uuid>,
    pub app_id: Uuid,
    pub region_id: Uuid,
    pub cluster_id: Option<Uuid>,
    pub host_id: Option<Uuid>,
    pub state: String,
    pub version: i64,
    pub dpi: i16,
    /// Whether its client reaches it through a STUN server.
    pub stun: bool,
    pub release_channel: String,
    /// `None` for one made before images were kept; it has its app's.
    pub image: Option<String>,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    /// How often it has been made.
    pub generation: i32,
    /// The engine that holds it, from the first attempt on.
    pub provider: Option<String>,
    /// Where that engine is; `None` for the worker's own.
    pub endpoint: Option<String>,
    /// The engine's own id of the machine it runs on.
    pub node: Option<String>,
    /// The engine's own id of it.
    pub handle: Option<String>,
    pub ip: Option<String>,
    pub ports: PortMap,
    pub failure_code: Option<String>,
    pub failure_reason: Option<String>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
    pub running_at: Option<DateTimeUtc>,
    /// When it got its owner.
    pub assigned_at: Option<DateTimeUtc>,
    /// When a client was last seen in it.
    pub last_ping_at: Option<DateTimeUtc>,
    pub draining_at: Option<DateTimeUtc>,
    pub ended_at: Option<DateTimeUtc>,
}

/// Ports inside the container with the port of the host each is published on.
#[derive(
    Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, sea_orm::FromJsonQueryResult,
)]
pub struct PortMap(pub BTreeMap<u16, u16>);

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Container;
    fn owner() -> Option<Column> {
        Some(Column::OwnerId)
    }
    fn host() -> Option<Column> {
        Some(Column::HostId)
    }
}

impl Model {
    pub const fn id(&self) -> Id<Container> {
        Id::new(self.id)
    }

    pub fn state(&self) -> Result<ContainerState, StoreError> {
        ContainerState::parse(&self.state).ok_or(StoreError::Unreadable {
            column: "container.state",
        })
    }

    /// What its running is recorded as.
    fn runs(&self) -> Runs {
        Runs {
            subject: "container",
            id: self.id,
            owner: self.owner_id,
            product: self.app_id,
            region: self.region_id,
            cluster: self.cluster_id,
            release_channel: Some(self.release_channel.clone()),
        }
    }

    fn change(&self) -> Change {
        Change {
            table: Table::Container,
            id: self.id,
            version: self.version,
            owner: self.owner_id,
            kind: ChangeKind::Updated,
        }
    }
}

/// A container to be made.
#[derive(Clone)]
pub struct NewContainer {
    /// `None` for one of a warm pool.
    pub owner: Option<Id<User>>,
    pub app: Id<App>,
    pub region: Id<Region>,
    /// The cluster it has to be in; `None` for any.
    pub cluster: Option<Id<Cluster>>,
    pub dpi: Dpi,
    pub stun: bool,
    pub release_channel: String,
    pub image: String,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
}

/// Adds a container nobody has begun to make.
pub async fn insert(tx: &mut Tx<'_>, container: NewContainer) -> Result<Model, StoreError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<Container>().uuid()),
        owner_id: Set(container.owner.map(Id::uuid)),
        app_id: Set(container.app.uuid()),
        region_id: Set(container.region.uuid()),
        cluster_id: Set(container.cluster.map(Id::uuid)),
        host_id: Set(None),
        state: Set(ContainerState::Requested.as_str().to_owned()),
        version: Set(1),
        dpi: Set(container.dpi.get().cast_signed()),
        stun: Set(container.stun),
        release_channel: Set(container.release_channel),
        image: Set(Some(container.image)),
        cpu_millis: Set(container.cpu_millis),
        memory_bytes: Set(container.memory_bytes),
        generation: Set(1),
        provider: Set(None),
        endpoint: Set(None),
        node: Set(None),
        handle: Set(None),
        ip: Set(None),
        ports: Set(PortMap::default()),
        failure_code: Set(None),
        failure_reason: Set(None),
        created_at: Set(now),
        updated_at: Set(now),
        running_at: Set(None),
        assigned_at: Set(container.owner.map(|_| now)),
        last_ping_at: Set(None),
        draining_at: Set(None),
        ended_at: Set(None),
    };
    let row = row.insert(tx).await?;
    tx.changed(row.change());
    Ok(row)
}

/// Gives a running container of a warm pool to `owner`; `None` when there is none.
///
/// One statement, which takes the first that nobody else is taking, so that two never get the same and neither waits.
pub async fn assign_warm(
    tx: &mut Tx<'_>,
    wanted: &NewContainer,
    owner: Id<User>,
) -> Result<Option<Model>, StoreError> {
    let now = tx.now();
    let mut warm = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::OwnerId.is_null())
        .filter(Column::AppId.eq(wanted.app.uuid()))
        .filter(Column::RegionId.eq(wanted.region.uuid()))
        .filter(Column::State.eq(ContainerState::Running.as_str()))
        .filter(Column::ReleaseChannel.eq(&*wanted.release_channel));
    if let Some(cluster) = wanted.cluster {
        warm = warm.filter(Column::ClusterId.eq(cluster.uuid()));
    }
    let warm = warm
        .order_by_asc(Column::Id)
        .limit(1)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .into_query();
    let patch = ActiveModel {
        owner_id: Set(Some(owner.uuid())),
        assigned_at: Set(Some(now)),
        dpi: Set(wanted.dpi.get().cast_signed()),
        stun: Set(wanted.stun),
        updated_at: Set(now),
        ..Default::default()
    };
    let taken = Entity::update_many()
        .set(patch)
        .col_expr(Column::Version, Expr::col(Column::Version).add(1))
        .filter(Expr::col(Column::Id).eq(Expr::SubQuery(None, Box::new(warm.into()))))
        .exec_with_returning(tx)
        .await?;
    let row = taken.into_iter().next();
    if let Some(row) = &row {
        periods::end(tx, row.id, now).await?;
        periods::begin(tx, row.runs(), now).await?;
        tx.changed(row.change());
    }
    Ok(row)
}

/// How many containers of an owner count against their quota.
pub async fn unscoped_count_of(
    db: &impl ConnectionTrait,
    owner: Id<User>,
) -> Result<u64, StoreError> {
    let live = ContainerState::LIVE.map(ContainerState::as_str);
    Ok(Entity::find()
        .filter(Column::OwnerId.eq(owner.uuid()))
        .filter(Column::State.is_in(live))
        .count(db)
        .await?)
}

/// Those of a warm pool that run or will, the newest first.
pub async fn unscoped_warm(
    db: &impl ConnectionTrait,
    app: Id<App>,
    region: Id<Region>,
) -> Result<Vec<Model>, StoreError> {
    let over = [
        ContainerState::Deleting,
        ContainerState::Deleted,
        ContainerState::Failed,
    ];
    Ok(Entity::find()
        .filter(Column::OwnerId.is_null())
        .filter(Column::AppId.eq(app.uuid()))
        .filter(Column::RegionId.eq(region.uuid()))
        .filter(Column::State.is_not_in(over.map(ContainerState::as_str)))
        .order_by_desc(Column::Id)
        .limit(10_000)
        .all(db)
        .await?)
}

/// How many that were made for a warm pool have failed since `since`.
pub async fn unscoped_warm_failures(
    db: &impl ConnectionTrait,
    app: Id<App>,
    region: Id<Region>,
    since: DateTimeUtc,
) -> Result<u64, StoreError> {
    Ok(Entity::find()
        .filter(Column::OwnerId.is_null())
        .filter(Column::AppId.eq(app.uuid()))
        .filter(Column::RegionId.eq(region.uuid()))
        .filter(Column::State.eq(ContainerState::Failed.as_str()))
        .filter(Column::EndedAt.gt(since))
        .count(db)
        .await?)
}

/// The row, locked by this transaction.
pub async fn lock(tx: &Tx<'_>, id: Id<Container>) -> Result<Option<Model>, StoreError> {
    let row = Entity::find_by_id(id.uuid()).lock_exclusive();
    Ok(row.one(tx).await?)
}

/// Those in `states` on a host, or in a cluster whichever host.
pub async fn unscoped_in(
    db: &impl ConnectionTrait,
    place: Place,
    states: &[ContainerState],
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

/// Where containers are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    Host(Id<Host>),
    Cluster(Id<Cluster>),
}

/// Those an engine has, or should have.
pub async fn unscoped_live_on(
    db: &impl ConnectionTrait,
    provider: &str,
    endpoint: Option<&str>,
) -> Result<Vec<Model>, StoreError> {
    let over = [ContainerState::Deleted, ContainerState::Failed];
    let endpoint = match endpoint {
        None => Column::Endpoint.is_null(),
        Some(endpoint) => Column::Endpoint.eq(endpoint),
    };
    Ok(Entity::find()
        .filter(Column::Provider.eq(provider))
        .filter(endpoint)
        .filter(Column::State.is_not_in(over.map(ContainerState::as_str)))
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

/// Those that wait to be made, or to be removed, since before `before`.
pub async fn unscoped_underway(
    db: &impl ConnectionTrait,
    before: DateTimeUtc,
) -> Result<Vec<Model>, StoreError> {
    let underway = [
        ContainerState::Requested,
        ContainerState::Creating,
        ContainerState::Draining,
        ContainerState::Deleting,
    ];
    Ok(Entity::find()
        .filter(Column::State.is_in(underway.map(ContainerState::as_str)))
        .filter(Column::UpdatedAt.lt(before))
        .order_by_asc(Column::Id)
        .limit(1000)
        .all(db)
        .await?)
}

/// Somebody's running containers that no client has been seen in: since before `idle` if ever, else running and assigned
/// since before `abandoned`.
pub async fn unscoped_unused(
    db: &impl ConnectionTrait,
    idle: Option<DateTimeUtc>,
    abandoned: Option<DateTimeUtc>,
) -> Result<Vec<Model>, StoreError> {
    let mut unused = Condition::any();
    if let Some(idle) = idle {
        unused = unused.add(Column::LastPingAt.lt(idle));
    }
    if let Some(abandoned) = abandoned {
        unused = unused.add(
            Condition::all()
                .add(Column::LastPingAt.is_null())
                .add(Column::RunningAt.lt(abandoned))
                .add(Column::AssignedAt.lt(abandoned)),
        );
    }
    if unused.is_empty() {
        return Ok(Vec::new());
    }
    Ok(Entity::find()
        .filter(Column::OwnerId.is_not_null())
        .filter(Column::State.eq(ContainerState::Running.as_str()))
        .filter(unused)
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
    event: ContainerEvent,
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
        .filter(Column::State.eq(&*row.state))
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
    id: Id<Container>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// Records that a container is heard of again; it goes on draining if it was.
pub async fn seen_again(
    tx: &mut Tx<'_>,
    row: &Model,
    patch: ActiveModel,
) -> Result<Model, StoreError> {
    let row = transition(tx, row, ContainerEvent::Seen, patch).await?;
    if row.draining_at.is_none() {
        return Ok(row);
    }
    transition(
        tx,
        &row,
        ContainerEvent::Drain,
        <ActiveModel as Default>::default(),
    )
    .await
}

/// Records when a client was last in a container. It is no change of the container, so its version stays.
pub async fn pinged(
    tx: &mut Tx<'_>,
    row: &Model,
    at: Option<DateTimeUtc>,
) -> Result<Model, StoreError> {
    Entity::update_many()
        .col_expr(Column::LastPingAt, Expr::value(at))
        .filter(Column::Id.eq(row.id))
        .exec(tx)
        .await?;
    tx.changed(row.change());
    Ok(Model {
        last_ping_at: at,
        ..row.clone()
    })
}
