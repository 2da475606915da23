//! The event bus between processes: a Redis channel a topic, fanned out to the listeners of each process.

use std::time::Duration;

use async_trait::async_trait;
use fred::{
    clients::{Pool, SubscriberClient},
    interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _},
};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::AbortOnDropHandle;

use super::{EventBus, Heard, Interest, InterestListener, Listener, MemoryBus, Topic};
use crate::{config::Secret, domain::Change, error::TransportError};

/// Publishes to Redis and tells this process' listeners what any process published.
pub struct RedisBus {
    publisher: Pool,
    prefix: String,
    local: MemoryBus,
    /// Ends the listening with the bus.
    _receiver: AbortOnDropHandle<()>,
}

/// The channel of a topic.
fn channel(prefix: &str, topic: Topic) -> String {
    match topic {
        Topic::Changes => format!("{prefix}:changes"),
        Topic::Control => format!("{prefix}:control"),
    }
}

impl RedisBus {
    /// A bus on which this process hears `topics`; the others it only tells.
    pub fn new(
        url: &Secret,
        prefix: &str,
        publisher: Pool,
        topics: &[Topic],
    ) -> Result<Self, TransportError> {
        let subscriber = crate::redis::subscriber(url)?;
        let local = MemoryBus::default();
        let channels = topics
            .iter()
            .map(|topic| (*topic, channel(prefix, *topic)))
            .collect();
        let receiver = tokio::spawn(receive(subscriber, channels, local.clone()));
        Ok(Self {
            publisher,
            prefix: prefix.to_owned(),
            local,
            _receiver: AbortOnDropHandle::new(receiver),
        })
    }
}

async fn receive(subscriber: SubscriberClient, channels: Vec<(Topic, String)>, local: MemoryBus) {
    let names: Vec<String> = channels.iter().map(|(_, name)| name.clone()).collect();
    let gap = || {
        for (topic, _) in &channels {
            local.tell(*topic, Heard::Gap);
        }
    };
    // Both are listened to before the first connection, so that it is heard as well.
    let mut connected = subscriber.reconnect_rx();
    let mut messages = subscriber.message_rx();
    subscriber.connect();
    loop {
        tokio::select! {
            event = connected.recv() => match event {
                Ok(_) | Err(RecvError::Lagged(_)) => {
                    // A failed subscription follows from another loss of the connection, which ends in a reconnect.
                    let subscribed = tokio::time::timeout(Duration::from_secs(3), subscriber.subscribe(names.clone())).await;
                    tracing::debug!(is_subscribed = matches!(subscribed, Ok(Ok(()))), "connected to Redis' events");
                    gap();
                }
                Err(RecvError::Closed) => return,
            },
            message = messages.recv() => match message {
                Ok(message) => {
                    let Some((topic, _)) = channels.iter().find(|(_, name)| *name == *message.channel) else {
                        continue;
                    };
                    let text = message.value.as_bytes().unwrap_or_default();
                    match serde_json::from_slice::<Vec<Change>>(text) {
                        Ok(changes) => {
                            for change in changes {
                                local.tell(*topic, Heard::Change(change));
                            }
                        }
                        // Another version's message: what it says cannot be known, so everybody looks.
                        Err(error) => {
                            tracing::warn!(%error, "an event could not be read");
                            local.tell(*topic, Heard::Gap);
                        }
                    }
                }
                Err(RecvError::Lagged(_)) => gap(),
                Err(RecvError::Closed) => return,
            },
        }
    }
}

#[async_trait]
impl EventBus for RedisBus {
    async fn publish(&self, changes: &[Change]) -> Result<(), TransportError> {
        for topic in Topic::ALL {
            let told: Vec<&Change> = changes
                .iter()
                .filter(|change| Topic::of(change).contains(&topic))
                .collect();
            if told.is_empty() {
                continue;
            }
            let text =
                serde_json::to_string(&told).map_err(|error| TransportError(error.to_string()))?;
            crate::redis::now_or_never(self.publisher.next())
                .publish::<i64, _, _>(channel(&self.prefix, topic), text)
                .await?;
        }
        Ok(())
    }

    fn listen(&self, topic: Topic) -> Listener {
        self.local.listen(topic)
    }

    fn listen_to(&self, interest: Interest) -> InterestListener {
        self.local.listen_to(interest)
    }

    async fn ping(&self) -> Result<(), TransportError> {
        crate::redis::ping(&self.publisher).await
    }
}
