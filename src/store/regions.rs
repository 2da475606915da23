//! Where things can run.

use sea_orm::{ActiveValue::Set, ConnectionTrait, entity::prelude::*};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{Id, Table, id::Region, policy::Resource},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "region")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub enabled: bool,
    /// The engine of this region; `None` takes the worker's default.
    pub provider: Option<String>,
    pub created_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Region;
    fn owner() -> Option<Column> {
        None
    }
}

impl Model {
    pub const fn id(&self) -> Id<Region> {
        Id::new(self.id)
    }
}

/// Adds a region that takes containers at once.
pub async fn insert(tx: &mut Tx<'_>, name: &str) -> Result<Model, StoreError> {
    let row = ActiveModel {
        id: Set(tx.new_id::<Region>().uuid()),
        name: Set(name.to_owned()),
        enabled: Set(true),
        provider: Set(None),
        created_at: Set(tx.now()),
    };
    let row = row.insert(tx).await?;
    tx.touched(Table::Region, row.id, None);
    Ok(row)
}

/// Opens or closes a region, and chooses the engine of what has no cluster there.
pub async fn change(
    tx: &mut Tx<'_>,
    id: Id<Region>,
    patch: ActiveModel,
) -> Result<Option<Model>, StoreError> {
    let changed = Entity::update_many()
        .set(patch)
        .filter(Column::Id.eq(id.uuid()))
        .exec_with_returning(tx)
        .await?;
    tx.touched(Table::Region, id.uuid(), None);
    Ok(changed.into_iter().next())
}

/// The region a container was asked for in.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<Region>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}
