//! What the leading sweeper does now and then: counts the queue, archives what has ended, forgets the dead.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    error::StoreError,
    store::{
        Store,
        archive::{self, Cut},
        statistics, tasks, workers,
    },
};

/// Time between two counts, at the least.
const COUNT: Duration = Duration::from_secs(5);
/// A count that takes long is made less often: so many times its own length passes until the next.
const COUNT_SHARE: u32 = 20;
/// Time between two clearings.
const CLEAR: TimeDelta = TimeDelta::seconds(30);
/// Tasks that go to the archive in one transaction.
const BATCH: u64 = 500;
/// Transactions of one clearing, so that the sweeper comes back to its other duties.
const ROUNDS: usize = 20;
/// How long a worker may be silent before it is forgotten.
const SILENCE: Duration = Duration::from_secs(120);

/// How long what has ended is kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Ended tasks stay with the live ones.
    pub ended: Duration,
    /// Dead letters do, to be looked into and tried again.
    pub failed: Duration,
    /// Both stay in the archive after that.
    pub archived: Duration,
}

pub struct Upkeep {
    store: Store,
    retention: Retention,
    count_at: DateTime<Utc>,
    clear_at: DateTime<Utc>,
}

impl Upkeep {
    pub fn new(store: Store, retention: Retention) -> Self {
        let now = store.now();
        Self {
            store,
            retention,
            count_at: now,
            clear_at: now + CLEAR,
        }
    }

    pub(super) async fn turn(&mut self) -> Result<(), StoreError> {
        let now = self.store.now();
        if self.count_at <= now {
            statistics::refresh(&self.store).await?;
            let took = (self.store.now() - now).to_std().unwrap_or_default();
            self.count_at = self.store.now() + COUNT.max(took * COUNT_SHARE);
        }
        if self.clear_at <= now {
            self.clear_at = now + CLEAR;
            self.clear().await?;
        }
        Ok(())
    }

    /// Archives, and forgets what is older than that.
    pub async fn clear(&self) -> Result<(), StoreError> {
        let now = self.store.now();
        let cut = Cut {
            ended_before: now - self.retention.ended,
            failed_before: now - self.retention.failed,
            archived_before: now - self.retention.archived,
        };
        for _ in 0..ROUNDS {
            let moved = archive::move_ended(&self.store, cut, BATCH).await?;
            if moved > 0 {
                tracing::debug!(moved, "archived");
            }
            if (moved as u64) < BATCH {
                break;
            }
        }
        archive::drop_old(&self.store, cut, BATCH).await?;
        workers::forget_silent(&self.store, SILENCE).await?;
        let known: BTreeSet<String> = workers::all(&self.store)
            .await?
            .iter()
            .flat_map(workers::Model::known)
            .map(|known| known.kind)
            .collect();
        tasks::drop_stranded(&self.store, &known, BATCH).await?;
        Ok(())
    }
}
