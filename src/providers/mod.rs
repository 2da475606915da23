//! Engines that run containers and virtual machines. A provider knows nothing of the database; what crosses is a plain struct.
//!
//! To add one: its file, its line in `engines.rs`, and its line in the conformance suite (`tests/providers`, `tests/machines`).

mod cloud_init;
mod console_log;
mod docker;
mod engines;
mod host_ports;
mod hypervisor;
mod image_files;
mod libvirt;
mod program;
mod qemu;
mod simulated;
mod swarm;
mod watched;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
pub use docker::{About, Docker};
pub use engines::{
    Address, Engines, KINDS, MACHINE_KINDS, Providers, from_settings, has_address, has_nodes,
    of_machines, runs_machines,
};
use futures_util::stream::BoxStream;
pub use hypervisor::{Console, ConsoleKind, Guest, Hypervisor, Image, Usage};
pub use libvirt::{Libvirt, LibvirtSettings};
pub use qemu::{Accel, Qemu, QemuSettings};
pub use simulated::{Faults, Given, Simulated, SimulatedMachines};
pub use swarm::Swarm;
use tokio_util::sync::CancellationToken;

use crate::domain::{
    Id,
    id::{Container, Identified},
};

/// The label that says a thing on an engine is a container of this service; its value is the container's id.
pub const LABEL: &str = "main-webserver.container";
/// The label with the deployment it belongs to: several may share an engine.
pub const DEPLOYMENT: &str = "main-webserver.deployment";
/// The label with how often the container has been made anew.
pub const GENERATION: &str = "main-webserver.generation";

/// The one name a container or a machine has on every engine, so that a second attempt finds the first one's work.
pub fn instance_name<T: Identified>(id: Id<T>) -> String {
    format!("main-{id}")
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Spec {
    pub container: Id<Container>,
    /// Grows each time the container is made anew; what an engine has of an older one is replaced.
    pub generation: i32,
    /// Whose container it is, among deployments that share the engine.
    pub deployment: String,
    /// The nodes it may run on, by their label, for an engine with several; `None` for any.
    pub cluster: Option<String>,
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

/// What an engine has of a `T`: of a container unless it says otherwise.
#[derive(Clone, Debug)]
pub struct Instance<T: Identified = Container> {
    pub id: Id<T>,
    pub generation: i32,
    /// `None` for one that does not say.
    pub deployment: Option<String>,
    /// The engine's own id of the machine it runs on, for an engine with several.
    pub node: Option<String>,
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
    /// Ended in order; all it needs to start again is there. Only virtual machines rest so.
    Off,
    /// Ended by itself.
    Exited { code: i64 },
}

/// A machine of an engine that has several.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// The engine's own id.
    pub id: String,
    pub name: String,
    pub ip: Option<String>,
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Bytes.
    pub memory_bytes: i64,
    pub health: NodeHealth,
    /// The cluster it is kept for, by its label.
    pub cluster: Option<String>,
    /// Whether it is used only while it is needed, by its label.
    pub is_spare: bool,
}

impl Node {
    /// Whether any of them is kept for a cluster, which then runs nowhere else.
    pub fn are_kept(nodes: &[Self], cluster: &str) -> bool {
        let mut labels = nodes.iter().map(|node| node.cluster.as_deref());
        labels.any(|label| label == Some(cluster))
    }

    /// Those that serve a cluster: the ones kept for it, or where there are none, the ones kept for nobody.
    pub fn serving<'a>(nodes: &'a [Self], cluster: &str) -> Vec<&'a Self> {
        let label = Self::are_kept(nodes, cluster).then_some(cluster);
        let serves = |node: &&Self| node.cluster.as_deref() == label;
        nodes.iter().filter(serves).collect()
    }
}

/// How a node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NodeHealth {
    /// It runs what it has and takes more.
    Ready,
    /// It takes no more.
    Draining,
    /// Nobody hears of it.
    Down,
}

/// How far the fetching of an image has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Prepared {
    /// Percent of the bytes.
    Pulling(u8),
    /// It is there.
    Present,
}

/// Something happened to a `T` of ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Happened<T: Identified = Container> {
    pub id: Id<T>,
}

/// A line a container or a machine wrote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its place among the others, by which a reader goes on: it grows, and is not counted from anything.
    pub mark: i64,
    /// When, by the engine's clock; `None` when it does not say.
    pub at: Option<DateTime<Utc>>,
    pub is_error: bool,
    pub text: String,
}

/// Where the reading of a log begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the last so many lines.
    Last(u32),
    /// With the first line that has a greater mark; some that have been read may come once more.
    After(i64),
}

/// What holds `T`s: containers or virtual machines. Every call is idempotent and ends within a bounded time.
#[async_trait]
pub trait Engine<T: Identified + Send + 'static>: Send + Sync {
    fn name(&self) -> &'static str;

    /// Whether only this process sees what is on it.
    fn is_private(&self) -> bool {
        false
    }

    /// Whether it answers; its version, for people.
    async fn ping(&self) -> Result<String, ProviderError>;

    /// What there is of one.
    async fn inspect(&self, id: Id<T>) -> Result<Option<Instance<T>>, ProviderError>;

    /// Ends and removes it with all it has, killing it after `grace`. Removing what is gone succeeds.
    async fn remove(&self, id: Id<T>, grace: Duration) -> Result<(), ProviderError>;

    /// Everything of ours, by label.
    async fn list(&self) -> Result<Vec<Instance<T>>, ProviderError>;

    /// The last `lines` lines it has written.
    async fn logs(&self, id: Id<T>, lines: u32) -> Result<Vec<String>, ProviderError>;

    /// The lines from `start` and then each new one, until it ends or the connection does.
    fn follow(&self, id: Id<T>, start: Start) -> BoxStream<'static, Line>;

    /// Its computers; `None` for an engine that is one.
    async fn nodes(&self) -> Result<Option<Vec<Node>>, ProviderError> {
        Ok(None)
    }

    /// Takes a computer into service, or out of it: from then on it gets nothing new, and what it has moves elsewhere.
    async fn set_in_service(&self, node: &str, is_in_service: bool) -> Result<(), ProviderError> {
        let (_, _) = (node, is_in_service);
        Err(ProviderError::Rejected {
            engine: self.name(),
            why: "it has no computers to choose from".to_owned(),
        })
    }

    /// What happens to those of ours from now on. Ends when the connection does; a lost event is not repeated.
    fn events(&self) -> BoxStream<'static, Happened<T>>;
}

/// An engine of containers.
#[async_trait]
pub trait Provider: Engine<Container> {
    /// Makes sure the image is there, fetching it only when it is missing; ends with [`Prepared::Present`] or an error.
    fn prepare<'a>(&'a self, image: &'a str) -> BoxStream<'a, Result<Prepared, ProviderError>>;

    /// Makes sure the container exists in this generation and has been started; a second call gives the same instance, and
    /// one of an older generation is removed first. Leaves early when `stop` asks at a safe place.
    async fn ensure(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<Instance, ProviderError>;
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
