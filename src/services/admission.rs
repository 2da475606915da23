//! How much unfinished work there may be: for one owner, and in all.
//!
//! The bounds keep one owner's mistake from becoming everybody's queue. They are soft: each process counts the
//! database's rows at most once a second and what it has let in since, so several of them may together overshoot by
//! a second's worth.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{
    domain::{Id, id::User},
    error::AppError,
    store::{Store, statistics, tasks},
};

/// How old a count may be.
const FRESH: TimeDelta = TimeDelta::seconds(1);
/// How old it may be when it says that there is no room.
const FRESH_AT_LIMIT: TimeDelta = TimeDelta::milliseconds(20);
/// Owners whose counts are kept.
const OWNERS: usize = 10_000;

/// The doorkeeper of the queue.
#[derive(Clone)]
pub struct Admission {
    per_owner: u64,
    total: u64,
    counts: Arc<Mutex<HashMap<Option<Uuid>, Count>>>,
}

#[derive(Clone, Copy)]
struct Count {
    at: DateTime<Utc>,
    unfinished: u64,
}

impl Admission {
    pub fn new(per_owner: u64, total: u64) -> Self {
        Self {
            per_owner,
            total,
            counts: Arc::default(),
        }
    }

    /// Lets `count` more tasks of `owner` in.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED` when the owner has too many unfinished ones, `UNAVAILABLE` when everybody together has.
    pub async fn admit(&self, store: &Store, owner: Id<User>, count: u64) -> Result<(), AppError> {
        if !self.take(store, None, count, self.total).await? {
            return Err(AppError::Unavailable {
                what: "a place in the full task queue",
            });
        }
        if !self
            .take(store, Some(owner.uuid()), count, self.per_owner)
            .await?
        {
            return Err(AppError::QuotaExceeded {
                what: "unfinished tasks",
                limit: self.per_owner,
            });
        }
        Ok(())
    }

    async fn take(
        &self,
        store: &Store,
        whose: Option<Uuid>,
        count: u64,
        limit: u64,
    ) -> Result<bool, AppError> {
        let now = store.now();
        if let Some(known) = self.counts().get_mut(&whose) {
            let age = now - known.at;
            let has_room = known.unfinished + count <= limit;
            if has_room && age < FRESH {
                known.unfinished += count;
                return Ok(true);
            }
            if !has_room && age < FRESH_AT_LIMIT {
                return Ok(false);
            }
        }
        let unfinished = match whose {
            Some(share) => tasks::live_of_share(store, share, limit.saturating_add(1)).await?,
            None => statistics::latest(store).await?.live(),
        };
        let has_room = unfinished.saturating_add(count) <= limit;
        let mut counts = self.counts();
        if counts.len() >= OWNERS {
            counts.retain(|_, known| now - known.at < FRESH);
        }
        let counted = Count {
            at: now,
            unfinished: unfinished + if has_room { count } else { 0 },
        };
        counts.insert(whose, counted);
        Ok(has_room)
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Option<Uuid>, Count>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
