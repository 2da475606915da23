//! Holding a task: the claim, the lease, and every write of a run, fenced by its attempt and its worker.

use std::time::Duration;

use sea_orm::{Condition, ConnectionTrait, DbBackend, FromQueryResult, entity::prelude::*};
use serde::{Deserialize, Serialize};

use super::{
    CHILDREN, Column, Entity, Hint, LIVE, Lease, SILENCE, Store, Tx, in_state,
    lists::{self, changed_tasks},
};
use crate::{
    domain::{
        Id, Machine as _,
        id::Task,
        task::{Priority, TaskEvent, TaskState},
    },
    error::StoreError,
    store::{
        Posted,
        source::{Cell, ID, batch, hex, ids, rows, stamp, statement},
        task_logs::{self, Level, NewLine},
    },
};

/// Who claims: a worker, the kinds it knows with the newest input version of each, and for how long it holds a task.
#[derive(Clone, Debug)]
pub struct Claimer {
    pub worker: Uuid,
    pub kinds: Vec<KnownKind>,
    pub lease: Duration,
}

/// A kind a worker can run, up to an input version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct KnownKind {
    pub kind: String,
    pub version: i32,
}

/// A task in the hands of a worker: what its run has to know.
#[derive(Clone, Debug, FromQueryResult)]
pub struct Claimed {
    pub id: Uuid,
    pub kind: String,
    pub input_version: i32,
    pub input: Json,
    pub owner_id: Option<Uuid>,
    pub subject_id: Option<Uuid>,
    pub priority: i16,
    pub version: i64,
    pub attempt: i32,
    pub worker_id: Uuid,
    pub failures: i32,
    pub max_attempts: i32,
    pub progress: i16,
    pub error_message: Option<String>,
    pub run_at: DateTimeUtc,
    pub deadline_at: DateTimeUtc,
    pub cancel_requested_at: Option<DateTimeUtc>,
}

impl Claimed {
    pub const fn id(&self) -> Id<Task> {
        Id::new(self.id)
    }

    pub const fn lease(&self) -> Lease {
        Lease {
            task: self.id(),
            attempt: self.attempt,
            worker: self.worker_id,
        }
    }

    pub const fn priority(&self) -> Priority {
        Priority::from_rank(self.priority)
    }
}

const CLAIMED: &str = "task.id, task.kind, task.input_version, task.input, task.owner_id, task.subject_id, \
    task.priority, task.version, task.attempt, task.worker_id, task.failures, task.max_attempts, task.progress, \
    task.error_message, task.run_at, task.deadline_at, task.cancel_requested_at";

/// Which tasks a worker may take: due, of a kind and version it knows, and not paused. `t` is the task, `x` the kinds.
pub(super) fn may_run(backend: DbBackend, now: &str, kinds: usize) -> String {
    let known = rows(
        backend,
        kinds,
        &[("kind", Cell::Text), ("version", Cell::Int)],
    );
    format!(
        "t.state || '' = 'queued' AND t.run_at <= {now} \
         AND EXISTS (SELECT 1 FROM {known} WHERE x.kind = t.kind AND t.input_version <= x.version) \
         AND NOT EXISTS (SELECT 1 FROM task_kind AS k WHERE k.name = t.kind AND k.paused_at IS NOT NULL)"
    )
}

/// Claims those of `ids` that may run now: worker, lease and attempt + 1 in one statement.
///
/// What another worker holds, has finished, or what this one does not know is left out; that is not an error. On
/// PostgreSQL the claim does not wait for the disk: one that is lost with the machine has had no effect yet that a
/// second attempt would not find.
pub async fn claim(
    store: &Store,
    tasks: &[Id<Task>],
    by: &Claimer,
) -> Result<Vec<Claimed>, StoreError> {
    if tasks.is_empty() || by.kinds.is_empty() {
        return Ok(Vec::new());
    }
    let (db, now) = (store.engine(), store.now());
    let backend = db.get_database_backend();
    let wanted = rows(backend, 1, ID);
    let may_run = may_run(backend, "$4", 5);
    let (skip, relaxed) = match backend {
        DbBackend::Postgres => (
            "FOR UPDATE OF t SKIP LOCKED",
            ", (SELECT set_config('synchronous_commit', 'off', TRUE)) AS relaxed",
        ),
        _ => ("", ""),
    };
    let sql = format!(
        "UPDATE task SET state = 'running', version = task.version + 1, attempt = task.attempt + 1, worker_id = $2, \
           lease_until = $3, started_at = COALESCE(task.started_at, $4), wake_on = NULL, signalled = FALSE \
         FROM (SELECT t.id FROM (SELECT DISTINCT id FROM {wanted}) AS w JOIN task AS t ON t.id = w.id \
           WHERE {may_run} {skip}) AS due{relaxed} \
         WHERE task.id = due.id RETURNING {CLAIMED}"
    );
    debug_assert_eq!(
        TaskState::Queued.after(TaskEvent::Claim),
        Ok(TaskState::Running)
    );
    let values = [
        ids(tasks.iter().map(|id| id.uuid()))?,
        by.worker.into(),
        (now + by.lease).into(),
        now.into(),
        batch(&by.kinds)?,
    ];
    let claimed = Claimed::find_by_statement(statement(db, sql, values))
        .all(db)
        .await?;
    let change = |task: &Claimed| lists::task_change(task.id(), task.version, task.owner_id);
    // Not in the outbox: should this process end here, the end of its lease tells more than the beginning would have.
    store.tell(Posted {
        changes: claimed.iter().map(change).collect(),
        ..Posted::default()
    });
    Ok(claimed)
}

/// A lease that is still held, and whether its task is to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renewed {
    pub lease: Lease,
    pub is_cancel_requested: bool,
}

const LEASES: &[(&str, Cell)] = &[
    ("id", Cell::Uuid),
    ("attempt", Cell::Int),
    ("worker", Cell::Uuid),
];

#[derive(Serialize)]
struct LeaseRow {
    #[serde(serialize_with = "hex")]
    id: Uuid,
    attempt: i32,
    #[serde(serialize_with = "hex")]
    worker: Uuid,
}

impl From<Lease> for LeaseRow {
    fn from(lease: Lease) -> Self {
        Self {
            id: lease.task.uuid(),
            attempt: lease.attempt,
            worker: lease.worker,
        }
    }
}

/// The fence: the row `x` speaks for the newest run of its task.
///
/// Statements that name their tasks compare `state || ''`: the planner of PostgreSQL would else take one of the partial
/// indexes over a state, which it believes to be almost empty because it was when it last looked, and read all of it.
const HELD: &str = "task.id = x.id AND task.attempt = x.attempt AND task.worker_id = x.worker AND task.state || '' = 'running'";

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
    let sql = format!(
        "UPDATE task SET lease_until = $2 FROM {} WHERE {HELD} \
         RETURNING task.id, task.attempt, task.worker_id, task.cancel_requested_at",
        rows(tx.get_database_backend(), 1, LEASES)
    );
    let list: Vec<LeaseRow> = leases.iter().copied().map(LeaseRow::from).collect();
    let values = [batch(&list)?, (store.now() + lease).into()];
    let held = tx.query_all_raw(statement(&tx, sql, values)).await?;
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
async fn lock_in_order(
    tx: &mut Tx<'_>,
    tasks: impl IntoIterator<Item = Id<Task>>,
) -> Result<(), StoreError> {
    const LOCK: &str = "WITH x AS (SELECT id FROM jsonb_to_recordset($1::jsonb) AS x(id uuid)) \
        SELECT id FROM task WHERE id IN (SELECT id FROM x \
          UNION SELECT t.parent_id FROM x JOIN task AS t ON t.id = x.id WHERE t.parent_id IS NOT NULL) \
        ORDER BY id FOR UPDATE";
    if tx.get_database_backend() == DbBackend::Postgres {
        let values = [ids(tasks.into_iter().map(Id::uuid))?];
        tx.query_all_raw(statement(tx, LOCK, values)).await?;
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

const REPORTS: &[(&str, Cell)] = &[
    ("id", Cell::Uuid),
    ("attempt", Cell::Int),
    ("worker", Cell::Uuid),
    ("percent", Cell::Int),
    ("message", Cell::Text),
];

#[derive(Serialize)]
struct ReportRow<'a> {
    #[serde(flatten)]
    lease: LeaseRow,
    percent: Option<u8>,
    message: &'a str,
}

/// Records reports of different tasks in one transaction; the leases that were accepted.
pub async fn report(store: &Store, reports: &[Report]) -> Result<Vec<Lease>, StoreError> {
    let mut tx = store.begin_engine().await?;
    lock_in_order(&mut tx, reports.iter().map(|report| report.lease.task)).await?;
    let sql = format!(
        "UPDATE task SET progress = COALESCE(x.percent, task.progress), \
           progress_message = CASE WHEN x.percent IS NULL THEN task.progress_message ELSE x.message END, \
           version = task.version + CASE WHEN x.percent IS NULL THEN 0 ELSE 1 END \
         FROM {} WHERE {HELD} RETURNING task.id, task.attempt, task.worker_id, task.version, task.owner_id",
        rows(tx.get_database_backend(), 1, REPORTS)
    );
    let list: Vec<ReportRow> = reports
        .iter()
        .map(|report| ReportRow {
            lease: report.lease.into(),
            percent: report.percent.map(|percent| percent.min(100)),
            message: &report.message,
        })
        .collect();
    let written = tx
        .query_all_raw(statement(&tx, sql, [batch(&list)?]))
        .await?;
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

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Succeeded(Json),
    /// To be tried again at `at`; counts as so many failures.
    Retry {
        at: DateTimeUtc,
        failures: i32,
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

impl Outcome {
    /// One word for it, as the meters have it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Succeeded(_) => "succeeded",
            Self::Retry { .. } => "retried",
            Self::Park { .. } => "parked",
            Self::Failed { .. } => "failed",
            Self::Cancelled => "cancelled",
            Self::HandBack => "handed_back",
        }
    }
}

const OUTCOMES: &[(&str, Cell)] = &[
    ("id", Cell::Uuid),
    ("attempt", Cell::Int),
    ("worker", Cell::Uuid),
    ("state", Cell::Text),
    ("failed", Cell::Int),
    ("run_at", Cell::Time),
    ("wake_on", Cell::Text),
    ("result", Cell::Json),
    ("error_code", Cell::Text),
    ("error_message", Cell::Text),
    ("finished_at", Cell::Time),
];

#[derive(Serialize)]
struct OutcomeRow<'a> {
    #[serde(flatten)]
    lease: LeaseRow,
    state: &'static str,
    failed: i32,
    run_at: Option<String>,
    wake_on: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Json>,
    error_code: Option<&'static str>,
    error_message: Option<&'a str>,
    finished_at: Option<String>,
}

fn outcome_row(
    lease: Lease,
    outcome: &Outcome,
    now: DateTimeUtc,
) -> Result<OutcomeRow<'_>, StoreError> {
    let end = |event| TaskState::Running.after(event);
    let state = match outcome {
        Outcome::Succeeded(_) => end(TaskEvent::Succeed),
        Outcome::Retry { .. } | Outcome::HandBack => end(TaskEvent::Retry),
        Outcome::Park { .. } => end(TaskEvent::Park),
        Outcome::Failed { .. } => end(TaskEvent::Fail),
        Outcome::Cancelled => end(TaskEvent::Cancel),
    }?;
    let mut row = OutcomeRow {
        lease: lease.into(),
        state: state.as_str(),
        failed: 0,
        run_at: None,
        wake_on: None,
        result: None,
        error_code: None,
        error_message: None,
        finished_at: state.is_terminal().then(|| stamp(now)),
    };
    match outcome {
        Outcome::Succeeded(result) => row.result = Some(result).filter(|result| !result.is_null()),
        Outcome::Retry {
            at,
            failures,
            code,
            message,
        } => {
            (row.failed, row.run_at) = (*failures, Some(stamp(*at)));
            (row.error_code, row.error_message) = (Some(*code), Some(message.as_str()));
        }
        Outcome::Park { until, wake_on } => {
            (row.run_at, row.wake_on) = (Some(stamp(*until)), wake_on.as_deref());
        }
        Outcome::Failed { code, message } => {
            (row.error_code, row.error_message) = (Some(*code), Some(message.as_str()));
        }
        Outcome::HandBack => row.run_at = Some(stamp(now)),
        Outcome::Cancelled => {}
    }
    Ok(row)
}

/// Writes how runs ended, in one transaction; the leases that were accepted. A stale one changes nothing.
///
/// A run that wants to wait does not when what it waits for has happened meanwhile, when its children have all
/// ended, or when somebody has asked it to stop: it is queued at once. The end of a task's last child queues it.
pub async fn settle(
    store: &Store,
    outcomes: &[(Lease, Outcome)],
) -> Result<Vec<Lease>, StoreError> {
    let now = store.now();
    let mut tx = store.begin_engine().await?;
    let list = outcomes
        .iter()
        .map(|(lease, outcome)| outcome_row(*lease, outcome, now))
        .collect::<Result<Vec<_>, _>>()?;
    lock_in_order(&mut tx, outcomes.iter().map(|(lease, _)| lease.task)).await?;
    let cannot_wait = format!(
        "x.state = 'waiting' AND (task.signalled OR task.cancel_requested_at IS NOT NULL \
         OR (x.wake_on = '{CHILDREN}' AND NOT EXISTS ({LIVE_CHILD})))"
    );
    let at_once =
        format!("({cannot_wait}) OR (x.state = 'queued' AND task.cancel_requested_at IS NOT NULL)");
    let sql = format!(
        "UPDATE task SET state = CASE WHEN {cannot_wait} THEN 'queued' ELSE x.state END, \
           version = task.version + 1, failures = task.failures + x.failed, worker_id = NULL, lease_until = NULL, \
           signalled = FALSE, wake_on = CASE WHEN {cannot_wait} THEN NULL ELSE x.wake_on END, \
           run_at = CASE WHEN {at_once} THEN $2 ELSE COALESCE(x.run_at, task.run_at) END, \
           hint_at = CASE WHEN {at_once} OR x.run_at <= $2 THEN $3 ELSE COALESCE(x.run_at, task.hint_at) END, \
           progress = CASE WHEN x.state = 'succeeded' THEN 100 ELSE task.progress END, \
           result = COALESCE(x.result, task.result), finished_at = x.finished_at, \
           error_code = CASE WHEN x.state = 'succeeded' THEN NULL ELSE COALESCE(x.error_code, task.error_code) END, \
           error_message = \
             CASE WHEN x.state = 'succeeded' THEN NULL ELSE COALESCE(x.error_message, task.error_message) END \
         FROM {} WHERE {HELD} RETURNING task.id, task.attempt, task.version, task.owner_id, task.state, task.run_at, \
           task.priority, task.share, task.parent_id",
        rows(tx.get_database_backend(), 1, OUTCOMES)
    );
    let values = [batch(&list)?, now.into(), (now + SILENCE).into()];
    let written = tx.query_all_raw(statement(&tx, sql, values)).await?;
    let mut settled = std::collections::HashSet::with_capacity(written.len());
    let mut parents = Vec::new();
    for row in &written {
        let task = Id::<Task>::new(row.try_get("", "id")?);
        // The worker is gone from the row; two of one attempt are never settled by one process.
        settled.insert((task, row.try_get::<i32>("", "attempt")?));
        tx.changed(lists::task_change(
            task,
            row.try_get("", "version")?,
            row.try_get("", "owner_id")?,
        ));
        let state: String = row.try_get("", "state")?;
        let run_at: DateTimeUtc = row.try_get("", "run_at")?;
        if state == TaskState::Queued.as_str() {
            if run_at <= now {
                tx.dispatch(Hint {
                    task,
                    priority: Priority::from_rank(row.try_get("", "priority")?),
                    share: row.try_get("", "share")?,
                });
            }
        } else if state != TaskState::Waiting.as_str() {
            parents.extend(row.try_get::<Option<Uuid>>("", "parent_id")?);
        }
    }
    wake_parents(&mut tx, parents).await?;
    tx.commit().await?;
    Ok(outcomes
        .iter()
        .map(|(lease, _)| *lease)
        .filter(|lease| settled.contains(&(lease.task, lease.attempt)))
        .collect())
}

/// A child of `task` that has not ended.
pub(in crate::store) const LIVE_CHILD: &str = "SELECT 1 FROM task AS c WHERE c.parent_id = task.id AND c.state || '' IN ('queued', 'running', 'waiting')";

/// Queues those of `parents`, which this transaction has locked, that wait for their children and have none left.
pub(super) async fn wake_parents(tx: &mut Tx<'_>, parents: Vec<Uuid>) -> Result<(), StoreError> {
    if parents.is_empty() {
        return Ok(());
    }
    debug_assert!(LIVE_CHILD.ends_with(LIVE));
    let now = tx.now();
    let sql = format!(
        "UPDATE task SET state = 'queued', version = task.version + 1, wake_on = NULL, run_at = $2, hint_at = $3 \
         FROM (SELECT DISTINCT id FROM {}) AS x \
         WHERE task.id = x.id AND task.state || '' = 'waiting' AND task.wake_on = '{CHILDREN}' \
           AND NOT EXISTS ({LIVE_CHILD}) RETURNING {}",
        rows(tx.get_database_backend(), 1, ID),
        lists::CHANGED,
    );
    let values = [ids(parents)?, now.into(), (now + SILENCE).into()];
    let woken = tx.query_all_raw(statement(tx, sql, values)).await?;
    changed_tasks(tx, &woken, true)?;
    Ok(())
}
