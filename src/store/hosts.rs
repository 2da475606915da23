//! Hosts: the rows, the one function that moves their state, and what their agents tell.

use chrono::TimeDelta;
use sea_orm::{
    ActiveValue::Set, ConnectionTrait, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        host::{HostEvent, HostStatus},
        id::{Cluster, Host},
        policy::Resource,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "host")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub cluster_id: Uuid,
    /// What the machine is called where it comes from; one of its cluster.
    pub instance_id: String,
    pub instance_type: String,
    pub ip: Option<String>,
    /// Where its engine is; `None` for the worker's own.
    pub endpoint: Option<String>,
    pub status: String,
    pub version: i64,
    pub cpu_millis: i64,
    pub cpu_used_millis: i64,
    pub memory_bytes: i64,
    pub memory_available_bytes: i64,
    /// How many containers it has, by its own account.
    pub containers: i32,
    /// The number of its newest heartbeat.
    pub heartbeat: i64,
    pub agent_version: Option<String>,
    /// SHA-256 of its credential's secret; `None` for a host without an agent, or with a revoked one.
    pub credential_hash: Option<String>,
    /// Those before, with spaces between; they count for a while after the last rotation, because its answer may be lost.
    pub former_credential_hashes: String,
    pub former_credentials_until: Option<DateTimeUtc>,
    /// How often the machine has been registered; what an earlier registration has opened ends.
    pub registrations: i32,
    /// Whether it was taken out of service by somebody, whatever its agent says.
    pub cordoned: bool,
    pub last_seen_at: Option<DateTimeUtc>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Host;
    fn owner() -> Option<Column> {
        None
    }
    fn host() -> Option<Column> {
        Some(Column::Id)
    }
}

impl Model {
    pub const fn id(&self) -> Id<Host> {
        Id::new(self.id)
    }

    pub fn status(&self) -> Result<HostStatus, StoreError> {
        HostStatus::parse(&self.status).ok_or(StoreError::Unreadable {
            column: "host.status",
        })
    }

    /// Whether `hash` is that of a secret which counts now.
    pub fn is_credential(&self, hash: &str, now: DateTimeUtc) -> bool {
        let counts = self
            .former_credentials_until
            .is_some_and(|until| now < until);
        let mut former = self.former_credential_hashes.split_whitespace();
        let is_former = counts && former.any(|former| former == hash);
        is_former || self.credential_hash.as_deref() == Some(hash)
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::Host,
            id: self.id,
            version: self.version,
            owner: None,
            kind: ChangeKind::Updated,
        }
    }
}

/// What is known of a machine when it becomes a host.
pub struct NewHost {
    pub cluster: Id<Cluster>,
    pub instance_id: String,
    pub instance_type: String,
    pub ip: Option<String>,
    pub endpoint: Option<String>,
    pub cpu_millis: i64,
    pub memory_bytes: i64,
    pub agent_version: Option<String>,
    pub credential_hash: Option<String>,
}

/// Adds a host, or takes the row of the same machine, which has been registered again.
pub async fn register(tx: &mut Tx<'_>, host: NewHost) -> Result<Model, StoreError> {
    let now = tx.now();
    let known = Entity::find()
        .filter(Column::ClusterId.eq(host.cluster.uuid()))
        .filter(Column::InstanceId.eq(&*host.instance_id))
        .lock_exclusive()
        .one(tx)
        .await?;
    let mut row = ActiveModel {
        instance_type: Set(host.instance_type),
        ip: Set(host.ip),
        endpoint: Set(host.endpoint),
        cpu_millis: Set(host.cpu_millis),
        memory_bytes: Set(host.memory_bytes),
        heartbeat: Set(0),
        agent_version: Set(host.agent_version),
        credential_hash: Set(host.credential_hash),
        former_credential_hashes: Set(String::new()),
        former_credentials_until: Set(None),
        cordoned: Set(false),
        ..Default::default()
    };
    if let Some(known) = known {
        row.registrations = Set(known.registrations + 1);
        return transition(tx, &known, HostEvent::Registered, row).await;
    }
    row.id = Set(tx.new_id::<Host>().uuid());
    row.cluster_id = Set(host.cluster.uuid());
    row.instance_id = Set(host.instance_id);
    row.registrations = Set(1);
    row.status = Set(HostStatus::Registered.as_str().to_owned());
    row.version = Set(1);
    row.cpu_used_millis = Set(0);
    row.memory_available_bytes = Set(host.memory_bytes);
    row.containers = Set(0);
    row.last_seen_at = Set(None);
    row.created_at = Set(now);
    row.updated_at = Set(now);
    let row = row.insert(tx).await?;
    tx.changed(row.change());
    Ok(row)
}

/// Moves `row` by `event` and writes `patch` with it, if nobody changed the row since it was read.
pub async fn transition(
    tx: &mut Tx<'_>,
    row: &Model,
    event: HostEvent,
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
    id: Id<Host>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// The row, locked by this transaction.
pub async fn lock(tx: &Tx<'_>, id: Id<Host>) -> Result<Option<Model>, StoreError> {
    let row = Entity::find_by_id(id.uuid()).lock_exclusive();
    Ok(row.one(tx).await?)
}

/// Those that are not given up.
pub async fn unscoped_standing(db: &impl ConnectionTrait) -> Result<Vec<Model>, StoreError> {
    let standing = Entity::find()
        .filter(Column::Status.ne(HostStatus::Dead.as_str()))
        .order_by_asc(Column::Id)
        .limit(10_000);
    Ok(standing.all(db).await?)
}

/// Those of a cluster.
pub async fn unscoped_of_cluster(
    db: &impl ConnectionTrait,
    cluster: Id<Cluster>,
) -> Result<Vec<Model>, StoreError> {
    let of_cluster = Entity::find()
        .filter(Column::ClusterId.eq(cluster.uuid()))
        .order_by_asc(Column::Id)
        .limit(10_000);
    Ok(of_cluster.all(db).await?)
}

/// Those in `states` with an agent that has said nothing for so long. Of a machine without one its engine tells.
pub async fn unscoped_silent(
    db: &impl ConnectionTrait,
    states: &[HostStatus],
    since: DateTimeUtc,
) -> Result<Vec<Model>, StoreError> {
    let silent = Entity::find()
        .filter(Column::Status.is_in(states.iter().map(|state| state.as_str())))
        .filter(Column::AgentVersion.is_not_null())
        .filter(Column::LastSeenAt.lt(since))
        .order_by_asc(Column::Id)
        .limit(1000);
    Ok(silent.all(db).await?)
}

/// All, those given up too.
pub async fn unscoped_every(db: &impl ConnectionTrait) -> Result<Vec<Model>, StoreError> {
    Ok(Entity::find().limit(10_000).all(db).await?)
}

/// The one an engine knows by this id of its own.
pub async fn unscoped_by_instance(
    db: &impl ConnectionTrait,
    instance: &str,
) -> Result<Option<Model>, StoreError> {
    let host = Entity::find().filter(Column::InstanceId.eq(instance));
    Ok(host.order_by_desc(Column::Id).one(db).await?)
}

/// Those not heard of that still have containers in a state that says otherwise.
pub async fn unscoped_silenced(db: &impl ConnectionTrait) -> Result<Vec<Model>, StoreError> {
    const SILENCED: &str = "SELECT DISTINCT h.id FROM host AS h JOIN container AS c ON c.host_id = h.id \
        WHERE (h.status = 'stale' AND c.state IN ('running', 'draining')) \
           OR (h.status = 'dead' AND c.state IN ('running', 'draining', 'unknown')) LIMIT 1000";
    let rows = db
        .query_all_raw(super::source::statement(db, SILENCED, []))
        .await?;
    let ids: Vec<Uuid> = rows
        .iter()
        .map(|row| row.try_get("", "id"))
        .collect::<Result<_, _>>()?;
    Ok(Entity::find().filter(Column::Id.is_in(ids)).all(db).await?)
}

/// Most credentials of a host that count at once.
const CREDENTIALS: usize = 8;

/// Gives a host another credential; those before count for `overlap` longer.
pub async fn rotate(
    tx: &mut Tx<'_>,
    row: &Model,
    hash: String,
    overlap: TimeDelta,
) -> Result<Model, StoreError> {
    let now = tx.now();
    let mut former: Vec<&str> = row.credential_hash.as_deref().into_iter().collect();
    if row
        .former_credentials_until
        .is_some_and(|until| now < until)
    {
        former.extend(row.former_credential_hashes.split_whitespace());
    }
    former.truncate(CREDENTIALS - 1);
    let patch = ActiveModel {
        credential_hash: Set(Some(hash)),
        former_credential_hashes: Set(former.join(" ")),
        former_credentials_until: Set(Some(now + overlap)),
        ..Default::default()
    };
    change(tx, row, patch).await
}

/// Takes a host's credentials away.
pub async fn revoke(tx: &mut Tx<'_>, row: &Model) -> Result<Model, StoreError> {
    let patch = ActiveModel {
        credential_hash: Set(None),
        former_credential_hashes: Set(String::new()),
        former_credentials_until: Set(None),
        ..Default::default()
    };
    change(tx, row, patch).await
}
