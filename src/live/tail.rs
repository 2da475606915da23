//! A list that only grows, as a stream: every item once, in order.

use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};

use crate::error::AppError;

/// What a read of a growing list gave.
pub struct More<T, C> {
    pub items: Vec<T>,
    /// The place of the last of them; `None` when there are none.
    pub next: Option<C>,
    /// Whether these were all there are now.
    pub is_all: bool,
}

struct Tail<T, C, R> {
    signs: BoxStream<'static, Result<T, AppError>>,
    read: R,
    after: Option<C>,
    is_all: bool,
    is_over: bool,
}

/// Streams what `read` finds after `after`, in the portions it is read in.
///
/// Each of `signs` says that there may be more; the last of them comes after the last item. Whoever is slow gets larger
/// portions later, and nothing waits for them in memory. While the database is away it is tried again.
pub fn tail<S, T, C, R, F>(
    signs: BoxStream<'static, Result<S, AppError>>,
    after: Option<C>,
    read: R,
) -> impl Stream<Item = Result<Vec<T>, AppError>> + use<S, T, C, R, F>
where
    C: Copy + Send,
    R: Fn(Option<C>) -> F + Send,
    F: Future<Output = Result<More<T, C>, AppError>> + Send,
{
    let tail = Tail {
        signs,
        read,
        after,
        is_all: true,
        is_over: false,
    };
    stream::unfold(tail, async |mut tail| {
        tail.next().await.map(|portion| (portion, tail))
    })
}

impl<S, C: Copy, R> Tail<S, C, R> {
    async fn next<T, F>(&mut self) -> Option<Result<Vec<T>, AppError>>
    where
        R: Fn(Option<C>) -> F,
        F: Future<Output = Result<More<T, C>, AppError>>,
    {
        while !self.is_over {
            if self.is_all
                && let Err(error) = self.signs.next().await?
            {
                self.is_over = true;
                return Some(Err(error));
            }
            self.is_all = false;
            match (self.read)(self.after).await {
                Ok(more) => {
                    self.is_all = more.is_all;
                    self.after = more.next.or(self.after);
                    if !more.items.is_empty() {
                        return Some(Ok(more.items));
                    }
                }
                Err(AppError::Unavailable { .. }) => super::pause().await,
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}
