//! The engines of a worker: by name, and by the address of those that have one of their own.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Accel, Docker, Engine as _, Faults, Hypervisor, Libvirt, LibvirtSettings, Provider, Qemu,
    QemuSettings, Simulated, SimulatedMachines, Swarm, docker, libvirt, qemu, simulated, swarm,
    watched::Watched,
};
use crate::{
    config::{AccelChoice, MachineProviderChoice, ProviderChoice, Settings},
    domain::{Clock, Entropy},
};

/// The kinds of engines of containers.
pub const KINDS: [&str; 3] = [docker::NAME, swarm::NAME, simulated::NAME];
/// The kinds of engines of virtual machines.
pub const MACHINE_KINDS: [&str; 3] = [qemu::NAME, libvirt::NAME, simulated::MACHINES];

/// Whether engines of this kind have several computers and choose among them.
pub fn has_nodes(kind: &str) -> bool {
    kind == swarm::NAME
}

/// Whether engines of this kind run virtual machines, and no containers.
pub fn runs_machines(kind: &str) -> bool {
    MACHINE_KINDS.contains(&kind)
}

/// Whether an engine of this kind is reached at an address, so that a cluster may name it; the others of machines are the
/// workers' own.
pub fn has_address(kind: &str) -> bool {
    kind == libvirt::NAME || !runs_machines(kind)
}

/// Which engine: its kind, and where it is unless it is the worker's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Address {
    pub provider: String,
    pub endpoint: Option<String>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.endpoint {
            None => f.write_str(&self.provider),
            Some(endpoint) => write!(f, "{} at {endpoint}", self.provider),
        }
    }
}

/// Makes the engine of a kind, at an endpoint of its own or at the worker's.
type Open<E> = dyn Fn(&str, Option<&str>) -> Option<Arc<E>> + Send + Sync;

/// The engines of one sort: of containers, or of virtual machines.
pub struct Engines<E: ?Sized> {
    default: Arc<E>,
    own: Address,
    open: Arc<Open<E>>,
    known: Arc<Mutex<HashMap<Address, Arc<E>>>>,
}

// A derive would ask the same of `E`.
impl<E: ?Sized> Clone for Engines<E> {
    fn clone(&self) -> Self {
        Self {
            default: Arc::clone(&self.default),
            own: self.own.clone(),
            open: Arc::clone(&self.open),
            known: Arc::clone(&self.known),
        }
    }
}

impl<E: ?Sized> Engines<E> {
    fn new(
        default: Arc<E>,
        own: Address,
        open: impl Fn(&str, Option<&str>) -> Option<Arc<E>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            default,
            own,
            open: Arc::new(open),
            known: Arc::default(),
        }
    }

    /// The same engines, each as `wrap` has it.
    fn each(self, wrap: fn(Arc<E>) -> Arc<E>) -> Self
    where
        E: 'static,
    {
        let open = self.open;
        Self::new(wrap(self.default), self.own, move |name, at| {
            open(name, at).map(wrap)
        })
    }

    /// The one engine there is, at the one address where it is reached.
    pub fn alone(own: Address, default: Arc<E>) -> Self
    where
        E: Send + Sync + 'static,
    {
        Self::new(default, own, |_, _| None)
    }

    /// The engine at an address; `None` for one this worker does not reach.
    pub fn at(&self, address: &Address) -> Option<Arc<E>> {
        if *address == self.own {
            return Some(Arc::clone(&self.default));
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(engine) = known.get(address) {
            return Some(Arc::clone(engine));
        }
        let engine = (self.open)(&address.provider, address.endpoint.as_deref())?;
        known.insert(address.clone(), Arc::clone(&engine));
        Some(engine)
    }

    /// The engine of what has no cluster and no region with a choice of its own.
    pub fn default(&self) -> Arc<E> {
        Arc::clone(&self.default)
    }

    /// Where that one is.
    pub fn default_address(&self) -> Address {
        self.own.clone()
    }
}

/// The engines of a worker.
#[derive(Clone)]
pub struct Providers {
    pub containers: Engines<dyn Provider>,
    pub machines: Engines<dyn Hypervisor>,
}

impl Engines<dyn Hypervisor> {
    /// The same engines, whose calls are told.
    #[must_use]
    pub fn watched(self) -> Self {
        self.each(|engine| Arc::new(Watched(engine)))
    }
}

impl Providers {
    /// The same engines, whose calls are told.
    #[must_use]
    pub fn watched(self) -> Self {
        Self {
            containers: self.containers.each(|engine| Arc::new(Watched(engine))),
            machines: self.machines.watched(),
        }
    }

    /// One engine for everything of its sort, whatever the address.
    pub fn of(provider: Arc<dyn Provider>, hypervisor: Arc<dyn Hypervisor>) -> Self {
        let only = Arc::clone(&provider);
        Self::opened_by(provider, hypervisor, move |name, _| {
            (name == only.name()).then(|| Arc::clone(&only))
        })
    }

    /// The defaults, and what `open` makes of a kind of containers' engine and an endpoint.
    pub fn opened_by(
        provider: Arc<dyn Provider>,
        hypervisor: Arc<dyn Hypervisor>,
        open: impl Fn(&str, Option<&str>) -> Option<Arc<dyn Provider>> + Send + Sync + 'static,
    ) -> Self {
        let own = address(provider.name());
        let machines = Engines::alone(address(hypervisor.name()), hypervisor);
        Self {
            containers: Engines::new(provider, own, open),
            machines,
        }
    }
}

fn address(name: &str) -> Address {
    Address {
        provider: name.to_owned(),
        endpoint: None,
    }
}

/// The engines `settings` choose: Docker and QEMU when asked for or when they answer, else the simulated ones.
pub async fn from_settings(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
) -> Providers {
    Providers {
        containers: of_containers(settings, Arc::clone(&clock), Arc::clone(&entropy)).await,
        machines: of_machines(settings, clock, entropy).await,
    }
}

async fn of_containers(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
) -> Engines<dyn Provider> {
    let host = settings.docker_host.clone();
    let open = move |name: &str, endpoint: Option<&str>| -> Option<Arc<dyn Provider>> {
        let at = endpoint.unwrap_or(&host);
        match name {
            docker::NAME => Some(Arc::new(Docker::at(at))),
            swarm::NAME => Some(Arc::new(Swarm::at(at))),
            simulated::NAME => Some(Arc::new(Simulated::new(
                Arc::clone(&clock),
                Arc::clone(&entropy),
                Faults::default(),
            ))),
            _ => None,
        }
    };
    let name = match settings.provider {
        ProviderChoice::Docker => docker::NAME,
        ProviderChoice::Swarm => swarm::NAME,
        ProviderChoice::Simulated => simulated::NAME,
        ProviderChoice::Auto => {
            let engine = Docker::at(&settings.docker_host);
            if engine.ping().await.is_ok() {
                docker::NAME
            } else {
                simulated::NAME
            }
        }
    };
    #[expect(clippy::expect_used, reason = "the names are those it knows")]
    let default = open(name, None).expect("a kind of ours");
    Engines::new(default, address(name), open)
}

/// The engines of virtual machines alone, for who only opens their consoles.
///
/// QEMU is on the worker's own host: its address names the directory its machines are in, so that no other host is asked
/// about them. Workers with the same directory share its machines. libvirt is where its URI says, and every worker reaches
/// it: that of the settings, and those of clusters.
pub async fn of_machines(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
) -> Engines<dyn Hypervisor> {
    let machines = settings.machines.clone();
    let accel = match machines.accel {
        AccelChoice::Auto => Accel::Auto,
        AccelChoice::Kvm => Accel::Kvm,
        AccelChoice::Tcg => Accel::Tcg,
    };
    let qemu = Qemu::at(QemuSettings {
        directory: machines.directory.clone(),
        images: machines.images.clone(),
        accel,
        disk_reserve_bytes: machines.disk_reserve_bytes,
        memory_reserve_bytes: machines.memory_reserve_bytes,
    });
    let uri = machines.libvirt_uri.clone();
    let choice = match machines.provider {
        MachineProviderChoice::Auto if qemu.ping().await.is_ok() => MachineProviderChoice::Qemu,
        MachineProviderChoice::Auto => MachineProviderChoice::Simulated,
        chosen => chosen,
    };
    let open = move |name: &str, endpoint: Option<&str>| -> Option<Arc<dyn Hypervisor>> {
        (name == libvirt::NAME).then(|| {
            let engine = Libvirt::at(LibvirtSettings {
                uri: endpoint.unwrap_or(&machines.libvirt_uri).to_owned(),
                pool: machines.libvirt_pool.clone(),
                image_pool: machines.libvirt_image_pool.clone(),
                accel,
                disk_reserve_bytes: machines.disk_reserve_bytes,
                memory_reserve_bytes: machines.memory_reserve_bytes,
            });
            Arc::new(engine) as Arc<dyn Hypervisor>
        })
    };
    let (own, default): (_, Arc<dyn Hypervisor>) = match choice {
        MachineProviderChoice::Libvirt => {
            let own = Address {
                provider: libvirt::NAME.to_owned(),
                endpoint: Some(uri),
            };
            #[expect(clippy::expect_used, reason = "the name is the one it knows")]
            let engine = open(libvirt::NAME, own.endpoint.as_deref()).expect("a kind of ours");
            (own, engine)
        }
        MachineProviderChoice::Auto | MachineProviderChoice::Simulated => {
            let simulated = SimulatedMachines::new(clock, entropy, Faults::default());
            (address(simulated::MACHINES), Arc::new(simulated))
        }
        MachineProviderChoice::Qemu => {
            let endpoint = qemu.identity().await.inspect_err(|error| {
                tracing::warn!(%error, "no machine can be on this host");
            });
            let own = Address {
                provider: qemu::NAME.to_owned(),
                endpoint: endpoint.ok(),
            };
            (own, Arc::new(qemu))
        }
    };
    Engines::new(default, own, open)
}
