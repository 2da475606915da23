//! A worker: takes hints, claims, runs with bounded concurrency, renews its leases, and drains when it stops.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{GiveUp, Registry, Run, Stop, StopReason, TaskError, TaskQueue, kind::AnyKind};
use crate::{
    domain::{ChangeKind, Id, Table, id::Task, task::backoff_ceiling},
    error::StoreError,
    live::{EventBus, Heard},
    store::{
        Store,
        task_logs::Level,
        tasks::{self, Lease, Model, Outcome},
    },
};

/// Longest wait for one hint.
const HINT: Duration = Duration::from_secs(1);
/// How often a worker looks into the database while the queue is away.
const LOOK: Duration = Duration::from_secs(1);
/// How long a run that was asked to stop may take to reach a safe place.
const GRACE: Duration = Duration::from_secs(10);
/// Attempts at cleaning up that follow the last attempt at the work itself.
const CLEANUPS: i32 = 5;

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
                Ok(ids) => ids,
                Err(error) => {
                    tracing::warn!(%error, "the queue is away; looking into the database");
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

    /// Runs the task or gives it up; `None` when the lease is lost and there is nothing to say.
    async fn outcome(&self, run: &Run) -> Option<Outcome> {
        let task = &run.task;
        let Some(kind) = self.registry.get(&task.kind) else {
            // Another version's task: it waits for a worker that knows it, until its deadline.
            let until = run.now() + Duration::from_secs(5);
            return Some(if task.deadline_at <= until {
                Outcome::Failed {
                    code: "UNKNOWN_KIND",
                    message: format!("no worker knows the kind {}", task.kind),
                }
            } else {
                Outcome::Park {
                    until,
                    wake_on: None,
                }
            });
        };
        if let Some(why) = must_give_up(task, run.now()) {
            return self.give_up(run, &*kind, why).await;
        }
        let error = match bounded(run, kind.timeout(), kind.run(run)).await {
            Ok(Ok(result)) => return Some(Outcome::Succeeded(result)),
            Ok(Err(error)) => error,
            Err(Panicked) => TaskError::Retryable {
                code: "INTERNAL",
                message: "the task's code panicked; the worker's log has it".to_owned(),
            },
        };
        let (code, message, is_permanent) = match (error, run.stop.reason()) {
            (TaskError::Store(StoreError::LeaseLost), _) | (_, Some(StopReason::LeaseLost)) => {
                return None;
            }
            (TaskError::Wait { until, wake_on }, None) => {
                return Some(Outcome::Park {
                    until: until.min(task.deadline_at),
                    wake_on,
                });
            }
            (_, Some(StopReason::Cancelled)) => {
                return self.give_up(run, &*kind, GiveUp::Cancelled).await;
            }
            (_, Some(StopReason::Draining)) => return Some(Outcome::HandBack),
            (_, Some(StopReason::TimedOut)) => {
                ("TIMED_OUT", "the attempt took too long".to_owned(), false)
            }
            (TaskError::Retryable { code, message }, None) => (code, message, false),
            (TaskError::Permanent { code, message }, None) => (code, message, true),
            (TaskError::Store(error), None) => {
                tracing::warn!(%error, task = %task.id(), "a task met the store's error");
                (
                    "STORE",
                    "the database did not take a write".to_owned(),
                    false,
                )
            }
            (TaskError::Stopped, None) => {
                ("STOPPED", "stopped without being asked".to_owned(), false)
            }
        };
        let is_last = is_permanent || task.failures + 1 >= task.max_attempts;
        let level = if is_last { Level::Error } else { Level::Warn };
        let _ = run.log(level, &format!("{code}: {message}")).await;
        if is_last {
            return self
                .give_up(run, &*kind, GiveUp::Failed { code, message })
                .await;
        }
        Some(self.retry(task, code, message))
    }

    fn retry(&self, task: &Model, code: &'static str, message: String) -> Outcome {
        let failures = u32::try_from(task.failures + 1).unwrap_or(1);
        let at = self.store.now() + self.store.entropy.jitter(backoff_ceiling(failures));
        Outcome::Retry { at, code, message }
    }

    async fn give_up(&self, run: &Run, kind: &dyn AnyKind, why: GiveUp) -> Option<Outcome> {
        // The cleaning up has its own time; a cancellation that led here does not stop it as well.
        let cleanup = Run {
            task: run.task.clone(),
            store: run.store.clone(),
            stop: Stop::default(),
        };
        let cleaned = bounded(&cleanup, kind.timeout(), kind.give_up(&cleanup, &why)).await;
        let problem = match cleaned {
            Ok(Ok(())) => None,
            Ok(Err(TaskError::Store(StoreError::LeaseLost))) => return None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(Panicked) => Some("the cleaning up panicked".to_owned()),
        };
        if let Some(problem) = problem {
            let _ = run
                .log(Level::Error, &format!("cleaning up: {problem}"))
                .await;
            if run.task.failures < run.task.max_attempts + CLEANUPS {
                return Some(self.retry(&run.task, "CLEANUP", problem));
            }
        }
        Some(match why {
            GiveUp::Cancelled => Outcome::Cancelled,
            GiveUp::Failed { code, message } => Outcome::Failed { code, message },
        })
    }
}

/// Whether a task that was just claimed is past running.
fn must_give_up(task: &Model, now: DateTime<Utc>) -> Option<GiveUp> {
    if task.cancel_requested_at.is_some() {
        return Some(GiveUp::Cancelled);
    }
    if task.deadline_at <= now {
        return Some(GiveUp::Failed {
            code: "DEADLINE_EXCEEDED",
            message: "it did not finish before its deadline".to_owned(),
        });
    }
    if task.failures >= task.max_attempts {
        let last = task
            .error_message
            .as_deref()
            .unwrap_or("no error was recorded");
        let message = format!(
            "{} attempts failed, the last one with: {last}",
            task.failures
        );
        return Some(GiveUp::Failed {
            code: "ATTEMPTS_EXHAUSTED",
            message,
        });
    }
    None
}

struct Panicked;

/// Awaits `work` within `limit`; after a request to stop it has [`GRACE`] to reach a safe place, then it is dropped.
async fn bounded<T>(
    run: &Run,
    limit: Duration,
    work: impl Future<Output = Result<T, TaskError>>,
) -> Result<Result<T, TaskError>, Panicked> {
    let clock = &run.store.clock;
    let mut work = std::pin::pin!(AssertUnwindSafe(work).catch_unwind());
    tokio::select! {
        done = &mut work => return done.map_err(|_| Panicked),
        () = clock.sleep(limit) => run.stop.request(StopReason::TimedOut),
        () = run.stop.token().cancelled() => {}
    }
    tokio::select! {
        done = work => done.map_err(|_| Panicked),
        () = clock.sleep(GRACE) => Ok(Err(TaskError::Stopped)),
    }
}

fn to_delta(duration: Duration) -> chrono::TimeDelta {
    chrono::TimeDelta::from_std(duration).unwrap_or(chrono::TimeDelta::MAX)
}
