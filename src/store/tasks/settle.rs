//! Settling: how a run ended, and what follows for its task and its parent.

use std::collections::BTreeSet;

use sea_orm::{ConnectionTrait as _, DbBackend, Value, entity::prelude::*};

use super::{
    CHILDREN, Hint, Lease, SILENCE, Store,
    family::{LIVE_CHILD, wake_parents},
    hold::{HELD, lock_in_order},
    lists,
};
use crate::{
    domain::{
        Id, Machine as _,
        id::Task,
        task::{Priority, TaskEvent, TaskState},
    },
    error::StoreError,
    store::source::{Cell, Col, Parameters, Row, col, maybe},
};

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
                    trace: None,
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
