//! What looks for tasks that should run.

use std::collections::BTreeMap;

use main_webserver::{
    domain::{Id, id::Task, task::TaskState},
    store::tasks::{Claimer, Hint, SILENCE},
};
use uuid::Uuid;

use super::{Database, Row, Time, Tx, state};

impl Database {
    /// The longest unheard due tasks, every group of (kind, share) its part of `limit`.
    fn unheard(
        &self,
        now: Time,
        since: Time,
        limit: u64,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Vec<&Row> {
        let mut groups: BTreeMap<(&str, Uuid), Vec<&Row>> = BTreeMap::new();
        for row in self.tasks.values() {
            if state(row) == TaskState::Queued && is_wanted(&row.kind) {
                let group = groups.entry((&row.kind, row.share)).or_default();
                let is_due = row.hint_at <= since && row.run_at <= now;
                if is_due && !self.paused.contains(&row.kind) {
                    group.push(row);
                }
            }
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let part = (limit / groups.len().max(1)).max(1);
        let mut found: Vec<&Row> = groups
            .into_values()
            .flat_map(|mut group| {
                group.sort_by_key(|row| row.hint_at);
                group.truncate(part);
                group
            })
            .collect();
        found.sort_by_key(|row| (row.priority, row.hint_at));
        found.truncate(limit);
        found
    }

    pub fn reannounce(&mut self, tx: &mut Tx, limit: u64) -> Vec<Hint> {
        if limit == 0 {
            return Vec::new();
        }
        let found: Vec<Hint> = self
            .unheard(tx.now, tx.now, limit, |_| true)
            .into_iter()
            .map(Row::hint)
            .collect();
        for hint in &found {
            if let Some(row) = self.tasks.get_mut(&hint.task.uuid()) {
                row.hint_at = tx.now + SILENCE;
            }
        }
        if !found.is_empty() {
            self.unflushed.clear();
        }
        found
    }

    pub fn due(&self, now: Time, by: &Claimer, limit: u64) -> Vec<Id<Task>> {
        if limit == 0 {
            return Vec::new();
        }
        let is_known = |kind: &str| by.kinds.iter().any(|known| known.kind == kind);
        let found = self.unheard(now, now + SILENCE, limit, is_known);
        found.into_iter().map(Row::id).collect()
    }

    pub fn next_due(&self) -> Option<Time> {
        let rows = self.tasks.values().filter_map(|row| match state(row) {
            TaskState::Waiting => Some(row.run_at),
            TaskState::Queued if !self.paused.contains(&row.kind) => Some(row.hint_at),
            _ => None,
        });
        let schedules = self.schedules.values().filter(|schedule| schedule.enabled);
        rows.chain(schedules.map(|schedule| schedule.next_at)).min()
    }
}
