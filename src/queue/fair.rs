//! Whose turn it is: start-time fair queueing over the shares of one priority.
//!
//! A hint gets the later of the queue's virtual time and the end of its share's last one; the smallest goes first. A
//! share that queues ten thousand at once stands behind itself, not in front of the others (P. Goyal et al.,
//! *Start-time Fair Queuing*, SIGCOMM 1996). `redis.rs` does the same inside Redis.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::{
    domain::{Id, id::Task, task::Priority},
    store::tasks::Hint,
};
use uuid::Uuid;

/// Hints in the order they are to be taken; each task stands in it once.
#[derive(Debug, Default)]
pub struct FairQueue {
    lanes: [Lane; Priority::ALL.len()],
}

#[derive(Debug, Default)]
struct Lane {
    /// By start tag, then by id, which is the order of creation.
    order: BTreeSet<(u64, Id<Task>)>,
    waiting: HashSet<Id<Task>>,
    /// The end of each share's last hint, in the lane's virtual time.
    ends: HashMap<Uuid, u64>,
}

impl FairQueue {
    pub fn len(&self) -> usize {
        self.lanes.iter().map(|lane| lane.order.len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn push(&mut self, hint: Hint) {
        let lane = &mut self.lanes[hint.priority as usize];
        if !lane.waiting.insert(hint.task) {
            return;
        }
        let now = if let Some((tag, _)) = lane.order.first() {
            *tag
        } else {
            // Nobody waits, so nobody has a claim from before.
            lane.ends.clear();
            0
        };
        let end = lane.ends.entry(hint.share).or_default();
        let start = now.max(*end);
        *end = start + 1;
        lane.order.insert((start, hint.task));
    }

    pub fn pop(&mut self) -> Option<Id<Task>> {
        self.lanes.iter_mut().find_map(|lane| {
            let (_, task) = lane.order.pop_first()?;
            lane.waiting.remove(&task);
            Some(task)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(task: u128, share: u128, priority: Priority) -> Hint {
        Hint {
            trace: None,
            task: Id::new(Uuid::from_u128(task)),
            priority,
            share: Uuid::from_u128(share),
        }
    }

    #[test]
    fn one_task_behind_ten_thousand_of_another_owner_is_the_second_to_go() {
        let mut queue = FairQueue::default();
        for task in 0..10_000 {
            queue.push(hint(task, 1, Priority::Normal));
        }
        queue.push(hint(20_000, 2, Priority::Normal));
        let first: Vec<_> = (0..3).filter_map(|_| queue.pop()).collect();
        assert_eq!(first[1], Id::new(Uuid::from_u128(20_000)), "{first:?}");
    }

    #[test]
    fn urgent_hints_go_first_and_a_repeated_one_counts_once() {
        let mut queue = FairQueue::default();
        queue.push(hint(1, 1, Priority::Background));
        for _ in 0..3 {
            queue.push(hint(2, 1, Priority::Interactive));
        }
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.pop(), Some(Id::new(Uuid::from_u128(2))));
        assert_eq!(queue.pop(), Some(Id::new(Uuid::from_u128(1))));
        assert!(queue.is_empty() && queue.pop().is_none());
    }
}
