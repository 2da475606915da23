//! Rates shared by all workers: one row a limit, moved by a compare-and-set.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A): the row keeps the theoretical arrival time of the next
//! call, and a call may be made that much earlier than its own as the burst allows.

use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::{ConnectionTrait as _, entity::prelude::*};

use super::{Store, source::statement};
use crate::error::StoreError;

/// A rate: one call `every` so often, and up to `burst` of them at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    pub every: Duration,
    pub burst: u32,
}

impl Rate {
    /// So many a second, with a burst of a second's worth.
    pub fn per_second(count: u32) -> Option<Self> {
        (count > 0).then(|| Self {
            every: Duration::from_secs(1) / count,
            burst: count,
        })
    }
}

/// Makes one call of the limit `name` now, or says from when one may be made; one that is not made costs nothing.
pub async fn admit(
    store: &Store,
    name: &str,
    rate: Rate,
) -> Result<Result<(), DateTimeUtc>, StoreError> {
    const FIRST: &str =
        "INSERT INTO rate_limit (name, next_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    const MOVE: &str = "UPDATE rate_limit SET next_at = $2 WHERE name = $1 AND next_at = $3";
    let every = TimeDelta::from_std(rate.every).unwrap_or(TimeDelta::MAX);
    let tolerance = every * i32::try_from(rate.burst.saturating_sub(1)).unwrap_or(i32::MAX);
    let db = store.engine();
    loop {
        let now = store.now();
        let read = "SELECT next_at FROM rate_limit WHERE name = $1";
        let found = db.query_one_raw(statement(db, read, [name.into()])).await?;
        let next: Option<DateTimeUtc> = found.map(|row| row.try_get("", "next_at")).transpose()?;
        let from = next.map_or(now, |next| (next - tolerance).max(now));
        if from > now {
            return Ok(Err(from));
        }
        let after = next.map_or(now, |next| next.max(now)) + every;
        let moved = match next {
            None => statement(db, FIRST, [name.into(), after.into()]),
            Some(next) => statement(db, MOVE, [name.into(), after.into(), next.into()]),
        };
        if db.execute_raw(moved).await?.rows_affected() == 1 {
            return Ok(Ok(()));
        }
    }
}

/// Reserves one call of the limit `name`: the time from which it may be made, `now` when that is at once.
///
/// A reserved time is kept whether it is used or not; everybody who waits has a time of their own.
pub async fn reserve(store: &Store, name: &str, rate: Rate) -> Result<DateTimeUtc, StoreError> {
    const READ: &str = "SELECT next_at FROM rate_limit WHERE name = $1";
    const FIRST: &str =
        "INSERT INTO rate_limit (name, next_at) VALUES ($1, $2) ON CONFLICT DO NOTHING";
    const MOVE: &str = "UPDATE rate_limit SET next_at = $2 WHERE name = $1 AND next_at = $3";
    let now = store.now();
    let every = TimeDelta::from_std(rate.every).unwrap_or(TimeDelta::MAX);
    let tolerance = every * i32::try_from(rate.burst.saturating_sub(1)).unwrap_or(i32::MAX);
    let db = store.engine();
    loop {
        let found = db.query_one_raw(statement(db, READ, [name.into()])).await?;
        let next: Option<DateTimeUtc> = found.map(|row| row.try_get("", "next_at")).transpose()?;
        let after = next.map_or(now, |next| next.max(now)) + every;
        let moved = match next {
            None => statement(db, FIRST, [name.into(), after.into()]),
            Some(next) => statement(db, MOVE, [name.into(), after.into(), next.into()]),
        };
        if db.execute_raw(moved).await?.rows_affected() == 1 {
            return Ok(next.map_or(now, |next| (next - tolerance).max(now)));
        }
    }
}
