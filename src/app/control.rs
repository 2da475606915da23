//! What processes tell each other, as the parts of one hear of it.

use crate::{
    domain::Change,
    live::{EventBus, Heard, Listener, Topic},
};

/// Listens for what is told to every process.
pub(super) struct Control(Listener);

impl Control {
    pub fn of(bus: &dyn EventBus) -> Self {
        Self(bus.listen(Topic::Control))
    }

    /// Waits until a change that is meant is told, or may have been missed; false when nothing is heard any more.
    pub async fn hears(&mut self, is_meant: impl Fn(&Change) -> bool) -> bool {
        loop {
            match self.0.next().await {
                None => return false,
                Some(Heard::Gap) => return true,
                Some(Heard::Change(change)) if is_meant(&change) => return true,
                Some(Heard::Change(_)) => {}
            }
        }
    }
}
