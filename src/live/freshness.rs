//! A running stream's promise to its newcomers: what they see first was read after they came.

use std::sync::Arc;

use tokio::sync::watch;

/// Between a stream many follow and the source it reads from.
///
/// A newcomer [asks](Self::ask) and waits until the look it asked for [is covered](Self::covered); the source looks
/// again and passes on what it finds, changed or not. Looks are counted, so that a hundred who come at once cost one
/// or two of them.
#[derive(Clone, Debug)]
pub struct Freshness(Arc<Looks>);

#[derive(Debug)]
struct Looks {
    asked: watch::Sender<u64>,
    covered: watch::Sender<u64>,
}

impl Default for Freshness {
    fn default() -> Self {
        Self(Arc::new(Looks {
            asked: watch::Sender::new(0),
            covered: watch::Sender::new(0),
        }))
    }
}

impl Freshness {
    /// Asks for a look that begins after this call; its number.
    pub fn ask(&self) -> u64 {
        let mut number = 0;
        self.0.asked.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        number
    }

    /// Waits until what the look `number` found has been passed on.
    pub async fn covered(&self, number: u64) {
        let mut covered = self.0.covered.subscribe();
        // This holds the sender, so it is not closed.
        let _ = covered.wait_for(|covered| *covered >= number).await;
    }

    /// The source's side.
    pub(crate) fn looker(&self) -> Looker {
        Looker {
            asked: self.0.asked.subscribe(),
            looks: Arc::clone(&self.0),
            pending: 0,
        }
    }
}

/// The source's side: it looks when asked, and tells what has been covered.
pub(crate) struct Looker {
    asked: watch::Receiver<u64>,
    looks: Arc<Looks>,
    pending: u64,
}

impl Looker {
    /// Waits until somebody asks.
    pub(crate) async fn asked(&mut self) {
        let pending = self.pending;
        let _ = self.asked.wait_for(|asked| *asked > pending).await;
    }

    /// Whether somebody has asked since the last look began.
    pub(crate) fn is_asked(&self) -> bool {
        *self.asked.borrow() > self.pending
    }

    /// A look begins, for all who have asked until now.
    pub(crate) fn begin(&mut self) {
        self.pending = *self.asked.borrow_and_update();
    }

    /// What the last look found has been passed on.
    pub(crate) fn settle(&self) {
        let pending = self.pending;
        self.looks.covered.send_if_modified(|covered| {
            let is_more = pending > *covered;
            *covered = pending.max(*covered);
            is_more
        });
    }
}
