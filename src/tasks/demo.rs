//! A task that only takes its time, for trying out progress, cancellation and live updates.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    domain::value::Refused,
    queue::{Run, TaskError, TaskKind},
    store::tasks::TaskInput,
};

/// How many steps it takes, and how long each lasts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Input {
    pub steps: u16,
    /// Milliseconds.
    #[serde(alias = "stepMillis")]
    pub step_millis: u32,
}

impl Input {
    /// Refuses what takes no time at all, or too much.
    pub fn check(&self) -> Result<(), Refused> {
        if !(1..=1000).contains(&self.steps) {
            return Err(Refused("1 to 1000 steps are expected".to_owned()));
        }
        if self.step_millis > 60_000 {
            return Err(Refused(
                "steps of 0 to 60000 milliseconds are expected".to_owned(),
            ));
        }
        Ok(())
    }
}

impl TaskInput for Input {
    const KIND: &'static str = "demo";
}

#[derive(Serialize)]
pub struct Output {
    steps: u16,
}

pub struct Demo;

#[async_trait]
impl TaskKind for Demo {
    type Input = Input;
    type Output = Output;
    const TIMEOUT: Duration = Duration::from_secs(3000);

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        // The recorded progress tells a second attempt how many steps the first one finished.
        let recorded = u32::try_from(run.task.progress).unwrap_or_default();
        let finished = recorded * u32::from(input.steps) / 100;
        for step in finished + 1..=u32::from(input.steps) {
            run.pause(Duration::from_millis(input.step_millis.into()))
                .await?;
            // Rounded up, so that the division above gives this step again.
            let percent = (step * 100).div_ceil(u32::from(input.steps));
            run.progress(
                u8::try_from(percent).unwrap_or(100),
                &format!("step {step} of {}", input.steps),
            )
            .await?;
        }
        Ok(Output { steps: input.steps })
    }
}
