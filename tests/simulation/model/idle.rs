//! What moves tasks nobody runs.

use std::collections::BTreeSet;

use main_webserver::{
    domain::{
        ChangeKind, Machine as _,
        task::{Priority, TaskEvent, TaskState},
    },
    error::StoreError,
    store::archive::Cut,
};
use uuid::Uuid;

use super::{Database, Row, Tx, change, due_now, is_live, refused, set, state};

/// The deepest family a cancellation follows down.
const GENERATIONS: usize = 8;

impl Database {
    pub fn request_cancel(&mut self, tx: &mut Tx, task: Uuid) {
        self.cancel_one(tx, task);
        let mut parents = BTreeSet::from([task]);
        for _ in 0..GENERATIONS {
            let children: BTreeSet<Uuid> = self
                .tasks
                .values()
                .filter(|row| row.parent_id.is_some_and(|id| parents.contains(&id)) && is_live(row))
                .map(|row| row.id)
                .collect();
            for child in &children {
                self.cancel_one(tx, *child);
            }
            parents = children;
        }
        self.commit(tx);
    }

    fn cancel_one(&mut self, tx: &mut Tx, task: Uuid) {
        let Some(row) = self.tasks.get_mut(&task) else {
            return;
        };
        if !is_live(row) || row.cancel_requested_at.is_some() {
            return;
        }
        row.cancel_requested_at = Some(tx.now);
        if state(row) == TaskState::Running {
            row.version += 1;
            tx.posted
                .changes
                .push(change(row, ChangeKind::CancelRequested));
        } else {
            if state(row) == TaskState::Waiting {
                row.wake_on = None;
            }
            set(row, TaskState::Queued);
            due_now(row, tx.now);
            tx.changed(row);
            tx.hint(row);
        }
    }

    pub fn reprioritise(&mut self, tx: &mut Tx, task: Uuid, priority: Priority) {
        let Some(row) = self.tasks.get_mut(&task) else {
            return;
        };
        row.priority = priority.rank();
        row.version += 1;
        tx.changed(row);
        if state(row) == TaskState::Queued && row.run_at <= tx.now {
            tx.hint(row);
        }
        self.commit(tx);
    }

    /// Queues ended tasks again; all of them or none.
    pub fn revive(&mut self, tx: &mut Tx, tasks: &[Uuid]) -> Result<(), StoreError> {
        let before: Vec<Row> = tasks
            .iter()
            .filter_map(|id| self.tasks.get(id).cloned())
            .collect();
        let revived = before.iter().try_for_each(|row| self.revive_one(tx, row));
        if let Err(error) = revived {
            tx.posted = main_webserver::store::Posted::default();
            for row in before {
                self.tasks.insert(row.id, row);
            }
            return Err(error);
        }
        for task in tasks {
            if let Some(steps) = self.steps.get_mut(task) {
                steps.retain(|step| step.compensated_at.is_none());
            }
        }
        self.commit(tx);
        Ok(())
    }

    fn revive_one(&mut self, tx: &mut Tx, before: &Row) -> Result<(), StoreError> {
        state(before).after(TaskEvent::Revive)?;
        if self.rival(before).is_some() {
            return Err(refused("another task has its unique key"));
        }
        let allowed = (before.deadline_at - before.created_at).max(chrono::TimeDelta::minutes(1));
        let row = self.tasks.get_mut(&before.id).ok_or(StoreError::Stale)?;
        set(row, TaskState::Queued);
        due_now(row, tx.now);
        row.failures = 0;
        row.deadline_at = tx.now + allowed;
        (row.cancel_requested_at, row.finished_at) = (None, None);
        tx.changed(row);
        tx.hint(row);
        Ok(())
    }

    /// Queues the `picked` rows, each changed by `more` as well.
    fn queue_again(&mut self, tx: &mut Tx, picked: &[Uuid], more: impl Fn(&mut Row)) -> usize {
        for id in picked {
            if let Some(row) = self.tasks.get_mut(id) {
                set(row, TaskState::Queued);
                row.wake_on = None;
                due_now(row, tx.now);
                more(row);
                tx.changed(row);
                tx.hint(row);
            }
        }
        if !picked.is_empty() {
            self.commit(tx);
        }
        picked.len()
    }

    fn ids(&self, condition: impl Fn(&Row) -> bool) -> Vec<Uuid> {
        let rows = self.tasks.values().filter(|row| condition(row));
        rows.map(|row| row.id).collect()
    }

    pub fn wake(&mut self, tx: &mut Tx, topic: &str) -> usize {
        let mut is_signalled = false;
        for row in self.tasks.values_mut() {
            if state(row) == TaskState::Running && row.wake_on.as_deref() == Some(topic) {
                row.signalled = true;
                is_signalled = true;
            }
        }
        let waiting = self
            .ids(|row| state(row) == TaskState::Waiting && row.wake_on.as_deref() == Some(topic));
        let woken = self.queue_again(tx, &waiting, |_| {});
        if is_signalled {
            self.unflushed.clear();
        }
        woken
    }

    pub fn wake_due(&mut self, tx: &mut Tx, limit: u64) -> usize {
        let now = tx.now;
        let mut due = self.ids(|row| state(row) == TaskState::Waiting && row.run_at <= now);
        due.sort_by_key(|id| self.tasks[id].run_at);
        due.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        self.queue_again(tx, &due, |_| {})
    }

    pub fn take_expired(&mut self, tx: &mut Tx, limit: u64) -> usize {
        let now = tx.now;
        let mut silent = self.ids(|row| {
            state(row) == TaskState::Running && row.lease_until.is_some_and(|until| until < now)
        });
        silent.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        self.queue_again(tx, &silent, |row| {
            row.failures += 1;
            (row.worker_id, row.lease_until, row.signalled) = (None, None, false);
            row.error_code = Some("WORKER_LOST".to_owned());
            row.error_message = Some("the worker stopped renewing its lease".to_owned());
        })
    }

    pub fn drop_stranded(&mut self, tx: &mut Tx, known: &BTreeSet<String>) -> usize {
        let stranded = self.ids(|row| {
            state(row) == TaskState::Queued
                && row.cancel_requested_at.is_some()
                && !known.contains(&row.kind)
        });
        let mut parents = BTreeSet::new();
        for id in &stranded {
            if let Some(row) = self.tasks.get_mut(id) {
                set(row, TaskState::Cancelled);
                row.finished_at = Some(tx.now);
                parents.extend(row.parent_id);
                tx.changed(row);
            }
        }
        self.wake_parents(tx, &parents);
        if !stranded.is_empty() {
            self.commit(tx);
        }
        stranded.len()
    }

    /// Takes ended tasks away with what belongs to them; one with a living child stays.
    pub fn move_ended(&mut self, cut: Cut) -> usize {
        let old = self.ids(|row| {
            let before = if state(row) == TaskState::Failed {
                cut.failed_before
            } else {
                cut.ended_before
            };
            row.finished_at.is_some_and(|at| at < before) && !self.has_live_child(row.id)
        });
        for id in &old {
            self.tasks.remove(id);
            self.steps.remove(id);
            self.lines.retain(|line| line.task != *id);
        }
        old.len()
    }
}
