//! The truth the engine works on: everything it reads and writes of tasks, as a seam.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::JsonValue;
use uuid::Uuid;

use crate::{
    domain::{Id, id::Task},
    error::StoreError,
    store::{
        Posted, Store, leader,
        limits::{self, Rate},
        outbox, schedules,
        tasks::{
            self, Child, Claimed, Claimer, Cursor, Hint, Lease, NewTask, Outcome, Renewed, Report,
            Step,
        },
        workers::{self, Beat},
    },
};

/// Where tasks are kept. What each method promises stands with the functions of [`crate::store::tasks`] that
/// [`Store`] carries it out by; the simulation's model keeps the same promises, and a test compares them.
#[async_trait]
pub trait TaskStore: Send + Sync {
    // What a worker does with tasks in its hands.
    async fn claim(&self, tasks: &[Id<Task>], by: &Claimer) -> Result<Vec<Claimed>, StoreError>;
    async fn claim_foretold(
        &self,
        tasks: &[Id<Task>],
        by: &Claimer,
    ) -> Result<Vec<Claimed>, StoreError>;
    async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<Renewed>, StoreError>;
    async fn report(&self, reports: &[Report]) -> Result<Vec<Lease>, StoreError>;
    async fn settle(&self, outcomes: &[(Lease, Outcome)]) -> Result<Vec<Lease>, StoreError>;
    async fn arm(&self, lease: Lease, topic: &str) -> Result<(), StoreError>;
    async fn steps(&self, task: Id<Task>) -> Result<Vec<Step>, StoreError>;
    async fn record_step(
        &self,
        lease: Lease,
        name: &str,
        output: JsonValue,
    ) -> Result<(), StoreError>;
    async fn mark_compensated(&self, lease: Lease, name: &str) -> Result<(), StoreError>;
    async fn spawn(
        &self,
        lease: Lease,
        children: Vec<NewTask>,
    ) -> Result<Vec<Id<Task>>, StoreError>;
    async fn children(&self, parent: Id<Task>) -> Result<Vec<Child>, StoreError>;
    async fn reserve(&self, limit: &str, rate: Rate) -> Result<DateTime<Utc>, StoreError>;
    async fn due(
        &self,
        by: &Claimer,
        cursor: &mut Cursor,
        limit: u64,
    ) -> Result<Vec<Id<Task>>, StoreError>;
    async fn beat(&self, beat: &Beat) -> Result<(), StoreError>;
    async fn leave(&self, worker: Uuid) -> Result<(), StoreError>;

    // What the sweeper does with those in nobody's.
    async fn wake(&self, topic: &str) -> Result<usize, StoreError>;
    async fn wake_due(&self, limit: u64) -> Result<usize, StoreError>;
    async fn take_expired(&self, limit: u64) -> Result<usize, StoreError>;
    async fn reannounce(&self, cursor: &mut Cursor, limit: u64) -> Result<Vec<Hint>, StoreError>;
    async fn fire_schedules(&self, limit: u64) -> Result<usize, StoreError>;
    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError>;
    async fn lead(
        &self,
        job: &str,
        holder: Uuid,
        lease: Duration,
    ) -> Result<Option<i64>, StoreError>;
    async fn resign(&self, job: &str, holder: Uuid) -> Result<(), StoreError>;

    // What the dispatcher does with messages.
    async fn left_over(&self, before: DateTime<Utc>, limit: u64)
    -> Result<Vec<Posted>, StoreError>;
    async fn forget(&self, messages: Vec<Uuid>) -> Result<(), StoreError>;
}

#[async_trait]
impl TaskStore for Store {
    async fn claim(&self, tasks: &[Id<Task>], by: &Claimer) -> Result<Vec<Claimed>, StoreError> {
        tasks::claim(self, tasks, by).await
    }
    async fn claim_foretold(
        &self,
        tasks: &[Id<Task>],
        by: &Claimer,
    ) -> Result<Vec<Claimed>, StoreError> {
        tasks::claim_foretold(self, tasks, by).await
    }
    async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<Renewed>, StoreError> {
        tasks::renew(self, leases, lease).await
    }
    async fn report(&self, reports: &[Report]) -> Result<Vec<Lease>, StoreError> {
        tasks::report(self, reports).await
    }
    async fn settle(&self, outcomes: &[(Lease, Outcome)]) -> Result<Vec<Lease>, StoreError> {
        tasks::settle(self, outcomes).await
    }
    async fn arm(&self, lease: Lease, topic: &str) -> Result<(), StoreError> {
        tasks::arm(self, lease, topic).await
    }
    async fn steps(&self, task: Id<Task>) -> Result<Vec<Step>, StoreError> {
        tasks::steps(self, task).await
    }
    async fn record_step(
        &self,
        lease: Lease,
        name: &str,
        output: JsonValue,
    ) -> Result<(), StoreError> {
        tasks::record_step(self, lease, name, output).await
    }
    async fn mark_compensated(&self, lease: Lease, name: &str) -> Result<(), StoreError> {
        tasks::mark_compensated(self, lease, name).await
    }
    async fn spawn(
        &self,
        lease: Lease,
        children: Vec<NewTask>,
    ) -> Result<Vec<Id<Task>>, StoreError> {
        tasks::spawn(self, lease, children).await
    }
    async fn children(&self, parent: Id<Task>) -> Result<Vec<Child>, StoreError> {
        tasks::children(self, parent).await
    }
    async fn reserve(&self, limit: &str, rate: Rate) -> Result<DateTime<Utc>, StoreError> {
        limits::reserve(self, limit, rate).await
    }
    async fn due(
        &self,
        by: &Claimer,
        cursor: &mut Cursor,
        limit: u64,
    ) -> Result<Vec<Id<Task>>, StoreError> {
        tasks::due(self, by, cursor, limit).await
    }
    async fn beat(&self, beat: &Beat) -> Result<(), StoreError> {
        workers::beat(self, beat).await
    }
    async fn leave(&self, worker: Uuid) -> Result<(), StoreError> {
        workers::leave(self, worker).await
    }
    async fn wake(&self, topic: &str) -> Result<usize, StoreError> {
        tasks::wake(self, topic).await
    }
    async fn wake_due(&self, limit: u64) -> Result<usize, StoreError> {
        tasks::wake_due(self, limit).await
    }
    async fn take_expired(&self, limit: u64) -> Result<usize, StoreError> {
        tasks::take_expired(self, limit).await
    }
    async fn reannounce(&self, cursor: &mut Cursor, limit: u64) -> Result<Vec<Hint>, StoreError> {
        tasks::reannounce(self, cursor, limit).await
    }
    async fn fire_schedules(&self, limit: u64) -> Result<usize, StoreError> {
        schedules::fire_due(self, limit).await
    }
    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        tasks::next_due(self).await
    }
    async fn lead(
        &self,
        job: &str,
        holder: Uuid,
        lease: Duration,
    ) -> Result<Option<i64>, StoreError> {
        leader::lead(self, job, holder, lease).await
    }
    async fn resign(&self, job: &str, holder: Uuid) -> Result<(), StoreError> {
        leader::resign(self, job, holder).await
    }
    async fn left_over(
        &self,
        before: DateTime<Utc>,
        limit: u64,
    ) -> Result<Vec<Posted>, StoreError> {
        outbox::left_over(self, before, limit).await
    }
    async fn forget(&self, messages: Vec<Uuid>) -> Result<(), StoreError> {
        outbox::forget(self, messages).await
    }
}
