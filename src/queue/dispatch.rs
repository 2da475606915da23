//! Sends what transactions have posted: hints to the queue, changes to the event bus.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::TaskQueue;
use crate::{
    domain::{Change, Id, task::Priority},
    error::{StoreError, TransportError},
    live::EventBus,
    store::{Message, Posted, Store, outbox},
};

/// How many commits' messages go out together.
const BATCH: usize = 256;

/// The relay from the outbox to the transports.
#[derive(Clone)]
pub struct Dispatcher {
    pub store: Store,
    pub queue: Arc<dyn TaskQueue>,
    pub bus: Arc<dyn EventBus>,
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
    pub async fn run(self, mut posted: mpsc::Receiver<Vec<Posted>>, stop: CancellationToken) {
        let mut batches = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                count = posted.recv_many(&mut batches, BATCH) => if count == 0 { return },
                // Only when nothing waits.
                () = stop.cancelled() => return,
            }
            let messages: Vec<Posted> = batches.drain(..).flatten().collect();
            if let Err(error) = self.send(messages).await {
                tracing::warn!(%error, "messages stay in the outbox for now");
            }
        }
    }

    /// Sends `messages` and forgets them. One sent twice does no harm.
    pub async fn send(&self, messages: Vec<Posted>) -> Result<(), DispatchError> {
        let mut hints: Vec<(Id<_>, Priority)> = Vec::new();
        let mut changes: Vec<Change> = Vec::new();
        let mut ids: Vec<Uuid> = Vec::with_capacity(messages.len());
        for Posted { id, message } in messages {
            ids.push(id);
            match message {
                Message::Dispatch { task, rank } => {
                    hints.push((Id::new(task), Priority::from_rank(rank)));
                }
                Message::Change(change) => changes.push(change),
            }
        }
        // Neither waits for the other's success: a failure of one leaves all of them to be sent again.
        let (told, announced) = tokio::join!(
            async {
                if changes.is_empty() {
                    Ok(())
                } else {
                    self.bus.publish(&changes).await
                }
            },
            async {
                if hints.is_empty() {
                    Ok(())
                } else {
                    self.queue.announce(&hints).await
                }
            },
        );
        told.and(announced)?;
        Ok(outbox::forget(&self.store, ids).await?)
    }
}
