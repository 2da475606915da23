//! What a task's runs have said, line by line.

use sea_orm::{ActiveValue::Set, QueryOrder as _, QuerySelect as _, entity::prelude::*};

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

/// Adds a line to the run that holds `lease`; the caller has fenced the transaction.
pub async fn append(
    tx: &mut Tx<'_>,
    lease: Lease,
    level: Level,
    message: &str,
) -> Result<(), StoreError> {
    let row = ActiveModel {
        id: Set(tx.new_id::<Task>().uuid()),
        task_id: Set(lease.task.uuid()),
        attempt: Set(lease.attempt),
        level: Set(level.as_str().to_owned()),
        message: Set(message.to_owned()),
        at: Set(tx.now()),
    };
    Entity::insert(row).exec_without_returning(tx).await?;
    Ok(())
}

/// The first `limit` lines after the line `after`, oldest first. The caller has checked that the task may be read.
pub async fn page(
    store: &Store,
    task: Id<Task>,
    after: Option<Uuid>,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    let mut lines = Entity::find().filter(Column::TaskId.eq(task.uuid()));
    if let Some(after) = after {
        lines = lines.filter(Column::Id.gt(after));
    }
    Ok(lines
        .order_by_asc(Column::Id)
        .limit(limit)
        .all(store.db())
        .await?)
}
