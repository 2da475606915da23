//! A model of the task store, written from what its functions promise: plain rows, one change at a time.
//!
//! `hold` has what runs write, `idle` what moves tasks nobody runs, `look` what looks for them, `duties` the rest.

mod duties;
mod hold;
mod idle;
mod look;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::{
    domain::{Change, ChangeKind, Entropy, Id, Table, task::TaskState},
    error::StoreError,
    store::{
        Posted, schedules,
        tasks::{Lease, NewTask, SILENCE},
    },
};
use sea_orm::{DbErr, JsonValue};
use uuid::Uuid;

pub use main_webserver::store::tasks::Model as Row;

pub type Time = DateTime<Utc>;

/// Every table of the task engine.
#[derive(Clone, Default)]
pub struct Database {
    pub tasks: BTreeMap<Uuid, Row>,
    pub steps: BTreeMap<Uuid, Vec<StepRow>>,
    pub lines: Vec<Line>,
    pub outbox: BTreeMap<Uuid, (Time, Vec<Change>)>,
    pub leaders: BTreeMap<String, Leader>,
    pub limits: BTreeMap<String, Time>,
    pub paused: BTreeSet<String>,
    pub schedules: BTreeMap<Uuid, schedules::Model>,
    pub workers: BTreeMap<Uuid, Time>,
    /// Claims that are not on the disk yet, the oldest first: the rows as they were before.
    pub unflushed: Vec<Row>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct StepRow {
    pub name: String,
    pub position: i32,
    pub output: JsonValue,
    pub compensated_at: Option<Time>,
}

#[derive(Clone, PartialEq, PartialOrd, Debug)]
pub struct Line {
    pub task: Uuid,
    pub attempt: i32,
    pub level: &'static str,
    pub message: String,
    pub at: Time,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Leader {
    pub holder: Uuid,
    pub term: i64,
    pub until: Time,
}

/// A change of the database in the making: whose time and ids it goes by, and what it will tell.
pub struct Tx {
    pub now: Time,
    pub entropy: Arc<Entropy>,
    pub posted: Posted,
}

impl Tx {
    pub fn at(now: Time, entropy: &Arc<Entropy>) -> Self {
        Self {
            now,
            entropy: Arc::clone(entropy),
            posted: Posted::default(),
        }
    }

    fn changed(&mut self, row: &Row) {
        self.posted.changes.push(change(row, ChangeKind::Updated));
    }

    fn hint(&mut self, row: &Row) {
        self.posted.hints.push(row.hint());
    }
}

fn change(row: &Row, kind: ChangeKind) -> Change {
    Change {
        table: Table::Task,
        id: row.id,
        version: row.version,
        owner: row.owner_id,
        kind,
    }
}

pub fn refused(why: &str) -> StoreError {
    StoreError::Database(DbErr::Custom(why.to_owned()))
}

pub fn state(row: &Row) -> TaskState {
    TaskState::parse(&row.state).expect("the model writes states it knows")
}

pub fn is_live(row: &Row) -> bool {
    matches!(
        state(row),
        TaskState::Queued | TaskState::Running | TaskState::Waiting
    )
}

fn set(row: &mut Row, state: TaskState) {
    state.as_str().clone_into(&mut row.state);
    row.version += 1;
}

/// Puts a row at the end of the line, to be run at once.
fn due_now(row: &mut Row, now: Time) {
    row.run_at = now;
    row.hint_at = now + SILENCE;
}

fn begin(id: Uuid, task: NewTask, now: Time) -> Row {
    let run_at = task.run_at.map_or(now, |at| at.max(now));
    Row {
        id,
        kind: task.kind.into_owned(),
        input_version: task.input_version,
        input: task.input,
        owner_id: task.owner.map(Id::uuid),
        share: task.owner.map_or(Uuid::nil(), Id::uuid),
        subject_id: task.subject,
        parent_id: task.parent.map(Id::uuid),
        state: "queued".to_owned(),
        priority: task.priority.rank(),
        version: 1,
        attempt: 0,
        failures: 0,
        max_attempts: task.max_attempts,
        run_at,
        hint_at: if run_at > now { run_at } else { now + SILENCE },
        deadline_at: run_at + TimeDelta::from_std(task.deadline).expect("deadlines are short here"),
        worker_id: None,
        lease_until: None,
        wake_on: None,
        signalled: false,
        cancel_requested_at: None,
        progress: 0,
        progress_message: None,
        result: None,
        error_code: None,
        error_message: None,
        idempotency_key: task.idempotency_key,
        unique_key: task.unique_key,
        created_at: now,
        started_at: None,
        finished_at: None,
        trace_context: task.trace.map(|trace| trace.to_string()),
    }
}

impl Database {
    /// Ends a change: what it tells of goes into the outbox, and everything before it is on the disk.
    pub fn commit(&mut self, tx: &mut Tx) {
        self.unflushed.clear();
        if !tx.posted.changes.is_empty() {
            let id = tx.entropy.uuid(tx.now);
            self.outbox.insert(id, (tx.now, tx.posted.changes.clone()));
            tx.posted.id = Some(id);
        }
    }

    /// The row of `lease`'s run, if that is the newest and its task runs.
    fn held(&mut self, lease: Lease) -> Option<&mut Row> {
        let row = self.tasks.get_mut(&lease.task.uuid())?;
        let is_held = state(row) == TaskState::Running
            && row.attempt == lease.attempt
            && row.worker_id == Some(lease.worker);
        is_held.then_some(row)
    }

    pub fn fence(&mut self, lease: Lease) -> Result<&mut Row, StoreError> {
        self.held(lease).ok_or(StoreError::LeaseLost)
    }

    fn has_live_child(&self, parent: Uuid) -> bool {
        self.tasks
            .values()
            .any(|row| row.parent_id == Some(parent) && is_live(row))
    }

    /// The task that has taken one of the keys of `row`: the idempotency key within a share for ever, the unique key
    /// while its task lives.
    fn same(&self, row: &Row) -> Option<&Row> {
        let by_key = self.tasks.values().find(|other| {
            row.idempotency_key.is_some()
                && other.share == row.share
                && other.idempotency_key == row.idempotency_key
        });
        by_key.or_else(|| self.rival(row))
    }

    fn rival(&self, row: &Row) -> Option<&Row> {
        self.tasks.values().find(|other| {
            row.unique_key.is_some()
                && other.id != row.id
                && other.unique_key == row.unique_key
                && is_live(other)
        })
    }

    /// Adds tasks, or finds the earlier ones; each with whether it is new.
    pub fn insert_all(&mut self, tx: &mut Tx, tasks: Vec<NewTask>) -> Vec<(Row, bool)> {
        let now = tx.now;
        let rows: Vec<Row> = tasks
            .into_iter()
            .map(|task| begin(tx.entropy.uuid(now), task, now))
            .collect();
        for row in &rows {
            if self.same(row).is_none() {
                tx.changed(row);
                if row.run_at <= now {
                    tx.hint(row);
                }
                self.tasks.insert(row.id, row.clone());
            }
        }
        // The earlier ones are looked for when all are in.
        rows.into_iter()
            .map(|row| {
                let is_new = self.tasks.contains_key(&row.id);
                let earlier = self.same(&row).filter(|_| !is_new).cloned();
                (earlier.unwrap_or(row), is_new)
            })
            .collect()
    }

    pub fn insert_batch(&mut self, tx: &mut Tx, tasks: Vec<NewTask>) -> Vec<(Row, bool)> {
        let inserted = self.insert_all(tx, tasks);
        self.commit(tx);
        inserted
    }

    /// What the machine's sudden end leaves: claims nobody flushed are as if they had never been made.
    pub fn crash(&mut self) -> Vec<Row> {
        let lost = std::mem::take(&mut self.unflushed);
        for row in lost.iter().rev() {
            self.tasks.insert(row.id, row.clone());
        }
        lost
    }
}
