//! What a kind of task is, and the registry a worker looks kinds up in.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sea_orm::JsonValue;
use serde::Serialize;

use super::Run;
use crate::{
    error::StoreError,
    store::tasks::{Claimed, KnownKind, Step, TaskInput},
};

/// A kind of task: what to do, and how to clean up when it will not be done.
#[async_trait]
pub trait TaskKind: Send + Sync + 'static {
    type Input: TaskInput;
    type Output: Serialize;
    /// Longest time of one attempt.
    const TIMEOUT: Duration = Duration::from_secs(300);

    /// Does the work. It may run again from the start after any crash, so every step has to find its own work done;
    /// [`Run::step`] records what has been finished.
    async fn run(&self, input: Self::Input, run: &Run) -> Result<Self::Output, TaskError>;

    /// Undoes one recorded step, because the task ends without success: the last step first, each until it succeeds.
    async fn compensate(
        &self,
        _step: &Step,
        _input: &Self::Input,
        _run: &Run,
    ) -> Result<(), TaskError> {
        Ok(())
    }

    /// Undoes the rest, when every recorded step has been undone. Runs again until it succeeds.
    async fn give_up(
        &self,
        _input: Self::Input,
        _run: &Run,
        _why: &GiveUp,
    ) -> Result<(), TaskError> {
        Ok(())
    }
}

/// Why a task ends without success.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GiveUp {
    Cancelled,
    Failed { code: &'static str, message: String },
}

/// How a run ended when not with a result.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// May go better another time.
    #[error("{message}")]
    Retryable { code: &'static str, message: String },
    /// Will not go better.
    #[error("{message}")]
    Permanent { code: &'static str, message: String },
    /// Waits for an event, at most until a time, and gives its worker back.
    #[error("waits until {until}")]
    Wait {
        until: DateTime<Utc>,
        wake_on: Option<String>,
    },
    /// This worker cannot work on it, and another one can: it is given back at once.
    #[error("it is to be worked on elsewhere")]
    Elsewhere,
    /// What it works on is not wanted any more: the task ends as if it had been cancelled.
    #[error("what it works on is not wanted any more")]
    Unwanted,
    /// Followed the request to stop.
    #[error("stopped on request")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sea_orm::DbErr> for TaskError {
    fn from(error: sea_orm::DbErr) -> Self {
        Self::Store(error.into())
    }
}

/// A kind with its types put aside, so that a worker can hold many.
#[async_trait]
pub(super) trait AnyKind: Send + Sync {
    fn timeout(&self) -> Duration;
    fn version(&self) -> i32;
    async fn run(&self, run: &Run) -> Result<JsonValue, TaskError>;
    async fn give_up(&self, run: &Run, why: &GiveUp) -> Result<(), TaskError>;
}

fn input<I: TaskInput>(task: &Claimed) -> Result<I, TaskError> {
    I::decode(task.input_version, task.input.clone()).map_err(|problem| TaskError::Permanent {
        code: "BAD_INPUT",
        message: format!("its input cannot be read: {problem}"),
    })
}

#[async_trait]
impl<K: TaskKind> AnyKind for K {
    fn timeout(&self) -> Duration {
        K::TIMEOUT
    }

    fn version(&self) -> i32 {
        K::Input::VERSION
    }

    async fn run(&self, run: &Run) -> Result<JsonValue, TaskError> {
        let output = TaskKind::run(self, input(&run.task)?, run).await?;
        serde_json::to_value(output).map_err(|error| TaskError::Permanent {
            code: "BAD_OUTPUT",
            message: error.to_string(),
        })
    }

    async fn give_up(&self, run: &Run, why: &GiveUp) -> Result<(), TaskError> {
        // What cannot be read has never run, so there is nothing to undo.
        let Ok(input) = input::<K::Input>(&run.task) else {
            return Ok(());
        };
        let steps = run.steps().await?;
        for step in steps.iter().rev().filter(|s| s.compensated_at.is_none()) {
            self.compensate(step, &input, run).await?;
            run.mark_compensated(&step.name).await?;
        }
        TaskKind::give_up(self, input, run, why).await
    }
}

/// The kinds a worker knows, by name.
#[derive(Clone, Default)]
pub struct Registry(BTreeMap<&'static str, Arc<dyn AnyKind>>);

impl Registry {
    /// Adds a kind under its input's name.
    #[must_use]
    pub fn with<K: TaskKind>(mut self, kind: K) -> Self {
        self.0.insert(K::Input::KIND, Arc::new(kind));
        self
    }

    /// The names, each with the newest input version it reads.
    pub fn known(&self) -> Vec<KnownKind> {
        let known = self.0.iter().map(|(name, kind)| KnownKind {
            kind: (*name).to_owned(),
            version: kind.version(),
        });
        known.collect()
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<dyn AnyKind>> {
        self.0.get(name).cloned()
    }
}
