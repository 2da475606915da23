//! What a task's runs have said, line by line.

use sea_orm::{
    ActiveValue::Set, ConnectionTrait, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};

use super::{Store, Tx, tasks::Lease};
use crate::{
    domain::{Id, id::Task},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "task_log")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub task_id: Uuid,
    pub attempt: i32,
    pub level: String,
    pub message: String,
    pub at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

/// How loud a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Info,
    Warn,
    Error,
}

crate::domain::machine::named!(Level { Info = "info", Warn = "warn", Error = "error" });

/// A line to add.
pub(super) struct NewLine<'a> {
    pub lease: Lease,
    pub level: Level,
    pub message: &'a str,
}

/// Adds lines of runs whose leases the caller has checked in this transaction.
pub(super) async fn append(tx: &mut Tx<'_>, lines: Vec<NewLine<'_>>) -> Result<(), StoreError> {
    if lines.is_empty() {
        return Ok(());
    }
    let now = tx.now();
    let rows: Vec<ActiveModel> = lines
        .into_iter()
        .map(|line| ActiveModel {
            id: Set(tx.new_id::<Task>().uuid()),
            task_id: Set(line.lease.task.uuid()),
            attempt: Set(line.lease.attempt),
            level: Set(line.level.as_str().to_owned()),
            message: Set(line.message.to_owned()),
            at: Set(now),
        })
        .collect();
    Entity::insert_many(rows).exec_without_returning(tx).await?;
    Ok(())
}

/// The first `limit` lines after the line `after`, oldest first. The caller has checked that the task may be read.
pub async fn page(
    store: &Store,
    task: Id<Task>,
    after: Option<Uuid>,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    page_in(store.db(), task, after, limit).await
}

pub(super) async fn page_in(
    db: &impl ConnectionTrait,
    task: Id<Task>,
    after: Option<Uuid>,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    let mut lines = Entity::find().filter(Column::TaskId.eq(task.uuid()));
    if let Some(after) = after {
        lines = lines.filter(Column::Id.gt(after));
    }
    Ok(lines.order_by_asc(Column::Id).limit(limit).all(db).await?)
}
