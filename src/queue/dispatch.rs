//! Sends what transactions have posted: hints to the queue, changes to the event bus.

use std::sync::Arc;

use tokio::sync::mpsc;
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
        loop {
            tokio::select! {
                biased;
                count = posted.recv_many(&mut batch, BATCH) => if count == 0 { return },
                // Only when nothing waits.
                () = stop.cancelled() => return,
            }
            if let Err(error) = self.send(batch.drain(..)).await {
                self.meters.transport_errors.inc();
                tracing::warn!(%error, "messages stay in the outbox for now");
            }
        }
    }

    /// Sends `messages` and forgets them. One sent twice does no harm.
    pub async fn send(
        &self,
        messages: impl IntoIterator<Item = Posted>,
    ) -> Result<(), DispatchError> {
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
        if !ids.is_empty() {
            self.truth.forget(ids).await?;
        }
        Ok(announced?)
    }
}
