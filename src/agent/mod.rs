//! The agent: what runs on a host beside its engine and talks for it to the server, over one WebSocket.
//!
//! It keeps nothing but its credential, and in memory the end of what containers write. What the server has to know is what
//! the engine has, so after every lost connection, on either side, all of it is told again; what is told twice changes nothing.

mod address;
mod client;
mod commands;
mod containers;
mod credential;
mod heartbeat;
mod logs;
mod machine;
mod operations;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use address::Address;
use chrono::{DateTime, TimeDelta, Utc};
use client::{CallError, Client, Ended};
use commands::Commands;
use containers::Known;
use credential::CredentialFile;
use logs::Logs;
use machine::Gauge;
pub use operations::TEXTS;
use operations::{REGISTER, ROTATE, Registered, Rotated};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Secret,
    domain::{Clock, Entropy},
    providers::{Docker, Engine as _},
};

/// The pauses between attempts to connect lie between nothing and a ceiling that doubles, from the one to the other.
const SHORTEST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// Age at which a credential is replaced.
const RENEWAL: TimeDelta = TimeDelta::hours(24);
/// Pause before a renewal that failed is tried again.
const RENEW_AGAIN: TimeDelta = TimeDelta::minutes(1);
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Who the agent is, and where everything is.
pub struct Options {
    pub server: Address,
    /// Spent at the first start.
    pub token: Option<Secret>,
    /// The folder of the credential.
    pub state: PathBuf,
    /// What the machine is called; `None` for its node's id in its swarm, or else its name.
    pub instance_id: Option<String>,
    pub instance_type: String,
    pub ip: Option<String>,
    /// Where workers reach the engine; `None` when it is their own.
    pub endpoint: Option<String>,
    /// Where the agent reaches it.
    pub docker_host: String,
}

/// Why an agent ends by itself. None of these mends itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("{path}: {error}")]
    File { path: String, error: io::Error },
    #[error(
        "there is no credential in {0} yet, so a registration token is needed: AGENT_TOKEN or --token"
    )]
    NoToken(String),
    #[error("the server does not register this machine: {0}")]
    NotRegistered(CallError),
    #[error(
        "the server refuses this host's credential ({why}); to register the machine again, remove {path} and start with a new token"
    )]
    Refused { why: CallError, path: String },
}

/// One agent.
pub struct Agent {
    options: Options,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    engine: Docker,
    /// Whether the engine's silence has been told.
    is_engine_away: AtomicBool,
    file: CredentialFile,
    gauge: Mutex<Gauge>,
    /// The number of the newest heartbeat.
    beats: AtomicI64,
    /// Whether the person at the terminal knows which host this is.
    is_introduced: AtomicBool,
    known: Known,
    /// How many containers the engine has, as last told.
    count: AtomicUsize,
    commands: Commands,
    logs: Logs,
    /// Prints a line for the person at the terminal.
    say: fn(&str),
}

/// How a connection ended, and what follows from it.
enum End {
    /// By request: the agent ends.
    Stopped,
    Refused(CallError),
    /// To go on with another credential.
    Renewed(Secret),
    Lost(CallError),
}

impl From<CallError> for End {
    fn from(error: CallError) -> Self {
        if error.is_refusal() {
            Self::Refused(error)
        } else {
            Self::Lost(error)
        }
    }
}

impl From<Ended> for End {
    fn from(ended: Ended) -> Self {
        CallError::Ended(ended).into()
    }
}

impl Agent {
    pub fn new(
        options: Options,
        clock: Arc<dyn Clock>,
        entropy: Arc<Entropy>,
        say: fn(&str),
    ) -> Self {
        Self {
            engine: Docker::at(&options.docker_host),
            is_engine_away: AtomicBool::new(false),
            file: CredentialFile::within(&options.state),
            gauge: Mutex::default(),
            // Greater than those of every start before, unless the clock goes back; then the server's is taken over.
            beats: AtomicI64::new(clock.now().timestamp_millis()),
            is_introduced: AtomicBool::new(false),
            known: Known::default(),
            count: AtomicUsize::new(0),
            commands: Commands::default(),
            logs: Logs::default(),
            options,
            clock,
            entropy,
            say,
        }
    }

    /// Runs until `stop`; `renew` asks for another credential.
    pub async fn run(&self, stop: &CancellationToken, renew: &Notify) -> Result<(), AgentError> {
        (self.say)(&format!("main-webserver agent {VERSION}"));
        (self.say)(&format!("  server    {}", self.options.server));
        let engine = self.engine.ping().await;
        let engine =
            engine.unwrap_or_else(|error| format!("{error}; it is tried again until it answers"));
        (self.say)(&format!("  engine    {engine}"));
        // The one of several providers of cryptography a build may have; a second agent in the process finds it set.
        let _ = rustls::crypto::ring::default_provider().install_default();
        tokio::select! {
            end = self.connect(stop, renew) => end,
            never = self.commands.execute(&self.engine) => match never {},
        }
    }

    /// Has a connection, again and again.
    async fn connect(&self, stop: &CancellationToken, renew: &Notify) -> Result<(), AgentError> {
        let Some(mut credential) = self.credential(stop).await? else {
            return Ok(());
        };
        let mut renew_at = self.file.written_at().map_err(|e| self.file_error(e))? + RENEWAL;
        let mut failures = 0;
        loop {
            let was_heard = AtomicBool::new(false);
            let talk = self.talk(&credential, &mut renew_at, &was_heard, stop, renew);
            let error = match talk.await {
                End::Stopped => return Ok(()),
                End::Refused(why) => {
                    let path = self.file.path().display().to_string();
                    return Err(AgentError::Refused { why, path });
                }
                End::Renewed(renewed) => {
                    credential = renewed;
                    renew_at = self.clock.now() + RENEWAL;
                    continue;
                }
                End::Lost(error) => error,
            };
            if was_heard.into_inner() {
                failures = 0;
            }
            tracing::warn!(%error, "no connection to the server; it is tried again until there is one");
            if self.pause(&mut failures, stop).await {
                return Ok(());
            }
        }
    }

    /// Waits, longer with every failure; whether the agent is to end.
    async fn pause(&self, failures: &mut u32, stop: &CancellationToken) -> bool {
        let ceiling = SHORTEST * 2_u32.saturating_pow((*failures).min(6));
        *failures += 1;
        let pause = self.clock.sleep(self.entropy.jitter(ceiling.min(LONGEST)));
        stop.run_until_cancelled(pause).await.is_none()
    }

    /// One connection, from its beginning to its end.
    async fn talk(
        &self,
        credential: &Secret,
        renew_at: &mut DateTime<Utc>,
        was_heard: &AtomicBool,
        stop: &CancellationToken,
        renew: &Notify,
    ) -> End {
        let connecting = Client::connect(&self.options.server, Some(credential), &self.clock);
        let client = match stop.run_until_cancelled(connecting).await {
            None => return End::Stopped,
            Some(Err(ended)) => return ended.into(),
            Some(Ok(client)) => client,
        };
        let must_report = Notify::new();
        tokio::select! {
            error = self.beat_on(&client, &must_report, was_heard) => error.into(),
            error = self.watch(&client, &must_report) => error.into(),
            error = self.commands.listen(&client) => error.into(),
            error = self.commands.report(&client, &*self.clock) => error.into(),
            // Boxed: with it the others would be too large to be moved.
            error = Box::pin(self.logs.report(&client, &*self.clock)) => error.into(),
            end = self.renew(&client, renew_at, renew) => end,
            () = stop.cancelled() => {
                self.say_farewell(&client).await;
                End::Stopped
            }
        }
    }

    /// The credential of the file, or the one a new host is given; `None` when the agent is to end.
    async fn credential(&self, stop: &CancellationToken) -> Result<Option<Secret>, AgentError> {
        if let Some(credential) = self.file.read().map_err(|e| self.file_error(e))? {
            return Ok(Some(credential));
        }
        let Some(token) = &self.options.token else {
            return Err(AgentError::NoToken(self.file.path().display().to_string()));
        };
        self.file.try_out().map_err(|e| self.file_error(e))?;
        let mut failures = 0;
        loop {
            let registered = stop.run_until_cancelled(self.register(token)).await;
            match registered {
                None => return Ok(None),
                Some(Ok(credential)) => {
                    self.file
                        .write(&credential)
                        .map_err(|e| self.file_error(e))?;
                    return Ok(Some(credential));
                }
                Some(Err(NotYet::Server(error))) if !error.is_over() && !error.may_pass() => {
                    return Err(AgentError::NotRegistered(error));
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "not registered; it is tried again until it succeeds");
                }
            }
            if self.pause(&mut failures, stop).await {
                return Ok(None);
            }
        }
    }

    /// Makes the machine a host.
    async fn register(&self, token: &Secret) -> Result<Secret, NotYet> {
        let instance_id = match &self.options.instance_id {
            Some(id) => id.clone(),
            // Without its engine nobody can tell what it is called, and another name would be another host.
            None => match self.engine.about().await?.node {
                Some(node) => node,
                None => machine::name()?,
            },
        };
        let size = machine::size()?;
        let client = Client::connect(&self.options.server, None, &self.clock).await?;
        let input = json!({
            "token": token.expose(),
            "instanceId": instance_id,
            "instanceType": self.options.instance_type,
            "ip": self.options.ip,
            "endpoint": self.options.endpoint,
            "cpuMillis": size.cpu_millis,
            "memoryBytes": size.memory_bytes,
            "agentVersion": VERSION,
        });
        let Registered { credential } = client.call(REGISTER, input).await?;
        tracing::info!(instance_id, "registered");
        Ok(Secret::new(credential))
    }

    /// Waits until the credential is old, or somebody asks, and has it replaced.
    async fn renew(&self, client: &Client, renew_at: &mut DateTime<Utc>, renew: &Notify) -> End {
        loop {
            tokio::select! {
                () = self.clock.sleep_until(*renew_at) => {}
                () = renew.notified() => {}
            }
            // Due until it is done: if the answer is lost, the credential has five minutes left.
            *renew_at = self.clock.now();
            match client
                .call::<Rotated>(ROTATE, serde_json::Value::Null)
                .await
            {
                Ok(Rotated { credential }) => {
                    let credential = Secret::new(credential);
                    if let Err(error) = self.file.write(&credential) {
                        let path = self.file.path().display();
                        tracing::error!(%error, %path, "the new credential is not kept: a restart will need a registration token");
                    } else {
                        tracing::info!("the credential is renewed");
                    }
                    return End::Renewed(credential);
                }
                Err(error) if error.is_over() || error.is_refusal() => return error.into(),
                Err(error) => {
                    tracing::warn!(%error, "the credential is not renewed; it is tried again");
                    *renew_at = self.clock.now() + RENEW_AGAIN;
                }
            }
        }
    }

    fn file_error(&self, error: io::Error) -> AgentError {
        let path = self.file.path().display().to_string();
        AgentError::File { path, error }
    }

    /// Tells once that the engine is away, and once that it is back.
    fn engine_is_away(&self, error: &dyn std::fmt::Display) {
        if !self.is_engine_away.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, "the engine does not answer; the server hears what was known last");
        }
    }

    fn engine_is_back(&self) {
        if self.is_engine_away.swap(false, Ordering::Relaxed) {
            tracing::info!("the engine answers again");
        }
    }
}

/// Why a machine is no host yet.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error(transparent)]
    Server(#[from] CallError),
    #[error(transparent)]
    Engine(#[from] crate::providers::ProviderError),
    #[error(transparent)]
    Machine(#[from] io::Error),
}

impl From<Ended> for NotYet {
    fn from(ended: Ended) -> Self {
        Self::Server(ended.into())
    }
}
