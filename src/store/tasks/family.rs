//! Parents and children: a task that splits its work, and waits for the parts.

use sea_orm::{
    ConnectionTrait as _, FromQueryResult, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};

use super::{
    CHILDREN, Column, Entity, Lease, NewTask, SILENCE, Store, Tx,
    enqueue::insert_all,
    hold::fence,
    lists::{self, changed_tasks},
};
use crate::{
    domain::{Id, id::Task, task::TaskState},
    error::StoreError,
    store::source::Parameters,
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

/// A child of `task` that has not ended.
pub(in crate::store) const LIVE_CHILD: &str = "SELECT 1 FROM task AS c WHERE c.parent_id = task.id AND c.state || '' IN ('queued', 'running', 'waiting')";

/// Queues those of `parents`, which this transaction has locked, that wait for their children and have none left.
pub(super) async fn wake_parents(tx: &mut Tx<'_>, parents: Vec<Uuid>) -> Result<(), StoreError> {
    if parents.is_empty() {
        return Ok(());
    }
    let now = tx.now();
    let mut parameters = Parameters::of(tx);
    let rows = parameters.rows(&parents);
    let [run_at, hint_at] = [now, now + SILENCE].map(|at| parameters.put(at));
    let sql = format!(
        "UPDATE task SET state = 'queued', version = task.version + 1, wake_on = NULL, run_at = {run_at}, \
           hint_at = {hint_at} FROM (SELECT DISTINCT id FROM {rows}) AS x \
         WHERE task.id = x.id AND task.state || '' = 'waiting' AND task.wake_on = '{CHILDREN}' \
           AND NOT EXISTS ({LIVE_CHILD}) RETURNING {}",
        lists::CHANGED,
    );
    let woken = tx.query_all_raw(parameters.statement(sql)).await?;
    changed_tasks(tx, &woken, true)?;
    Ok(())
}
