//! A task that does nothing, for measuring the engine itself.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    queue::{Run, TaskError, TaskKind},
    store::tasks::TaskInput,
};

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {}

impl TaskInput for Input {
    const KIND: &'static str = "noop";
    const DEADLINE: Duration = Duration::from_secs(86_400);
}

pub struct Noop;

#[async_trait]
impl TaskKind for Noop {
    type Input = Input;
    type Output = ();

    async fn run(&self, _: Input, _: &Run) -> Result<(), TaskError> {
        Ok(())
    }
}
