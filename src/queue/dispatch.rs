//! Sends what transactions have posted: hints to the queue, changes to the event bus.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{TaskQueue, TaskStore};
use crate::{
    domain::Change,
    error::{StoreError, TransportError},
    live::EventBus,
    store::{Posted, tasks::Hint},
    telemetry::Meters,
};

/// How many commits' messages go out together.
const BATCH: usize = 256;
/// How long what has been sent stays in the outbox: much shorter than what the sweeper takes for unsent.
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
        let mut sent = Sent::default();
        loop {
            tokio::select! {
                biased;
                count = posted.recv_many(&mut batch, BATCH) => if count == 0 { break },
                () = sent.is_due() => {}
                // Only when nothing waits.
                () = stop.cancelled() => break,
            }
            match self.deliver(batch.drain(..)).await {
                Ok(ids) => sent.add(ids),
                Err(error) => self.keep_for_later(&error),
            }
            if sent.ids.len() >= BATCH || sent.due.is_some_and(|due| due <= Instant::now()) {
                self.forget(&mut sent).await;
            }
        }
        self.forget(&mut sent).await;
    }

    async fn forget(&self, sent: &mut Sent) {
        let Sent { ids, .. } = std::mem::take(sent);
        if !ids.is_empty()
            && let Err(error) = self.truth.forget(ids).await
        {
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
        let ids = self.deliver(messages).await?;
        if !ids.is_empty() {
            self.truth.forget(ids).await?;
        }
        Ok(())
    }

    /// Sends `messages`; those that can be forgotten.
    async fn deliver(
        &self,
        messages: impl IntoIterator<Item = Posted>,
    ) -> Result<Vec<Uuid>, DispatchError> {
        let mut hints: Vec<Hint> = Vec::new();
        let mut changes: Vec<Change> = Vec::new();
        let mut ids: Vec<Uuid> = Vec::new();
        for posted in messages {
            ids.extend(posted.id);
            hints.extend(posted.hints);
            changes.extend(posted.changes);
        }
        // Neither waits for the other's success: a failure of one leaves all of them to be sent again.
        let (announced, told) = tokio::join!(
            async {
                if hints.is_empty() {
                    Ok(())
                } else {
                    self.queue.announce(&hints).await
                }
            },
            async {
                if changes.is_empty() {
                    Ok(())
                } else {
                    self.bus.publish(&changes).await
                }
            },
        );
        // A hint that is lost is given again by the sweeper; only changes have to stay in the outbox.
        told?;
        if let Err(error) = announced {
            self.keep_for_later(&error.into());
        }
        Ok(ids)
    }
}

/// What has been sent and is still in the outbox. It is forgotten a moment later, many together, and not while those it
/// was sent to are at work on it.
#[derive(Default)]
struct Sent {
    ids: Vec<Uuid>,
    due: Option<Instant>,
}

impl Sent {
    fn add(&mut self, ids: Vec<Uuid>) {
        if !ids.is_empty() {
            self.due.get_or_insert_with(|| Instant::now() + REST);
            self.ids.extend(ids);
        }
    }

    /// Waits until they are to be forgotten; for ever when there are none.
    async fn is_due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}
