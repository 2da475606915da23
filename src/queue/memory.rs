//! The queue inside one process.

use std::{collections::VecDeque, sync::Mutex, time::Duration};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::TaskQueue;
use crate::{
    domain::{Id, id::Task, task::Priority},
    error::TransportError,
};

/// How many hints are kept; those that come to a full queue are left to the sweeper.
const CAPACITY: usize = 100_000;

/// One list a priority.
#[derive(Debug, Default)]
pub struct MemoryQueue {
    lists: Mutex<[VecDeque<Id<Task>>; Priority::ALL.len()]>,
    arrived: Notify,
}

impl MemoryQueue {
    fn take(&self, max: usize) -> Vec<Id<Task>> {
        let mut lists = self
            .lists
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut taken = Vec::new();
        for list in lists.iter_mut() {
            let count = list.len().min(max - taken.len());
            taken.extend(list.drain(..count));
        }
        if lists.iter().any(|list| !list.is_empty()) {
            self.arrived.notify_one();
        }
        taken
    }
}

#[async_trait]
impl TaskQueue for MemoryQueue {
    async fn announce(&self, tasks: &[(Id<Task>, Priority)]) -> Result<(), TransportError> {
        let mut lists = self
            .lists
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut room = CAPACITY.saturating_sub(lists.iter().map(VecDeque::len).sum());
        for (task, priority) in tasks {
            if room == 0 {
                break;
            }
            lists[*priority as usize].push_back(*task);
            room -= 1;
        }
        self.arrived.notify_one();
        Ok(())
    }

    async fn backlog(&self) -> Result<usize, TransportError> {
        let lists = self
            .lists
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(lists.iter().map(VecDeque::len).sum())
    }

    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Id<Task>>, TransportError> {
        let taken = self.take(max);
        if !taken.is_empty() {
            return Ok(taken);
        }
        // A notice given since `take` is kept by `Notify`, so nothing slips between.
        let _ = tokio::time::timeout(wait, self.arrived.notified()).await;
        Ok(self.take(max))
    }
}
