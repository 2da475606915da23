//! Moving tasks nobody runs: cancelling, waking, taking from the silent, announcing again.

use std::time::Duration;

use sea_orm::{
    Condition, QueryOrder as _, QuerySelect as _, UpdateMany, entity::prelude::*,
    sea_query::SelectStatement,
};

use super::{Column, Entity, Model, due_now, in_state, pick, plus_one, step_off_worker};
use crate::{
    domain::{
        ChangeKind, Id, Machine as _,
        id::Task,
        task::{Priority, TaskEvent, TaskState},
    },
    error::StoreError,
    store::{Store, Tx},
};

/// Asks a task to stop. One that is not running is made to run at once, so that its kind can undo what it did.
///
/// Asking again, or asking what has ended, changes nothing. `task` has to be locked by this transaction.
pub async fn request_cancel(tx: &mut Tx<'_>, task: &Model) -> Result<Model, StoreError> {
    let state = task.state()?;
    if state.is_terminal() || task.cancel_requested_at.is_some() {
        return Ok(task.clone());
    }
    let now = tx.now();
    let update = match state {
        TaskState::Waiting => due_now(step_off_worker(state, TaskEvent::Wake, None)?, now),
        TaskState::Queued => due_now(unmoved(state), now),
        _ => unmoved(state),
    };
    let update = update
        .col_expr(Column::CancelRequestedAt, Expr::value(now))
        .filter(Column::Id.eq(task.id));
    let asked = update.exec_with_returning(tx).await?.into_iter().next();
    let asked = asked.ok_or(StoreError::Stale)?;
    if state == TaskState::Running {
        tx.changed(asked.change(ChangeKind::CancelRequested));
    } else {
        tx.changed(asked.change(ChangeKind::Updated));
        tx.dispatch(asked.id(), asked.priority());
    }
    Ok(asked)
}

/// A change that leaves the state as it is.
fn unmoved(state: TaskState) -> UpdateMany<Entity> {
    Entity::update_many()
        .col_expr(Column::Version, plus_one(Column::Version))
        .filter(in_state(state))
}

/// Queues the parked tasks that wait for `topic`.
pub async fn wake(store: &Store, topic: &str) -> Result<usize, StoreError> {
    let waiting = in_state(TaskState::Waiting).add(Column::WakeOn.eq(topic));
    let woken = step_off_worker(TaskState::Waiting, TaskEvent::Wake, None)?;
    queue_again(store, woken, pick(waiting, 1000)).await
}

/// Queues the parked tasks whose time has come.
pub async fn wake_due(store: &Store, limit: u64) -> Result<usize, StoreError> {
    let due = in_state(TaskState::Waiting).add(Column::RunAt.lte(store.now()));
    let woken = step_off_worker(TaskState::Waiting, TaskEvent::Wake, None)?;
    queue_again(store, woken, pick(due, limit)).await
}

/// Takes tasks from workers that have been silent longer than their lease; counts as a failure.
pub async fn take_expired(store: &Store, limit: u64) -> Result<usize, StoreError> {
    let expired = in_state(TaskState::Running).add(Column::LeaseUntil.lt(store.now()));
    let taken = step_off_worker(TaskState::Running, TaskEvent::Retry, None)?
        .col_expr(Column::Failures, plus_one(Column::Failures))
        .col_expr(Column::ErrorCode, Expr::value("WORKER_LOST"))
        .col_expr(
            Column::ErrorMessage,
            Expr::value("the worker stopped renewing its lease"),
        );
    queue_again(store, taken, pick(expired, limit)).await
}

async fn queue_again(
    store: &Store,
    update: UpdateMany<Entity>,
    which: SelectStatement,
) -> Result<usize, StoreError> {
    let mut tx = store.begin().await?;
    let update = due_now(update, tx.now()).filter(Column::Id.in_subquery(which));
    let queued = update.exec_with_returning(&tx).await?;
    for task in &queued {
        tx.changed(task.change(ChangeKind::Updated));
        tx.dispatch(task.id(), task.priority());
    }
    tx.commit().await?;
    Ok(queued.len())
}

/// Marks due tasks that nobody took since `silence` as announced now, and returns them to be announced again.
pub async fn reannounce(
    store: &Store,
    silence: Duration,
    limit: u64,
) -> Result<Vec<(Id<Task>, Priority)>, StoreError> {
    let now = store.now();
    let unheard = Condition::any()
        .add(Column::AnnouncedAt.is_null())
        .add(Column::AnnouncedAt.lt(now - silence));
    let due = in_state(TaskState::Queued)
        .add(Column::RunAt.lte(now))
        .add(unheard);
    let tasks = Entity::update_many()
        .col_expr(Column::AnnouncedAt, Expr::value(now))
        .filter(Column::Id.in_subquery(pick(due, limit)))
        .exec_with_returning(store.db())
        .await?;
    Ok(tasks
        .iter()
        .map(|task| (task.id(), task.priority()))
        .collect())
}

/// Tasks that may run now, the most urgent first: what a worker lives on while the queue is away.
pub async fn due(store: &Store, limit: u64) -> Result<Vec<Id<Task>>, StoreError> {
    let ids: Vec<Uuid> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(in_state(TaskState::Queued))
        .filter(Column::RunAt.lte(store.now()))
        .order_by_asc(Column::Priority)
        .order_by_asc(Column::RunAt)
        .limit(limit)
        .into_tuple()
        .all(store.db())
        .await?;
    Ok(ids.into_iter().map(Id::new).collect())
}

/// When the next parked or postponed task is due.
pub async fn next_due(store: &Store) -> Result<Option<DateTimeUtc>, StoreError> {
    let postponed = in_state(TaskState::Queued).add(Column::AnnouncedAt.is_null());
    let at: Option<Option<DateTimeUtc>> = Entity::find()
        .select_only()
        .column_as(Column::RunAt.min(), "at")
        .filter(
            Condition::any()
                .add(in_state(TaskState::Waiting))
                .add(postponed),
        )
        .into_tuple()
        .one(store.db())
        .await?;
    Ok(at.flatten())
}
