//! What the server tells a host to do. A command outlives the connection it came by: it is done once, and what came of it
//! is told until the server has taken it.

use std::{
    collections::{HashSet, VecDeque},
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use serde_json::json;
use tokio::sync::Notify;

use super::{
    client::{CallError, Client},
    operations::{COMMANDS, Command, REPORT_COMMAND, Taken},
};
use crate::{
    domain::Clock,
    providers::{Docker, Prepared, Provider as _, ProviderError},
};

/// How many commands are remembered, so that one which is repeated is not done again.
const REMEMBERED: usize = 1024;
/// Pause before what came of a command is told again.
const AGAIN: Duration = Duration::from_secs(1);

/// The commands of this run of the agent.
#[derive(Default)]
pub struct Commands {
    state: Mutex<State>,
    is_given: Notify,
    is_done: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Command>,
    known: HashSet<String>,
    /// The same in the order they came, so that the oldest is forgotten.
    order: VecDeque<String>,
    outcomes: VecDeque<Outcome>,
}

#[derive(Clone)]
struct Outcome {
    id: String,
    succeeded: bool,
    output: String,
}

impl Commands {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes on those that are new.
    pub fn take(&self, commands: Vec<Command>) {
        let mut state = self.state();
        for command in commands {
            if !state.known.insert(command.id.clone()) {
                continue;
            }
            state.order.push_back(command.id.clone());
            if state.order.len() > REMEMBERED
                && let Some(oldest) = state.order.pop_front()
            {
                state.known.remove(&oldest);
            }
            state.waiting.push_back(command);
            self.is_given.notify_one();
        }
    }

    /// Hears of commands as they are given.
    pub async fn listen(&self, client: &Client) -> CallError {
        let listen = async {
            let mut subscription = client.subscribe(COMMANDS).await?;
            loop {
                self.take(subscription.next().await?);
            }
        };
        let heard: Result<Infallible, CallError> = listen.await;
        match heard {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    /// Does one after the other.
    pub async fn execute(&self, engine: &Docker) -> Infallible {
        loop {
            let next = self.state().waiting.pop_front();
            let Some(command) = next else {
                self.is_given.notified().await;
                continue;
            };
            tracing::info!(
                id = command.id,
                command = command.what,
                argument = command.argument,
                "told to"
            );
            let done = perform(engine, &command).await;
            let outcome = Outcome {
                succeeded: done.is_ok(),
                output: done.unwrap_or_else(|problem| problem),
                id: command.id,
            };
            tracing::info!(
                id = outcome.id,
                succeeded = outcome.succeeded,
                "done what was told"
            );
            self.state().outcomes.push_back(outcome);
            self.is_done.notify_one();
        }
    }

    /// Tells what came of each.
    pub async fn report(&self, client: &Client, clock: &dyn Clock) -> CallError {
        loop {
            let next = self.state().outcomes.front().cloned();
            let Some(outcome) = next else {
                self.is_done.notified().await;
                continue;
            };
            let input = json!({
                "id": outcome.id, "succeeded": outcome.succeeded, "output": outcome.output,
            });
            match client.call::<Taken>(REPORT_COMMAND, input).await {
                Err(error) if error.is_over() || error.is_refusal() => return error,
                Err(error) if error.may_pass() => {
                    clock.sleep(AGAIN).await;
                    continue;
                }
                // Told already, perhaps by an answer that was lost.
                Err(error) => tracing::debug!(%error, id = outcome.id, "nobody waits for it"),
                Ok(_) => {}
            }
            self.state().outcomes.pop_front();
        }
    }
}

/// What came of it, in words for people either way.
async fn perform(engine: &Docker, command: &Command) -> Result<String, String> {
    let done = match (command.what.as_str(), &command.argument) {
        ("PULL_IMAGE", Some(image)) => pull(engine, image).await,
        ("PRUNE_IMAGES", _) => engine.prune_images().await,
        ("DIAGNOSE", _) => engine.diagnose().await,
        (other, _) => return Err(format!("this version of the agent does not know {other}")),
    };
    done.map_err(|error| error.to_string())
}

async fn pull(engine: &Docker, image: &str) -> Result<String, ProviderError> {
    let mut steps = engine.prepare(image);
    while let Some(step) = steps.next().await {
        if let Prepared::Pulling(percent) = step? {
            tracing::debug!(image, percent, "fetching");
        }
    }
    Ok(format!("{image} is there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(id: usize) -> Command {
        Command {
            id: id.to_string(),
            what: "DIAGNOSE".to_owned(),
            argument: None,
        }
    }

    #[test]
    fn a_repeated_command_is_taken_once_and_memory_has_an_end() {
        let commands = Commands::default();
        commands.take(vec![command(1), command(2)]);
        commands.take(vec![command(1), command(2), command(3)]);
        assert_eq!(commands.state().waiting.len(), 3);
        commands.take((0..2 * REMEMBERED).map(command).collect());
        assert_eq!(commands.state().known.len(), REMEMBERED);
    }
}
