//! Finds what was lost: silent workers' tasks, lost hints, parked tasks whose time has come, unsent messages.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::dispatch::{DispatchError, Dispatcher};
use crate::store::{leader, outbox, tasks};

/// The longest pause between two sweeps.
const TICK: Duration = Duration::from_secs(1);
/// The shortest, when tasks come due one after the other.
const SHORTEST: Duration = Duration::from_millis(50);
/// How long the leader may be silent before another takes over.
const LEAD: Duration = Duration::from_secs(5);
/// How long an announced task may go unclaimed before it is announced again.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a message may take from its commit to its sending.
const RELAY: Duration = Duration::from_secs(2);
/// Rows one statement changes.
const BATCH: u64 = 1000;
const JOB: &str = "sweep";

/// Sweeps while it leads, until `stop`; then gives the lead back.
pub async fn run(dispatcher: Dispatcher, me: Uuid, stop: CancellationToken) {
    let store = dispatcher.store.clone();
    let mut is_hindered = false;
    while !stop.is_cancelled() {
        let pause = match turn(&dispatcher, me).await {
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
            () = store.clock.sleep(pause) => {}
            () = stop.cancelled() => {}
        }
    }
    if let Err(error) = leader::resign(&store, JOB, me).await {
        tracing::debug!(%error, "the lead ends by its lease");
    }
}

async fn turn(dispatcher: &Dispatcher, me: Uuid) -> Result<Duration, DispatchError> {
    let store = &dispatcher.store;
    if leader::lead(store, JOB, me, LEAD).await?.is_none() {
        return Ok(TICK);
    }
    once(dispatcher).await?;
    let next = tasks::next_due(store).await?;
    let until = next.map_or(TICK, |at| (at - store.now()).to_std().unwrap_or_default());
    Ok(until.clamp(SHORTEST, TICK))
}

/// One sweep. Two at once do no harm: every step is a compare-and-set.
pub async fn once(dispatcher: &Dispatcher) -> Result<(), DispatchError> {
    let store = &dispatcher.store;
    let expired = tasks::take_expired(store, BATCH).await?;
    if expired > 0 {
        tracing::warn!(expired, "took tasks from silent workers");
    }
    tasks::wake_due(store, BATCH).await?;
    // While plenty of hints wait, an unclaimed task is not a lost one: the workers are busy.
    let room = BATCH.saturating_sub(dispatcher.queue.backlog().await? as u64);
    let unheard = tasks::reannounce(store, SILENCE, room).await?;
    if !unheard.is_empty() {
        tracing::debug!(count = unheard.len(), "announced again");
        dispatcher.queue.announce(&unheard).await?;
    }
    let left = outbox::left_over(store, store.now() - RELAY, BATCH).await?;
    if !left.is_empty() {
        tracing::debug!(count = left.len(), "sent from the outbox");
        dispatcher.send(left).await?;
    }
    Ok(())
}
