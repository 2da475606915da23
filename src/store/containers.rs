//! Containers: the rows, and the one function that moves their state.

use std::collections::BTreeMap;

use sea_orm::{ActiveValue::Set, ConnectionTrait, QuerySelect as _, entity::prelude::*};
use serde::{Deserialize, Serialize};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        container::{ContainerEvent, ContainerState},
        id::{App, Container, Region, User},
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
    pub state: String,
    pub version: i64,
    pub dpi: i16,
    /// The engine that holds it, from the first attempt on.
    pub provider: Option<String>,
    /// The engine's own id of it.
    pub handle: Option<String>,
    pub ip: Option<String>,
    pub ports: PortMap,
    pub failure_code: Option<String>,
    pub failure_reason: Option<String>,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
    pub running_at: Option<DateTimeUtc>,
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

/// Adds a container nobody has begun to make.
pub async fn insert(
    tx: &mut Tx<'_>,
    owner: Option<Id<User>>,
    app: Id<App>,
    region: Id<Region>,
    dpi: Dpi,
) -> Result<Model, StoreError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<Container>().uuid()),
        owner_id: Set(owner.map(Id::uuid)),
        app_id: Set(app.uuid()),
        region_id: Set(region.uuid()),
        state: Set(ContainerState::Requested.as_str().to_owned()),
        version: Set(1),
        dpi: Set(dpi.get().cast_signed()),
        provider: Set(None),
        handle: Set(None),
        ip: Set(None),
        ports: Set(PortMap::default()),
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
    let from = row.state()?;
    let to = from.after(event)?;
    patch.state = Set(to.as_str().to_owned());
    patch.version = Set(row.version + 1);
    patch.updated_at = Set(tx.now());
    let changed = Entity::update_many()
        .set(patch)
        .filter(Column::Id.eq(row.id))
        .filter(Column::State.eq(from.as_str()))
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

/// Which of `ids` are containers nobody wants any more since before `before`.
pub async fn unscoped_unwanted(
    db: &impl ConnectionTrait,
    ids: impl IntoIterator<Item = Id<Container>>,
    before: DateTimeUtc,
) -> Result<Vec<Id<Container>>, StoreError> {
    let over = [ContainerState::Deleted, ContainerState::Failed];
    debug_assert!(over.iter().all(|state| !state.is_wanted()));
    let ids: Vec<Uuid> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::Id.is_in(ids.into_iter().map(Id::uuid)))
        .filter(Column::State.is_in(over.map(ContainerState::as_str)))
        .filter(Column::UpdatedAt.lt(before))
        .into_tuple()
        .all(db)
        .await?;
    Ok(ids.into_iter().map(Id::new).collect())
}
