//! One attempt: running a kind within its time, and what follows from how it ended.

use std::{panic::AssertUnwindSafe, time::Duration};

use chrono::{DateTime, SubsecRound as _, Utc};
use futures_util::FutureExt as _;

use super::{GiveUp, Run, Stop, StopReason, TaskError, Worker, kind::AnyKind};
use crate::{
    domain::task::backoff_ceiling,
    error::StoreError,
    store::{
        task_logs::Level,
        tasks::{Claimed, Outcome},
    },
};

/// How long a run that was asked to stop may take to reach a safe place.
const GRACE: Duration = Duration::from_secs(10);
/// Attempts at cleaning up that follow the last attempt at the work itself.
const CLEANUPS: i32 = 5;

impl Worker {
    /// Runs the task or gives it up; `None` when the lease is lost and there is nothing to say.
    pub(super) async fn outcome(&self, run: &Run) -> Option<Outcome> {
        let task = &run.task;
        let Some(kind) = self.registry.get(&task.kind) else {
            // A claim asks for known kinds only.
            return Some(Outcome::HandBack);
        };
        if let Some(why) = must_give_up(task, run.now()) {
            return self.give_up(run, &*kind, why).await;
        }
        let error = match bounded(run, kind.timeout(), kind.run(run)).await {
            Ok(Ok(result)) => return Some(Outcome::Succeeded(result)),
            Ok(Err(error)) => error,
            Err(Panicked) => TaskError::Retryable {
                code: "INTERNAL",
                message: "the task's code panicked; the worker's log has it".to_owned(),
            },
        };
        let (code, message, is_permanent) = match (error, run.stop.reason()) {
            (TaskError::Store(StoreError::LeaseLost), _) | (_, Some(StopReason::LeaseLost)) => {
                return None;
            }
            (TaskError::Wait { until, wake_on }, None) => {
                return Some(Outcome::Park {
                    until: until.min(task.deadline_at),
                    wake_on,
                });
            }
            (TaskError::Elsewhere, None) => {
                return Some(self.leave(run));
            }
            (TaskError::Unwanted, None) | (_, Some(StopReason::Cancelled)) => {
                return self.give_up(run, &*kind, GiveUp::Cancelled).await;
            }
            (_, Some(StopReason::Draining)) => return Some(Outcome::HandBack),
            (_, Some(StopReason::TimedOut)) => {
                ("TIMED_OUT", "the attempt took too long".to_owned(), false)
            }
            (TaskError::Retryable { code, message }, None) => (code, message, false),
            (TaskError::Permanent { code, message }, None) => (code, message, true),
            (TaskError::Store(error), None) => {
                tracing::warn!(%error, task = %task.id(), "a task met the store's error");
                (
                    "STORE",
                    "the database did not take a write".to_owned(),
                    false,
                )
            }
            (TaskError::Stopped, None) => {
                ("STOPPED", "stopped without being asked".to_owned(), false)
            }
        };
        let is_last = is_permanent || task.failures + 1 >= task.max_attempts;
        let level = if is_last { Level::Error } else { Level::Warn };
        let _ = run.log(level, &format!("{code}: {message}")).await;
        if is_last {
            return self
                .give_up(run, &*kind, GiveUp::Failed { code, message })
                .await;
        }
        Some(self.retry(task, code, message))
    }

    fn leave(&self, run: &Run) -> Outcome {
        let now = run.now();
        self.elsewhere.leave(run.task.id(), now, &self.entropy)
    }

    fn retry(&self, task: &Claimed, code: &'static str, message: String) -> Outcome {
        let failures = u32::try_from(task.failures + 1).unwrap_or(1);
        let at = self.clock.now() + self.entropy.jitter(backoff_ceiling(failures));
        // To the clock's own precision, which both databases keep.
        let at = at.trunc_subsecs(6);
        Outcome::Retry {
            at,
            failures: 1,
            code,
            message,
        }
    }

    /// The next attempt goes on cleaning up: a task that is being undone is not done again.
    fn retry_cleanup(&self, task: &Claimed, why: &GiveUp, problem: &str) -> Outcome {
        let (code, message) = match why {
            GiveUp::Cancelled => ("CANCELLED", "it was cancelled"),
            GiveUp::Failed { code, message } => (*code, message.as_str()),
        };
        let message = format!("{message}; cleaning up: {problem}");
        match self.retry(task, code, message) {
            Outcome::Retry {
                at, code, message, ..
            } => Outcome::Retry {
                at,
                failures: (task.max_attempts - task.failures).max(1),
                code,
                message,
            },
            other => other,
        }
    }

    async fn give_up(&self, run: &Run, kind: &dyn AnyKind, why: GiveUp) -> Option<Outcome> {
        // The cleaning up has its own time; a cancellation that led here does not stop it as well.
        let cleanup = self.run_of(run.task.clone(), Stop::default());
        let cleaned = bounded(&cleanup, kind.timeout(), kind.give_up(&cleanup, &why)).await;
        let problem = match cleaned {
            Ok(Ok(())) => None,
            Ok(Err(TaskError::Store(StoreError::LeaseLost))) => return None,
            // Whoever has it next gives it up as well.
            Ok(Err(TaskError::Elsewhere)) if must_give_up(&run.task, run.now()).is_some() => {
                return Some(self.leave(run));
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(Panicked) => Some("the cleaning up panicked".to_owned()),
        };
        if let Some(problem) = problem {
            let _ = run
                .log(Level::Error, &format!("cleaning up: {problem}"))
                .await;
            if run.task.failures < run.task.max_attempts + CLEANUPS {
                return Some(self.retry_cleanup(&run.task, &why, &problem));
            }
        }
        Some(match why {
            GiveUp::Cancelled => Outcome::Cancelled,
            GiveUp::Failed { code, message } => Outcome::Failed { code, message },
        })
    }
}

/// Whether a task that was just claimed is past running.
fn must_give_up(task: &Claimed, now: DateTime<Utc>) -> Option<GiveUp> {
    if task.cancel_requested_at.is_some() {
        return Some(GiveUp::Cancelled);
    }
    if task.deadline_at <= now {
        return Some(GiveUp::Failed {
            code: "DEADLINE_EXCEEDED",
            message: "it did not finish before its deadline".to_owned(),
        });
    }
    if task.failures >= task.max_attempts {
        let last = task
            .error_message
            .as_deref()
            .unwrap_or("no error was recorded");
        let message = format!(
            "{} attempts failed, the last one with: {last}",
            task.failures
        );
        return Some(GiveUp::Failed {
            code: "ATTEMPTS_EXHAUSTED",
            message,
        });
    }
    None
}

struct Panicked;

/// Awaits `work` within `limit`; after a request to stop it has [`GRACE`] to reach a safe place, then it is dropped.
async fn bounded<T>(
    run: &Run,
    limit: Duration,
    work: impl Future<Output = Result<T, TaskError>>,
) -> Result<Result<T, TaskError>, Panicked> {
    let clock = &run.clock;
    let mut work = std::pin::pin!(AssertUnwindSafe(work).catch_unwind());
    tokio::select! {
        biased;
        done = &mut work => return done.map_err(|_| Panicked),
        () = clock.sleep(limit) => run.stop.request(StopReason::TimedOut),
        () = run.stop.token().cancelled() => {}
    }
    tokio::select! {
        biased;
        done = work => done.map_err(|_| Panicked),
        () = clock.sleep(GRACE) => Ok(Err(TaskError::Stopped)),
    }
}
