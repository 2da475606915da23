//! Virtual machines on this host: QEMU's own programs, driven without a daemon between.
//!
//! A machine is a folder and a process (see `folder` for what is where). Both outlive the worker, and any worker of the host
//! takes over where another was killed. A service manager has to leave the processes alone when it ends a worker
//! (`KillMode=process` of systemd).

mod accel;
mod disk;
mod folder;
mod host;
mod launch;
mod life;
mod process;
mod program;
mod qmp;
mod remains;
mod room;
mod seed;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

pub use accel::Accel;
use async_trait::async_trait;
use disk::Deed;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use host::Host;
use program::{SYSTEM, blocking, file_error, rejected};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{
    Console, ConsoleKind, Engine, Guest, Happened, Hypervisor, Image, Instance, Line,
    ProviderError, Start, Usage, console_log, image_files,
};
use crate::domain::{
    Id,
    id::{Snapshot, VirtualMachine},
};

pub(super) const NAME: &str = "qemu";
/// Longest answer of the programs about themselves.
const PING: Duration = Duration::from_secs(10);
/// Longest wait for a console to take the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Where machines are, and what is left to the host.
#[derive(Clone, Debug)]
pub struct QemuSettings {
    /// Where the machines' folders are; short enough for the names of sockets, some 60 bytes.
    pub directory: PathBuf,
    /// Where the images are; nothing outside is ever a part of one.
    pub images: PathBuf,
    pub accel: Accel,
    /// Bytes of the directory's file system that no new start may do without.
    pub disk_reserve_bytes: u64,
    /// Bytes of memory that are left to the host.
    pub memory_reserve_bytes: u64,
}

/// The engine. Several of one directory, in one process or in several, are one engine.
#[derive(Clone)]
pub struct Qemu {
    host: Arc<Host>,
}

impl Qemu {
    /// An engine that does nothing until it is first used.
    pub fn at(settings: QemuSettings) -> Self {
        Self {
            host: Arc::new(Host::new(settings)),
        }
    }
}

impl Qemu {
    /// What tells its directory from that of every other host.
    ///
    /// # Errors
    /// [`ProviderError::Rejected`] for a directory that cannot be used.
    pub async fn identity(&self) -> Result<String, ProviderError> {
        let root = self.host.root().await?.clone();
        blocking(move || folder::identity(&root).map_err(file_error("the directory"))).await
    }
}

#[async_trait]
impl Engine<VirtualMachine> for Qemu {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        self.host.root().await?;
        program::run(program::DISKS, ["--version"], PING)
            .await?
            .or_error()?;
        let said = program::run(SYSTEM, ["--version"], PING)
            .await?
            .or_error()?;
        Ok(said.lines().next().unwrap_or("QEMU").to_owned())
    }

    async fn inspect(
        &self,
        id: Id<VirtualMachine>,
    ) -> Result<Option<Instance<VirtualMachine>>, ProviderError> {
        let place = self.host.place(id).await?;
        let look = self.host.look(&place, None).await?;
        Ok(look.map(|look| look.instance(id)))
    }

    async fn remove(&self, id: Id<VirtualMachine>, grace: Duration) -> Result<(), ProviderError> {
        self.host.remove(id, grace).await
    }

    async fn list(&self) -> Result<Vec<Instance<VirtualMachine>>, ProviderError> {
        let root = self.host.root().await?.clone();
        let swept = blocking(move || {
            folder::sweep(&root)
                .and_then(|()| folder::machines(&root))
                .map_err(file_error("the directory of machines"))
        });
        let looks = stream::iter(swept.await?).map(|place| async move {
            match self.host.look(&place, None).await {
                Ok(look) => look.map(|look| look.instance(place.id)),
                Err(error) => {
                    tracing::warn!(machine = %place.id, %error, "a machine cannot be seen");
                    None
                }
            }
        });
        let found = looks.buffer_unordered(watch::AT_ONCE);
        Ok(found.filter_map(async |found| found).collect().await)
    }

    async fn logs(&self, id: Id<VirtualMachine>, lines: u32) -> Result<Vec<String>, ProviderError> {
        let log = self.host.place(id).await?.console_log();
        blocking(move || console_log::last(&log, lines).map_err(file_error("its console's log")))
            .await
    }

    fn follow(&self, id: Id<VirtualMachine>, start: Start) -> BoxStream<'static, Line> {
        let host = Arc::clone(&self.host);
        stream::once(async move {
            match host.place(id).await {
                Ok(place) => console_log::follow(&place.console_log(), start),
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
impl Hypervisor for Qemu {
    async fn check(&self, image: &Image) -> Result<u64, ProviderError> {
        let found = image_files::find(NAME, &self.host.settings.images, image).await?;
        let Some(disk) = found.disk else {
            return Ok(0);
        };
        image_files::verify(NAME, &disk).await?;
        Ok(disk.bytes)
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
        let Some((place, _lock, look)) = self.host.held(id).await? else {
            return Err(rejected("there is no such machine".to_owned()));
        };
        if look.is_running() {
            if disk::has_running(&place, snapshot).await? {
                return Ok(());
            }
            disk::do_running(&place, snapshot, true).await
        } else if disk::has(&place, snapshot).await? {
            Ok(())
        } else {
            disk::do_off(&place, snapshot, Deed::Keep).await
        }
    }

    async fn restore(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let Some((place, _lock, look)) = self.host.held(id).await? else {
            return Err(rejected("there is no such machine".to_owned()));
        };
        if look.process.is_some() || !life::is_at_rest(look.status) {
            return Err(rejected("it runs".to_owned()));
        }
        if !disk::has(&place, snapshot).await? {
            return Err(rejected(format!("it has no snapshot {snapshot}")));
        }
        disk::do_off(&place, snapshot, Deed::Apply).await
    }

    async fn forget(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let Some((place, _lock, look)) = self.host.held(id).await? else {
            return Ok(());
        };
        if look.is_running() {
            if disk::has_running(&place, snapshot).await? {
                disk::do_running(&place, snapshot, false).await?;
            }
        } else if disk::has(&place, snapshot).await? {
            disk::do_off(&place, snapshot, Deed::Forget).await?;
        }
        Ok(())
    }

    async fn usage(&self, id: Id<VirtualMachine>) -> Result<Option<Usage>, ProviderError> {
        let place = self.host.place(id).await?;
        let Some(look) = self.host.look(&place, None).await? else {
            return Ok(None);
        };
        blocking(move || {
            let taken = look.process.and_then(process::Process::taken);
            let disk = folder::allocated(&place.folder());
            Ok(Some(Usage {
                cpu_micros: taken.as_ref().map_or(0, |taken| taken.cpu_micros),
                memory_bytes: taken.as_ref().map_or(0, |taken| taken.memory_bytes),
                disk_bytes: i64::try_from(disk).unwrap_or(i64::MAX),
            }))
        })
        .await
    }

    async fn console(
        &self,
        id: Id<VirtualMachine>,
        kind: ConsoleKind,
    ) -> Result<Box<dyn Console>, ProviderError> {
        let place = self.host.place(id).await?;
        let look = self.host.look(&place, None).await?;
        if !look.is_some_and(|look| look.is_running()) {
            return Err(rejected("it does not run".to_owned()));
        }
        let socket = match kind {
            ConsoleKind::Serial => place.serial(),
            ConsoleKind::Vnc => place.vnc(),
        };
        let connected = tokio::time::timeout(CONNECT, UnixStream::connect(&socket)).await;
        let connection = connected
            .map_err(|_| ProviderError::TimedOut {
                engine: NAME,
                after: CONNECT,
            })?
            .map_err(file_error("its console"))?;
        Ok(Box::new(connection))
    }
}
