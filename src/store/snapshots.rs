//! What disks of virtual machines had at a time.

use sea_orm::{ActiveValue::Set, ConnectionTrait, PaginatorTrait as _, entity::prelude::*};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        id::{Snapshot, VirtualMachine},
        policy::Resource,
        virtual_machine::{SnapshotEvent, SnapshotState},
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "snapshot")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub owner_id: Uuid,
    pub machine_id: Uuid,
    pub name: String,
    pub state: String,
    pub version: i64,
    pub failure_code: Option<String>,
    pub failure_reason: Option<String>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Snapshot;
    fn owner() -> Option<Column> {
        Some(Column::OwnerId)
    }
}

impl Model {
    pub const fn id(&self) -> Id<Snapshot> {
        Id::new(self.id)
    }

    pub const fn machine(&self) -> Id<VirtualMachine> {
        Id::new(self.machine_id)
    }

    pub fn state(&self) -> Result<SnapshotState, StoreError> {
        SnapshotState::parse(&self.state).ok_or(StoreError::Unreadable {
            column: "snapshot.state",
        })
    }

    const fn change(&self) -> Change {
        Change {
            table: Table::Snapshot,
            id: self.id,
            version: self.version,
            owner: Some(self.owner_id),
            kind: ChangeKind::Updated,
        }
    }
}

/// Adds a snapshot that is to be taken.
pub async fn insert(
    tx: &mut Tx<'_>,
    machine: &super::machines::Model,
    name: String,
) -> Result<Model, StoreError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<Snapshot>().uuid()),
        owner_id: Set(machine.owner_id),
        machine_id: Set(machine.id),
        name: Set(name),
        state: Set(SnapshotState::Creating.as_str().to_owned()),
        version: Set(1),
        failure_code: Set(None),
        failure_reason: Set(None),
        created_at: Set(now),
        updated_at: Set(now),
    };
    let row = row.insert(tx).await?;
    tx.changed(row.change());
    Ok(row)
}

/// How many snapshots of a machine count against its bound.
pub async fn unscoped_count_of(
    db: &impl ConnectionTrait,
    machine: Id<VirtualMachine>,
) -> Result<u64, StoreError> {
    Ok(Entity::find()
        .filter(Column::MachineId.eq(machine.uuid()))
        .filter(Column::State.ne(SnapshotState::Deleted.as_str()))
        .count(db)
        .await?)
}

/// Those of a machine that are not gone.
pub async fn unscoped_of(
    db: &impl ConnectionTrait,
    machine: Id<VirtualMachine>,
) -> Result<Vec<Model>, StoreError> {
    Ok(Entity::find()
        .filter(Column::MachineId.eq(machine.uuid()))
        .filter(Column::State.ne(SnapshotState::Deleted.as_str()))
        .all(db)
        .await?)
}

/// The row itself.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<Snapshot>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// Moves `row` by `event` and writes `patch` with it, if nobody changed the row since it was read.
///
/// # Errors
/// [`StoreError::Illegal`] when the life cycle has no such step, [`StoreError::Stale`] when the row has changed.
pub async fn transition(
    tx: &mut Tx<'_>,
    row: &Model,
    event: SnapshotEvent,
    mut patch: ActiveModel,
) -> Result<Model, StoreError> {
    patch.state = Set(row.state()?.after(event)?.as_str().to_owned());
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
