//! The life of a task, its priorities and its back-off.

use std::time::Duration;

use super::{Machine, machine::named};

/// Where a task stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskState {
    /// A worker may take it once its time has come.
    Queued,
    /// A worker holds it by a lease.
    Running,
    /// Parked: it waits for an event or a time and no worker holds it.
    Waiting,
    /// Done; its result is recorded.
    Succeeded,
    /// Given up; its error is recorded.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
}

/// What happens to a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TaskEvent {
    Claim,
    Retry,
    Park,
    Wake,
    Succeed,
    Fail,
    Cancel,
    /// Somebody wants it tried again.
    Revive,
}

named!(TaskState {
    Queued = "queued",
    Running = "running",
    Waiting = "waiting",
    Succeeded = "succeeded",
    Failed = "failed",
    Cancelled = "cancelled",
});

impl TaskState {
    /// Those of a task that has not ended.
    pub const LIVE: [Self; 3] = [Self::Queued, Self::Running, Self::Waiting];
}

impl Machine for TaskState {
    type Event = TaskEvent;
    const TERMINAL: &'static [Self] = &[Self::Succeeded, Self::Failed, Self::Cancelled];
    const TABLE: &'static [(Self, TaskEvent, Self)] = {
        use TaskEvent as E;
        use TaskState as S;
        &[
            (S::Queued, E::Claim, S::Running),
            (S::Running, E::Retry, S::Queued),
            (S::Running, E::Park, S::Waiting),
            (S::Running, E::Succeed, S::Succeeded),
            (S::Running, E::Fail, S::Failed),
            (S::Running, E::Cancel, S::Cancelled),
            (S::Waiting, E::Wake, S::Queued),
            // Nobody knows the kind, so there is nobody to run it and nothing to undo.
            (S::Queued, E::Cancel, S::Cancelled),
        ]
    };
    const REVIVALS: &'static [(Self, TaskEvent, Self)] = &[
        (Self::Failed, TaskEvent::Revive, Self::Queued),
        (Self::Cancelled, TaskEvent::Revive, Self::Queued),
    ];
}

/// Which tasks go first; the smaller number wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Priority {
    /// A person is watching.
    Interactive = 0,
    Normal = 1,
    /// Nobody is watching.
    Background = 2,
}

impl Priority {
    pub const ALL: [Self; 3] = [Self::Interactive, Self::Normal, Self::Background];

    /// The number the database keeps.
    pub const fn rank(self) -> i16 {
        self as i16
    }

    /// The priority of a kept number; an unknown one runs last.
    pub const fn from_rank(rank: i16) -> Self {
        match rank {
            0 => Self::Interactive,
            1 => Self::Normal,
            _ => Self::Background,
        }
    }
}

/// Upper bound of the pause before the attempt after `failures` failures: 0.5 s doubling up to 60 s.
///
/// The pause itself is drawn evenly from nothing to this bound ("full jitter": M. Brooker, *Exponential Backoff And
/// Jitter*, AWS Architecture Blog, 2015), so that tasks that failed together do not return together.
pub fn backoff_ceiling(failures: u32) -> Duration {
    const BASE: Duration = Duration::from_millis(500);
    const CAP: Duration = Duration::from_secs(60);
    let doublings = failures.saturating_sub(1).min(16);
    BASE.saturating_mul(1 << doublings).min(CAP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_task_is_sound() {
        crate::domain::machine::laws::hold_for(TaskState::Queued);
    }

    #[test]
    fn back_off_doubles_up_to_a_minute() {
        let ceilings: Vec<u128> = [1, 2, 3, 8, 9, u32::MAX]
            .map(|n| backoff_ceiling(n).as_millis())
            .to_vec();
        assert_eq!(ceilings, [500, 1_000, 2_000, 60_000, 60_000, 60_000]);
    }
}
