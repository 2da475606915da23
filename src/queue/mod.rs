//! The task engine. The database says what is to be done; a [`TaskQueue`] only says "look now".
//!
//! [`Dispatcher`] announces what a commit left behind, [`Worker`] claims and runs, [`sweep`] finds what was lost.
//! What a task does is not here: kinds live in `tasks/` and come in by the [`Registry`].

mod attempt;
pub mod dispatch;
mod kind;
mod memory;
mod redis;
mod run;
pub mod sweep;
mod worker;

use std::time::Duration;

use async_trait::async_trait;
pub use dispatch::Dispatcher;
pub use kind::{GiveUp, Registry, TaskError, TaskKind};
pub use memory::MemoryQueue;
pub use redis::RedisQueue;
pub use run::{Run, Stop, StopReason};
pub use worker::{Worker, WorkerSettings};

use crate::{
    domain::{Id, id, task::Priority},
    error::TransportError,
};

/// The hint: which tasks may be worth a look. It may lose, repeat and reorder; the store sorts it out.
#[async_trait]
pub trait TaskQueue: Send + Sync {
    /// Tells the workers of tasks that can run.
    async fn announce(&self, tasks: &[(Id<id::Task>, Priority)]) -> Result<(), TransportError>;

    /// How many hints wait to be taken.
    async fn backlog(&self) -> Result<usize, TransportError>;

    /// Up to `max` ids, the most urgent first; waits at most `wait` for the first.
    async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Id<id::Task>>, TransportError>;
}
