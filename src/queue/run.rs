//! One run of a task: all that a kind may touch, every write of it fenced by the attempt.

use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::TaskError;
use crate::store::{
    Store, Tx,
    task_logs::{self, Level},
    tasks::{self, Lease, Model},
};

/// Why a run is asked to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StopReason {
    /// Somebody asked for the task's end.
    Cancelled,
    /// Another worker may have it; nothing this run writes counts.
    LeaseLost,
    /// The worker goes away.
    Draining,
    TimedOut,
}

/// A request to stop, with its first reason.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    pub fn request(&self, reason: StopReason) {
        // The first reason stands.
        let _ = self.reason.set(reason);
        self.token.cancel();
    }

    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// For calls that can be left in the middle.
    pub const fn token(&self) -> &CancellationToken {
        &self.token
    }
}

/// A claimed task in the hands of its kind.
pub struct Run {
    pub task: Model,
    pub store: Store,
    pub stop: Stop,
}

impl Run {
    pub const fn lease(&self) -> Lease {
        self.task.lease()
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.store.now()
    }

    /// Opens a transaction that fails with [`crate::error::StoreError::LeaseLost`] unless this run is the newest.
    pub async fn begin(&self) -> Result<Tx<'_>, TaskError> {
        let tx = self.store.begin().await?;
        tasks::fence(&tx, self.lease()).await?;
        Ok(tx)
    }

    /// Tells how far the work has come, in percent and words; the words go into the log as well.
    pub async fn progress(&self, percent: u8, message: &str) -> Result<(), TaskError> {
        let mut tx = self.store.begin().await?;
        tasks::progress(&mut tx, self.lease(), percent, message).await?;
        task_logs::append(&mut tx, self.lease(), Level::Info, message).await?;
        Ok(tx.commit().await?)
    }

    /// Adds a line to the task's log.
    pub async fn log(&self, level: Level, message: &str) -> Result<(), TaskError> {
        let mut tx = self.begin().await?;
        task_logs::append(&mut tx, self.lease(), level, message).await?;
        Ok(tx.commit().await?)
    }

    /// Leaves when a stop has been requested; for the places where leaving is safe.
    pub fn check_stop(&self) -> Result<(), TaskError> {
        if self.stop.token.is_cancelled() {
            Err(TaskError::Stopped)
        } else {
            Ok(())
        }
    }

    /// Sleeps, unless a stop is requested meanwhile.
    pub async fn pause(&self, duration: std::time::Duration) -> Result<(), TaskError> {
        tokio::select! {
            () = self.store.clock.sleep(duration) => Ok(()),
            () = self.stop.token.cancelled() => Err(TaskError::Stopped),
        }
    }
}
