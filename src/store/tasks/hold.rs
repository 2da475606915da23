//! Holding a task: the claim, the lease, and every write of a run, fenced by its attempt and its worker.

use std::{collections::BTreeSet, time::Duration};

use sea_orm::{Condition, ConnectionTrait, DbBackend, FromQueryResult, Value, entity::prelude::*};
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
        source::{Cell, Col, Parameters, Row, col, maybe},
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

impl Row for KnownKind {
    const COLUMNS: &'static [Col] = &[col("kind", Cell::Text), col("version", Cell::Int)];
    fn cells(&self) -> Vec<Value> {
        vec![self.kind.as_str().into(), i64::from(self.version).into()]
    }
}

impl Claimer {
    /// The condition that it knows the kind of the task `t`, and its version.
    fn knows(&self, parameters: &mut Parameters) -> String {
        if !parameters.is_postgres() {
            let known = parameters.rows(&self.kinds);
            return format!(
                "EXISTS (SELECT 1 FROM {known} WHERE x.kind = t.kind AND t.input_version <= x.version)"
            );
        }
        // A third of the time of a look into a table, which is done for every task of the claim.
        let kinds: Vec<String> = self.kinds.iter().map(|known| known.kind.clone()).collect();
        let versions: Vec<i32> = self.kinds.iter().map(|known| known.version).collect();
        let (kinds, versions) = (parameters.put(kinds), parameters.put(versions));
        format!(
            "t.input_version <= ({versions}::int[])[array_position({kinds}::text[], t.kind::text)]"
        )
    }
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
    let mut parameters = Parameters::of(db);
    let ids: Vec<Uuid> = tasks.iter().map(|id| id.uuid()).collect();
    let is_known = by.knows(&mut parameters);
    let worker = parameters.put(by.worker);
    let [until, now] = [now + by.lease, now].map(|at| parameters.put(at));
    let may_run = format!(
        "t.state || '' = 'queued' AND t.run_at <= {now} AND {is_known} \
         AND t.kind NOT IN (SELECT name FROM task_kind WHERE paused_at IS NOT NULL)"
    );
    // Lists and no joins: whatever the planner believes of the table, all it can do is to look up the ids.
    let (due, relaxed) = if parameters.is_postgres() {
        let ids = parameters.put(ids);
        (
            format!(
                "= ANY (ARRAY(SELECT t.id FROM task AS t WHERE t.id = ANY ({ids}::uuid[]) AND {may_run} \
                 FOR UPDATE SKIP LOCKED))"
            ),
            " FROM (SELECT set_config('synchronous_commit', 'off', TRUE)) AS relaxed",
        )
    } else {
        let ids = parameters.rows(&ids);
        (
            format!("IN (SELECT t.id FROM {ids} JOIN task AS t ON t.id = x.id WHERE {may_run})"),
            "",
        )
    };
    let sql = format!(
        "UPDATE task SET state = 'running', version = task.version + 1, attempt = task.attempt + 1, worker_id = {worker}, \
           lease_until = {until}, started_at = COALESCE(task.started_at, {now}), wake_on = NULL, signalled = FALSE{relaxed} \
         WHERE task.id {due} RETURNING {CLAIMED}"
    );
    debug_assert_eq!(
        TaskState::Queued.after(TaskEvent::Claim),
        Ok(TaskState::Running)
    );
    let claimed = Claimed::find_by_statement(parameters.statement(sql))
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
async fn lock_in_order(
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

/// An outcome as the row it leaves.
#[derive(Default)]
struct Ending<'a> {
    state: &'static str,
    failed: i32,
    run_at: Option<DateTimeUtc>,
    wake_on: Option<&'a str>,
    result: Option<&'a Json>,
    error_code: Option<&'static str>,
    error_message: Option<&'a str>,
    finished_at: Option<DateTimeUtc>,
}

impl<'a> Ending<'a> {
    fn of(outcome: &'a Outcome, now: DateTimeUtc) -> Result<Self, StoreError> {
        let event = match outcome {
            Outcome::Succeeded(_) => TaskEvent::Succeed,
            Outcome::Retry { .. } | Outcome::HandBack => TaskEvent::Retry,
            Outcome::Park { .. } => TaskEvent::Park,
            Outcome::Failed { .. } => TaskEvent::Fail,
            Outcome::Cancelled => TaskEvent::Cancel,
        };
        let state = TaskState::Running.after(event)?;
        let ending = Self {
            state: state.as_str(),
            finished_at: state.is_terminal().then_some(now),
            ..Self::default()
        };
        Ok(match outcome {
            Outcome::Succeeded(result) => Self {
                result: Some(result).filter(|result| !result.is_null()),
                ..ending
            },
            Outcome::Retry {
                at,
                failures,
                code,
                message,
            } => Self {
                failed: *failures,
                run_at: Some(*at),
                error_code: Some(code),
                error_message: Some(message),
                ..ending
            },
            Outcome::Park { until, wake_on } => Self {
                run_at: Some(*until),
                wake_on: wake_on.as_deref(),
                ..ending
            },
            Outcome::Failed { code, message } => Self {
                error_code: Some(code),
                error_message: Some(message),
                ..ending
            },
            Outcome::HandBack => Self {
                run_at: Some(now),
                ..ending
            },
            Outcome::Cancelled => ending,
        })
    }
}

impl Row for (Lease, Ending<'_>) {
    const COLUMNS: &'static [Col] = &[
        col("id", Cell::Uuid),
        col("attempt", Cell::Int),
        col("worker", Cell::Uuid),
        col("state", Cell::Text),
        col("failed", Cell::Int),
        maybe("run_at", Cell::Time),
        maybe("wake_on", Cell::Text),
        maybe("result", Cell::Json),
        maybe("error_code", Cell::Text),
        maybe("error_message", Cell::Text),
        maybe("finished_at", Cell::Time),
    ];
    fn cells(&self) -> Vec<Value> {
        let (lease, ending) = self;
        let mut cells = lease.cells();
        cells.extend([
            ending.state.into(),
            i64::from(ending.failed).into(),
            ending.run_at.into(),
            ending.wake_on.into(),
            ending.result.cloned().into(),
            ending.error_code.into(),
            ending.error_message.into(),
            ending.finished_at.into(),
        ]);
        cells
    }
}

/// Writes how runs ended; the leases that were accepted. A stale one changes nothing.
///
/// A run that wants to wait does not when what it waits for has happened meanwhile, when its children have all
/// ended, or when somebody has asked it to stop: it is queued at once. The end of a task's last child queues it.
pub async fn settle(
    store: &Store,
    outcomes: &[(Lease, Outcome)],
) -> Result<Vec<Lease>, StoreError> {
    let now = store.now();
    let endings = outcomes
        .iter()
        .map(|(lease, outcome)| Ok((*lease, Ending::of(outcome, now)?)))
        .collect::<Result<Vec<_>, StoreError>>()?;
    let (mut endings, mut of_families): (Vec<_>, Vec<_>) = endings
        .into_iter()
        .partition(|(_, ending)| ending.wake_on != Some(CHILDREN));
    // Most tasks have neither parents nor children: they need no locks beforehand. SQLite needs none at all.
    if store.engine().get_database_backend() != DbBackend::Postgres {
        of_families.append(&mut endings);
    }
    let mut settled = write_endings(store, &mut endings, Kin::None, now).await?;
    of_families.extend(
        endings
            .into_iter()
            .filter(|(lease, _)| !settled.contains(lease)),
    );
    settled.extend(write_endings(store, &mut of_families, Kin::Any, now).await?);
    let leases = outcomes.iter().map(|(lease, _)| *lease);
    Ok(leases.filter(|lease| settled.contains(lease)).collect())
}

/// Which tasks a statement is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kin {
    /// Those without a parent.
    None,
    Any,
}

/// Writes `endings` in one transaction.
async fn write_endings(
    store: &Store,
    endings: &mut [(Lease, Ending<'_>)],
    kin: Kin,
    now: DateTimeUtc,
) -> Result<BTreeSet<Lease>, StoreError> {
    if endings.is_empty() {
        return Ok(BTreeSet::new());
    }
    let mut tx = store.begin_engine().await?;
    // Rows are changed in this order: everybody locks by id.
    endings.sort_unstable_by_key(|(lease, _)| *lease);
    let fit = match kin {
        Kin::None => "task.parent_id IS NULL",
        Kin::Any => {
            lock_in_order(&mut tx, endings.iter().map(|(lease, _)| lease.task)).await?;
            "TRUE"
        }
    };
    let mut parameters = Parameters::of(&tx);
    let rows = parameters.rows(endings);
    let [at_once_at, silent_at] = [now, now + SILENCE].map(|at| parameters.put(at));
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
           run_at = CASE WHEN {at_once} THEN {at_once_at} ELSE COALESCE(x.run_at, task.run_at) END, \
           hint_at = CASE WHEN {at_once} OR x.run_at <= {at_once_at} THEN {silent_at} ELSE COALESCE(x.run_at, task.hint_at) END, \
           progress = CASE WHEN x.state = 'succeeded' THEN 100 ELSE task.progress END, \
           result = COALESCE(x.result, task.result), finished_at = x.finished_at, \
           error_code = CASE WHEN x.state = 'succeeded' THEN NULL ELSE COALESCE(x.error_code, task.error_code) END, \
           error_message = \
             CASE WHEN x.state = 'succeeded' THEN NULL ELSE COALESCE(x.error_message, task.error_message) END \
         FROM {rows} WHERE {HELD} AND {fit} RETURNING task.id, task.attempt, task.version, task.owner_id, task.state, \
           task.run_at, task.priority, task.share, task.parent_id"
    );
    let written = tx.query_all_raw(parameters.statement(sql)).await?;
    let mut settled = BTreeSet::new();
    let mut parents = Vec::new();
    for row in &written {
        let task = Id::<Task>::new(row.try_get("", "id")?);
        let attempt: i32 = row.try_get("", "attempt")?;
        // The worker is gone from the row; two of one attempt are never settled by one process.
        let place = endings
            .binary_search_by_key(&(task, attempt), |(lease, _)| (lease.task, lease.attempt));
        settled.extend(place.map(|place| endings[place].0));
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
    Ok(settled)
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
