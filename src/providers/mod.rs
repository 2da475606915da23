//! Engines that run containers. A provider knows nothing of the database; what crosses is a plain struct.
//!
//! To add one: its file, its line in [`from_settings`], and its line in the conformance suite (`tests/providers`).

mod docker;
mod simulated;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
pub use docker::Docker;
use futures_util::stream::BoxStream;
pub use simulated::{Faults, Simulated};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{ProviderChoice, Settings},
    domain::{Clock, Entropy, Id, id::Container},
};

/// The label that says a thing on an engine is ours; its value is the container's id.
pub const LABEL: &str = "main-webserver.container";

/// The one name a container has on every engine, so that a second attempt finds the first one's work.
pub fn instance_name(id: Id<Container>) -> String {
    format!("main-{id}")
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    pub container: Id<Container>,
    pub image: String,
    /// Replaces the image's command; empty keeps it.
    pub command: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Thousandths of a core; 0 sets no limit.
    pub cpu_millis: u32,
    /// Bytes; 0 sets no limit.
    pub memory_bytes: u64,
    /// TCP ports inside, each published on a free port of `publish_address`.
    pub ports: Vec<u16>,
    pub publish_address: IpAddr,
}

/// What an engine has.
#[derive(Clone, Debug)]
pub struct Instance {
    pub container: Id<Container>,
    /// The engine's own id.
    pub handle: String,
    pub status: Status,
    pub ip: Option<String>,
    /// Port inside → port of the host.
    pub ports: BTreeMap<u16, u16>,
}

/// How an instance is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Status {
    /// Made, not yet running.
    Created,
    /// Running; its health check has not passed yet.
    Starting,
    /// Running, and healthy if its image has a health check.
    Ready,
    /// Running, and its health check fails.
    Unhealthy,
    /// Ended by itself.
    Exited { code: i64 },
}

/// How far the fetching of an image has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prepared {
    /// Percent of the bytes.
    Pulling(u8),
    /// It is there.
    Present,
}

/// Something happened to a container of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Happened {
    pub container: Id<Container>,
}

/// An engine. Every call is idempotent, ends within a bounded time, and leaves early when `stop` asks at a safe place.
#[async_trait]
pub trait Provider: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether it answers; its version, for people.
    async fn ping(&self) -> Result<String, ProviderError>;

    /// Makes sure the image is there, fetching it only when it is missing; ends with [`Prepared::Present`] or an error.
    fn prepare<'a>(&'a self, image: &'a str) -> BoxStream<'a, Result<Prepared, ProviderError>>;

    /// Makes sure the container exists and has been started; a second call gives the same instance.
    async fn ensure(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<Instance, ProviderError>;

    /// What there is of a container.
    async fn inspect(&self, id: Id<Container>) -> Result<Option<Instance>, ProviderError>;

    /// Ends and removes it, killing it after `grace`. Removing what is gone succeeds.
    async fn remove(&self, id: Id<Container>, grace: Duration) -> Result<(), ProviderError>;

    /// Everything of ours, by label.
    async fn list(&self) -> Result<Vec<Instance>, ProviderError>;

    /// The last `lines` lines it has written.
    async fn logs(&self, id: Id<Container>, lines: u32) -> Result<Vec<String>, ProviderError>;

    /// What happens to containers of ours from now on. Ends when the connection does; a lost event is not repeated.
    fn events(&self) -> BoxStream<'static, Happened>;
}

/// An engine did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    #[error("{engine} is not reachable: {why}")]
    Unreachable { engine: &'static str, why: String },
    #[error("{engine} did not answer in {} s", .after.as_secs())]
    TimedOut {
        engine: &'static str,
        after: Duration,
    },
    #[error("{engine} has no room: {why}")]
    Quota { engine: &'static str, why: String },
    #[error("{engine} failed: {why}")]
    Failed { engine: &'static str, why: String },
    #[error("image {image} cannot be had: {why}")]
    NoSuchImage { image: String, why: String },
    #[error("{engine} refused: {why}")]
    Rejected { engine: &'static str, why: String },
    #[error("stopped on request")]
    Stopped,
}

impl ProviderError {
    /// The code a task's error carries.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "ENGINE_UNREACHABLE",
            Self::TimedOut { .. } => "ENGINE_TIMED_OUT",
            Self::Quota { .. } => "ENGINE_FULL",
            Self::Failed { .. } => "ENGINE_FAILED",
            Self::NoSuchImage { .. } => "NO_SUCH_IMAGE",
            Self::Rejected { .. } => "ENGINE_REJECTED",
            Self::Stopped => "STOPPED",
        }
    }

    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Quota { .. }
            | Self::Failed { .. } => true,
            Self::NoSuchImage { .. } | Self::Rejected { .. } | Self::Stopped => false,
        }
    }
}

/// The engines of a worker, by name, and the one a region without a choice of its own gets.
#[derive(Clone)]
pub struct Providers {
    by_name: HashMap<&'static str, Arc<dyn Provider>>,
    default: &'static str,
}

impl Providers {
    pub fn of(provider: Arc<dyn Provider>) -> Self {
        let default = provider.name();
        Self {
            by_name: HashMap::from([(default, provider)]),
            default,
        }
    }

    pub fn get(&self, name: &str) -> Option<Arc<dyn Provider>> {
        self.by_name.get(name).cloned()
    }

    pub fn default(&self) -> Arc<dyn Provider> {
        Arc::clone(&self.by_name[self.default])
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<dyn Provider>> {
        self.by_name.values()
    }
}

/// The engine `settings` choose: Docker when asked for or when it answers, else the simulated one.
pub async fn from_settings(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
) -> Providers {
    let docker = Docker::at(&settings.docker_host);
    let is_docker = match settings.provider {
        ProviderChoice::Docker => true,
        ProviderChoice::Simulated => false,
        ProviderChoice::Auto => docker.ping().await.is_ok(),
    };
    if is_docker {
        Providers::of(Arc::new(docker))
    } else {
        Providers::of(Arc::new(Simulated::new(clock, entropy, Faults::default())))
    }
}
