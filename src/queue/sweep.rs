//! Finds what was lost: silent workers' tasks, lost hints, parked tasks whose time has come, unsent messages; and
//! makes what schedules ask for.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Upkeep,
    dispatch::{DispatchError, Dispatcher},
};
use crate::{domain::Clock, store::tasks::Cursor};

/// The longest pause between two sweeps.
const TICK: Duration = Duration::from_secs(1);
/// The shortest, when there is more to do than one sweep does.
const SHORTEST: Duration = Duration::from_millis(50);
/// How long the leader may be silent before another takes over.
const LEAD: Duration = Duration::from_secs(3);
/// How long a message may take from its commit to its sending.
const RELAY: Duration = Duration::from_secs(2);
/// Rows one statement changes.
const BATCH: u64 = 1000;
/// Hints that may wait in the queue before the sweeper leaves it alone.
const BACKLOG: u64 = 2000;
const JOB: &str = "sweep";

/// One process' part in sweeping: it sweeps while it leads.
pub struct Sweeper {
    dispatcher: Dispatcher,
    clock: Arc<dyn Clock>,
    me: Uuid,
    upkeep: Option<Upkeep>,
    cursor: Cursor,
}

impl Sweeper {
    pub fn new(
        dispatcher: Dispatcher,
        clock: Arc<dyn Clock>,
        me: Uuid,
        upkeep: Option<Upkeep>,
    ) -> Self {
        Self {
            dispatcher,
            clock,
            me,
            upkeep,
            cursor: Cursor::default(),
        }
    }

    /// Sweeps while it leads, until `stop`; then gives the lead back.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut is_hindered = false;
        while !stop.is_cancelled() {
            let pause = match self.turn().await {
                Ok(pause) => {
                    is_hindered = false;
                    pause
                }
                Err(error) => {
                    // Told once an outage, not once a second.
                    if !std::mem::replace(&mut is_hindered, true) {
                        tracing::warn!(%error, "sweeps cannot be finished for now");
                    }
                    TICK
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.clock.sleep(pause) => {}
            }
        }
        if let Err(error) = self.dispatcher.truth.resign(JOB, self.me).await {
            tracing::debug!(%error, "the lead ends by its lease");
        }
    }

    async fn turn(&mut self) -> Result<Duration, DispatchError> {
        let truth = Arc::clone(&self.dispatcher.truth);
        if truth.lead(JOB, self.me, LEAD).await?.is_none() {
            return Ok(TICK);
        }
        let found = self.once().await?;
        if let Some(upkeep) = &mut self.upkeep {
            upkeep.turn().await?;
        }
        Ok(match found {
            Found::More => SHORTEST,
            Found::Busy => TICK,
            Found::All => {
                let next = truth.next_due().await?;
                let until = next.map_or(TICK, |at| {
                    (at - self.clock.now()).to_std().unwrap_or_default()
                });
                until.clamp(SHORTEST, TICK)
            }
        })
    }

    /// One sweep. Two at once do no harm: every step is a compare-and-set.
    pub async fn once(&mut self) -> Result<Found, DispatchError> {
        let Dispatcher {
            truth,
            queue,
            meters,
            ..
        } = &self.dispatcher;
        let expired = truth.take_expired(BATCH).await?;
        if expired > 0 {
            meters.leases_expired.inc_by(expired as u64);
            tracing::warn!(expired, "took tasks from silent workers");
        }
        let woken = truth.wake_due(BATCH).await?;
        let fired = truth.fire_schedules(BATCH).await?;
        meters.scheduled.inc_by(fired as u64);
        // What has been committed is told even when the queue is away.
        let left = truth.left_over(self.clock.now() - RELAY, BATCH).await?;
        let unsent = left.len();
        if !left.is_empty() {
            tracing::debug!(unsent, "sent from the outbox");
            self.dispatcher.send(left).await?;
        }
        // While plenty of hints wait, an unclaimed task is not a lost one: the workers are busy.
        let room = BACKLOG.saturating_sub(queue.backlog().await? as u64);
        let unheard = truth.reannounce(&mut self.cursor, room).await?;
        if !unheard.is_empty() {
            tracing::debug!(count = unheard.len(), "announced again");
            meters.reannounced.inc_by(unheard.len() as u64);
            queue.announce(&unheard).await?;
        }
        let full = [expired, woken, unsent]
            .into_iter()
            .any(|count| count as u64 >= BATCH);
        Ok(if full || (room > 0 && unheard.len() as u64 >= room) {
            Found::More
        } else if room == 0 {
            Found::Busy
        } else {
            Found::All
        })
    }
}

/// What a sweep has seen of what there is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    All,
    /// There is more than one sweep does.
    More,
    /// The workers have enough to do.
    Busy,
}
