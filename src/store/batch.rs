//! Many callers, one statement: whoever comes while a batch is being written goes into the next.
//!
//! The busier it is, the larger the batches and the cheaper each item ("group commit": D. J. DeWitt et al., *Implementation
//! Techniques for Main Memory Database Systems*, SIGMOD 1984). When idle a batch is one item and nobody waits.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::BoxFuture;
use tokio::sync::oneshot;

use crate::error::{AppError, StoreError};

type Write<I, O> = dyn Fn(Vec<I>) -> BoxFuture<'static, Vec<O>> + Send + Sync;

/// Collects items and writes them together.
pub struct Batcher<I, O>(Arc<Shared<I, O>>);

struct Shared<I, O> {
    waiting: Mutex<Waiting<I, O>>,
    write: Box<Write<I, O>>,
    limits: Limits,
}

/// How large a batch may get, how many may be written at once, and how many items may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub batch: usize,
    pub lanes: usize,
    pub waiting: usize,
}

struct Waiting<I, O> {
    items: VecDeque<(I, oneshot::Sender<O>)>,
    lanes: usize,
}

/// There was no room for another item, or its batch came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("too many items wait to be written")]
pub struct Overloaded;

/// Why a whole batch came to nothing; each of its callers gets the same.
#[derive(Clone, Debug)]
pub struct Failed {
    pub is_outage: bool,
    words: String,
}

impl From<&StoreError> for Failed {
    fn from(error: &StoreError) -> Self {
        Self {
            is_outage: error.is_outage(),
            words: error.to_string(),
        }
    }
}

impl From<Failed> for AppError {
    fn from(failed: Failed) -> Self {
        if failed.is_outage {
            Self::Unavailable {
                what: "the database",
            }
        } else {
            Self::internal(std::io::Error::other(failed.words))
        }
    }
}

impl<I, O> Clone for Batcher<I, O> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I: Send + 'static, O: Send + 'static> Batcher<I, O> {
    /// `write` gets up to `limits.batch` items and answers each in its place.
    pub fn new(
        limits: Limits,
        write: impl Fn(Vec<I>) -> BoxFuture<'static, Vec<O>> + Send + Sync + 'static,
    ) -> Self {
        let waiting = Mutex::new(Waiting {
            items: VecDeque::new(),
            lanes: 0,
        });
        Self(Arc::new(Shared {
            waiting,
            write: Box::new(write),
            limits,
        }))
    }

    /// Hands `item` in and waits for its answer. Whoever stops waiting loses the answer, not the item.
    pub async fn submit(&self, item: I) -> Result<O, Overloaded> {
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.0.lock();
            if waiting.items.len() >= self.0.limits.waiting {
                return Err(Overloaded);
            }
            waiting.items.push_back((item, sender));
            // A second lane starts when the first cannot take all: one commits while the other prepares.
            let is_needed =
                waiting.lanes == 0 || waiting.items.len() > waiting.lanes * self.0.limits.batch / 2;
            if is_needed && waiting.lanes < self.0.limits.lanes {
                waiting.lanes += 1;
                tokio::spawn(drain(Arc::clone(&self.0)));
            }
        }
        answer.await.map_err(|_| Overloaded)
    }
}

impl<I, O> Shared<I, O> {
    fn lock(&self) -> MutexGuard<'_, Waiting<I, O>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn drain<I, O>(shared: Arc<Shared<I, O>>) {
    loop {
        let taken: Vec<_> = {
            let mut waiting = shared.lock();
            if waiting.items.is_empty() {
                waiting.lanes -= 1;
                return;
            }
            let count = waiting.items.len().min(shared.limits.batch);
            waiting.items.drain(..count).collect()
        };
        let (items, senders): (Vec<I>, Vec<_>) = taken.into_iter().unzip();
        for (answer, sender) in (shared.write)(items).await.into_iter().zip(senders) {
            // Nobody waiting any more is no fault.
            let _ = sender.send(answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn everybody_gets_their_own_answer_in_few_batches() {
        let batches = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&batches);
        let limits = Limits {
            batch: 64,
            lanes: 1,
            waiting: 1000,
        };
        let batcher = Batcher::new(limits, move |items: Vec<u32>| {
            counted.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                tokio::task::yield_now().await;
                items.into_iter().map(|item| item * 2).collect()
            })
        });
        let answers = futures_util::future::join_all((0..500).map(|n| batcher.submit(n))).await;
        assert!(
            answers
                .iter()
                .zip(0..)
                .all(|(answer, n)| *answer == Ok(n * 2))
        );
        assert!(
            batches.load(Ordering::SeqCst) < 20,
            "{batches:?} batches for 500 items"
        );
    }

    #[tokio::test]
    async fn a_full_one_says_so() {
        let limits = Limits {
            batch: 1,
            lanes: 1,
            waiting: 1,
        };
        let batcher = Batcher::new(limits, |_: Vec<()>| {
            Box::pin(std::future::pending::<Vec<()>>())
        });
        for _ in 0..2 {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(()).await });
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        assert_eq!(batcher.submit(()).await, Err(Overloaded));
    }
}
