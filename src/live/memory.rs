//! The event bus inside one process.

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{EventBus, Heard, LISTENER_CAPACITY, Listener};
use crate::{domain::Change, error::TransportError};

/// Tells the listeners of this process.
#[derive(Clone, Debug)]
pub struct MemoryBus(broadcast::Sender<Heard>);

impl Default for MemoryBus {
    fn default() -> Self {
        Self(broadcast::Sender::new(LISTENER_CAPACITY))
    }
}

impl MemoryBus {
    pub(super) fn tell(&self, heard: Heard) {
        // Nobody listening is no fault.
        let _ = self.0.send(heard);
    }
}

#[async_trait]
impl EventBus for MemoryBus {
    async fn publish(&self, changes: &[Change]) -> Result<(), TransportError> {
        for change in changes {
            self.tell(Heard::Change(change.clone()));
        }
        Ok(())
    }

    fn listen(&self) -> Listener {
        Listener(self.0.subscribe())
    }

    async fn ping(&self) -> Result<(), TransportError> {
        Ok(())
    }
}
