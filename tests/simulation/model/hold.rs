//! What a worker does with tasks in its hands.

use std::{collections::BTreeSet, time::Duration};

use main_webserver::{
    domain::{Id, id::Task, task::TaskState},
    error::StoreError,
    store::tasks::{
        CHILDREN, Child, Claimed, Claimer, Lease, NewTask, Outcome, Renewed, Report, SILENCE, Step,
    },
};
use sea_orm::JsonValue;
use uuid::Uuid;

use super::{Database, Line, Row, StepRow, Time, Tx, due_now, refused, set, state};

fn claimed(row: &Row, worker: Uuid) -> Claimed {
    Claimed {
        id: row.id,
        kind: row.kind.clone(),
        input_version: row.input_version,
        input: row.input.clone(),
        owner_id: row.owner_id,
        subject_id: row.subject_id,
        priority: row.priority,
        version: row.version,
        attempt: row.attempt,
        worker_id: worker,
        failures: row.failures,
        max_attempts: row.max_attempts,
        progress: row.progress,
        error_message: row.error_message.clone(),
        run_at: row.run_at,
        deadline_at: row.deadline_at,
        cancel_requested_at: row.cancel_requested_at,
        trace_context: row.trace_context.clone(),
    }
}

impl Database {
    /// The due ones among `tasks` that `by` knows and nobody has paused. Not flushed to the disk.
    pub fn claim(&mut self, tx: &mut Tx, tasks: &[Id<Task>], by: &Claimer) -> Vec<Claimed> {
        let wanted: BTreeSet<Uuid> = tasks.iter().map(|id| id.uuid()).collect();
        let mut taken = Vec::new();
        for id in wanted {
            let Some(row) = self.tasks.get_mut(&id) else {
                continue;
            };
            let is_known = by
                .kinds
                .iter()
                .any(|known| known.kind == row.kind && row.input_version <= known.version);
            let may_run = state(row) == TaskState::Queued
                && row.run_at <= tx.now
                && is_known
                && !self.paused.contains(&row.kind);
            if !may_run {
                continue;
            }
            self.unflushed.push(row.clone());
            set(row, TaskState::Running);
            row.attempt += 1;
            row.worker_id = Some(by.worker);
            row.lease_until = Some(tx.now + by.lease);
            row.started_at = row.started_at.or(Some(tx.now));
            row.wake_on = None;
            row.signalled = false;
            tx.changed(row);
            taken.push(claimed(row, by.worker));
        }
        taken
    }

    pub fn renew(&mut self, tx: &mut Tx, leases: &[Lease], length: Duration) -> Vec<Renewed> {
        let mut renewed = Vec::new();
        for lease in leases {
            if let Some(row) = self.held(*lease) {
                row.lease_until = Some(tx.now + length);
                renewed.push(Renewed {
                    lease: *lease,
                    is_cancel_requested: row.cancel_requested_at.is_some(),
                });
            }
        }
        if !renewed.is_empty() {
            self.commit(tx);
        }
        renewed
    }

    pub fn report(&mut self, tx: &mut Tx, reports: &[Report]) -> Vec<Lease> {
        let mut accepted = Vec::new();
        for report in reports {
            let Some(row) = self.held(report.lease) else {
                continue;
            };
            if let Some(percent) = report.percent {
                row.progress = i16::from(percent.min(100));
                row.progress_message = Some(report.message.clone());
                row.version += 1;
                tx.changed(row);
            }
            self.lines.push(Line {
                task: report.lease.task.uuid(),
                attempt: report.lease.attempt,
                level: report.level.as_str(),
                message: report.message.clone(),
                at: tx.now,
            });
            accepted.push(report.lease);
        }
        if !accepted.is_empty() {
            self.commit(tx);
        }
        accepted
    }

    /// How runs ended. Whether a child lives is asked of the rows as they were before any of `outcomes`.
    pub fn settle(&mut self, tx: &mut Tx, outcomes: &[(Lease, Outcome)]) -> Vec<Lease> {
        let childless: BTreeSet<Uuid> = outcomes
            .iter()
            .map(|(lease, _)| lease.task.uuid())
            .filter(|task| !self.has_live_child(*task))
            .collect();
        let mut accepted = Vec::new();
        let mut parents = BTreeSet::new();
        for (lease, outcome) in outcomes {
            let Some(row) = self.held(*lease) else {
                continue;
            };
            end_run(row, outcome, tx.now, childless.contains(&row.id));
            accepted.push(*lease);
            let row = row.clone();
            tx.changed(&row);
            match state(&row) {
                TaskState::Queued if row.run_at <= tx.now => tx.hint(&row),
                TaskState::Queued | TaskState::Waiting | TaskState::Running => {}
                TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled => {
                    parents.extend(row.parent_id);
                }
            }
        }
        self.wake_parents(tx, &parents);
        if !accepted.is_empty() {
            self.commit(tx);
        }
        accepted
    }

    pub(super) fn wake_parents(&mut self, tx: &mut Tx, parents: &BTreeSet<Uuid>) {
        for parent in parents {
            if self.has_live_child(*parent) {
                continue;
            }
            let Some(row) = self.tasks.get_mut(parent) else {
                continue;
            };
            if state(row) == TaskState::Waiting && row.wake_on.as_deref() == Some(CHILDREN) {
                set(row, TaskState::Queued);
                row.wake_on = None;
                due_now(row, tx.now);
                tx.changed(row);
                tx.hint(row);
            }
        }
    }

    pub fn arm(&mut self, tx: &mut Tx, lease: Lease, topic: &str) -> Result<(), StoreError> {
        self.fence(lease)?.wake_on = Some(topic.to_owned());
        self.commit(tx);
        Ok(())
    }

    pub fn steps_of(&self, task: Id<Task>) -> Vec<Step> {
        let mut steps = self.steps.get(&task.uuid()).cloned().unwrap_or_default();
        steps.sort_by_key(|step| step.position);
        steps
            .into_iter()
            .map(|step| Step {
                name: step.name,
                output: step.output,
                compensated_at: step.compensated_at,
            })
            .collect()
    }

    pub fn record_step(
        &mut self,
        tx: &mut Tx,
        lease: Lease,
        name: &str,
        output: JsonValue,
    ) -> Result<(), StoreError> {
        self.fence(lease)?;
        let steps = self.steps.entry(lease.task.uuid()).or_default();
        if steps.iter().any(|step| step.name == name) {
            return Err(refused("there is such a step"));
        }
        steps.push(StepRow {
            name: name.to_owned(),
            position: i32::try_from(steps.len()).expect("few steps"),
            output,
            compensated_at: None,
        });
        self.commit(tx);
        Ok(())
    }

    pub fn mark_compensated(
        &mut self,
        tx: &mut Tx,
        lease: Lease,
        name: &str,
    ) -> Result<(), StoreError> {
        self.fence(lease)?;
        let steps = self.steps.entry(lease.task.uuid()).or_default();
        for step in steps.iter_mut().filter(|step| step.name == name) {
            step.compensated_at = Some(tx.now);
        }
        self.commit(tx);
        Ok(())
    }

    pub fn spawn(
        &mut self,
        tx: &mut Tx,
        lease: Lease,
        children: Vec<NewTask>,
    ) -> Result<Vec<Id<Task>>, StoreError> {
        self.fence(lease)?;
        let task = &self.tasks[&lease.task.uuid()];
        if task.cancel_requested_at.is_some() {
            return Err(StoreError::CancelRequested);
        }
        let inserted = self.insert_batch(tx, children);
        Ok(inserted.into_iter().map(|(row, _)| row.id()).collect())
    }

    pub fn children(&self, parent: Id<Task>) -> Vec<Child> {
        let children = self
            .tasks
            .values()
            .filter(|row| row.parent_id == Some(parent.uuid()));
        children
            .map(|row| Child {
                id: row.id,
                state: row.state.clone(),
                result: row.result.clone(),
                error_code: row.error_code.clone(),
            })
            .collect()
    }
}

/// Changes the row of a run that has ended.
fn end_run(row: &mut Row, outcome: &Outcome, now: Time, is_childless: bool) {
    let is_asked_to_stop = row.cancel_requested_at.is_some();
    let was_signalled = std::mem::take(&mut row.signalled);
    (row.worker_id, row.lease_until, row.wake_on) = (None, None, None);
    let queue_at = |row: &mut Row, at: Time| {
        set(row, TaskState::Queued);
        row.run_at = if is_asked_to_stop { now } else { at };
        row.hint_at = if is_asked_to_stop || at <= now {
            now + SILENCE
        } else {
            at
        };
    };
    match outcome {
        Outcome::Succeeded(result) => {
            set(row, TaskState::Succeeded);
            if !result.is_null() {
                row.result = Some(result.clone());
            }
            (row.progress, row.finished_at) = (100, Some(now));
            (row.error_code, row.error_message) = (None, None);
        }
        Outcome::Retry {
            at,
            failures,
            code,
            message,
        } => {
            queue_at(row, *at);
            row.failures += failures;
            row.error_code = Some((*code).to_owned());
            row.error_message = Some(message.clone());
        }
        Outcome::HandBack => queue_at(row, now),
        Outcome::Park { until, wake_on } => {
            let is_over = wake_on.as_deref() == Some(CHILDREN) && is_childless;
            if was_signalled || is_asked_to_stop || is_over {
                queue_at(row, now);
            } else {
                set(row, TaskState::Waiting);
                row.wake_on.clone_from(wake_on);
                row.run_at = *until;
                row.hint_at = if *until <= now { now + SILENCE } else { *until };
            }
        }
        Outcome::Failed { code, message } => {
            set(row, TaskState::Failed);
            row.finished_at = Some(now);
            row.error_code = Some((*code).to_owned());
            row.error_message = Some(message.clone());
        }
        Outcome::Cancelled => {
            set(row, TaskState::Cancelled);
            row.finished_at = Some(now);
        }
    }
}
