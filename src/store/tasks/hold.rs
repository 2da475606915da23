//! Holding a task: the claim, the lease, and every write of a run, fenced by its attempt.

use std::time::Duration;

use sea_orm::{Condition, UpdateMany, entity::prelude::*};

use super::{
    Column, Entity, Lease, Model, due_now, in_state, or_else, pick, plus_one, step, step_off_worker,
};
use crate::{
    domain::{
        ChangeKind, Id,
        id::Task,
        task::{TaskEvent, TaskState},
    },
    error::StoreError,
    store::{Store, Tx},
};

/// Claims those of `ids` that may run now: worker, lease and attempt + 1 in one statement.
///
/// What another worker holds, or has finished, is left out; that is not an error.
pub async fn claim(
    store: &Store,
    ids: &[Id<Task>],
    worker: Uuid,
    lease: Duration,
) -> Result<Vec<Model>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let now = store.now();
    let may_run = in_state(TaskState::Queued)
        .add(Column::Id.is_in(ids.iter().map(|id| id.uuid())))
        .add(Column::RunAt.lte(now));
    let mut tx = store.begin().await?;
    let claimed = step(TaskState::Queued, TaskEvent::Claim)?
        .col_expr(Column::WorkerId, Expr::value(worker))
        .col_expr(Column::LeaseUntil, Expr::value(now + lease))
        .col_expr(Column::Attempt, plus_one(Column::Attempt))
        .col_expr(Column::StartedAt, or_else(Column::StartedAt, now))
        .filter(Column::Id.in_subquery(pick(may_run, ids.len() as u64)))
        .exec_with_returning(&tx)
        .await?;
    for task in &claimed {
        tx.changed(task.change(ChangeKind::Updated));
    }
    tx.commit().await?;
    Ok(claimed)
}

/// A lease that is still held, and whether its task is to stop.
pub struct Renewed {
    pub lease: Lease,
    pub is_cancel_requested: bool,
}

/// Renews what `worker` holds of `tasks`, in one statement; what is missing from the answer is lost.
pub async fn renew(
    store: &Store,
    worker: Uuid,
    tasks: &[Id<Task>],
    lease: Duration,
) -> Result<Vec<Renewed>, StoreError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let held = Entity::update_many()
        .col_expr(Column::LeaseUntil, Expr::value(store.now() + lease))
        .filter(in_state(TaskState::Running))
        .filter(Column::WorkerId.eq(worker))
        .filter(Column::Id.is_in(tasks.iter().map(|id| id.uuid())))
        .exec_with_returning(store.db())
        .await?;
    Ok(held
        .iter()
        .map(|task| Renewed {
            lease: task.lease(),
            is_cancel_requested: task.cancel_requested_at.is_some(),
        })
        .collect())
}

fn held_by(lease: Lease) -> Condition {
    in_state(TaskState::Running)
        .add(Column::Id.eq(lease.task.uuid()))
        .add(Column::Attempt.eq(lease.attempt))
}

/// Makes sure the open transaction belongs to the newest run of its task, and keeps it so until the commit: the row
/// stays locked, so another worker's claim waits.
///
/// # Errors
/// [`StoreError::LeaseLost`] when another run has begun or the task has ended.
pub async fn fence(tx: &Tx<'_>, lease: Lease) -> Result<(), StoreError> {
    let touched = Entity::update_many()
        .col_expr(Column::Attempt, Expr::col(Column::Attempt))
        .filter(held_by(lease))
        .exec(tx)
        .await?;
    if touched.rows_affected == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost)
    }
}

/// Records how far a run has come: `percent` of 100, and in words.
pub async fn progress(
    tx: &mut Tx<'_>,
    lease: Lease,
    percent: u8,
    message: &str,
) -> Result<(), StoreError> {
    let update = Entity::update_many()
        .col_expr(Column::Progress, Expr::value(i16::from(percent.min(100))))
        .col_expr(Column::ProgressMessage, Expr::value(message))
        .col_expr(Column::Version, plus_one(Column::Version));
    write_held(tx, update, lease).await.map(drop)
}

/// Performs `update` on the task of `lease` and announces it.
async fn write_held(
    tx: &mut Tx<'_>,
    update: UpdateMany<Entity>,
    lease: Lease,
) -> Result<Model, StoreError> {
    let task = update
        .filter(held_by(lease))
        .exec_with_returning(tx)
        .await?
        .into_iter()
        .next();
    let task = task.ok_or(StoreError::LeaseLost)?;
    tx.changed(task.change(ChangeKind::Updated));
    Ok(task)
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    Succeeded(Json),
    /// To be tried again at `at`; counts as a failure.
    Retry {
        at: DateTimeUtc,
        code: &'static str,
        message: String,
    },
    /// Waits for `wake_on`, at most until `until`; no worker holds it.
    Park {
        until: DateTimeUtc,
        wake_on: Option<String>,
    },
    Failed {
        code: &'static str,
        message: String,
    },
    Cancelled,
    /// The worker stops and gives the task back unfinished; counts as nothing.
    HandBack,
}

/// Writes how the run that holds `lease` ended.
///
/// # Errors
/// [`StoreError::LeaseLost`] when the run is not the newest any more; nothing is written then.
pub async fn settle(store: &Store, lease: Lease, outcome: Outcome) -> Result<Model, StoreError> {
    let now = store.now();
    let never: Option<DateTimeUtc> = None;
    let mut tx = store.begin().await?;
    let end = |event, wake_on| step_off_worker(TaskState::Running, event, wake_on);
    let is_hand_back = matches!(outcome, Outcome::HandBack);
    let update = match outcome {
        Outcome::Succeeded(result) => end(TaskEvent::Succeed, None)?
            .col_expr(Column::Progress, Expr::value(100_i16))
            .col_expr(Column::Result, Expr::value(result))
            .col_expr(Column::ErrorCode, Expr::value(None::<String>))
            .col_expr(Column::ErrorMessage, Expr::value(None::<String>))
            .col_expr(Column::FinishedAt, Expr::value(now)),
        Outcome::Retry { at, code, message } => end(TaskEvent::Retry, None)?
            .col_expr(Column::Failures, plus_one(Column::Failures))
            .col_expr(Column::RunAt, Expr::value(at))
            .col_expr(Column::AnnouncedAt, Expr::value(never))
            .col_expr(Column::ErrorCode, Expr::value(code))
            .col_expr(Column::ErrorMessage, Expr::value(message)),
        Outcome::Park { until, wake_on } => {
            end(TaskEvent::Park, wake_on)?.col_expr(Column::RunAt, Expr::value(until))
        }
        Outcome::Failed { code, message } => end(TaskEvent::Fail, None)?
            .col_expr(Column::ErrorCode, Expr::value(code))
            .col_expr(Column::ErrorMessage, Expr::value(message))
            .col_expr(Column::FinishedAt, Expr::value(now)),
        Outcome::Cancelled => {
            end(TaskEvent::Cancel, None)?.col_expr(Column::FinishedAt, Expr::value(now))
        }
        Outcome::HandBack => due_now(end(TaskEvent::Retry, None)?, now),
    };
    let task = write_held(&mut tx, update, lease).await?;
    if is_hand_back {
        tx.dispatch(task.id(), task.priority());
    }
    tx.commit().await?;
    Ok(task)
}
