//! The workers that live, as they say themselves.

use std::time::Duration;

use sea_orm::{
    ActiveValue::Set, PaginatorTrait as _, QueryOrder as _, QuerySelect as _, entity::prelude::*,
    sea_query::OnConflict,
};

use super::{Store, tasks::KnownKind};
use crate::error::StoreError;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "worker")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub host: String,
    pub pid: i32,
    pub version: String,
    /// The kinds it knows; see [`Model::known`].
    pub kinds: Json,
    pub concurrency: i32,
    pub running: i32,
    pub draining: bool,
    pub started_at: DateTimeUtc,
    pub seen_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Model {
    /// The kinds it knows, with the newest input version of each.
    pub fn known(&self) -> Vec<KnownKind> {
        serde_json::from_value(self.kinds.clone()).unwrap_or_default()
    }
}

/// A worker's sign of life.
#[derive(Clone, Debug)]
pub struct Beat {
    pub id: Uuid,
    pub host: String,
    pub pid: u32,
    pub version: &'static str,
    pub kinds: Vec<KnownKind>,
    pub concurrency: usize,
    pub running: usize,
    pub is_draining: bool,
    pub started_at: DateTimeUtc,
}

/// Records a sign of life.
pub async fn beat(store: &Store, beat: &Beat) -> Result<(), StoreError> {
    let small = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let kinds =
        serde_json::to_value(&beat.kinds).map_err(|error| DbErr::Json(error.to_string()))?;
    let row = ActiveModel {
        id: Set(beat.id),
        host: Set(beat.host.chars().take(255).collect()),
        pid: Set(beat.pid.cast_signed()),
        version: Set(beat.version.to_owned()),
        kinds: Set(kinds),
        concurrency: Set(small(beat.concurrency)),
        running: Set(small(beat.running)),
        draining: Set(beat.is_draining),
        started_at: Set(beat.started_at),
        seen_at: Set(store.now()),
    };
    let replace = OnConflict::column(Column::Id)
        .update_columns([Column::Running, Column::Draining, Column::SeenAt])
        .to_owned();
    Entity::insert(row)
        .on_conflict(replace)
        .exec_without_returning(store.engine())
        .await?;
    Ok(())
}

/// Forgets a worker that has ended well.
pub async fn leave(store: &Store, worker: Uuid) -> Result<(), StoreError> {
    Entity::delete_by_id(worker).exec(store.engine()).await?;
    Ok(())
}

/// Forgets the workers nobody has heard of for `silence`.
pub async fn forget_silent(store: &Store, silence: Duration) -> Result<u64, StoreError> {
    let silent = Entity::delete_many().filter(Column::SeenAt.lt(store.now() - silence));
    Ok(silent.exec(store.engine()).await?.rows_affected)
}

/// How many workers have been heard of within `lately`.
pub async fn count(store: &Store, lately: Duration) -> Result<u64, StoreError> {
    let heard = Entity::find().filter(Column::SeenAt.gt(store.now() - lately));
    Ok(heard.count(store.db()).await?)
}

/// Every worker that has been heard of lately, the oldest first.
pub async fn all(store: &Store) -> Result<Vec<Model>, StoreError> {
    Ok(Entity::find()
        .order_by_asc(Column::StartedAt)
        .order_by_asc(Column::Id)
        .limit(1000)
        .all(store.db())
        .await?)
}
