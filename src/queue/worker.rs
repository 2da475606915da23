//! A worker: takes hints, claims, runs with bounded concurrency, renews its leases, and drains when it stops.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{Registry, Run, Stop, StopReason, TaskQueue};
use crate::{
    domain::{ChangeKind, Id, Table, id::Task},
    error::StoreError,
    live::{EventBus, Heard},
    store::{
        Store,
        tasks::{self, Lease, Model, Outcome},
    },
};

/// Longest wait for one hint.
const HINT: Duration = Duration::from_secs(1);
/// How often a worker looks into the database while the queue is away.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    pub concurrency: usize,
    pub lease: Duration,
    pub drain: Duration,
}

/// Runs tasks in this process.
pub struct Worker {
    pub id: Uuid,
    pub store: Store,
    pub queue: Arc<dyn TaskQueue>,
    pub bus: Arc<dyn EventBus>,
    pub registry: Registry,
    pub settings: WorkerSettings,
    /// Keyed by task and attempt: an overtaken run may still be ending here while the next one begins.
    running: Mutex<HashMap<Lease, Stop>>,
    runs: TaskTracker,
    is_queue_away: AtomicBool,
}

impl Worker {
    pub fn new(
        store: Store,
        queue: Arc<dyn TaskQueue>,
        bus: Arc<dyn EventBus>,
        registry: Registry,
        settings: WorkerSettings,
    ) -> Self {
        let id = store.entropy.uuid(store.now());
        let (running, runs) = (Mutex::default(), TaskTracker::new());
        Self {
            id,
            store,
            queue,
            bus,
            registry,
            settings,
            running,
            runs,
            is_queue_away: AtomicBool::new(false),
        }
    }

    /// Works until `stop`, then lets its tasks finish or gives them back.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let beating = CancellationToken::new();
        let heart = tokio::spawn(Arc::clone(&self).renew_leases(beating.clone()));
        let ear = tokio::spawn(Arc::clone(&self).hear_cancellations(beating.clone()));
        Arc::clone(&self).take_tasks(stop).await;
        self.runs.close();
        let in_time = tokio::select! {
            () = self.runs.wait() => true,
            () = self.store.clock.sleep(self.settings.drain) => false,
        };
        if !in_time {
            self.stop_all(StopReason::Draining);
            self.runs.wait().await;
        }
        beating.cancel();
        let _ = tokio::join!(heart, ear);
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<Lease, Stop>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_all(&self, reason: StopReason) {
        for stop in self.running().values() {
            stop.request(reason);
        }
    }

    async fn take_tasks(self: Arc<Self>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.settings.concurrency));
        while !stop.is_cancelled() {
            match self.take_some(&slots, &stop).await {
                Ok(claimed) => {
                    for (task, slot) in claimed {
                        self.runs.spawn(Arc::clone(&self).perform(task, slot));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no task could be claimed");
                    self.store.clock.sleep(LOOK).await;
                }
            }
        }
    }

    /// Waits for a free slot and a hint, then claims; nothing once `stop` asks.
    async fn take_some(
        &self,
        slots: &Arc<Semaphore>,
        stop: &CancellationToken,
    ) -> Result<Vec<(Model, OwnedSemaphorePermit)>, StoreError> {
        let hints = async {
            // The semaphore is never closed.
            let mut free: Vec<_> = Arc::clone(slots)
                .acquire_owned()
                .await
                .into_iter()
                .collect();
            while let Ok(slot) = Arc::clone(slots).try_acquire_owned() {
                free.push(slot);
            }
            let ids = match self.queue.next(free.len(), HINT).await {
                Ok(ids) => {
                    if self.is_queue_away.swap(false, Ordering::Relaxed) {
                        tracing::info!("the queue is back");
                    }
                    ids
                }
                Err(error) => {
                    // Told once an outage, not once a second.
                    if !self.is_queue_away.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the queue is away; looking into the database until it is back");
                    }
                    self.store.clock.sleep(LOOK).await;
                    tasks::due(&self.store, free.len() as u64).await?
                }
            };
            Ok::<_, StoreError>((ids, free))
        };
        // A dropped wait loses at most hints. The claim is never dropped: it would look like a lost worker.
        let (ids, free) = tokio::select! {
            hints = hints => hints?,
            () = stop.cancelled() => return Ok(Vec::new()),
        };
        let claimed = tasks::claim(&self.store, &ids, self.id, self.settings.lease).await?;
        Ok(claimed.into_iter().zip(free).collect())
    }

    /// Renews every lease in one statement, three times a lease; whoever has lost one is told to stop.
    async fn renew_leases(self: Arc<Self>, stop: CancellationToken) {
        let mut renewed_at = self.store.now();
        loop {
            tokio::select! {
                () = self.store.clock.sleep(self.settings.lease / 3) => {}
                () = stop.cancelled() => return,
            }
            let runs: Vec<Lease> = self.running().keys().copied().collect();
            let ids: Vec<Id<Task>> = runs.iter().map(|run| run.task).collect();
            let asked_at = self.store.now();
            match tasks::renew(&self.store, self.id, &ids, self.settings.lease).await {
                Ok(held) => {
                    renewed_at = asked_at;
                    for run in runs {
                        let Some(stop) = self.running().get(&run).cloned() else {
                            continue;
                        };
                        match held.iter().find(|renewed| renewed.lease == run) {
                            None => stop.request(StopReason::LeaseLost),
                            Some(renewed) if renewed.is_cancel_requested => {
                                stop.request(StopReason::Cancelled);
                            }
                            Some(_) => {}
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the leases could not be renewed");
                    if self.store.now() - renewed_at >= to_delta(self.settings.lease) {
                        self.stop_all(StopReason::LeaseLost);
                    }
                }
            }
        }
    }

    /// Brings a cancellation to a running step at once; the next renewal would find it too.
    async fn hear_cancellations(self: Arc<Self>, stop: CancellationToken) {
        let mut listener = self.bus.listen();
        loop {
            let heard = tokio::select! {
                heard = listener.next() => heard,
                () = stop.cancelled() => return,
            };
            match heard {
                None => return,
                Some(Heard::Change(change))
                    if change.table == Table::Task
                        && change.kind == ChangeKind::CancelRequested =>
                {
                    for (run, stop) in self.running().iter() {
                        if run.task.uuid() == change.id {
                            stop.request(StopReason::Cancelled);
                        }
                    }
                }
                Some(Heard::Change(_) | Heard::Gap) => {}
            }
        }
    }

    async fn perform(self: Arc<Self>, task: Model, slot: OwnedSemaphorePermit) {
        let (lease, kind) = (task.lease(), task.kind.clone());
        let stop = Stop::default();
        self.running().insert(lease, stop.clone());
        let run = Run {
            task,
            store: self.store.clone(),
            stop,
        };
        let outcome = self.outcome(&run).await;
        tracing::debug!(task = %lease.task, kind, attempt = lease.attempt, ?outcome, "a run has ended");
        if let Some(outcome) = outcome {
            self.settle(&run, outcome).await;
        }
        self.running().remove(&lease);
        drop(slot);
    }

    /// Writes the outcome; while the database is away it keeps trying, as long as the lease may hold.
    async fn settle(&self, run: &Run, outcome: Outcome) {
        loop {
            match tasks::settle(&self.store, run.lease(), outcome.clone()).await {
                Ok(_) => return,
                Err(error)
                    if error.is_outage() && run.stop.reason() != Some(StopReason::LeaseLost) =>
                {
                    tracing::warn!(%error, task = %run.task.id(), "an outcome could not be written yet");
                    self.store.clock.sleep(LOOK).await;
                }
                Err(error) => {
                    tracing::warn!(%error, task = %run.task.id(), attempt = run.task.attempt, "an outcome was refused");
                    return;
                }
            }
        }
    }
}

fn to_delta(duration: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX)
}
