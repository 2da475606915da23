//! Holding a task: the lease, and what a run writes while it has it, fenced by its attempt and its worker.

use std::time::Duration;

use sea_orm::{Condition, ConnectionTrait, Value, entity::prelude::*};

use super::{Column, Entity, Lease, Store, Tx, in_state, lists};
use crate::{
    domain::{Id, id::Task, task::TaskState},
    error::StoreError,
    store::{
        source::{Cell, Col, Parameters, Row, col, maybe},
        task_logs::{self, Level, NewLine},
    },
};

/// A lease that is still held, and whether its task is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewed {
    pub lease: Lease,
    pub is_cancel_requested: bool,
}

impl Row for Lease {
    const COLUMNS: &'static [Col] = &[
        col("id", Cell::Uuid),
        col("attempt", Cell::Int),
        col("worker", Cell::Uuid),
    ];
    fn cells(&self) -> Vec<Value> {
        vec![
            self.task.uuid().into(),
            i64::from(self.attempt).into(),
            self.worker.into(),
        ]
    }
}

/// The fence: the row `x` speaks for the newest run of its task.
///
/// Statements that name their tasks compare `state || ''`: the planner of PostgreSQL would else take one of the partial
/// indexes over a state, which it believes to be almost empty because it was when it last looked, and read all of it.
pub(super) const HELD: &str = "task.id = x.id AND task.attempt = x.attempt AND task.worker_id = x.worker AND task.state || '' = 'running'";

/// Renews those of `leases` that still hold, in one statement; what is missing from the answer is lost.
pub async fn renew(
    store: &Store,
    leases: &[Lease],
    lease: Duration,
) -> Result<Vec<Renewed>, StoreError> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let mut tx = store.begin_engine().await?;
    lock_in_order(&mut tx, leases.iter().map(|lease| lease.task)).await?;
    let mut parameters = Parameters::of(&tx);
    let (rows, until) = (parameters.rows(leases), parameters.put(store.now() + lease));
    let sql = format!(
        "UPDATE task SET lease_until = {until} FROM {rows} WHERE {HELD} \
         RETURNING task.id, task.attempt, task.worker_id, task.cancel_requested_at"
    );
    let held = tx.query_all_raw(parameters.statement(sql)).await?;
    let renewed = held
        .iter()
        .map(|row| {
            let cancel: Option<DateTimeUtc> = row.try_get("", "cancel_requested_at")?;
            Ok(Renewed {
                lease: read_lease(row)?,
                is_cancel_requested: cancel.is_some(),
            })
        })
        .collect::<Result<_, DbErr>>()?;
    tx.commit().await?;
    Ok(renewed)
}

fn read_lease(row: &sea_orm::QueryResult) -> Result<Lease, DbErr> {
    Ok(Lease {
        task: Id::new(row.try_get("", "id")?),
        attempt: row.try_get("", "attempt")?,
        worker: row.try_get("", "worker_id")?,
    })
}

/// Locks tasks and their parents in the order of their ids, as everybody does who changes several at once, so that
/// nobody waits in a circle. SQLite has one writer, who has locked everything.
pub(super) async fn lock_in_order(
    tx: &mut Tx<'_>,
    tasks: impl IntoIterator<Item = Id<Task>>,
) -> Result<(), StoreError> {
    let mut parameters = Parameters::of(tx);
    if parameters.is_postgres() {
        let ids: Vec<Uuid> = tasks.into_iter().map(Id::uuid).collect();
        let rows = parameters.rows(&ids);
        let sql = format!(
            "WITH x AS (SELECT id FROM {rows}) SELECT id FROM task WHERE id IN (SELECT id FROM x \
               UNION SELECT t.parent_id FROM x JOIN task AS t ON t.id = x.id WHERE t.parent_id IS NOT NULL) \
             ORDER BY id FOR UPDATE"
        );
        tx.query_all_raw(parameters.statement(sql)).await?;
    }
    Ok(())
}

fn held_by(lease: Lease) -> Condition {
    in_state(TaskState::Running)
        .add(Column::Id.eq(lease.task.uuid()))
        .add(Column::Attempt.eq(lease.attempt))
        .add(Column::WorkerId.eq(lease.worker))
}

/// Makes sure the open transaction belongs to the newest run of its task, and keeps it so until the commit: the row
/// stays locked, so another worker's claim waits.
///
/// # Errors
/// [`StoreError::LeaseLost`] when another run has begun or the task has ended.
pub async fn fence(tx: &Tx<'_>, lease: Lease) -> Result<(), StoreError> {
    touch(tx, lease, Expr::col(Column::Attempt), Column::Attempt).await
}

async fn touch(
    tx: &impl ConnectionTrait,
    lease: Lease,
    value: Expr,
    column: Column,
) -> Result<(), StoreError> {
    let touched = Entity::update_many()
        .col_expr(column, value)
        .filter(held_by(lease))
        .exec(tx)
        .await?;
    if touched.rows_affected == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost)
    }
}

/// Says what the run of `lease` is going to wait for, before it looks whether to wait: should it happen in between,
/// the wait ends at once.
pub async fn arm(store: &Store, lease: Lease, topic: &str) -> Result<(), StoreError> {
    touch(store.engine(), lease, Expr::value(topic), Column::WakeOn).await
}

/// What a run has to tell: how far it has come, and a line of its log.
#[derive(Clone, Debug)]
pub struct Report {
    pub lease: Lease,
    /// Percent of 100; `None` leaves the progress and is not announced.
    pub percent: Option<u8>,
    pub level: Level,
    pub message: String,
}

impl Row for Report {
    const COLUMNS: &'static [Col] = &[
        col("id", Cell::Uuid),
        col("attempt", Cell::Int),
        col("worker", Cell::Uuid),
        maybe("percent", Cell::Int),
        col("message", Cell::Text),
    ];
    fn cells(&self) -> Vec<Value> {
        let percent = self.percent.map(|percent| i64::from(percent.min(100)));
        let mut cells = self.lease.cells();
        cells.extend([percent.into(), self.message.as_str().into()]);
        cells
    }
}

/// Records reports of different tasks in one transaction; the leases that were accepted.
pub async fn report(store: &Store, reports: &[Report]) -> Result<Vec<Lease>, StoreError> {
    let mut tx = store.begin_engine().await?;
    lock_in_order(&mut tx, reports.iter().map(|report| report.lease.task)).await?;
    let mut parameters = Parameters::of(&tx);
    let rows = parameters.rows(reports);
    let sql = format!(
        "UPDATE task SET progress = COALESCE(x.percent, task.progress), \
           progress_message = CASE WHEN x.percent IS NULL THEN task.progress_message ELSE x.message END, \
           version = task.version + CASE WHEN x.percent IS NULL THEN 0 ELSE 1 END \
         FROM {rows} WHERE {HELD} RETURNING task.id, task.attempt, task.worker_id, task.version, task.owner_id"
    );
    let written = tx.query_all_raw(parameters.statement(sql)).await?;
    let mut accepted = Vec::with_capacity(written.len());
    let mut lines = Vec::with_capacity(written.len());
    for row in &written {
        let lease = read_lease(row)?;
        let Some(report) = reports.iter().find(|report| report.lease == lease) else {
            continue;
        };
        if report.percent.is_some() {
            let (version, owner) = (row.try_get("", "version")?, row.try_get("", "owner_id")?);
            tx.changed(lists::task_change(lease.task, version, owner));
        }
        lines.push(NewLine {
            lease,
            level: report.level,
            message: &report.message,
        });
        accepted.push(lease);
    }
    task_logs::append(&mut tx, lines).await?;
    tx.commit().await?;
    Ok(accepted)
}
