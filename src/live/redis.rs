//! The event bus between processes: one Redis channel, fanned out to the listeners of each process.

use std::time::Duration;

use async_trait::async_trait;
use fred::{
    clients::{Pool, SubscriberClient},
    interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _},
};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::AbortOnDropHandle;

use super::{EventBus, Heard, Listener, MemoryBus};
use crate::{config::Secret, domain::Change, error::TransportError};

/// Publishes to Redis and tells this process' listeners what any process published.
pub struct RedisBus {
    publisher: Pool,
    channel: String,
    local: MemoryBus,
    /// Ends the listening with the bus.
    _receiver: AbortOnDropHandle<()>,
}

impl RedisBus {
    pub fn new(url: &Secret, prefix: &str, publisher: Pool) -> Result<Self, TransportError> {
        let subscriber = crate::redis::subscriber(url)?;
        let channel = format!("{prefix}:changes");
        let local = MemoryBus::default();
        let receiver = tokio::spawn(receive(subscriber, channel.clone(), local.clone()));
        Ok(Self {
            publisher,
            channel,
            local,
            _receiver: AbortOnDropHandle::new(receiver),
        })
    }
}

async fn receive(subscriber: SubscriberClient, channel: String, local: MemoryBus) {
    // Both are listened to before the first connection, so that it is heard as well.
    let mut connected = subscriber.reconnect_rx();
    let mut messages = subscriber.message_rx();
    subscriber.connect();
    loop {
        tokio::select! {
            event = connected.recv() => match event {
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    // A failed subscription follows from another loss of the connection, which ends in a reconnect.
                    let subscribed = tokio::time::timeout(Duration::from_secs(3), subscriber.subscribe(&channel)).await;
                    tracing::debug!(is_subscribed = matches!(subscribed, Ok(Ok(()))), "connected to Redis' events");
                    local.tell(Heard::Gap);
                }
                Err(RecvError::Closed) => return,
            },
            message = messages.recv() => match message {
                Ok(message) => {
                    let text = message.value.as_bytes().unwrap_or_default();
                    match serde_json::from_slice::<Vec<Change>>(text) {
                        Ok(changes) => changes.into_iter().for_each(|change| local.tell(Heard::Change(change))),
                        // Another version's message: what it says cannot be known, so everybody looks.
                        Err(error) => {
                            tracing::warn!(%error, "an event could not be read");
                            local.tell(Heard::Gap);
                        }
                    }
                }
                Err(RecvError::Lagged(_)) => local.tell(Heard::Gap),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

#[async_trait]
impl EventBus for RedisBus {
    async fn publish(&self, changes: &[Change]) -> Result<(), TransportError> {
        let text =
            serde_json::to_string(changes).map_err(|error| TransportError(error.to_string()))?;
        crate::redis::now_or_never(self.publisher.next())
            .publish::<i64, _, _>(self.channel.as_str(), text)
            .await?;
        Ok(())
    }

    fn listen(&self) -> Listener {
        self.local.listen()
    }

    async fn ping(&self) -> Result<(), TransportError> {
        crate::redis::ping(&self.publisher).await
    }
}
