//! Sends what transactions have posted: hints to the queue, changes to the event bus.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{TaskQueue, TaskStore};
use crate::{
    domain::{Change, Id, id::Task},
    error::{StoreError, TransportError},
    live::EventBus,
    store::{Posted, tasks::Hint},
    telemetry::{
        Meters,
        trace::{self, Attribute, Kind},
    },
};

/// How many commits' messages go out together.
const BATCH: usize = 256;
/// How long what has been sent stays in the outbox, and what an idle worker has been foretold is not announced: much
/// shorter than what the sweeper takes for unsent.
const REST: Duration = Duration::from_millis(50);

/// The relay from the outbox to the transports.
#[derive(Clone)]
pub struct Dispatcher {
    pub truth: Arc<dyn TaskStore>,
    pub queue: Arc<dyn TaskQueue>,
    pub bus: Arc<dyn EventBus>,
    pub meters: Arc<Meters>,
}

/// A message that could not be sent stays in the outbox and is tried again by the sweeper.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Dispatcher {
    /// Sends until `stop`, and then what is still waiting.
    pub async fn run(self, mut posted: mpsc::Receiver<Posted>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut later = Later::default();
        loop {
            tokio::select! {
                biased;
                count = posted.recv_many(&mut batch, BATCH) => if count == 0 { break },
                () = later.is_due() => {}
                // Only when nothing waits.
                () = stop.cancelled() => break,
            }
            for posted in &mut batch {
                later.postpone(&mut posted.hints);
            }
            match self.deliver(batch.drain(..)).await {
                Ok(Delivered { ids, foretold }) => {
                    later.forget(ids);
                    later.foretold(foretold);
                }
                Err(error) => self.keep_for_later(&error),
            }
            if later.ids.len() >= BATCH || later.due.is_some_and(|due| due <= Instant::now()) {
                self.catch_up(&mut later).await;
            }
        }
        self.catch_up(&mut later).await;
    }

    /// Does what was put off.
    async fn catch_up(&self, later: &mut Later) {
        let Later { ids, hints, .. } = std::mem::take(later);
        let (announced, forgotten) = tokio::join!(self.announce(&hints), self.forget(ids));
        if let Err(error) = announced {
            self.keep_for_later(&error.into());
        }
        if let Err(error) = forgotten {
            self.keep_for_later(&error.into());
        }
    }

    fn keep_for_later(&self, error: &DispatchError) {
        self.meters.transport_errors.inc();
        tracing::warn!(%error, "messages stay in the outbox for now");
    }

    /// Sends `messages` and forgets them. One sent twice does no harm.
    pub async fn send(
        &self,
        messages: impl IntoIterator<Item = Posted>,
    ) -> Result<(), DispatchError> {
        let ids = self.deliver(messages).await?.ids;
        Ok(self.forget(ids).await?)
    }

    async fn forget(&self, messages: Vec<Uuid>) -> Result<(), StoreError> {
        if messages.is_empty() {
            return Ok(());
        }
        self.truth.forget(messages).await
    }

    /// Sends `messages`.
    async fn deliver(
        &self,
        messages: impl IntoIterator<Item = Posted>,
    ) -> Result<Delivered, DispatchError> {
        let mut hints: Vec<Hint> = Vec::new();
        let mut changes: Vec<Change> = Vec::new();
        let mut ids: Vec<Uuid> = Vec::new();
        let mut foretold: Vec<Id<Task>> = Vec::new();
        for posted in messages {
            ids.extend(posted.id);
            hints.extend(posted.hints);
            changes.extend(posted.changes);
            foretold.extend(posted.foretold);
        }
        // What is committed by now is announced below.
        foretold.retain(|task| hints.iter().all(|hint| hint.task != *task));
        // Neither waits for the other's success: a failure of one leaves all of them to be sent again.
        let (announced, told, is_foretold) = tokio::join!(
            self.announce(&hints),
            async {
                if changes.is_empty() {
                    Ok(())
                } else {
                    self.bus.publish(&changes).await
                }
            },
            async {
                !foretold.is_empty()
                    && self
                        .queue
                        .foretell(&foretold)
                        .await
                        .unwrap_or_else(|error| {
                            tracing::debug!(%error, "nobody was told of what will come");
                            false
                        })
            },
        );
        if !is_foretold {
            foretold.clear();
        }
        // A hint that is lost is given again by the sweeper; only changes have to stay in the outbox.
        told?;
        if let Err(error) = announced {
            self.keep_for_later(&error.into());
        }
        Ok(Delivered { ids, foretold })
    }
}

/// What has been sent.
struct Delivered {
    /// Messages that can be forgotten.
    ids: Vec<Uuid>,
    /// Tasks that whoever is idle has heard of.
    foretold: Vec<Id<Task>>,
}

impl Dispatcher {
    /// Sends hints, and tells the traces their tasks belong to.
    async fn announce(&self, hints: &[Hint]) -> Result<(), TransportError> {
        if hints.is_empty() {
            return Ok(());
        }
        let began = trace::now();
        let announced = self.queue.announce(hints).await;
        if let (Some(began), Some(ended)) = (began, trace::now()) {
            let failed = announced.is_err().then_some("TRANSPORT");
            let count = i64::try_from(hints.len()).unwrap_or(i64::MAX);
            for (hint, parent) in hints.iter().filter_map(|hint| Some((hint, hint.trace?))) {
                trace::record_of(parent, Kind::Producer, (began, ended), failed, || {
                    let attributes = vec![
                        Attribute::new("messaging.system", self.queue.system()),
                        Attribute::new("messaging.operation.type", "send"),
                        Attribute::new("messaging.operation.name", "announce"),
                        Attribute::new("messaging.message.id", hint.task.to_string()),
                        Attribute::new("messaging.batch.message_count", count),
                    ];
                    ("announce".into(), attributes)
                });
            }
        }
        announced
    }
}

/// What is put off for a moment, and then done for many together: not while those whom the messages were sent to are at
/// work on them.
#[derive(Default)]
struct Later {
    /// What has been sent and is still in the outbox.
    ids: Vec<Uuid>,
    /// What a worker has been foretold and nobody has been announced yet: as a rule it is claimed by now, and another worker
    /// would look for it in vain just when the first one claims it.
    hints: Vec<Hint>,
    /// What has been foretold; most of it has its hint before long, and what never commits has none.
    foretold: Vec<Id<Task>>,
    due: Option<Instant>,
}

impl Later {
    fn forget(&mut self, ids: Vec<Uuid>) {
        if !ids.is_empty() {
            self.put_off();
            self.ids.extend(ids);
        }
    }

    fn foretold(&mut self, tasks: Vec<Id<Task>>) {
        if !tasks.is_empty() {
            self.put_off();
            self.foretold.extend(tasks);
        }
    }

    /// Takes those of `hints` out that somebody has been foretold.
    fn postpone(&mut self, hints: &mut Vec<Hint>) {
        if !self.foretold.is_empty() {
            let is_foretold = |hint: &mut Hint| self.foretold.contains(&hint.task);
            self.hints.extend(hints.extract_if(.., is_foretold));
        }
    }

    fn put_off(&mut self) {
        self.due.get_or_insert_with(|| Instant::now() + REST);
    }

    /// Waits until it is due; for ever when there is nothing.
    async fn is_due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}
