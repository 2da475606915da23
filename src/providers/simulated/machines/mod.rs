//! Virtual machines in memory, with delays and faults drawn from a seed. Their forwarded ports are real and answer HTTP.

mod calls;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::{DateTime, Utc};
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

use super::{
    ports::{self, Servers},
    weather::{Faults, Weather},
    written::Written,
};
use crate::{
    domain::{
        Clock, Entropy, Id,
        id::{Snapshot, VirtualMachine},
    },
    providers::{Guest, Happened, Instance, ProviderError, Status, instance_name},
};

/// Bytes of every image's disk.
const IMAGE_BYTES: u64 = 1 << 30;
/// What a machine was last started with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Given {
    pub cpus: u16,
    /// Bytes.
    pub memory_bytes: u64,
    /// Bytes of its disk, which never gets smaller.
    pub disk_bytes: u64,
}

struct Machine {
    instance: Instance<VirtualMachine>,
    given: Given,
    /// How often it was started, so that what belongs to an earlier start is told.
    starts: u32,
    since: DateTime<Utc>,
    ignores_acpi: bool,
    disk: Vec<u8>,
    snapshots: BTreeMap<Id<Snapshot>, Vec<u8>>,
    written: Written,
    /// What ends with its running.
    servers: Servers,
    consoles: Vec<AbortOnDropHandle<()>>,
}

impl Machine {
    fn is_running(&self) -> bool {
        match self.instance.status {
            Status::Starting | Status::Ready | Status::Unhealthy => true,
            Status::Created | Status::Off | Status::Exited { .. } => false,
        }
    }

    fn end(&mut self, status: Status) {
        self.instance.status = status;
        self.instance.ports.clear();
        self.servers = Servers::default();
        self.consoles.clear();
    }
}

type Machines = Arc<Mutex<BTreeMap<Id<VirtualMachine>, Machine>>>;

/// The engine; everything in it ends with the process.
pub struct SimulatedMachines {
    weather: Weather,
    machines: Machines,
    happened: broadcast::Sender<Happened<VirtualMachine>>,
    is_full: AtomicBool,
}

impl SimulatedMachines {
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<Entropy>, faults: Faults) -> Self {
        Self {
            weather: Weather::new(clock, entropy, faults),
            machines: Arc::default(),
            happened: broadcast::Sender::new(256),
            is_full: AtomicBool::new(false),
        }
    }

    /// Stops answering, or answers again. What runs goes on.
    pub fn set_away(&self, is_away: bool) {
        self.weather.set_away(is_away);
    }

    /// Has no room for another start, or has it again.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    /// Loses a machine behind everybody's back, without a word.
    pub fn lose(&self, id: Id<VirtualMachine>) {
        self.machines().remove(&id);
    }

    /// Ends a machine as if its process had been killed, without a word.
    pub fn end(&self, id: Id<VirtualMachine>, code: i64) {
        self.change(id, |machine| machine.end(Status::Exited { code }));
    }

    /// Has a guest's kernel panic.
    pub fn panic(&self, id: Id<VirtualMachine>) {
        let now = self.weather.clock.now();
        self.change(id, |machine| {
            machine.instance.status = Status::Unhealthy;
            machine.written.write(now, "Kernel panic - not syncing");
        });
        self.tell(id);
    }

    /// Has a guest pay no heed to its power button, or heed it again.
    pub fn ignore_acpi(&self, id: Id<VirtualMachine>, ignores: bool) {
        self.change(id, |machine| machine.ignores_acpi = ignores);
    }

    /// Writes a line on a machine's console.
    pub fn write(&self, id: Id<VirtualMachine>, line: &str) {
        let now = self.weather.clock.now();
        self.change(id, |machine| machine.written.write(now, line));
    }

    /// Has a guest write on its disk, over all that is there.
    pub fn write_disk(&self, id: Id<VirtualMachine>, text: &str) {
        self.change(id, |machine| machine.disk = text.as_bytes().to_vec());
    }

    /// What is on a machine's disk; `None` without the machine.
    pub fn read_disk(&self, id: Id<VirtualMachine>) -> Option<String> {
        let machines = self.machines();
        let disk = &machines.get(&id)?.disk;
        Some(String::from_utf8_lossy(disk).into_owned())
    }

    /// What a machine was last started with.
    pub fn given(&self, id: Id<VirtualMachine>) -> Option<Given> {
        self.machines().get(&id).map(|machine| machine.given)
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<Id<VirtualMachine>, Machine>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<R>(
        &self,
        id: Id<VirtualMachine>,
        change: impl FnOnce(&mut Machine) -> R,
    ) -> Option<R> {
        self.machines().get_mut(&id).map(change)
    }

    fn tell(&self, id: Id<VirtualMachine>) {
        let _ = self.happened.send(Happened { id });
    }

    /// Changes what a start has begun after a while, unless it has ended by then.
    fn later(
        &self,
        id: Id<VirtualMachine>,
        starts: u32,
        change: impl FnOnce(&mut Machine, DateTime<Utc>) + Send + 'static,
    ) {
        let (clock, machines, happened, after) = (
            Arc::clone(&self.weather.clock),
            Arc::clone(&self.machines),
            self.happened.clone(),
            self.weather.boot(),
        );
        // Owned by nobody on purpose: it ends after one sleep and touches only what it finds then.
        tokio::spawn(async move {
            clock.sleep(after).await;
            let mut machines = machines.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(machine) = machines.get_mut(&id)
                && machine.starts == starts
                && machine.is_running()
            {
                change(machine, clock.now());
                let _ = happened.send(Happened { id });
            }
        });
    }

    async fn start(&self, guest: &Guest) -> Result<(), ProviderError> {
        let greeting = format!(
            "{} simulates {}\n",
            instance_name(guest.id),
            guest.host_name
        );
        let (ports, servers) = ports::open(&guest.ports, guest.publish_address, &greeting).await?;
        let now = self.weather.clock.now();
        let started = {
            let mut machines = self.machines();
            let machine = machines.entry(guest.id).or_insert_with(|| made(guest, now));
            if machine.is_running() {
                // Whoever was quicker has won.
                return Ok(());
            }
            machine.given = Given {
                cpus: guest.cpus,
                memory_bytes: guest.memory_bytes,
                disk_bytes: guest.disk_bytes.max(machine.given.disk_bytes),
            };
            machine.starts += 1;
            machine.since = now;
            machine.ignores_acpi = false;
            machine.servers = servers;
            machine.instance.ports = ports;
            machine.instance.status = Status::Starting;
            machine.written.write(now, "up");
            if guest.image.ready_text.is_none() {
                machine.instance.status = Status::Ready;
            }
            machine.starts
        };
        if let Some(text) = guest.image.ready_text.clone() {
            self.later(guest.id, started, move |machine, now| {
                machine.written.write(now, &text);
                if machine.instance.status == Status::Starting {
                    machine.instance.status = Status::Ready;
                }
            });
        }
        self.tell(guest.id);
        Ok(())
    }
}

fn made(guest: &Guest, now: DateTime<Utc>) -> Machine {
    let base = guest.image.disk.as_ref().map_or(0, |_| IMAGE_BYTES);
    Machine {
        instance: Instance {
            id: guest.id,
            generation: guest.generation,
            deployment: Some(guest.deployment.clone()),
            node: None,
            handle: format!(
                "simulated-{}.{}",
                guest.id.uuid().simple(),
                guest.generation
            ),
            status: Status::Created,
            ip: None,
            ports: BTreeMap::new(),
        },
        given: Given {
            cpus: guest.cpus,
            memory_bytes: guest.memory_bytes,
            disk_bytes: base,
        },
        starts: 0,
        since: now,
        ignores_acpi: false,
        disk: Vec::new(),
        snapshots: BTreeMap::new(),
        written: Written::default(),
        servers: Servers::default(),
        consoles: Vec::new(),
    }
}
