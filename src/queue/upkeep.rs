//! What the leading sweeper does now and then: counts the queue, archives what has ended, forgets the dead.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};

use super::upkeep_blobs::Blobs;
use crate::{
    domain::Dial,
    error::StoreError,
    objects::Objects,
    store::{
        Store,
        archive::{self, Cut},
        retention::{self, Before},
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
    /// What containers and machines have written.
    pub logs: Duration,
    /// Logins that have ended.
    pub logins: Duration,
    pub audit: Duration,
}

pub struct Upkeep {
    store: Store,
    retention: Dial<Retention>,
    count_at: DateTime<Utc>,
    clear_at: DateTime<Utc>,
    blobs: Option<Blobs>,
}

impl Upkeep {
    pub fn new(store: Store, retention: Dial<Retention>) -> Self {
        let now = store.now();
        Self {
            store,
            retention,
            count_at: now,
            clear_at: now + CLEAR,
            blobs: None,
        }
    }

    /// The same, looking after what is kept beside the database as well.
    #[must_use]
    pub fn with_blobs(mut self, objects: Objects) -> Self {
        self.blobs = Some(Blobs::new(self.store.clone(), objects));
        self
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
            self.look_after_blobs().await?;
        }
        Ok(())
    }

    /// Removes logs of connections that are over, and repairs what has lost its other side.
    pub async fn look_after_blobs(&mut self) -> Result<(), StoreError> {
        match &mut self.blobs {
            Some(blobs) => blobs.turn().await,
            None => Ok(()),
        }
    }

    /// Forgets what was recorded long ago.
    async fn forget(&self, now: DateTime<Utc>) -> Result<(), StoreError> {
        let retention = self.retention.get();
        let before = Before {
            logs: now - retention.logs,
            logins: now - retention.logins,
            audit: now - retention.audit,
        };
        for _ in 0..ROUNDS {
            if retention::forget(&self.store, before, BATCH).await? < BATCH {
                break;
            }
        }
        Ok(())
    }

    /// Archives, and forgets what is older than that.
    pub async fn clear(&self) -> Result<(), StoreError> {
        let (now, retention) = (self.store.now(), self.retention.get());
        let cut = Cut {
            ended_before: now - retention.ended,
            failed_before: now - retention.failed,
            archived_before: now - retention.archived,
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
        self.forget(now).await?;
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
