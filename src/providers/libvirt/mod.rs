//! Virtual machines of libvirt, on this host or on another: the host's operators see them among their own.
//!
//! All is done by the client `virsh` through a connection URI. A machine is a domain and volumes of a pool (see `store`),
//! and what is known of it is in the domain's metadata (see `look`): nothing of it is on the worker's disk.

mod domain;
mod fat;
mod host;
mod life;
mod log;
mod look;
mod snapshots;
mod store;
mod virsh;
mod watch;
mod xml;

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use host::Host;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use virsh::{NO_DOMAIN, failed, number, rejected, said};

use super::{
    Accel, Console, ConsoleKind, Engine, Guest, Happened, Hypervisor, Image, Instance, Line,
    ProviderError, Start, Usage, instance_name,
};
use crate::domain::{
    Id,
    id::{Snapshot, VirtualMachine},
};

pub(super) const NAME: &str = "libvirt";
/// Longest wait for a console to take the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Which libvirt, and where in it machines are.
#[derive(Clone, Debug)]
pub struct LibvirtSettings {
    /// A connection URI: `qemu:///system`, `qemu+ssh://host/system`.
    pub uri: String,
    /// The name of the pool that machines' disks, logs and what they are told are in: a folder (`dir`) on its host.
    pub pool: String,
    /// The pool that images are in.
    pub image_pool: String,
    pub accel: Accel,
    /// Bytes of the pool that no new start may do without.
    pub disk_reserve_bytes: u64,
    /// Bytes of memory that are left to the host.
    pub memory_reserve_bytes: u64,
}

/// The engine. Several of one URI, in one process or in several, are one engine.
#[derive(Clone)]
pub struct Libvirt {
    host: Arc<Host>,
}

impl Libvirt {
    /// An engine that does nothing until it is first used.
    pub fn at(settings: LibvirtSettings) -> Self {
        Self {
            host: Arc::new(Host::new(settings)),
        }
    }
}

#[async_trait]
impl Engine<VirtualMachine> for Libvirt {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        let said = self.host.virsh.ask(&["version"]).await?;
        self.host.find_pools().await?;
        let line = said
            .lines()
            .find_map(|line| line.strip_prefix("Using library: "));
        Ok(line.unwrap_or("libvirt").to_owned())
    }

    async fn inspect(
        &self,
        id: Id<VirtualMachine>,
    ) -> Result<Option<Instance<VirtualMachine>>, ProviderError> {
        let look = self.host.look(id, false).await?;
        Ok(look.map(|(found, status)| found.instance(status)))
    }

    async fn remove(&self, id: Id<VirtualMachine>, grace: Duration) -> Result<(), ProviderError> {
        self.host.remove(id, grace).await
    }

    async fn list(&self) -> Result<Vec<Instance<VirtualMachine>>, ProviderError> {
        self.host.all().await
    }

    async fn logs(&self, id: Id<VirtualMachine>, lines: u32) -> Result<Vec<String>, ProviderError> {
        self.host.log(id).await?.last(lines).await
    }

    fn follow(&self, id: Id<VirtualMachine>, start: Start) -> BoxStream<'static, Line> {
        let host = Arc::clone(&self.host);
        stream::once(async move {
            match host.log(id).await {
                Ok(log) => log.follow(start),
                Err(_) => stream::empty().boxed(),
            }
        })
        .flatten()
        .boxed()
    }

    fn events(&self) -> BoxStream<'static, Happened<VirtualMachine>> {
        watch::events(Arc::clone(&self.host))
    }
}

#[async_trait]
impl Hypervisor for Libvirt {
    async fn check(&self, image: &Image) -> Result<u64, ProviderError> {
        let pools = self.host.pools().await?;
        let found = pools.images.image(&self.host.virsh, image).await?;
        Ok(found.disk.map_or(0, |disk| disk.bytes))
    }

    async fn ensure(
        &self,
        guest: &Guest,
        stop: &CancellationToken,
    ) -> Result<Instance<VirtualMachine>, ProviderError> {
        self.host.ensure(guest, stop).await
    }

    async fn power_off(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        self.host.power_off(id).await
    }

    async fn kill(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        self.host.kill(id).await
    }

    async fn snapshot(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        self.host.snapshot(id, snapshot).await
    }

    async fn restore(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        self.host.restore(id, snapshot).await
    }

    async fn forget(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        self.host.forget_snapshot(id, snapshot).await
    }

    async fn usage(&self, id: Id<VirtualMachine>) -> Result<Option<Usage>, ProviderError> {
        let (name, pool) = (instance_name(id), &self.host.settings.pool);
        let script = format!(
            "vol-info --bytes --pool {pool} {name}.qcow2; domstats --raw --state --cpu-total --balloon {name}"
        );
        let output = self.host.virsh.run(&[&script], None).await?;
        if !output.is_success() && NO_DOMAIN.iter().any(|text| output.stderr.contains(text)) {
            return Ok(None);
        }
        let text = said(&output)?;
        // Of one that is off, libvirt may tell what it has taken.
        let is_running = number(&text, "state.state") != Some(5);
        let taken = |name: &str| number(&text, name).filter(|_| is_running).unwrap_or(0);
        let whole = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Some(Usage {
            cpu_micros: whole(taken("cpu.time") / 1000),
            memory_bytes: whole(taken("balloon.rss").saturating_mul(1024)),
            disk_bytes: whole(number(&text, "Allocation").unwrap_or(0)),
        }))
    }

    async fn console(
        &self,
        id: Id<VirtualMachine>,
        kind: ConsoleKind,
    ) -> Result<Box<dyn Console>, ProviderError> {
        let look = self.host.look(id, true).await?;
        if !look.is_some_and(|(found, _)| found.has_process()) {
            return Err(rejected("it does not run".to_owned()));
        }
        let places = self.host.places(id).await?;
        if !places.is_local {
            let why = "the consoles of a machine of another host are reached on that host alone";
            return Err(rejected(why.to_owned()));
        }
        let socket = places.path(match kind {
            ConsoleKind::Serial => "tty",
            ConsoleKind::Vnc => "vnc",
        });
        let connected = tokio::time::timeout(CONNECT, UnixStream::connect(&socket)).await;
        let connection = connected
            .map_err(|_| ProviderError::TimedOut {
                engine: NAME,
                after: CONNECT,
            })?
            .map_err(|error| {
                let why = format!("its console: {error}");
                match error.kind() {
                    io::ErrorKind::PermissionDenied => rejected(why),
                    _ => failed(why),
                }
            })?;
        Ok(Box::new(connection))
    }
}
