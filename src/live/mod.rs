//! Telling subscribers what has changed: the event bus, streams of a row's newest form and of what is added, and one
//! stream for many.

mod freshness;
mod interests;
mod memory;
mod redis;
mod shared;
mod tail;
mod watch;

use async_trait::async_trait;
pub use freshness::Freshness;
pub(crate) use freshness::Looker;
pub use interests::{Interest, InterestListener};
pub use memory::MemoryBus;
pub use redis::RedisBus;
pub use shared::Shared;
pub use tail::{More, tail};
use tokio::sync::broadcast;
pub use watch::{Seen, watch};

use crate::{
    domain::{Change, ChangeKind, Table},
    error::TransportError,
};

/// How many changes a slow listener may be behind before it has to read its row again.
const LISTENER_CAPACITY: usize = 1024;

/// What a listener wants to hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Topic {
    /// Changed rows, for whoever watches.
    Changes,
    /// Requests to running tasks, and news for every process.
    Control,
}

impl Topic {
    const ALL: [Self; 2] = [Self::Changes, Self::Control];

    /// Where a change is told.
    const fn of(change: &Change) -> &'static [Self] {
        match (change.kind, change.table) {
            (ChangeKind::Updated, Table::LogFilter) | (ChangeKind::ConfigurationChanged, _) => {
                &[Self::Control]
            }
            (ChangeKind::Updated, _) => &[Self::Changes],
            (ChangeKind::CancelRequested, _) => &Self::ALL,
        }
    }
}

/// Carries changes from whoever committed them to whoever watches, in this process and others.
#[async_trait]
pub trait EventBus: Send + Sync {
    /// Tells every listener; a change may arrive more than once or, with a [`Heard::Gap`], not at all.
    async fn publish(&self, changes: &[Change]) -> Result<(), TransportError>;

    /// Hears everything of a topic from now on.
    fn listen(&self, topic: Topic) -> Listener;

    /// Hears of what an interest is about from now on.
    fn listen_to(&self, interest: Interest) -> InterestListener;

    /// Whether changes get through now.
    async fn ping(&self) -> Result<(), TransportError>;
}

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    Change(Change),
    /// The bus was away or the listener too slow: what it has may be old, it has to read again.
    Gap,
}

/// One listener's end of the bus.
pub struct Listener(broadcast::Receiver<Heard>);

impl Listener {
    /// The next thing heard; `None` when the bus has closed.
    pub async fn next(&mut self) -> Option<Heard> {
        match self.0.recv().await {
            Ok(heard) => Some(heard),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Heard::Gap),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

/// Lets some time pass before the database is tried again.
pub(crate) async fn pause() {
    #[expect(clippy::disallowed_methods, reason = "an outage lasts in real time")]
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
}
