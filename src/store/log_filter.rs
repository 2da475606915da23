//! What somebody wants logged for a while, by every process: one row at most.

use sea_orm::{ActiveValue::Set, entity::prelude::*, sea_query::OnConflict};

use super::{Store, Tx};
use crate::{
    domain::{
        Id, Table,
        id::{LogFilter, User},
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "log_filter")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub filter: String,
    /// From then on the settings say again what is logged.
    pub until: DateTimeUtc,
    pub set_by: Option<Uuid>,
    pub set_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

/// The one row's.
pub const ID: Id<LogFilter> = Id::new(Uuid::from_u128(1));

/// Records what is wanted until `until`, in the place of what was; every process hears of it.
pub async fn put(
    tx: &mut Tx<'_>,
    filter: &str,
    until: DateTimeUtc,
    by: Option<Id<User>>,
) -> Result<Model, StoreError> {
    let row = Model {
        id: ID.uuid(),
        filter: filter.to_owned(),
        until,
        set_by: by.map(Id::uuid),
        set_at: tx.now(),
    };
    let active = ActiveModel {
        id: Set(row.id),
        filter: Set(row.filter.clone()),
        until: Set(row.until),
        set_by: Set(row.set_by),
        set_at: Set(row.set_at),
    };
    let replace = OnConflict::column(Column::Id)
        .update_columns([Column::Filter, Column::Until, Column::SetBy, Column::SetAt])
        .to_owned();
    Entity::insert(active)
        .on_conflict(replace)
        .exec_without_returning(&*tx)
        .await?;
    tx.touched(Table::LogFilter, row.id, None);
    Ok(row)
}

/// What is wanted now; `None` when it is what the settings say.
pub async fn wanted(store: &Store) -> Result<Option<Model>, StoreError> {
    let live = Entity::find().filter(Column::Until.gt(store.now()));
    Ok(live.one(store.db()).await?)
}
