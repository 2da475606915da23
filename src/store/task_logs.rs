//! What a task's runs have said, line by line.

use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, QueryOrder as _, QuerySelect as _,
    entity::prelude::*,
    sea_query::{all, any},
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

/// A line's place among those of its task: later attempts come after earlier ones, whatever their workers' clocks say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub attempt: i32,
    pub id: Uuid,
}

impl Model {
    pub const fn place(&self) -> Place {
        Place {
            attempt: self.attempt,
            id: self.id,
        }
    }
}

/// The first `limit` lines after `after`, oldest first. The caller has checked that the task may be read.
pub async fn page(
    store: &Store,
    task: Id<Task>,
    after: Option<Place>,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    page_in(store.db(), task, after, limit).await
}

pub(super) async fn page_in(
    db: &impl ConnectionTrait,
    task: Id<Task>,
    after: Option<Place>,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    let mut lines = Entity::find().filter(Column::TaskId.eq(task.uuid()));
    if let Some(Place { attempt, id }) = after {
        let same = all![Column::Attempt.eq(attempt), Column::Id.gt(id)];
        lines = lines.filter(any![Column::Attempt.gt(attempt), same]);
    }
    let lines = lines
        .order_by_asc(Column::Attempt)
        .order_by_asc(Column::Id)
        .limit(limit);
    Ok(lines.all(db).await?)
}
