//! Engines that run virtual machines.

use std::net::IpAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::{Engine, Instance, ProviderError};
pub use crate::domain::virtual_machine::ConsoleKind;
use crate::domain::{
    Id,
    id::{Snapshot, VirtualMachine},
};

/// What a machine starts from. Paths are those of the engine's folder of images, or absolute inside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Image {
    /// A disk in a format the engine knows (qcow2, raw); the machine writes to a layer of its own above it. `None` for an
    /// empty disk.
    pub disk: Option<String>,
    /// A kernel to boot instead of what is on the disk.
    pub kernel: Option<String>,
    pub initrd: Option<String>,
    /// What the kernel is told.
    pub command_line: String,
    /// A text on the serial console that says the guest is up; `None` takes it to be up as soon as it runs.
    pub ready_text: Option<String>,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Guest {
    pub id: Id<VirtualMachine>,
    /// Grows each time the machine is made anew from its image; what an engine has of an older one is replaced.
    pub generation: i32,
    /// Whose machine it is, among deployments that share the engine.
    pub deployment: String,
    pub image: Image,
    pub cpus: u16,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes its disk has at least; a smaller one is made larger at the start.
    pub disk_bytes: u64,
    pub host_name: String,
    /// OpenSSH public keys that may log in.
    pub ssh_keys: Vec<String>,
    /// What it shows to prove which machine it is.
    pub secret_key: String,
    /// TCP ports of the guest, each forwarded from a free port of `publish_address`.
    pub ports: Vec<u16>,
    pub publish_address: IpAddr,
}

/// What a machine takes of its host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Usage {
    /// Processor time since its start, in microseconds.
    pub cpu_micros: i64,
    /// Bytes of the host's memory.
    pub memory_bytes: i64,
    /// Bytes on the host's disk.
    pub disk_bytes: i64,
}

/// A connection to a console; closed when dropped.
pub trait Console: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Console for T {}

/// An engine of virtual machines.
///
/// An instance is `Starting` until its guest is up, then `Ready`; `Off` when the guest has ended in order or was ended by
/// [`Hypervisor::kill`]; `Unhealthy` when its kernel has panicked; `Exited` when the engine's process is gone without that.
#[async_trait]
pub trait Hypervisor: Engine<VirtualMachine> {
    /// Whether all of an image is there and is what it says; the size of its disk in bytes, 0 without one.
    ///
    /// # Errors
    /// [`ProviderError::NoSuchImage`] for one that is missing, corrupt, or outside the folder of images.
    async fn check(&self, image: &Image) -> Result<u64, ProviderError>;

    /// Makes sure the machine exists in this generation and runs; a second call gives the same instance, and what is left of
    /// an older generation is removed first. One that is off is started with what it is to have now.
    ///
    /// # Errors
    /// [`ProviderError::Quota`] when the host has no memory, disk space or port for it; nothing of a first attempt is left.
    async fn ensure(
        &self,
        guest: &Guest,
        stop: &CancellationToken,
    ) -> Result<Instance<VirtualMachine>, ProviderError>;

    /// Asks the guest to power off (ACPI), and does not wait for it. Asking what is off, or not there, succeeds.
    async fn power_off(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError>;

    /// Ends it now, as by pulling the plug; its disk stays. Ending what is off, or not there, succeeds.
    async fn kill(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError>;

    /// Keeps what its disk has now, under the snapshot's name; a second call changes nothing.
    async fn snapshot(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError>;

    /// Gives its disk what the snapshot has kept. Only for a machine that is off.
    ///
    /// # Errors
    /// [`ProviderError::Rejected`] for one that runs, or without such a snapshot.
    async fn restore(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError>;

    /// Forgets a snapshot. Forgetting what is gone succeeds.
    async fn forget(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError>;

    /// What it takes now; `None` for one that is not there.
    async fn usage(&self, id: Id<VirtualMachine>) -> Result<Option<Usage>, ProviderError>;

    /// Connects to a console of a running machine.
    async fn console(
        &self,
        id: Id<VirtualMachine>,
        kind: ConsoleKind,
    ) -> Result<Box<dyn Console>, ProviderError>;
}
