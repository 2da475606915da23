//! Blobs beside the rows of connections: both go when their time is over, and neither stays without the other.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt as _;
use uuid::Uuid;

use crate::{
    domain::{Id, id::ConnectionLog},
    error::StoreError,
    objects::{BlobError, Objects},
    store::{
        Store,
        connection_logs::{self, FOLDER, of_blob},
    },
};

/// Rows of one turn.
const BATCH: u64 = 100;
/// Time between two looks for what has lost its other side.
const REPAIR: TimeDelta = TimeDelta::hours(1);
/// How young a blob is left alone: its row may not be written yet.
const YOUNG: TimeDelta = TimeDelta::hours(1);

pub(super) struct Blobs {
    store: Store,
    objects: Objects,
    repair_at: DateTime<Utc>,
    /// The last row whose blobs were looked for.
    seen: Uuid,
}

impl Blobs {
    pub(super) fn new(store: Store, objects: Objects) -> Self {
        Self {
            repair_at: store.now(),
            store,
            objects,
            seen: Uuid::nil(),
        }
    }

    /// Removes what is over, and now and then what is alone. A store of blobs that is away is waited for.
    pub(super) async fn turn(&mut self) -> Result<(), StoreError> {
        let ended = match self.expire().await {
            Ok(()) if self.repair_at <= self.store.now() => {
                self.repair_at = self.store.now() + REPAIR;
                self.repair().await
            }
            ended => ended,
        };
        match ended {
            Ok(()) => Ok(()),
            Err(Trouble::Store(error)) => Err(error),
            Err(Trouble::Blobs(error)) => {
                tracing::warn!(%error, "the logs of connections cannot be looked after for now");
                Ok(())
            }
        }
    }

    async fn expire(&self) -> Result<(), Trouble> {
        let expired = connection_logs::expired(&self.store, BATCH).await?;
        if expired.is_empty() {
            return Ok(());
        }
        let place = self.objects.identity().await?;
        for row in expired {
            if !row.blobs().all(|blob| is_in(blob, &place)) {
                tracing::debug!(id = %row.id, "its logs are in another place; set BLOB_URL to the same one everywhere");
                continue;
            }
            // The row last: while it is there, its blobs are known.
            for blob in row.blobs() {
                self.objects.remove(blob).await?;
            }
            connection_logs::remove_expired(&self.store, &row).await?;
        }
        Ok(())
    }

    async fn repair(&mut self) -> Result<(), Trouble> {
        let old = self.store.now() - YOUNG;
        let place = self.objects.identity().await?;
        let mut blobs = self.objects.within(FOLDER);
        while let Some(blob) = blobs.next().await {
            let (name, written) = blob?;
            if written < old && !self.is_wanted(&name).await? {
                self.objects.remove(&name).await?;
                tracing::info!(blob = name, "a log without its connection is gone");
            }
        }
        let rows = connection_logs::batch_after(&self.store, self.seen, BATCH).await?;
        for row in &rows {
            for blob in row.blobs().filter(|blob| is_in(blob, &place)) {
                if !self.objects.is_there(blob).await? {
                    connection_logs::forget_blob(&self.store, row, blob).await?;
                    tracing::info!(blob, "a connection has lost its log");
                }
            }
        }
        // The rest the next time, then from the beginning.
        self.seen = rows
            .last()
            .filter(|_| rows.len() as u64 == BATCH)
            .map_or_else(Uuid::nil, |row| row.id);
        Ok(())
    }

    /// Whether a row has this blob.
    async fn is_wanted(&self, name: &str) -> Result<bool, Trouble> {
        let Some((id, _)) = of_blob(name) else {
            // Not one of ours.
            return Ok(true);
        };
        let row = connection_logs::unscoped_by_id(&self.store, Id::<ConnectionLog>::new(id));
        Ok(row
            .await?
            .is_some_and(|row| row.blobs().any(|blob| blob == name)))
    }
}

fn is_in(blob: &str, place: &str) -> bool {
    of_blob(blob).is_some_and(|(_, of)| of == place)
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Blobs(#[from] BlobError),
}
