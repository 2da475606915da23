//! `agent`: what runs on a host.

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use super::{say, say_error};
use crate::{
    agent::{Address, Agent, Options},
    app::StartError,
    config::{Secret, Settings},
    domain::{Entropy, SystemClock},
};

#[derive(clap::Args)]
pub struct Arguments {
    /// Where the server is: `http://…` or `https://…`.
    #[arg(long, env = "AGENT_SERVER", value_name = "URL", value_parser = Address::parse)]
    server: Address,
    /// The registration token, for the first start. Whoever may list processes sees a command line, so the environment
    /// is the better place.
    #[arg(long, env = "AGENT_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Folder the host's credential is kept in [default: `DATA_DIR`].
    #[arg(long, env = "AGENT_STATE", value_name = "FOLDER")]
    state: Option<PathBuf>,
    /// What the machine is called [default: its id in the engine's swarm, or its name].
    #[arg(long, env = "AGENT_INSTANCE_ID", value_name = "TEXT")]
    instance_id: Option<String>,
    /// What kind of machine it is.
    #[arg(
        long,
        env = "AGENT_INSTANCE_TYPE",
        value_name = "TEXT",
        default_value = ""
    )]
    instance_type: String,
    /// The machine's address.
    #[arg(long, env = "AGENT_IP")]
    ip: Option<String>,
    /// Where workers reach its engine, such as `tcp://10.0.0.2:2375`; none when it is their own.
    #[arg(long, env = "AGENT_ENDPOINT", value_name = "URL")]
    endpoint: Option<String>,
}

/// An empty variable is one that is not set.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.trim().is_empty())
}

pub async fn run(settings: &Settings, arguments: Arguments) -> Result<ExitCode, StartError> {
    let refuse = |error| StartError::File {
        path: "the signal handler".to_owned(),
        error,
    };
    let mut interrupt = signal(SignalKind::interrupt()).map_err(refuse)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(refuse)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(refuse)?;
    let state = arguments
        .state
        .filter(|state| !state.as_os_str().is_empty());
    let options = Options {
        server: arguments.server,
        token: given(arguments.token).map(Secret::new),
        state: state.unwrap_or_else(|| settings.data_dir.clone()),
        instance_id: given(arguments.instance_id),
        instance_type: arguments.instance_type,
        ip: given(arguments.ip),
        endpoint: given(arguments.endpoint),
        docker_host: settings.docker_host.clone(),
    };
    let (stop, renew) = (CancellationToken::new(), Notify::new());
    let entropy = Arc::new(Entropy::from_os());
    let agent = Agent::new(options, Arc::new(SystemClock), entropy, say);
    let running = agent.run(&stop, &renew);
    let mut running = std::pin::pin!(running);
    loop {
        let code = tokio::select! {
            ended = &mut running => {
                return Ok(match ended {
                    Ok(()) => ExitCode::SUCCESS,
                    Err(error) => {
                        say_error(&error);
                        ExitCode::FAILURE
                    }
                });
            }
            _ = hangup.recv() => {
                renew.notify_one();
                continue;
            }
            _ = interrupt.recv() => ExitCode::from(130),
            _ = terminate.recv() => ExitCode::from(143),
        };
        if stop.is_cancelled() {
            return Ok(code);
        }
        say("stopping: the server is told that this host goes away; a second signal ends at once");
        stop.cancel();
    }
}
