//! One row as a stream: its form now, then every newer one, with nothing missed and nothing invented.

use futures_util::{Stream, StreamExt as _, stream};
use uuid::Uuid;

use super::{EventBus, Freshness, Interest, InterestListener, freshness::Looker};
use crate::{domain::Table, error::AppError};

/// What a read of the watched row gave.
pub struct Seen<T> {
    pub row: T,
    pub version: i64,
    /// Nothing can follow; the stream ends after this row.
    pub is_last: bool,
}

struct Watch<R> {
    listener: InterestListener,
    looker: Looker,
    read: R,
    newest: i64,
    is_over: bool,
    must_look: bool,
}

/// Streams the row `id` of `table` as `read` gives it: once now, then after every change.
///
/// The listener is there before the first read, so a change between the two is heard; a change that is not newer than
/// what has been sent is dropped; after a gap the row is read again. `read` applies the viewer's scope each time, so
/// that somebody who has lost the right to see it sees no more.
///
/// Who asks through `freshness` gets the row as it is then, again even if it has not changed: what hangs on it may have.
/// While the database is away they are let go on with what is known.
///
/// # Errors
/// The first read's error, at once. A later read that fails for a while is tried again; one that says the row is out
/// of reach ends the stream with that error.
pub async fn watch<T, R, F>(
    bus: &dyn EventBus,
    freshness: &Freshness,
    (table, id): (Table, Uuid),
    read: R,
) -> Result<impl Stream<Item = Result<T, AppError>> + use<T, R, F>, AppError>
where
    R: Fn() -> F + Send,
    F: Future<Output = Result<Seen<T>, AppError>> + Send,
    T: Send,
{
    let listener = bus.listen_to(Interest::Row(table, id));
    let mut looker = freshness.looker();
    looker.begin();
    let first = read().await?;
    let watch = Watch {
        listener,
        looker,
        read,
        newest: first.version,
        is_over: first.is_last,
        must_look: false,
    };
    let later = stream::unfold(watch, async |mut watch| {
        watch.next().await.map(|item| (item, watch))
    });
    Ok(stream::once(std::future::ready(Ok(first.row))).chain(later))
}

impl<R> Watch<R> {
    async fn next<T, F>(&mut self) -> Option<Result<T, AppError>>
    where
        R: Fn() -> F,
        F: Future<Output = Result<Seen<T>, AppError>>,
    {
        while !self.is_over {
            // Whoever asks for more has passed on what was given.
            self.looker.settle();
            if !self.has_reason_to_look().await {
                return None;
            }
            let is_asked = self.looker.is_asked();
            self.looker.begin();
            match (self.read)().await {
                Ok(seen)
                    if seen.version > self.newest || (is_asked && seen.version == self.newest) =>
                {
                    self.newest = seen.version;
                    self.is_over = seen.is_last;
                    return Some(Ok(seen.row));
                }
                Ok(_) => {}
                // What was heard stays unread: look again soon, without waiting for more.
                Err(AppError::Unavailable { .. }) => {
                    self.must_look = true;
                    self.looker.settle();
                    super::pause().await;
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    /// Waits for a reason to read; `false` when the bus has closed.
    async fn has_reason_to_look(&mut self) -> bool {
        if std::mem::take(&mut self.must_look) {
            return true;
        }
        tokio::select! {
            is_open = self.listener.newer_than(self.newest) => is_open,
            () = self.looker.asked() => true,
        }
    }
}
