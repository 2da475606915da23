//! Kinds of tasks an operator has paused.

use std::collections::BTreeSet;

use sea_orm::{ActiveValue::Set, QuerySelect as _, entity::prelude::*, sea_query::OnConflict};

use super::Store;
use crate::error::StoreError;

mod row {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "task_kind")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub paused_at: Option<DateTimeUtc>,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}
use row::{ActiveModel, Column, Entity};

/// Pauses or resumes a kind: no worker takes a task of a paused one; what runs goes on.
pub async fn set_paused(store: &Store, kind: &str, is_paused: bool) -> Result<(), StoreError> {
    let row = ActiveModel {
        name: Set(kind.to_owned()),
        paused_at: Set(is_paused.then(|| store.now())),
    };
    let replace = OnConflict::column(Column::Name)
        .update_column(Column::PausedAt)
        .to_owned();
    Entity::insert(row)
        .on_conflict(replace)
        .exec_without_returning(store.db())
        .await?;
    Ok(())
}

/// The paused kinds.
pub async fn paused(store: &Store) -> Result<BTreeSet<String>, StoreError> {
    let names: Vec<String> = Entity::find()
        .select_only()
        .column(Column::Name)
        .filter(Column::PausedAt.is_not_null())
        .into_tuple()
        .all(store.db())
        .await?;
    Ok(names.into_iter().collect())
}
