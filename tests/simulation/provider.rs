//! What tasks do to the outside: things with names, each made at most once at a time, and who did it.
//!
//! Like a good engine it heeds a fencing token: what comes from an older attempt than it has seen is refused.

use std::collections::BTreeMap;

use main_webserver::store::tasks::Lease;
use uuid::Uuid;

#[derive(Default)]
pub struct Provider {
    things: BTreeMap<(Uuid, &'static str), Thing>,
    newest: BTreeMap<Uuid, i32>,
}

#[derive(Clone, Debug, Default)]
pub struct Thing {
    pub is_there: bool,
    pub made: u32,
    pub removed: u32,
    /// Who has changed it, the newest last.
    pub by: Vec<Lease>,
}

impl Provider {
    fn admits(&mut self, lease: Lease) -> bool {
        let newest = self.newest.entry(lease.task.uuid()).or_default();
        *newest = lease.attempt.max(*newest);
        lease.attempt == *newest
    }

    /// Makes a thing or finds it made; false when a newer attempt has been here.
    pub fn make(&mut self, lease: Lease, name: &'static str) -> bool {
        if !self.admits(lease) {
            return false;
        }
        let thing = self.things.entry((lease.task.uuid(), name)).or_default();
        if !thing.is_there {
            thing.is_there = true;
            thing.made += 1;
            thing.by.push(lease);
        }
        true
    }

    pub fn remove(&mut self, lease: Lease, name: &'static str) -> bool {
        if !self.admits(lease) {
            return false;
        }
        let thing = self.things.entry((lease.task.uuid(), name)).or_default();
        if thing.is_there {
            thing.is_there = false;
            thing.removed += 1;
            thing.by.push(lease);
        }
        true
    }

    /// How many things of a task are there.
    pub fn count(&self, task: Uuid) -> usize {
        let of_task = self.things.range((task, "")..(task, "\u{ff}"));
        of_task.filter(|(_, thing)| thing.is_there).count()
    }
}
