//! How much unfinished work there may be: for one owner, and in all.
//!
//! The bounds keep one owner's mistake from becoming everybody's queue. They are soft: each process counts the
//! database's rows at most once a second and what it has let in since, so several of them may together overshoot by
//! a second's worth.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::{
    domain::{Dial, Id, id::User},
    error::AppError,
    store::{Store, statistics, tasks},
};

/// How old a count may be.
const FRESH: TimeDelta = TimeDelta::seconds(1);
/// How old it may be when it says that there is no room.
const FRESH_AT_LIMIT: TimeDelta = TimeDelta::milliseconds(20);
/// Owners whose counts are kept.
const OWNERS: usize = 10_000;

/// Most unfinished tasks.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub per_owner: u64,
    pub total: u64,
}

/// The doorkeeper of the queue.
#[derive(Clone)]
pub struct Admission {
    /// What holds from now on.
    bounds: Dial<Bounds>,
    owners: Arc<Mutex<HashMap<Uuid, Count>>>,
    whole: Arc<Mutex<Whole>>,
}

#[derive(Clone, Copy)]
struct Count {
    at: DateTime<Utc>,
    unfinished: u64,
}

/// The newest count of all, and what this process has let in since, by the time it did.
#[derive(Default)]
struct Whole {
    looked_at: DateTime<Utc>,
    counted_at: DateTime<Utc>,
    unfinished: u64,
    since: VecDeque<(DateTime<Utc>, u64)>,
}

impl Whole {
    fn sum(&self) -> u64 {
        self.unfinished + self.since.iter().map(|(_, count)| count).sum::<u64>()
    }

    fn add(&mut self, now: DateTime<Utc>, count: u64) {
        match self.since.back_mut() {
            Some((at, sum)) if now - *at < FRESH_AT_LIMIT => *sum += count,
            _ => self.since.push_back((now, count)),
        }
    }
}

impl Admission {
    pub fn new(bounds: Dial<Bounds>) -> Self {
        Self {
            bounds,
            owners: Arc::default(),
            whole: Arc::default(),
        }
    }

    /// Lets `count` more tasks of `owner` in.
    ///
    /// # Errors
    /// `QUOTA_EXCEEDED` when the owner has too many unfinished ones, `UNAVAILABLE` when everybody together has.
    pub async fn admit(&self, store: &Store, owner: Id<User>, count: u64) -> Result<(), AppError> {
        let owner = owner.uuid();
        if !self.has_room(store, count).await? {
            return Err(AppError::Unavailable {
                what: "a place in the full task queue",
            });
        }
        if !self.take(store, owner, count).await? {
            return Err(AppError::QuotaExceeded {
                what: "unfinished tasks",
                limit: self.bounds.get().per_owner,
            });
        }
        lock(&self.whole).add(store.now(), count);
        Ok(())
    }

    /// Whether everybody together may have so many more.
    async fn has_room(&self, store: &Store, count: u64) -> Result<bool, AppError> {
        let now = store.now();
        {
            let whole = lock(&self.whole);
            let has_room = whole.sum() + count <= self.bounds.get().total;
            let fresh = if has_room { FRESH } else { FRESH_AT_LIMIT };
            if now - whole.looked_at < fresh {
                return Ok(has_room);
            }
        }
        let counted = statistics::latest(store).await?;
        let mut whole = lock(&self.whole);
        whole.looked_at = now;
        if counted.at > whole.counted_at {
            whole.counted_at = counted.at;
            whole.unfinished = counted.live();
            whole.since.retain(|(at, _)| *at > counted.at);
        }
        Ok(whole.sum() + count <= self.bounds.get().total)
    }

    /// Takes room for so many more of `owner`'s; whether there was any.
    async fn take(&self, store: &Store, owner: Uuid, count: u64) -> Result<bool, AppError> {
        let (now, limit) = (store.now(), self.bounds.get().per_owner);
        if let Some(known) = lock(&self.owners).get_mut(&owner) {
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
        let unfinished = tasks::live_of_share(store, owner, limit.saturating_add(1)).await?;
        let has_room = unfinished.saturating_add(count) <= limit;
        let mut owners = lock(&self.owners);
        if owners.len() >= OWNERS {
            owners.retain(|_, known| now - known.at < FRESH);
        }
        let counted = Count {
            at: now,
            unfinished: unfinished + if has_room { count } else { 0 },
        };
        owners.insert(owner, counted);
        Ok(has_room)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
