//! Claiming: who may take a task, and what it gets of it.

use std::time::Duration;

use sea_orm::{FromQueryResult, QueryResult, Statement, Value, entity::prelude::*};
use serde::{Deserialize, Serialize};

use super::{Lease, Store, lists};
use crate::{
    domain::{
        Id, Machine as _,
        id::Task,
        task::{TaskEvent, TaskState},
        trace::TraceParent,
    },
    error::StoreError,
    store::{
        Posted,
        readers::literal,
        source::{Cell, Col, Parameters, RELAXED, Row, col},
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
    pub trace_context: Option<String>,
}

impl Claimed {
    /// What its run is a part of.
    pub fn trace(&self) -> Option<TraceParent> {
        TraceParent::parse(self.trace_context.as_deref()?)
    }

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
}

const CLAIMED: &str = "task.id, task.kind, task.input_version, task.input, task.owner_id, task.subject_id, \
    task.priority, task.version, task.attempt, task.worker_id, task.failures, task.max_attempts, task.progress, \
    task.error_message, task.run_at, task.deadline_at, task.cancel_requested_at, task.trace_context";

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
        // They are a worker's own, and so is its text with them: to read them anew for each claim would cost more than to
        // look for one task.
        let (kinds, versions) = (literal(&kinds.into()), literal(&versions.into()));
        format!("t.input_version <= ({versions})[array_position({kinds}, t.kind::text)]")
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
    let rows = store.write(statement(store, tasks, by)).await?;
    claimed(store, &rows)
}

pub(super) fn statement(store: &Store, tasks: &[Id<Task>], by: &Claimer) -> Statement {
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
            format!(" FROM {RELAXED}"),
        )
    } else {
        let ids = parameters.rows(&ids);
        (
            format!("IN (SELECT t.id FROM {ids} JOIN task AS t ON t.id = x.id WHERE {may_run})"),
            String::new(),
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
    parameters.statement(sql)
}

/// Reads what was claimed, and tells of it.
pub(super) fn claimed(store: &Store, rows: &[QueryResult]) -> Result<Vec<Claimed>, StoreError> {
    let claimed = rows
        .iter()
        .map(|row| Claimed::from_query_result(row, ""))
        .collect::<Result<Vec<_>, _>>()?;
    let change = |task: &Claimed| lists::task_change(task.id(), task.version, task.owner_id);
    // Not in the outbox: should this process end here, the end of its lease tells more than the beginning would have.
    store.tell(Posted {
        changes: claimed.iter().map(change).collect(),
        ..Posted::default()
    });
    Ok(claimed)
}
