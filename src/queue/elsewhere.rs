//! The tasks that can only be worked on elsewhere: whoever finds one gives it back at once.
//!
//! Hints go to whoever has waited for one the longest, so that every other worker has it before the same one has it again;
//! then none of those that were free can work on it, and it rests.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    domain::{Entropy, Id, id::Task},
    store::tasks::Outcome,
};

/// How long a worker remembers what it has given back.
const MEMORY: TimeDelta = TimeDelta::seconds(10);
/// Longest rest.
const REST: Duration = Duration::from_secs(1);

/// What a worker has given back, and when.
#[derive(Default)]
pub(super) struct Elsewhere(Mutex<BTreeMap<Id<Task>, DateTime<Utc>>>);

impl Elsewhere {
    /// What becomes of a task that its worker cannot work on.
    pub(super) fn leave(&self, task: Id<Task>, now: DateTime<Utc>, entropy: &Entropy) -> Outcome {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        left.retain(|_, at| (now - *at).abs() < MEMORY);
        if left.remove(&task).is_some() {
            return Outcome::Park {
                until: now + entropy.jitter(REST),
                wake_on: None,
            };
        }
        left.insert(task, now);
        Outcome::HandBack
    }
}
