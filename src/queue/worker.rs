//! A worker: takes hints, claims, runs with bounded concurrency, renews its leases, and drains when it stops.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    Registry, Run, Stop, StopReason, Taken, TaskQueue, TaskStore,
    elsewhere::Elsewhere,
    run::{WriteError, Written},
    told::{log_end, of_run, tell_claimed},
};
use crate::{
    domain::{ChangeKind, Clock, Entropy, Id, Table, id::Task},
    error::StoreError,
    live::{EventBus, Heard, Topic},
    store::{
        batch::{Batcher, Limits},
        tasks::{Claimed, Claimer, Cursor, Lease, Outcome, Report},
        workers::Beat,
    },
    telemetry::{
        Meters,
        trace::{self, Kind, Span},
    },
};

/// Longest wait for one hint.
const HINT: Duration = Duration::from_secs(1);
/// How often a worker looks into the database while the queue is away, and tries again what it could not write.
const LOOK: Duration = Duration::from_secs(1);
/// How long a worker lets pass before it looks again for what it was foretold: it may hear of it before its commit has begun.
/// After the last of them it leaves it to the announcement.
const EARLY: [Duration; 3] = [
    Duration::ZERO,
    Duration::from_millis(1),
    Duration::from_millis(2),
];
/// Runs' writes of one kind that go together.
const WRITES: Limits = Limits {
    batch: 500,
    lanes: 2,
    waiting: 100_000,
};

#[derive(Clone, Copy, Debug)]
pub struct WorkerSettings {
    pub concurrency: usize,
    pub lease: Duration,
    pub drain: Duration,
}

/// What a worker sees of the outside.
#[derive(Clone)]
pub struct Outlook {
    pub truth: Arc<dyn TaskStore>,
    pub queue: Arc<dyn TaskQueue>,
    pub bus: Arc<dyn EventBus>,
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<Entropy>,
    pub meters: Arc<Meters>,
    /// The machine it runs on, for people.
    pub host: String,
}

/// A run of this process.
#[derive(Clone)]
struct Underway {
    stop: Stop,
    /// The task's version as it was claimed: what tells of an older one is about an earlier life of it.
    version: i64,
}

/// Runs tasks in this process.
pub struct Worker {
    pub id: Uuid,
    pub(super) truth: Arc<dyn TaskStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) entropy: Arc<Entropy>,
    pub(super) registry: Registry,
    queue: Arc<dyn TaskQueue>,
    bus: Arc<dyn EventBus>,
    meters: Arc<Meters>,
    settings: WorkerSettings,
    claimer: Claimer,
    host: String,
    started_at: DateTime<Utc>,
    /// Keyed by task and attempt: an overtaken run may still be ending here while the next one begins.
    running: Mutex<BTreeMap<Lease, Underway>>,
    pub(super) elsewhere: Elsewhere,
    runs: TaskTracker,
    settler: Batcher<(Lease, Outcome), Written>,
    reporter: Batcher<Report, Written>,
    is_queue_away: AtomicBool,
    is_draining: AtomicBool,
}

impl Worker {
    pub fn new(outlook: Outlook, registry: Registry, settings: WorkerSettings) -> Self {
        let Outlook {
            truth,
            queue,
            bus,
            clock,
            entropy,
            meters,
            host,
        } = outlook;
        let started_at = clock.now();
        let id = entropy.uuid(started_at);
        let claimer = Claimer {
            worker: id,
            kinds: registry.known(),
            lease: settings.lease,
        };
        let settler = Batcher::new(WRITES, {
            let truth = Arc::clone(&truth);
            move |outcomes: Vec<(Lease, Outcome)>| {
                let truth = Arc::clone(&truth);
                let lease = |(lease, _): &(Lease, Outcome)| *lease;
                Box::pin(write_all(outcomes, lease, move |part| {
                    let truth = Arc::clone(&truth);
                    async move { truth.settle(&part).await }
                }))
            }
        });
        let reporter = Batcher::new(WRITES, {
            let truth = Arc::clone(&truth);
            move |reports: Vec<Report>| {
                let truth = Arc::clone(&truth);
                let lease = |report: &Report| report.lease;
                Box::pin(write_all(reports, lease, move |part| {
                    let truth = Arc::clone(&truth);
                    async move { truth.report(&part).await }
                }))
            }
        });
        Self {
            id,
            truth,
            clock,
            entropy,
            registry,
            queue,
            bus,
            meters,
            settings,
            claimer,
            host,
            started_at,
            running: Mutex::default(),
            elsewhere: Elsewhere::default(),
            runs: TaskTracker::new(),
            settler,
            reporter,
            is_queue_away: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
        }
    }

    /// Works until `stop`, then lets its tasks finish or gives them back.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let beating = CancellationToken::new();
        let heart = tokio::spawn(Arc::clone(&self).renew_leases(beating.clone()));
        let ear = tokio::spawn(Arc::clone(&self).hear_cancellations(beating.clone()));
        Arc::clone(&self).take_tasks(stop).await;
        self.is_draining.store(true, Ordering::Relaxed);
        self.runs.close();
        let in_time = tokio::select! {
            biased;
            () = self.runs.wait() => true,
            () = self.clock.sleep(self.settings.drain) => false,
        };
        if !in_time {
            self.stop_all(StopReason::Draining);
            self.runs.wait().await;
        }
        beating.cancel();
        let _ = tokio::join!(heart, ear);
        if let Err(error) = self.truth.leave(self.id).await {
            tracing::debug!(%error, "this worker is forgotten by its silence");
        }
    }

    pub(super) fn run_of(&self, task: Claimed, stop: Stop) -> Run {
        Run {
            task,
            stop,
            truth: Arc::clone(&self.truth),
            clock: Arc::clone(&self.clock),
            reporter: self.reporter.clone(),
        }
    }

    fn running(&self) -> std::sync::MutexGuard<'_, BTreeMap<Lease, Underway>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop_all(&self, reason: StopReason) {
        for run in self.running().values() {
            run.stop.request(reason);
        }
    }

    async fn take_tasks(self: Arc<Self>, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.settings.concurrency));
        let mut hand = Hand::default();
        while !stop.is_cancelled() {
            match self.take_some(&slots, &mut hand, &stop).await {
                Ok(claimed) => {
                    for (task, slot) in claimed {
                        // Known from now on, so that a stop that comes before its first step reaches it.
                        let stop = Stop::default();
                        let underway = Underway {
                            stop: stop.clone(),
                            version: task.version,
                        };
                        self.running().insert(task.lease(), underway);
                        self.runs.spawn(Arc::clone(&self).perform(task, stop, slot));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "no task could be claimed");
                    self.clock.sleep(LOOK).await;
                }
            }
        }
    }

    /// Waits for a free slot and a hint, then claims; nothing once `stop` asks.
    async fn take_some(
        &self,
        slots: &Arc<Semaphore>,
        hand: &mut Hand,
        stop: &CancellationToken,
    ) -> Result<Vec<(Claimed, OwnedSemaphorePermit)>, StoreError> {
        let Hand {
            unclaimed,
            cursor,
            has_looked,
        } = hand;
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
            if !unclaimed.is_empty() {
                let count = unclaimed.len().min(free.len());
                let hints: Vec<_> = unclaimed.drain(..count).collect();
                return Ok((Taken::from(hints), free));
            }
            if !*has_looked {
                let due = self.truth.due(&self.claimer, cursor, free.len() as u64);
                let ids = due.await?;
                *has_looked = true;
                if !ids.is_empty() {
                    return Ok((ids.into(), free));
                }
            }
            let taken = match self.queue.next(free.len(), HINT).await {
                Ok(taken) => {
                    if self.is_queue_away.swap(false, Ordering::Relaxed) {
                        tracing::info!("the queue is back");
                    }
                    taken
                }
                Err(error) => {
                    self.meters.transport_errors.inc();
                    // Told once an outage, not once a second.
                    if !self.is_queue_away.swap(true, Ordering::Relaxed) {
                        tracing::warn!(%error, "the queue is away; looking into the database until it is back");
                    }
                    self.clock.sleep(LOOK).await;
                    let due = self.truth.due(&self.claimer, cursor, free.len() as u64);
                    due.await?.into()
                }
            };
            Ok::<_, StoreError>((taken, free))
        };
        // A dropped wait loses at most hints. The claim is never dropped: it would look like a lost worker.
        let (taken, free) = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(Vec::new()),
            hints = hints => hints?,
        };
        let mut ids = taken.tasks;
        self.leave_out_running(&mut ids);
        let began = trace::now();
        match self.claim(&ids, taken.are_foretold).await {
            Ok(claimed) => {
                tell_claimed(began, &claimed);
                Ok(claimed.into_iter().zip(free).collect())
            }
            Err(error) => {
                // These hints are nowhere else any more.
                hand.unclaimed.extend(ids);
                Err(error)
            }
        }
    }

    /// Claims; what was foretold and is not there yet, once it is.
    async fn claim(
        &self,
        ids: &[Id<Task>],
        are_foretold: bool,
    ) -> Result<Vec<Claimed>, StoreError> {
        if !are_foretold || ids.is_empty() {
            return self.truth.claim(ids, &self.claimer).await;
        }
        let mut claimed = self.truth.claim_foretold(ids, &self.claimer).await?;
        for pause in EARLY {
            if !claimed.is_empty() {
                break;
            }
            self.clock.sleep(pause).await;
            claimed = self.truth.claim_foretold(ids, &self.claimer).await?;
        }
        Ok(claimed)
    }

    /// A task that runs here is not taken again: if the database has forgotten the claim, the same attempt would be
    /// given to the same worker twice.
    fn leave_out_running(&self, ids: &mut Vec<Id<Task>>) {
        let running = self.running();
        ids.retain(|id| {
            let any = |attempt, worker| Lease {
                task: *id,
                attempt,
                worker,
            };
            let of_task = any(i32::MIN, Uuid::nil())..=any(i32::MAX, Uuid::max());
            running.range(of_task).next().is_none()
        });
    }

    /// Renews every lease in one statement, three times a lease; whoever has lost one is told to stop.
    async fn renew_leases(self: Arc<Self>, stop: CancellationToken) {
        let mut renewed_at = self.clock.now();
        loop {
            self.beat().await;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(self.settings.lease / 3) => {}
            }
            let leases: Vec<Lease> = self.running().keys().copied().collect();
            let asked_at = self.clock.now();
            match self.truth.renew(&leases, self.settings.lease).await {
                Ok(held) => {
                    renewed_at = asked_at;
                    for lease in leases {
                        let Some(Underway { stop, .. }) = self.running().get(&lease).cloned()
                        else {
                            continue;
                        };
                        match held.iter().find(|renewed| renewed.lease == lease) {
                            None => {
                                self.meters.leases_lost.inc();
                                stop.request(StopReason::LeaseLost);
                            }
                            Some(renewed) if renewed.is_cancel_requested => {
                                stop.request(StopReason::Cancelled);
                            }
                            Some(_) => {}
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the leases could not be renewed");
                    if self.clock.now() - renewed_at >= to_delta(self.settings.lease) {
                        self.stop_all(StopReason::LeaseLost);
                    }
                }
            }
        }
    }

    async fn beat(&self) {
        let beat = Beat {
            id: self.id,
            host: self.host.clone(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION"),
            kinds: self.claimer.kinds.clone(),
            concurrency: self.settings.concurrency,
            running: self.running().len(),
            is_draining: self.is_draining.load(Ordering::Relaxed),
            started_at: self.started_at,
        };
        if let Err(error) = self.truth.beat(&beat).await {
            tracing::debug!(%error, "this worker could not show itself");
        }
    }

    /// Brings a cancellation to a running step at once; the next renewal would find it too.
    async fn hear_cancellations(self: Arc<Self>, stop: CancellationToken) {
        let mut listener = self.bus.listen(Topic::Control);
        loop {
            let heard = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                heard = listener.next() => heard,
            };
            match heard {
                None => return,
                Some(Heard::Change(change))
                    if change.table == Table::Task
                        && change.kind == ChangeKind::CancelRequested =>
                {
                    for (lease, run) in self.running().iter() {
                        if lease.task.uuid() == change.id && run.version < change.version {
                            run.stop.request(StopReason::Cancelled);
                        }
                    }
                }
                Some(Heard::Change(_) | Heard::Gap) => {}
            }
        }
    }

    async fn perform(self: Arc<Self>, task: Claimed, stop: Stop, slot: OwnedSemaphorePermit) {
        let (lease, kind, began) = (task.lease(), task.kind.clone(), self.clock.now());
        self.meters
            .taken(&kind, (began - task.run_at).to_std().unwrap_or_default());
        let (span, work) = of_run(&task);
        let run = self.run_of(task, stop);
        let perform = async {
            let outcome = self.outcome(&run).await;
            let word = outcome.as_ref().map_or("lost", Outcome::word);
            let took = (self.clock.now() - began).to_std().unwrap_or_default();
            self.meters.ended(&kind, word, took);
            log_end(&span, word, outcome.as_ref(), took);
            if let Some(outcome) = outcome {
                let settling = Span::part(Kind::Client, || "settle".into());
                settling.around(self.settle(&run, outcome)).await;
            }
        };
        work.around(&span, perform).await;
        self.running().remove(&lease);
        drop(slot);
    }

    /// Writes the outcome; while the database is away it keeps trying, as long as the lease may hold.
    async fn settle(&self, run: &Run, mut outcome: Outcome) {
        loop {
            match self.settler.submit((run.lease(), outcome.clone())).await {
                Ok(Ok(())) => return,
                Ok(Err(WriteError::LeaseLost)) => {
                    self.meters.stale_writes.inc();
                    tracing::warn!(task = %run.task.id(), attempt = run.task.attempt, "an outcome came too late");
                    return;
                }
                Ok(Err(WriteError::Refused(problem))) => {
                    tracing::error!(problem, task = %run.task.id(), "an outcome was refused");
                    let refused = Outcome::Failed {
                        code: "BAD_OUTPUT",
                        message: "the database does not take what came of it".to_owned(),
                    };
                    if std::mem::replace(&mut outcome, refused.clone()) == refused {
                        return;
                    }
                }
                Ok(Err(WriteError::Away(problem))) => {
                    if run.stop.reason() == Some(StopReason::LeaseLost) {
                        return;
                    }
                    tracing::debug!(problem, task = %run.task.id(), "an outcome could not be written yet");
                    self.clock.sleep(LOOK).await;
                }
                Err(_) => self.clock.sleep(LOOK).await,
            }
        }
    }
}

/// What the taking of tasks carries from one turn to the next.
#[derive(Default)]
struct Hand {
    /// Hints that were taken and could not be followed, because the database was away.
    unclaimed: Vec<Id<Task>>,
    cursor: Cursor,
    /// Whether what was due before this worker came has been looked for: the queue may not know of it, and what was handed
    /// back or lost at the last end of this process is waiting now.
    has_looked: bool,
}

/// Writes `items` together. What the database refuses for one of them the others do not suffer for: then each is
/// written alone. Two of the same run take turns, since one statement changes a row once.
async fn write_all<I: Clone, F>(
    items: Vec<I>,
    lease: impl Fn(&I) -> Lease,
    write: impl Fn(Vec<I>) -> F,
) -> Vec<Written>
where
    F: Future<Output = Result<Vec<Lease>, StoreError>>,
{
    let leases: Vec<Lease> = items.iter().map(&lease).collect();
    let distinct: std::collections::BTreeSet<&Lease> = leases.iter().collect();
    if distinct.len() == items.len() {
        let together = written(&leases, write(items.clone()).await);
        let is_refused = |result: &Written| matches!(result, Err(WriteError::Refused(_)));
        if items.len() == 1 || !together.iter().any(is_refused) {
            return together;
        }
    }
    let mut each = Vec::with_capacity(items.len());
    for (item, lease) in items.into_iter().zip(leases) {
        each.extend(written(&[lease], write(vec![item]).await));
    }
    each
}

/// What a batch came to, for each of its leases.
fn written(leases: &[Lease], accepted: Result<Vec<Lease>, StoreError>) -> Vec<Written> {
    match accepted {
        Ok(accepted) => {
            let accepted: std::collections::BTreeSet<Lease> = accepted.into_iter().collect();
            let each = leases.iter().map(|lease| {
                if accepted.contains(lease) {
                    Ok(())
                } else {
                    Err(WriteError::LeaseLost)
                }
            });
            each.collect()
        }
        Err(error) => {
            // Told once for all of them.
            tracing::warn!(%error, count = leases.len(), "what runs have to say could not be written");
            let error = if error.is_outage() {
                WriteError::Away(error.to_string())
            } else {
                WriteError::Refused(error.to_string())
            };
            vec![Err(error); leases.len()]
        }
    }
}

fn to_delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}
