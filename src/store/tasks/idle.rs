//! Moving tasks nobody runs: cancelling, waking, taking from the silent, trying again.

use std::collections::BTreeSet;

use sea_orm::{
    ConnectionTrait as _, DbBackend, QueryOrder as _, QuerySelect as _, UpdateMany,
    entity::prelude::*,
};

use super::{
    Column, Entity, Model, SILENCE, Store, Tx,
    due::queued_kinds,
    due_now,
    family::wake_parents,
    in_state,
    lists::{CHANGED, announce, changed_tasks},
    plus_one, step,
    steps::forget_compensated,
};
use crate::{
    domain::{
        ChangeKind, Machine as _,
        task::{Priority, TaskEvent, TaskState},
    },
    error::StoreError,
    store::source::statement,
};

/// The deepest family a cancellation follows down.
const GENERATIONS: usize = 8;

/// Asks a task and its children to stop. One that is not running is made to run at once, so that its kind can undo
/// what it did.
///
/// Asking again, or asking what has ended, changes nothing. `task` has to be locked by this transaction.
pub async fn request_cancel(tx: &mut Tx<'_>, task: &Model) -> Result<Model, StoreError> {
    let asked = cancel_one(tx, task).await?;
    let mut parents = vec![task.id];
    for _ in 0..GENERATIONS {
        let live = TaskState::LIVE.map(TaskState::as_str);
        let children = Entity::find()
            .filter(Column::ParentId.is_in(std::mem::take(&mut parents)))
            .filter(Column::State.is_in(live))
            .lock_exclusive()
            .all(tx)
            .await?;
        if children.is_empty() {
            break;
        }
        for child in &children {
            cancel_one(tx, child).await?;
        }
        parents.extend(children.iter().map(|child| child.id));
    }
    Ok(asked)
}

async fn cancel_one(tx: &mut Tx<'_>, task: &Model) -> Result<Model, StoreError> {
    let state = task.state()?;
    if state.is_terminal() || task.cancel_requested_at.is_some() {
        return Ok(task.clone());
    }
    let now = tx.now();
    let update = match state {
        TaskState::Waiting => {
            due_now(step(state, TaskEvent::Wake)?, now).col_expr(Column::WakeOn, nothing())
        }
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
        announce(tx, std::slice::from_ref(&asked));
    }
    Ok(asked)
}

fn nothing() -> Expr {
    Expr::value(None::<String>)
}

/// A change that leaves the state as it is.
fn unmoved(state: TaskState) -> UpdateMany<Entity> {
    Entity::update_many()
        .col_expr(Column::Version, plus_one(Column::Version))
        .filter(in_state(state))
}

/// Gives a task another priority; one that is queued takes its new place at once. It has to be locked.
pub async fn reprioritise(
    tx: &mut Tx<'_>,
    task: &Model,
    priority: Priority,
) -> Result<Model, StoreError> {
    let update = unmoved(task.state()?)
        .col_expr(Column::Priority, Expr::value(priority.rank()))
        .filter(Column::Id.eq(task.id));
    let changed = update.exec_with_returning(tx).await?.into_iter().next();
    let changed = changed.ok_or(StoreError::Stale)?;
    tx.changed(changed.change(ChangeKind::Updated));
    if changed.state()? == TaskState::Queued && changed.run_at <= tx.now() {
        tx.dispatch(changed.hint());
    }
    Ok(changed)
}

/// Queues ended tasks again, with a fresh count of failures and a fresh deadline. They have to be locked.
///
/// The attempt goes on counting, since it is the fence; steps that were undone are done again.
pub async fn revive(tx: &mut Tx<'_>, tasks: &[Model]) -> Result<Vec<Model>, StoreError> {
    let now = tx.now();
    let mut revived = Vec::with_capacity(tasks.len());
    for task in tasks {
        let allowed = (task.deadline_at - task.created_at).max(chrono::TimeDelta::minutes(1));
        let update = due_now(step(task.state()?, TaskEvent::Revive)?, now)
            .col_expr(Column::Failures, Expr::value(0))
            .col_expr(Column::DeadlineAt, Expr::value(now + allowed))
            .col_expr(Column::CancelRequestedAt, Expr::value(None::<DateTimeUtc>))
            .col_expr(Column::FinishedAt, Expr::value(None::<DateTimeUtc>))
            .filter(Column::Id.eq(task.id));
        let changed = update.exec_with_returning(tx).await?.into_iter().next();
        revived.push(changed.ok_or(StoreError::Stale)?);
    }
    forget_compensated(tx, tasks.iter().map(|task| task.id)).await?;
    announce(tx, &revived);
    Ok(revived)
}

/// Tells those who wait for `topic` that it has happened: parked tasks are queued, running ones that are going to
/// wait for it will not.
pub async fn wake(store: &Store, topic: &str) -> Result<usize, StoreError> {
    let mut tx = store.begin_engine().await?;
    // In the order everybody locks in who changes several tasks.
    let lock = match tx.get_database_backend() {
        DbBackend::Postgres => "ORDER BY id FOR UPDATE",
        _ => "",
    };
    let signal = format!(
        "UPDATE task SET signalled = TRUE WHERE id IN \
           (SELECT id FROM task WHERE state = 'running' AND wake_on = $1 {lock})"
    );
    tx.execute_raw(statement(&tx, signal, [topic.into()]))
        .await?;
    let waiting =
        format!("task.id IN (SELECT id FROM task WHERE state = 'waiting' AND wake_on = $3 {lock})");
    let woken = queue_again(&mut tx, &waiting, [topic.into()], "").await?;
    tx.commit().await?;
    Ok(woken)
}

/// Queues the parked tasks whose time has come.
pub async fn wake_due(store: &Store, limit: u64) -> Result<usize, StoreError> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut tx = store.begin_engine().await?;
    let due = picked(
        &tx,
        "state = 'waiting' AND run_at <= $1 ORDER BY run_at LIMIT $3",
    );
    let woken = queue_again(&mut tx, &due, [limit.into()], "").await?;
    tx.commit().await?;
    Ok(woken)
}

/// Takes tasks from workers that have been silent longer than their lease; counts as a failure.
pub async fn take_expired(store: &Store, limit: u64) -> Result<usize, StoreError> {
    const LOST: &str = ", failures = task.failures + 1, worker_id = NULL, lease_until = NULL, signalled = FALSE, \
        error_code = 'WORKER_LOST', error_message = 'the worker stopped renewing its lease'";
    debug_assert_eq!(
        TaskState::Running.after(TaskEvent::Retry),
        Ok(TaskState::Queued)
    );
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut tx = store.begin_engine().await?;
    let expired = picked(&tx, "state = 'running' AND lease_until < $1 LIMIT $3");
    let taken = queue_again(&mut tx, &expired, [limit.into()], LOST).await?;
    tx.commit().await?;
    Ok(taken)
}

/// A condition that picks rows without waiting for those another process is changing.
fn picked(tx: &Tx<'_>, condition: &str) -> String {
    let skip = match tx.get_database_backend() {
        DbBackend::Postgres => "FOR UPDATE SKIP LOCKED",
        _ => "",
    };
    format!("task.id IN (SELECT id FROM task WHERE {condition} {skip})")
}

/// Queues the tasks of a condition, whose parameters begin at `$3`, and sets `more` with it.
async fn queue_again<const N: usize>(
    tx: &mut Tx<'_>,
    condition: &str,
    parameters: [sea_orm::Value; N],
    more: &str,
) -> Result<usize, StoreError> {
    let now = tx.now();
    let sql = format!(
        "UPDATE task SET state = 'queued', version = task.version + 1, wake_on = NULL, run_at = $1, hint_at = $2{more} \
         WHERE {condition} RETURNING {CHANGED}"
    );
    let values = [now.into(), (now + SILENCE).into()]
        .into_iter()
        .chain(parameters);
    let queued = tx.query_all_raw(statement(tx, sql, values)).await?;
    changed_tasks(tx, &queued, true)?;
    Ok(queued.len())
}

/// Ends tasks somebody asked to stop whose kind is not among the `known`, so that there is nobody to undo anything.
pub async fn drop_stranded(
    store: &Store,
    known: &BTreeSet<String>,
    limit: u64,
) -> Result<usize, StoreError> {
    let mut kinds = queued_kinds(store).await?;
    kinds.retain(|kind| !known.contains(kind));
    if kinds.is_empty() {
        return Ok(0);
    }
    let mut tx = store.begin_engine().await?;
    let stranded: Vec<Model> = Entity::find()
        .filter(in_state(TaskState::Queued))
        .filter(Column::Kind.is_in(kinds))
        .filter(Column::CancelRequestedAt.is_not_null())
        .order_by_asc(Column::Id)
        .limit(limit)
        .lock_exclusive()
        .all(&tx)
        .await?;
    let now = tx.now();
    for task in &stranded {
        let ended = step(TaskState::Queued, TaskEvent::Cancel)?
            .col_expr(Column::FinishedAt, Expr::value(now))
            .filter(Column::Id.eq(task.id))
            .exec_with_returning(&tx)
            .await?;
        for task in &ended {
            tx.changed(task.change(ChangeKind::Updated));
        }
    }
    let parents: Vec<Uuid> = stranded.iter().filter_map(|task| task.parent_id).collect();
    wake_parents(&mut tx, parents).await?;
    tx.commit().await?;
    Ok(stranded.len())
}
