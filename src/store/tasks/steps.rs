//! Recorded steps: what a run has done and need not do again, and what undoing it has undone.

use std::collections::HashMap;

use sea_orm::{ActiveValue::Set, QueryOrder as _, QuerySelect as _, entity::prelude::*};

use super::{Lease, Store, hold::fence};
use crate::{
    domain::{Id, id::Task},
    error::StoreError,
};

mod row {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "task_step")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub task_id: Uuid,
        #[sea_orm(primary_key, auto_increment = false)]
        pub name: String,
        pub position: i32,
        pub output: Json,
        pub at: DateTimeUtc,
        pub compensated_at: Option<DateTimeUtc>,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}
use row::{ActiveModel, Column, Entity};

/// A step that has been finished.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub name: String,
    pub output: Json,
    pub compensated_at: Option<DateTimeUtc>,
}

/// The finished steps of a task, in the order they were finished.
pub async fn steps(store: &Store, task: Id<Task>) -> Result<Vec<Step>, StoreError> {
    let mut all = steps_of(store, [task]).await?;
    Ok(all.remove(&task.uuid()).unwrap_or_default())
}

/// The same of several tasks; none of one without any.
pub async fn steps_of(
    store: &Store,
    tasks: impl IntoIterator<Item = Id<Task>>,
) -> Result<HashMap<Uuid, Vec<Step>>, StoreError> {
    let rows: Vec<(Uuid, String, Json, Option<DateTimeUtc>)> = Entity::find()
        .select_only()
        .columns([
            Column::TaskId,
            Column::Name,
            Column::Output,
            Column::CompensatedAt,
        ])
        .filter(Column::TaskId.is_in(tasks.into_iter().map(Id::uuid)))
        .order_by_asc(Column::Position)
        .into_tuple()
        .all(store.db())
        .await?;
    let mut all: HashMap<Uuid, Vec<Step>> = HashMap::new();
    for (task, name, output, compensated_at) in rows {
        all.entry(task).or_default().push(Step {
            name,
            output,
            compensated_at,
        });
    }
    Ok(all)
}

/// Records that the run of `lease` has finished a step.
///
/// # Errors
/// [`StoreError::LeaseLost`] when the run is not the newest.
pub async fn record_step(
    store: &Store,
    lease: Lease,
    name: &str,
    output: Json,
) -> Result<(), StoreError> {
    let tx = store.begin().await?;
    fence(&tx, lease).await?;
    let before = Entity::find()
        .filter(Column::TaskId.eq(lease.task.uuid()))
        .count(&tx)
        .await?;
    let step = ActiveModel {
        task_id: Set(lease.task.uuid()),
        name: Set(name.to_owned()),
        position: Set(i32::try_from(before).unwrap_or(i32::MAX)),
        output: Set(output),
        at: Set(tx.now()),
        compensated_at: Set(None),
    };
    Entity::insert(step).exec_without_returning(&tx).await?;
    tx.commit().await
}

/// Records that a step of the task has been undone.
///
/// # Errors
/// [`StoreError::LeaseLost`] when the run is not the newest.
pub async fn mark_compensated(store: &Store, lease: Lease, name: &str) -> Result<(), StoreError> {
    let tx = store.begin().await?;
    fence(&tx, lease).await?;
    Entity::update_many()
        .col_expr(Column::CompensatedAt, Expr::value(tx.now()))
        .filter(Column::TaskId.eq(lease.task.uuid()))
        .filter(Column::Name.eq(name))
        .exec(&tx)
        .await?;
    tx.commit().await
}

/// Forgets the steps that were undone, so that a task that is tried again does them again.
pub(super) async fn forget_compensated(
    tx: &impl sea_orm::ConnectionTrait,
    tasks: impl IntoIterator<Item = Uuid>,
) -> Result<(), StoreError> {
    Entity::delete_many()
        .filter(Column::TaskId.is_in(tasks))
        .filter(Column::CompensatedAt.is_not_null())
        .exec(tx)
        .await?;
    Ok(())
}
