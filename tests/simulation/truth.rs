//! The task store as a node sees it: the model, at the other end of a wire.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use main_webserver::{
    domain::{Id, id::Task},
    error::StoreError,
    queue::TaskStore,
    store::{
        Posted,
        limits::Rate,
        tasks::{
            Child, Claimed, Claimer, Cursor, Hint, Lease, NewTask, Outcome, Renewed, Report, Step,
        },
        workers::Beat,
    },
};
use sea_orm::JsonValue;
use uuid::Uuid;

use super::{node::Node, oracle::Effect};

pub struct SimStore(pub Arc<Node>);

#[async_trait]
impl TaskStore for SimStore {
    async fn claim(&self, tasks: &[Id<Task>], by: &Claimer) -> Result<Vec<Claimed>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let node = &self.0;
        let claimed = node
            .call("claim", |state, tx| {
                let claimed = state.db.claim(tx, tasks, by);
                let leases = claimed.iter().map(Claimed::lease).collect();
                Ok((claimed, Effect::Claimed(leases)))
            })
            .await?;
        if !claimed.is_empty() {
            let mut state = node.world.state();
            let rate = state.weather.claim_then_crash;
            if state.strikes(rate) {
                super::chaos::crash_database(&mut state, node.world.elapsed());
            }
        }
        Ok(claimed)
    }

    // Here a commit is one step, so whatever is foretold is there or never will be.
    async fn claim_foretold(
        &self,
        tasks: &[Id<Task>],
        by: &Claimer,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.claim(tasks, by).await
    }

    async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<Renewed>, StoreError> {
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        self.0
            .call("renew", |state, tx| {
                let renewed = state.db.renew(tx, leases, lease);
                let held = renewed.iter().map(|renewed| renewed.lease).collect();
                Ok((renewed, Effect::Wrote(held)))
            })
            .await
    }

    async fn report(&self, reports: &[Report]) -> Result<Vec<Lease>, StoreError> {
        self.0
            .call("report", |state, tx| {
                let accepted = state.db.report(tx, reports);
                Ok((accepted.clone(), Effect::Wrote(accepted)))
            })
            .await
    }

    async fn settle(&self, outcomes: &[(Lease, Outcome)]) -> Result<Vec<Lease>, StoreError> {
        self.0
            .call("settle", |state, tx| {
                let accepted = state.db.settle(tx, outcomes);
                let settled = outcomes
                    .iter()
                    .filter(|(lease, _)| accepted.contains(lease))
                    .map(|(lease, outcome)| (*lease, outcome.word()))
                    .collect();
                Ok((accepted, Effect::Settled(settled)))
            })
            .await
    }

    async fn arm(&self, lease: Lease, topic: &str) -> Result<(), StoreError> {
        self.0
            .call("arm", |state, tx| {
                state.db.arm(tx, lease, topic)?;
                Ok(((), Effect::Wrote(vec![lease])))
            })
            .await
    }

    async fn steps(&self, task: Id<Task>) -> Result<Vec<Step>, StoreError> {
        self.0
            .call("steps", |state, _| {
                Ok((state.db.steps_of(task), Effect::Read))
            })
            .await
    }

    async fn record_step(
        &self,
        lease: Lease,
        name: &str,
        output: JsonValue,
    ) -> Result<(), StoreError> {
        self.0
            .call("record_step", |state, tx| {
                state.db.record_step(tx, lease, name, output)?;
                Ok(((), Effect::Wrote(vec![lease])))
            })
            .await
    }

    async fn mark_compensated(&self, lease: Lease, name: &str) -> Result<(), StoreError> {
        self.0
            .call("mark_compensated", |state, tx| {
                state.db.mark_compensated(tx, lease, name)?;
                Ok(((), Effect::Wrote(vec![lease])))
            })
            .await
    }

    async fn spawn(
        &self,
        lease: Lease,
        children: Vec<NewTask>,
    ) -> Result<Vec<Id<Task>>, StoreError> {
        self.0
            .call("spawn", |state, tx| {
                let ids = state.db.spawn(tx, lease, children)?;
                Ok((ids, Effect::Wrote(vec![lease])))
            })
            .await
    }

    async fn children(&self, parent: Id<Task>) -> Result<Vec<Child>, StoreError> {
        self.0
            .call("children", |state, _| {
                Ok((state.db.children(parent), Effect::Read))
            })
            .await
    }

    async fn reserve(&self, limit: &str, rate: Rate) -> Result<DateTime<Utc>, StoreError> {
        self.0
            .call("reserve", |state, tx| {
                let at = state.db.reserve(tx.now, limit, rate);
                state.oracle.reserved(at, rate);
                Ok((at, Effect::Read))
            })
            .await
    }

    async fn due(
        &self,
        by: &Claimer,
        _cursor: &mut Cursor,
        limit: u64,
    ) -> Result<Vec<Id<Task>>, StoreError> {
        self.0
            .call("due", |state, tx| {
                Ok((state.db.due(tx.now, by, limit), Effect::Read))
            })
            .await
    }

    async fn beat(&self, beat: &Beat) -> Result<(), StoreError> {
        self.0
            .call("beat", |state, tx| {
                state.db.beat(tx.now, beat.id);
                Ok(((), Effect::Read))
            })
            .await
    }

    async fn leave(&self, worker: Uuid) -> Result<(), StoreError> {
        self.0
            .call("leave", |state, _| {
                state.db.leave(worker);
                Ok(((), Effect::Read))
            })
            .await
    }

    async fn wake(&self, topic: &str) -> Result<usize, StoreError> {
        self.0
            .call("wake", |state, tx| {
                Ok((state.db.wake(tx, topic), Effect::Moved))
            })
            .await
    }

    async fn wake_due(&self, limit: u64) -> Result<usize, StoreError> {
        self.0
            .call("wake_due", |state, tx| {
                Ok((state.db.wake_due(tx, limit), Effect::Moved))
            })
            .await
    }

    async fn take_expired(&self, limit: u64) -> Result<usize, StoreError> {
        self.0
            .call("take_expired", |state, tx| {
                let taken = state.db.take_expired(tx, limit);
                Ok((taken, Effect::Expired(taken)))
            })
            .await
    }

    async fn reannounce(&self, _cursor: &mut Cursor, limit: u64) -> Result<Vec<Hint>, StoreError> {
        self.0
            .call("reannounce", |state, tx| {
                Ok((state.db.reannounce(tx, limit), Effect::Moved))
            })
            .await
    }

    async fn fire_schedules(&self, _limit: u64) -> Result<usize, StoreError> {
        let told: Vec<Posted> = self
            .0
            .call("fire_schedules", |state, tx| {
                Ok((state.db.fire_schedules(tx), Effect::Moved))
            })
            .await?;
        let count = told.len();
        for posted in told {
            self.0.tell(posted);
        }
        Ok(count)
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        self.0
            .call("next_due", |state, _| {
                Ok((state.db.next_due(), Effect::Read))
            })
            .await
    }

    async fn lead(
        &self,
        job: &str,
        holder: Uuid,
        lease: Duration,
    ) -> Result<Option<i64>, StoreError> {
        let world = &self.0.world;
        self.0
            .call("lead", |state, tx| {
                let mut term = state.db.lead(tx.now, job, holder, lease);
                if term.is_none() && state.split_until > world.elapsed() {
                    state.count("fault two leaders");
                    term = Some(0);
                }
                Ok((term, Effect::Read))
            })
            .await
    }

    async fn resign(&self, job: &str, holder: Uuid) -> Result<(), StoreError> {
        self.0
            .call("resign", |state, _| {
                state.db.resign(job, holder);
                Ok(((), Effect::Read))
            })
            .await
    }

    async fn left_over(
        &self,
        before: DateTime<Utc>,
        limit: u64,
    ) -> Result<Vec<Posted>, StoreError> {
        self.0
            .call("left_over", |state, _| {
                Ok((state.db.left_over(before, limit), Effect::Read))
            })
            .await
    }

    async fn forget(&self, messages: Vec<Uuid>) -> Result<(), StoreError> {
        self.0
            .call("forget", |state, _| {
                state.db.forget(&messages);
                Ok(((), Effect::Read))
            })
            .await
    }
}
