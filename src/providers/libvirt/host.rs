//! One libvirt, and how each of its machines is.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::sync::{OnceCell, OwnedMutexGuard, broadcast};

use super::{
    LibvirtSettings, NAME,
    domain::Accel,
    log::Log,
    look::{self, Doing, Found, PHASE, Phase},
    store::{Places, Pool},
    virsh::{NO_DOMAIN, Virsh},
};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{self, Guest, Happened, Instance, ProviderError, Status, host_ports},
};

/// Longest wait for another's attempt at the same machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// The ports that nobody is registered for (RFC 6335, section 6).
const DYNAMIC: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// What all parts of the engine share.
pub(super) struct Host {
    pub(super) settings: LibvirtSettings,
    pub(super) virsh: Virsh,
    pools: OnceCell<Pools>,
    accel: OnceCell<Accel>,
    /// One attempt at a machine at a time, in this process; what others do meanwhile is told by libvirt's own errors.
    locks: Mutex<HashMap<Id<VirtualMachine>, Weak<tokio::sync::Mutex<()>>>>,
    /// How far the consoles were read for what says that a guest is up.
    read: Mutex<HashMap<Id<VirtualMachine>, Read>>,
    happened: broadcast::Sender<Happened<VirtualMachine>>,
}

/// Where machines and their images are.
pub(super) struct Pools {
    pub(super) machines: Pool,
    pub(super) images: Pool,
}

#[derive(Clone, Copy)]
struct Read {
    /// Which start it is about.
    starts: u32,
    to: u64,
    is_up: bool,
}

impl Host {
    pub(super) fn new(settings: LibvirtSettings) -> Self {
        Self {
            virsh: Virsh::new(settings.uri.clone()),
            settings,
            pools: OnceCell::new(),
            accel: OnceCell::new(),
            locks: Mutex::default(),
            read: Mutex::default(),
            happened: broadcast::Sender::new(256),
        }
    }

    pub(super) async fn find_pools(&self) -> Result<Pools, ProviderError> {
        let settings = &self.settings;
        Ok(Pools {
            machines: Pool::find(&self.virsh, &settings.pool).await?,
            images: Pool::find(&self.virsh, &settings.image_pool).await?,
        })
    }

    /// The pools, found at the first use.
    pub(super) async fn pools(&self) -> Result<&Pools, ProviderError> {
        self.pools.get_or_try_init(|| self.find_pools()).await
    }

    pub(super) async fn places(&self, id: Id<VirtualMachine>) -> Result<Places, ProviderError> {
        let folder = &self.pools().await?.machines.folder;
        Ok(Places::new(id, folder, self.virsh.is_local()))
    }

    /// What guests are to run on; asked of libvirt once.
    pub(super) async fn accel(&self) -> Result<Accel, ProviderError> {
        let found = match self.settings.accel {
            providers::Accel::Kvm => Accel::Kvm,
            providers::Accel::Tcg => Accel::Tcg,
            providers::Accel::Auto => {
                let ask = || async {
                    let question = ["domcapabilities", "--virttype", "kvm"];
                    let has_kvm = self.virsh.run(&question, None).await?.is_success();
                    Ok(if has_kvm { Accel::Kvm } else { Accel::Tcg })
                };
                *self.accel.get_or_try_init(ask).await?
            }
        };
        Ok(found)
    }

    pub(super) async fn log(&self, id: Id<VirtualMachine>) -> Result<Log, ProviderError> {
        let pool = &self.pools().await?.machines.name;
        Ok(Log::of(&self.virsh, pool, &self.places(id).await?).await)
    }

    /// A port of the machine's host for each of the guest's: free ones where that host is this one, elsewhere such as
    /// nobody is registered for, others at each `attempt`.
    pub(super) fn ports(
        &self,
        guest: &Guest,
        before: &std::collections::BTreeMap<u16, u16>,
        attempt: u32,
    ) -> Result<std::collections::BTreeMap<u16, u16>, ProviderError> {
        let inside = &guest.ports;
        if self.virsh.is_local() || matches!(guest.publish_address, IpAddr::V6(_)) {
            return host_ports::free(NAME, inside, guest.publish_address, before);
        }
        let chosen = inside.iter().enumerate().map(|(at, port)| {
            let known = before.get(port).filter(|_| attempt == 0);
            let outside = known.copied().unwrap_or_else(|| {
                let seed = guest.id.uuid().as_u128() ^ (guest.id.uuid().as_u128() >> 64);
                let step = u128::from(attempt) * 7919 + at as u128;
                let span = u128::from(DYNAMIC.end() - DYNAMIC.start()) + 1;
                DYNAMIC.start() + u16::try_from((seed + step) % span).unwrap_or_default()
            });
            (*port, outside)
        });
        Ok(chosen.collect())
    }

    /// Tells that something happened.
    pub(super) fn tell(&self, id: Id<VirtualMachine>) {
        let _ = self.happened.send(Happened { id });
    }

    pub(super) fn told(&self) -> broadcast::Receiver<Happened<VirtualMachine>> {
        self.happened.subscribe()
    }

    fn lock_of(&self, id: Id<VirtualMachine>) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&id).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(id, Arc::downgrade(&lock));
        lock
    }

    /// The machine for this attempt alone, waited for.
    pub(super) async fn lock(
        &self,
        id: Id<VirtualMachine>,
    ) -> Result<OwnedMutexGuard<()>, ProviderError> {
        let locked = tokio::time::timeout(PATIENCE, self.lock_of(id).lock_owned()).await;
        locked.map_err(|_| ProviderError::TimedOut {
            engine: NAME,
            after: PATIENCE,
        })
    }

    /// How a machine is; `None` when there is none. `is_held` when the caller has its lock.
    pub(super) async fn look(
        &self,
        id: Id<VirtualMachine>,
        is_held: bool,
    ) -> Result<Option<(Found, Status)>, ProviderError> {
        let mut before = None;
        loop {
            let Some(found) = look::find(&self.virsh, id).await? else {
                return Ok(None);
            };
            let status = self.status(&found, is_held).await?;
            // Its start may have come between the look at its state and that at its record.
            let is_sure =
                !matches!(status, Status::Exited { .. }) || before.as_ref() == Some(&found);
            if is_sure {
                return Ok(Some((found, status)));
            }
            before = Some(found);
        }
    }

    pub(super) async fn status(
        &self,
        found: &Found,
        is_held: bool,
    ) -> Result<Status, ProviderError> {
        let is_being_worked_on = || !is_held && self.lock_of(found.id).try_lock().is_err();
        match (found.rest(), found.doing) {
            (Some(Status::Exited { .. }), _) if is_being_worked_on() => Ok(Status::Starting),
            (Some(Status::Off), _) if found.phase == Phase::Started && !is_held => {
                // Written down while libvirt knows why it has ended.
                if let Ok(_lock) = self.lock_of(found.id).try_lock() {
                    self.note(found, Phase::Off).await?;
                }
                Ok(Status::Off)
            }
            (Some(status), _) => Ok(status),
            (None, Doing::Broken) => Ok(Status::Unhealthy),
            (None, Doing::Waiting) => Ok(Status::Starting),
            (None, Doing::Running | Doing::Nothing { .. }) => self.up(found).await,
        }
    }

    /// Writes down how a machine was put to rest or started.
    pub(super) async fn note(&self, found: &Found, phase: Phase) -> Result<(), ProviderError> {
        let name = providers::instance_name(found.id);
        let element = format!("<main>{}</main>", phase.of(found.record.starts));
        let metadata = ["metadata", &name, "--uri", PHASE, "--key", "phase"];
        let set = ["--set", &element, "--config"];
        let arguments: Vec<_> = metadata.into_iter().chain(set).collect();
        self.virsh.tried(&arguments, NO_DOMAIN).await.map(drop)
    }

    /// Whether a running guest is up, by what it has said since its start.
    async fn up(&self, found: &Found) -> Result<Status, ProviderError> {
        let record = &found.record;
        let Some(text) = &record.ready_text else {
            return Ok(Status::Ready);
        };
        let known = self.reads().get(&found.id).copied();
        let known = known.filter(|read| read.starts == record.starts);
        if known.is_some_and(|read| read.is_up) {
            return Ok(Status::Ready);
        }
        let from = known.map_or(record.log_start, |read| read.to);
        let seen = self.log(found.id).await?.search(from, text).await?;
        let read = Read {
            starts: record.starts,
            to: seen.err().unwrap_or(from),
            is_up: seen.is_ok(),
        };
        self.reads().insert(found.id, read);
        Ok(if read.is_up {
            Status::Ready
        } else {
            Status::Starting
        })
    }

    /// Every machine, and how it is.
    pub(super) async fn all(&self) -> Result<Vec<Instance<VirtualMachine>>, ProviderError> {
        let mut all = Vec::new();
        for found in look::all(&self.virsh).await? {
            // What may have been started meanwhile is looked at again.
            let seen = match self.status(&found, false).await {
                Ok(Status::Exited { .. }) => self.look(found.id, false).await,
                other => other.map(|status| Some((found, status))),
            };
            match seen {
                Ok(seen) => all.extend(seen.map(|(found, status)| found.instance(status))),
                Err(error) => tracing::warn!(%error, "a machine cannot be seen"),
            }
        }
        Ok(all)
    }

    /// Forgets what is kept in memory of a machine that is gone.
    pub(super) fn forget(&self, id: Id<VirtualMachine>) {
        self.reads().remove(&id);
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, HashMap<Id<VirtualMachine>, Read>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
