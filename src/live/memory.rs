//! The event bus inside one process.

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{
    EventBus, Heard, Interest, InterestListener, LISTENER_CAPACITY, Listener, Topic,
    interests::Interests,
};
use crate::{domain::Change, error::TransportError};

/// Tells the listeners of this process.
#[derive(Clone, Debug)]
pub struct MemoryBus {
    changes: broadcast::Sender<Heard>,
    control: broadcast::Sender<Heard>,
    interests: Interests,
}

impl Default for MemoryBus {
    fn default() -> Self {
        Self {
            changes: broadcast::Sender::new(LISTENER_CAPACITY),
            control: broadcast::Sender::new(LISTENER_CAPACITY),
            interests: Interests::default(),
        }
    }
}

impl MemoryBus {
    pub(super) fn tell(&self, topic: Topic, heard: Heard) {
        if topic == Topic::Changes {
            self.interests.tell(&heard);
        }
        // Nobody listening is no fault.
        let _ = self.channel(topic).send(heard);
    }

    const fn channel(&self, topic: Topic) -> &broadcast::Sender<Heard> {
        match topic {
            Topic::Changes => &self.changes,
            Topic::Control => &self.control,
        }
    }
}

#[async_trait]
impl EventBus for MemoryBus {
    async fn publish(&self, changes: &[Change]) -> Result<(), TransportError> {
        for change in changes {
            for topic in Topic::of(change) {
                self.tell(*topic, Heard::Change(change.clone()));
            }
        }
        Ok(())
    }

    fn listen(&self, topic: Topic) -> Listener {
        Listener(self.channel(topic).subscribe())
    }

    fn listen_to(&self, interest: Interest) -> InterestListener {
        self.interests.listen(interest)
    }

    async fn ping(&self) -> Result<(), TransportError> {
        Ok(())
    }
}
