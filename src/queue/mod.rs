//! The task engine. The database says what is to be done; a [`TaskQueue`] only says "look now".
//!
//! [`Dispatcher`] announces what a commit left behind, [`Worker`] claims and runs, [`Sweeper`] finds what was lost.
//! What a task does is not here: kinds live in `tasks/` and come in by the [`Registry`]. Everything outside comes in
//! by a seam (the truth, the queue, the bus, the clock, chance), so that a simulation can drive the engine.

mod attempt;
pub mod dispatch;
mod elsewhere;
mod fair;
mod kind;
mod memory;
mod redis;
mod run;
mod sweep;
mod told;
mod truth;
mod upkeep;
mod upkeep_blobs;
mod worker;

use std::time::Duration;

use async_trait::async_trait;
pub use dispatch::Dispatcher;
pub use fair::FairQueue;
pub use kind::{GiveUp, Registry, TaskError, TaskKind};
pub use memory::MemoryQueue;
pub use redis::RedisQueue;
pub use run::{Run, Stop, StopReason};
pub use sweep::Sweeper;
pub use truth::TaskStore;
pub use upkeep::{Retention, Upkeep};
pub use worker::{Outlook, Worker, WorkerSettings};

use crate::{
    domain::{Id, id},
    error::TransportError,
    store::tasks::Hint,
};

/// The hint: which tasks may be worth a look. It may lose, repeat and reorder; the store sorts it out.
#[async_trait]
pub trait TaskQueue: Send + Sync {
    /// What carries it, by the name traces have for it.
    fn system(&self) -> &'static str {
        "memory"
    }

    /// Tells the workers of tasks that can run. What waits already is not told twice.
    async fn announce(&self, hints: &[Hint]) -> Result<(), TransportError>;

    /// Tells a worker that has nothing to do of tasks whose commit is on its way, so that both ways are gone at once.
    /// They are announced all the same once they are committed, but without haste if the answer is that it has them.
    async fn foretell(&self, _: &[Id<id::Task>]) -> Result<bool, TransportError> {
        Ok(false)
    }

    /// How many hints wait to be taken.
    async fn backlog(&self) -> Result<usize, TransportError>;

    /// Up to `max` tasks: the most urgent first, and among those every share in its turn; waits at most `wait` for
    /// the first.
    async fn next(&self, max: usize, wait: Duration) -> Result<Taken, TransportError>;
}

/// Tasks that are worth a look.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    pub tasks: Vec<Id<id::Task>>,
    /// Whether their commit may still be on its way.
    pub are_foretold: bool,
}

impl From<Vec<Id<id::Task>>> for Taken {
    fn from(tasks: Vec<Id<id::Task>>) -> Self {
        Self {
            tasks,
            are_foretold: false,
        }
    }
}
