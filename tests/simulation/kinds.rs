//! The kinds of the simulation: each stands for one way real ones use the engine.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use main_webserver::{
    domain::task::TaskState,
    queue::{GiveUp, Registry, Run, TaskError, TaskKind},
    store::{
        limits::Rate,
        tasks::{Lease, Model as Row, Step, TaskInput},
    },
};
use serde::{Deserialize, Serialize};

use super::{node::Node, oracle::Effect};

/// Longer than any run of a world, so that a wait nobody ends is found.
pub const LONG: Duration = Duration::from_secs(3_000);
const RATE: Rate = Rate {
    every: Duration::from_millis(300),
    burst: 2,
};
const STEPS: [&str; 3] = ["disk", "network", "machine"];

/// How many things a successful task of a kind leaves.
pub fn things(kind: &str) -> usize {
    match kind {
        "stepped" => STEPS.len(),
        "quick" | "flaky" | "limited" | "bound" => 1,
        _ => 0,
    }
}

/// How a task ends when nothing goes wrong.
pub fn end_in_clear_weather(row: &Row) -> TaskState {
    let is_doomed = row.input["dooms"].as_bool() == Some(true);
    match row.kind.as_str() {
        _ if row.cancel_requested_at.is_some()
            && row.state != "succeeded"
            && row.state != "failed" =>
        {
            TaskState::Cancelled
        }
        "poison" => TaskState::Failed,
        "stepped" if is_doomed => TaskState::Failed,
        _ => TaskState::Succeeded,
    }
}

macro_rules! inputs {
    ($($name:ident = $kind:literal { $($field:ident: $type:ty),* })*) => {$(
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub struct $name { $(pub $field: $type),* }
        impl TaskInput for $name {
            const KIND: &'static str = $kind;
            const DEADLINE: Duration = LONG;
        }
    )*};
}
inputs! {
    Quick = "quick" {}
    Flaky = "flaky" { failures: i32 }
    Stepped = "stepped" { dooms: bool }
    Waiting = "waiting" { topic: String }
    Family = "family" { children: u8 }
    Slow = "slow" {}
    Poison = "poison" {}
    Endless = "endless" {}
    Limited = "limited" {}
    Bound = "bound" {}
}

/// One struct for all kinds: what it does is said by the input.
struct Kind<I>(Arc<Node>, std::marker::PhantomData<fn() -> I>);

/// All kinds, as a node runs them.
pub fn registry(node: &Arc<Node>) -> Registry {
    fn of<I>(node: &Arc<Node>) -> Kind<I> {
        Kind(Arc::clone(node), std::marker::PhantomData)
    }
    Registry::default()
        .with(of::<Quick>(node))
        .with(of::<Flaky>(node))
        .with(of::<Stepped>(node))
        .with(of::<Waiting>(node))
        .with(of::<Family>(node))
        .with(of::<Slow>(node))
        .with(of::<Poison>(node))
        .with(of::<Endless>(node))
        .with(of::<Limited>(node))
        .with(of::<Bound>(node))
}

/// A run under way, for the oracle.
struct Underway(Arc<Node>, Lease);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.world.state().oracle.end_run(self.0.number, self.1);
    }
}

impl<I> Kind<I> {
    fn begin(&self, run: &Run) -> Underway {
        let (node, lease) = (&self.0, run.lease());
        node.world.note(node.number, "run", || {
            format!("{lease:?} {}", run.task.kind)
        });
        node.world.state().oracle.begin_run(node.number, lease);
        Underway(Arc::clone(node), lease)
    }

    /// A call of the provider, which may fail before or after it did its work.
    async fn provide(
        &self,
        lease: Lease,
        name: &'static str,
        makes: bool,
    ) -> Result<(), TaskError> {
        let node = &self.0;
        let failed = || TaskError::Retryable {
            code: "ENGINE",
            message: "the engine did not answer".to_owned(),
        };
        node.gate().await;
        let (there, back) = {
            let mut state = node.world.state();
            (state.latency(), state.latency())
        };
        node.world.nap(there).await;
        let (is_done, is_lost) = {
            let mut state = node.world.state();
            let (fails, loses) = (
                state.weather.provider_fails,
                state.weather.provider_answer_lost,
            );
            if state.strikes(fails) {
                state.count("fault provider fails");
                return Err(failed());
            }
            let is_lost = state.strikes(loses);
            if is_lost {
                state.count("fault provider answer lost");
            }
            let is_done = if makes {
                state.provider.make(lease, name)
            } else {
                state.provider.remove(lease, name)
            };
            if !is_done {
                state.count("effect provider refused an old attempt");
            }
            (is_done, is_lost)
        };
        node.world.note(node.number, "provide", || {
            format!("{lease:?} {name} makes={makes} done={is_done} lost={is_lost}")
        });
        node.world.nap(back).await;
        node.gate().await;
        if is_done && !is_lost {
            Ok(())
        } else {
            Err(failed())
        }
    }

    async fn make(&self, run: &Run, name: &'static str) -> Result<(), TaskError> {
        self.provide(run.lease(), name, true).await
    }

    async fn remove_all(&self, run: &Run, names: &[&'static str]) -> Result<(), TaskError> {
        for name in names {
            self.provide(run.lease(), name, false).await?;
        }
        Ok(())
    }
}

/// A kind that makes one thing or none and takes it back when given up.
macro_rules! kind {
    ($input:ident, |$kind:ident, $given:ident, $run:ident| $body:expr, $names:expr) => {
        #[async_trait]
        impl TaskKind for Kind<$input> {
            type Input = $input;
            type Output = ();

            async fn run(&self, $given: $input, $run: &Run) -> Result<(), TaskError> {
                let _underway = self.begin($run);
                let $kind = self;
                $body
            }

            async fn give_up(&self, _: $input, run: &Run, _: &GiveUp) -> Result<(), TaskError> {
                self.remove_all(run, $names).await
            }
        }
    };
}

kind!(
    Quick,
    |kind, _input, run| kind.make(run, "it").await,
    &["it"]
);
kind!(
    Flaky,
    |kind, input, run| {
        if run.task.failures < input.failures {
            return Err(TaskError::Retryable {
                code: "FLAKY",
                message: "not this time".to_owned(),
            });
        }
        kind.make(run, "it").await
    },
    &["it"]
);
kind!(
    Waiting,
    |kind, input, run| {
        run.expect(&input.topic).await?;
        let topic = input.topic.clone();
        let has_fired = kind
            .0
            .call("look", |state, _| {
                Ok((state.fired.contains(&topic), Effect::Read))
            })
            .await?;
        if has_fired {
            return Ok(());
        }
        // It may happen before the wait has begun.
        let pause = Duration::from_millis(kind.0.world.state().below(600));
        run.pause(pause).await?;
        Err(TaskError::Wait {
            until: run.now() + LONG,
            wake_on: Some(input.topic),
        })
    },
    &[]
);
kind!(
    Family,
    |_kind, input, run| {
        for child in 0..input.children {
            let task = if child == 0 {
                Flaky { failures: 1 }.into_task(None, None)
            } else {
                Quick {}.into_task(None, None)
            };
            let task = task.map_err(|error| TaskError::Permanent {
                code: "INPUT",
                message: error.to_string(),
            })?;
            run.spawn(&child.to_string(), task).await?;
        }
        run.join().await?;
        Ok(())
    },
    &[]
);
kind!(
    Slow,
    |_kind, _input, run| {
        for part in 0..6 {
            run.progress(part * 16, "goes on").await?;
            run.pause(Duration::from_millis(1_200)).await?;
        }
        Ok(())
    },
    &[]
);
kind!(
    Poison,
    |_kind, _input, run| {
        run.check_stop()?;
        // Like a panic, but for its words on the terminal.
        std::panic::resume_unwind(Box::new("poison"))
    },
    &[]
);
kind!(
    Endless,
    |_kind, _input, run| {
        run.stop.token().cancelled().await;
        Err(TaskError::Stopped)
    },
    &[]
);
kind!(
    Limited,
    |kind, _input, run| {
        run.keep_rate("engine", RATE).await?;
        kind.make(run, "it").await
    },
    &["it"]
);

kind!(
    Bound,
    |kind, _input, run| {
        // Half of the nodes cannot do it; that there may be no others does not make it endless.
        if kind.0.number.is_multiple_of(2) && run.task.attempt < 4 {
            kind.0.world.state().count("effect task left to others");
            return Err(TaskError::Elsewhere);
        }
        kind.make(run, "it").await
    },
    &["it"]
);

#[async_trait]
impl TaskKind for Kind<Stepped> {
    type Input = Stepped;
    type Output = ();
    const TIMEOUT: Duration = Duration::from_secs(20);

    async fn run(&self, input: Stepped, run: &Run) -> Result<(), TaskError> {
        let _underway = self.begin(run);
        for name in STEPS {
            run.step(name, || self.make(run, name)).await?;
        }
        if input.dooms {
            return Err(TaskError::Permanent {
                code: "DOOMED",
                message: "it was not to be".to_owned(),
            });
        }
        Ok(())
    }

    async fn compensate(&self, step: &Step, _: &Stepped, run: &Run) -> Result<(), TaskError> {
        for name in STEPS.into_iter().filter(|name| *name == step.name) {
            self.provide(run.lease(), name, false).await?;
        }
        self.0.world.state().count("effect step undone");
        Ok(())
    }

    async fn give_up(&self, _: Stepped, run: &Run, _: &GiveUp) -> Result<(), TaskError> {
        self.remove_all(run, &STEPS).await
    }
}
