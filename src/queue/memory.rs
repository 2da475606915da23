//! The queue inside one process.

use std::{sync::Mutex, time::Duration};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{FairQueue, Taken, TaskQueue};
use crate::{
    domain::{Id, id::Task},
    error::TransportError,
    store::tasks::Hint,
};

/// How many hints are kept; those that come to a full queue are left to the sweeper.
const CAPACITY: usize = 100_000;

#[derive(Debug, Default)]
pub struct MemoryQueue {
    hints: Mutex<FairQueue>,
    arrived: Notify,
}

impl MemoryQueue {
    fn hints(&self) -> std::sync::MutexGuard<'_, FairQueue> {
        self.hints
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn take(&self, max: usize) -> Vec<Id<Task>> {
        let mut hints = self.hints();
        let taken = std::iter::from_fn(|| hints.pop()).take(max).collect();
        if !hints.is_empty() {
            self.arrived.notify_one();
        }
        taken
    }
}

#[async_trait]
impl TaskQueue for MemoryQueue {
    async fn announce(&self, hints: &[Hint]) -> Result<(), TransportError> {
        let mut queue = self.hints();
        for hint in hints {
            if queue.len() < CAPACITY {
                queue.push(*hint);
            }
        }
        drop(queue);
        self.arrived.notify_one();
        Ok(())
    }

    async fn backlog(&self) -> Result<usize, TransportError> {
        Ok(self.hints().len())
    }

    async fn next(&self, max: usize, wait: Duration) -> Result<Taken, TransportError> {
        let taken = self.take(max);
        if !taken.is_empty() {
            return Ok(taken.into());
        }
        // A notice given since `take` is kept by `Notify`, so nothing slips between.
        let _ = tokio::time::timeout(wait, self.arrived.notified()).await;
        Ok(self.take(max).into())
    }
}
