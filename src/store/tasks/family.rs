//! Parents and children: a task that splits its work, and waits for the parts.

use sea_orm::{FromQueryResult, QueryOrder as _, QuerySelect as _, entity::prelude::*};

use super::{Column, Entity, Lease, NewTask, Store, enqueue::insert_all, hold::fence};
use crate::{
    domain::{Id, id::Task, task::TaskState},
    error::StoreError,
};

/// A child as its parent sees it.
#[derive(Clone, Debug, PartialEq, FromQueryResult)]
pub struct Child {
    pub id: Uuid,
    pub state: String,
    pub result: Option<Json>,
    pub error_code: Option<String>,
}

impl Child {
    pub fn state(&self) -> Result<TaskState, StoreError> {
        TaskState::parse(&self.state).ok_or(StoreError::Unreadable {
            column: "task.state",
        })
    }
}

/// Adds children of the task of `lease`. Each has an idempotency key, so that a second attempt finds the first one's.
///
/// # Errors
/// [`StoreError::LeaseLost`] when the run is not the newest, [`StoreError::CancelRequested`] when the task is to stop:
/// a cancellation reaches the children there are, and none come after it.
pub async fn spawn(
    store: &Store,
    lease: Lease,
    children: Vec<NewTask>,
) -> Result<Vec<Id<Task>>, StoreError> {
    let mut tx = store.begin().await?;
    fence(&tx, lease).await?;
    let is_cancelled = Entity::find_by_id(lease.task.uuid())
        .filter(Column::CancelRequestedAt.is_not_null())
        .count(&tx)
        .await?;
    if is_cancelled > 0 {
        return Err(StoreError::CancelRequested);
    }
    let enqueued = insert_all(&mut tx, children).await?;
    tx.commit().await?;
    Ok(enqueued
        .into_iter()
        .map(|enqueued| enqueued.task.id())
        .collect())
}

/// The children of a task, the oldest first.
pub async fn children(store: &Store, parent: Id<Task>) -> Result<Vec<Child>, StoreError> {
    Ok(Entity::find()
        .select_only()
        .columns([Column::Id, Column::State, Column::Result, Column::ErrorCode])
        .filter(Column::ParentId.eq(parent.uuid()))
        .order_by_asc(Column::Id)
        .into_model()
        .all(store.db())
        .await?)
}
