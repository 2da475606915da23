//! One run of a task: all that a kind may touch, every write of it fenced by the attempt.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde::{Serialize, de::DeserializeOwned};
use tokio_util::sync::CancellationToken;

use super::{TaskError, TaskStore};
use crate::{
    domain::{Clock, Id, id::Task},
    error::StoreError,
    store::{
        Store, Tx,
        batch::Batcher,
        limits::Rate,
        task_logs::Level,
        tasks::{self, CHILDREN, Child, Claimed, Lease, NewTask, Report, Step},
    },
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

/// What came of a write that went with others: done, or why not.
pub(super) type Written = Result<(), WriteError>;

/// Why a run's write did not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum WriteError {
    LeaseLost,
    /// The database was away.
    Away(String),
    /// The database does not take it.
    Refused(String),
}

/// A claimed task in the hands of its kind.
pub struct Run {
    pub task: Claimed,
    pub stop: Stop,
    pub(super) truth: Arc<dyn TaskStore>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) reporter: Batcher<Report, Written>,
}

impl Run {
    pub const fn lease(&self) -> Lease {
        self.task.lease()
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Opens a transaction that fails with [`StoreError::LeaseLost`] unless this run is the newest.
    pub async fn begin<'a>(&self, store: &'a Store) -> Result<Tx<'a>, TaskError> {
        let tx = store.begin().await?;
        tasks::fence(&tx, self.lease()).await?;
        Ok(tx)
    }

    /// Tells how far the work has come, in percent and words; the words go into the log as well.
    pub async fn progress(&self, percent: u8, message: &str) -> Result<(), TaskError> {
        self.report(Some(percent), Level::Info, message).await
    }

    /// Adds a line to the task's log.
    pub async fn log(&self, level: Level, message: &str) -> Result<(), TaskError> {
        self.report(None, level, message).await
    }

    async fn report(
        &self,
        percent: Option<u8>,
        level: Level,
        message: &str,
    ) -> Result<(), TaskError> {
        let report = Report {
            lease: self.lease(),
            percent,
            level,
            // PostgreSQL's text has no place for it.
            message: message.replace('\0', "\u{fffd}"),
        };
        match self.reporter.submit(report).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(WriteError::LeaseLost)) => Err(StoreError::LeaseLost.into()),
            Ok(Err(WriteError::Away(message) | WriteError::Refused(message))) => {
                Err(TaskError::Retryable {
                    code: "STORE",
                    message,
                })
            }
            Err(overloaded) => Err(TaskError::Retryable {
                code: "OVERLOADED",
                message: overloaded.to_string(),
            }),
        }
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
    pub async fn pause(&self, duration: Duration) -> Result<(), TaskError> {
        tokio::select! {
            biased;
            () = self.stop.token.cancelled() => Err(TaskError::Stopped),
            () = self.clock.sleep(duration) => Ok(()),
        }
    }

    /// Does `work` unless an earlier attempt has finished it, and records its result under `name`, 1 to 64 characters
    /// that are this step's own. When the task is given up, the steps are undone by the kind's `compensate`.
    pub async fn step<T, F>(
        &self,
        name: &str,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T, TaskError>
    where
        T: Serialize + DeserializeOwned + Send,
        F: Future<Output = Result<T, TaskError>> + Send,
    {
        let unreadable = |error: serde_json::Error| TaskError::Permanent {
            code: "BAD_STEP",
            message: format!("step {name}: {error}"),
        };
        if let Some(done) = self.steps().await?.into_iter().find(|s| s.name == name) {
            return serde_json::from_value(done.output).map_err(unreadable);
        }
        self.check_stop()?;
        let result = work().await?;
        let output = serde_json::to_value(&result).map_err(unreadable)?;
        self.truth.record_step(self.lease(), name, output).await?;
        Ok(result)
    }

    /// The finished steps, in order.
    pub async fn steps(&self) -> Result<Vec<Step>, TaskError> {
        Ok(self.truth.steps(self.task.id()).await?)
    }

    pub(super) async fn mark_compensated(&self, step: &str) -> Result<(), TaskError> {
        Ok(self.truth.mark_compensated(self.lease(), step).await?)
    }

    /// Says what this run is going to wait for, before it looks whether it has to: what happens after this call ends
    /// the wait at once, even if it happens before the wait has begun.
    pub async fn expect(&self, topic: &str) -> Result<(), TaskError> {
        Ok(self.truth.arm(self.lease(), topic).await?)
    }

    /// Adds a child under a name of its own; another attempt finds the same child. A task that is to stop gets none.
    pub async fn spawn(&self, name: &str, child: NewTask) -> Result<Id<Task>, TaskError> {
        let child = NewTask {
            parent: Some(self.task.id()),
            owner: child.owner.or(self.task.owner_id.map(Id::new)),
            idempotency_key: Some(format!("child:{}:{name}", self.task.id.simple())),
            kind: Cow::clone(&child.kind),
            ..child
        };
        let spawned = self.truth.spawn(self.lease(), vec![child]).await;
        if matches!(spawned, Err(StoreError::CancelRequested)) {
            self.stop.request(StopReason::Cancelled);
            return Err(TaskError::Stopped);
        }
        spawned?.pop().ok_or_else(|| StoreError::Stale.into())
    }

    /// The children when all have ended; else the error that parks the task until they have.
    pub async fn join(&self) -> Result<Vec<Child>, TaskError> {
        let children = self.truth.children(self.task.id()).await?;
        for child in &children {
            if !crate::domain::Machine::is_terminal(child.state()?) {
                return Err(TaskError::Wait {
                    until: self.task.deadline_at,
                    wake_on: Some(CHILDREN.to_owned()),
                });
            }
        }
        Ok(children)
    }

    /// Keeps to a rate shared by all workers: goes on when this task has its turn, else parks it until then. Asking
    /// again within the same attempt at the work, or after the wait, takes no second turn.
    pub async fn keep_rate(&self, limit: &str, rate: Rate) -> Result<(), TaskError> {
        let name = format!("turn:{limit}:{}", self.task.failures);
        let truth = &self.truth;
        let turn: DateTime<Utc> = self
            .step(
                &name,
                || async move { Ok(truth.reserve(limit, rate).await?) },
            )
            .await?;
        if turn <= self.now() {
            return Ok(());
        }
        Err(TaskError::Wait {
            until: turn,
            wake_on: None,
        })
    }
}
