//! One running stream for all who ask for the same, whose newest item each of them gets.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Freshness;

/// The streams that run now, each under the key of what it shows.
///
/// Followers see the newest item, not every item: one who is slow misses what has been overtaken, so nothing is kept
/// for anybody. A newcomer gets an item that was read after they came (see [`Freshness`]), then what follows. A stream
/// runs in a task of its own as long as somebody follows it, and ends with the last of them. It is for streams whose
/// items replace each other; where each item counts, every reader needs a stream of their own.
pub struct Shared<K: Eq + Hash, T>(Arc<Mutex<Streams<K, T>>>);

type Streams<K, T> = HashMap<K, Weak<Running<K, T>>>;

impl<K: Eq + Hash, T> Clone for Shared<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash, T> Default for Shared<K, T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(HashMap::new())))
    }
}

impl<K: Eq + Hash, T> Shared<K, T> {
    fn lock(&self) -> MutexGuard<'_, Streams<K, T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many streams run.
    pub fn running(&self) -> usize {
        self.lock().len()
    }
}

/// What a stream has come to.
struct Newest<T> {
    item: Option<T>,
    /// Counts the items that differ from the one before.
    number: u64,
    is_over: bool,
}

/// A stream that runs; its last follower takes it along.
struct Running<K: Eq + Hash, T> {
    key: K,
    newest: watch::Receiver<Newest<T>>,
    freshness: Freshness,
    _driver: AbortOnDropHandle<()>,
    streams: Shared<K, T>,
}

impl<K: Eq + Hash, T> Running<K, T> {
    fn is_over(&self) -> bool {
        // A driver that has panicked is over as well.
        self.newest.borrow().is_over || self.newest.has_changed().is_err()
    }
}

impl<K: Eq + Hash, T> Drop for Running<K, T> {
    fn drop(&mut self) {
        let mut streams = self.streams.lock();
        // The key may have a successor already.
        if streams
            .get(&self.key)
            .is_some_and(|running| std::ptr::eq(running.as_ptr(), self))
        {
            streams.remove(&self.key);
        }
    }
}

impl<K, T> Shared<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    T: Clone + PartialEq + Send + Sync + 'static,
{
    /// Follows the stream of `key`; `start` gives it when it does not run.
    ///
    /// The source of the stream must answer to the [`Freshness`] it is given, or newcomers wait until the stream ends.
    pub fn join(
        &self,
        key: K,
        start: impl FnOnce(Freshness) -> BoxStream<'static, T>,
    ) -> BoxStream<'static, T> {
        let mut streams = self.lock();
        let known = streams.get(&key).and_then(Weak::upgrade);
        let (running, number, ended) = match known {
            Some(running) if !running.is_over() => {
                let number = running.freshness.ask();
                (running, number, None)
            }
            ended => {
                let running = Arc::new(self.start(key.clone(), start));
                streams.insert(key, Arc::downgrade(&running));
                (running, 0, ended)
            }
        };
        drop(streams);
        // This may have been the last hold on it, and its end looks into the streams.
        drop(ended);
        let follower = Follower {
            newest: running.newest.clone(),
            seen: 0,
            asked: (number > 0).then_some(number),
            running,
        };
        stream::unfold(follower, async |mut follower| {
            follower.next().await.map(|item| (item, follower))
        })
        .boxed()
    }

    fn start(
        &self,
        key: K,
        start: impl FnOnce(Freshness) -> BoxStream<'static, T>,
    ) -> Running<K, T> {
        let freshness = Freshness::default();
        let (sender, newest) = watch::channel(Newest {
            item: None,
            number: 0,
            is_over: false,
        });
        let driver = tokio::spawn(drive(start(freshness.clone()), sender));
        Running {
            key,
            newest,
            freshness,
            _driver: AbortOnDropHandle::new(driver),
            streams: self.clone(),
        }
    }
}

/// Passes on what changes, to the end.
async fn drive<T: PartialEq>(mut items: BoxStream<'static, T>, newest: watch::Sender<Newest<T>>) {
    while let Some(item) = items.next().await {
        newest.send_if_modified(|newest| {
            let is_new = newest.item.as_ref() != Some(&item);
            if is_new {
                newest.item = Some(item);
                newest.number += 1;
            }
            is_new
        });
    }
    newest.send_modify(|newest| newest.is_over = true);
}

struct Follower<K: Eq + Hash, T> {
    newest: watch::Receiver<Newest<T>>,
    seen: u64,
    /// The look a newcomer waits for.
    asked: Option<u64>,
    running: Arc<Running<K, T>>,
}

impl<K: Eq + Hash, T: Clone> Follower<K, T> {
    async fn next(&mut self) -> Option<T> {
        if let Some(number) = self.asked.take() {
            tokio::select! {
                () = self.running.freshness.covered(number) => {}
                // Nothing will be looked at any more; an error is that of the end, too.
                _ = self.newest.wait_for(|newest| newest.is_over) => {}
            }
        }
        loop {
            {
                let newest = self.newest.borrow_and_update();
                if newest.number > self.seen {
                    self.seen = newest.number;
                    return newest.item.clone();
                }
                if newest.is_over {
                    return None;
                }
            }
            if self.newest.changed().await.is_err() {
                return None;
            }
        }
    }
}
