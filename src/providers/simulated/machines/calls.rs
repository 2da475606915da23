//! What is asked of simulated machines.

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{super::MACHINES as NAME, IMAGE_BYTES, Machines, SimulatedMachines};
use crate::{
    domain::{
        Clock, Id,
        id::{Snapshot, VirtualMachine},
    },
    providers::{
        Console, ConsoleKind, Engine, Guest, Happened, Hypervisor, Image, Instance, Line,
        ProviderError, Start, Status, Usage,
    },
};

/// A file whose name begins so is not there.
const MISSING: &str = "missing/";
/// A file whose name begins so is not what it says.
const CORRUPT: &str = "corrupt/";
/// Bytes on their way to a console or from it.
const CONSOLE: usize = 64 * 1024;
/// What a VNC server says first.
const RFB: &[u8] = b"RFB 003.008\n";

fn rejected(why: &str) -> ProviderError {
    ProviderError::Rejected {
        engine: NAME,
        why: why.to_owned(),
    }
}

/// Whether the names of an image's files are good ones.
fn look(image: &Image) -> Result<u64, ProviderError> {
    let files = [&image.disk, &image.kernel, &image.initrd];
    for name in files.into_iter().flatten() {
        if name.starts_with(MISSING) || name.starts_with(CORRUPT) {
            return Err(ProviderError::NoSuchImage {
                image: name.clone(),
                why: "its name says so".to_owned(),
            });
        }
    }
    Ok(image.disk.as_ref().map_or(0, |_| IMAGE_BYTES))
}

/// Sends back what comes, and writes its lines into the machine's log.
async fn echo(
    mut socket: DuplexStream,
    machines: Machines,
    id: Id<VirtualMachine>,
    now: Arc<dyn Clock>,
) {
    let (mut piece, mut begun) = ([0; 1024], Vec::new());
    while let Ok(read @ 1..) = socket.read(&mut piece).await {
        if socket.write_all(&piece[..read]).await.is_err() {
            return;
        }
        begun.extend_from_slice(&piece[..read]);
        while let Some(end) = begun.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = begun.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            let machines = machines.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(machine) = machines.get(&id) {
                machine.written.write(now.now(), &line);
            }
        }
        begun.truncate(CONSOLE);
    }
}

#[async_trait]
impl Engine<VirtualMachine> for SimulatedMachines {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_private(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        self.weather.answers()?;
        Ok("simulated machines in this process".to_owned())
    }

    async fn inspect(
        &self,
        id: Id<VirtualMachine>,
    ) -> Result<Option<Instance<VirtualMachine>>, ProviderError> {
        self.weather.enter().await?;
        Ok(self.change(id, |machine| machine.instance.clone()))
    }

    async fn remove(&self, id: Id<VirtualMachine>, _grace: Duration) -> Result<(), ProviderError> {
        let fate = self.weather.enter().await?;
        if self.machines().remove(&id).is_some() {
            self.tell(id);
        }
        fate.answer(())
    }

    async fn list(&self) -> Result<Vec<Instance<VirtualMachine>>, ProviderError> {
        self.weather.enter().await?;
        let machines = self.machines();
        let instances = machines.values().map(|machine| machine.instance.clone());
        Ok(instances.collect())
    }

    async fn logs(&self, id: Id<VirtualMachine>, lines: u32) -> Result<Vec<String>, ProviderError> {
        self.weather.enter().await?;
        let last = self.change(id, |machine| machine.written.last(lines));
        Ok(last.unwrap_or_default())
    }

    fn follow(&self, id: Id<VirtualMachine>, start: Start) -> BoxStream<'static, Line> {
        self.change(id, |machine| machine.written.follow(start))
            .unwrap_or_else(|| stream::empty().boxed())
    }

    fn events(&self) -> BoxStream<'static, Happened<VirtualMachine>> {
        BroadcastStream::new(self.happened.subscribe())
            .filter_map(async |event| event.ok())
            .boxed()
    }
}

#[async_trait]
impl Hypervisor for SimulatedMachines {
    async fn check(&self, image: &Image) -> Result<u64, ProviderError> {
        self.weather.enter().await?;
        look(image)
    }

    async fn ensure(
        &self,
        guest: &Guest,
        stop: &CancellationToken,
    ) -> Result<Instance<VirtualMachine>, ProviderError> {
        let fate = self.weather.enter().await?;
        if stop.is_cancelled() {
            return Err(ProviderError::Stopped);
        }
        look(&guest.image)?;
        let found = {
            let mut machines = self.machines();
            let is_old = machines
                .get(&guest.id)
                .is_some_and(|machine| machine.instance.generation < guest.generation);
            if is_old {
                machines.remove(&guest.id);
            }
            machines.get(&guest.id).is_some_and(|machine| {
                machine.is_running() || machine.instance.generation > guest.generation
            })
        };
        if !found {
            if self.is_full.load(Ordering::SeqCst) {
                return Err(ProviderError::Quota {
                    engine: NAME,
                    why: "it was told to have no room".to_owned(),
                });
            }
            self.start(guest).await?;
        }
        fate.answer(())?;
        let started = self.change(guest.id, |machine| machine.instance.clone());
        started.ok_or_else(|| ProviderError::Failed {
            engine: NAME,
            why: "it vanished after it was made".to_owned(),
        })
    }

    async fn power_off(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        let fate = self.weather.enter().await?;
        let heeds = self.change(id, |machine| {
            let is_well = matches!(machine.instance.status, Status::Starting | Status::Ready);
            (is_well && !machine.ignores_acpi).then_some(machine.starts)
        });
        if let Some(starts) = heeds.flatten() {
            self.later(id, starts, |machine, now| {
                machine.written.write(now, "powering off");
                machine.end(Status::Off);
            });
        }
        fate.answer(())
    }

    async fn kill(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        let fate = self.weather.enter().await?;
        let ended = self.change(id, |machine| {
            let was_running = machine.is_running();
            if was_running {
                machine.end(Status::Off);
            }
            was_running
        });
        if ended == Some(true) {
            self.tell(id);
        }
        fate.answer(())
    }

    async fn snapshot(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let fate = self.weather.enter().await?;
        let kept = self.change(id, |machine| {
            let disk = machine.disk.clone();
            machine.snapshots.entry(snapshot).or_insert(disk);
        });
        kept.ok_or_else(|| rejected("there is no such machine"))?;
        fate.answer(())
    }

    async fn restore(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let fate = self.weather.enter().await?;
        let restored = self.change(id, |machine| {
            if machine.is_running() {
                return Err(rejected("it runs"));
            }
            let kept = machine.snapshots.get(&snapshot);
            machine.disk = kept
                .ok_or_else(|| rejected("it has no such snapshot"))?
                .clone();
            Ok(())
        });
        restored.unwrap_or_else(|| Err(rejected("there is no such machine")))?;
        fate.answer(())
    }

    async fn forget(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let fate = self.weather.enter().await?;
        self.change(id, |machine| machine.snapshots.remove(&snapshot));
        fate.answer(())
    }

    async fn usage(&self, id: Id<VirtualMachine>) -> Result<Option<Usage>, ProviderError> {
        self.weather.enter().await?;
        let now = self.weather.clock.now();
        Ok(self.change(id, |machine| {
            let ran = (now - machine.since).num_microseconds().unwrap_or_default();
            let memory = i64::try_from(machine.given.memory_bytes).unwrap_or(i64::MAX);
            let runs = i64::from(machine.is_running());
            Usage {
                cpu_micros: runs * ran,
                memory_bytes: runs * memory,
                disk_bytes: i64::try_from(machine.disk.len()).unwrap_or(i64::MAX),
            }
        }))
    }

    async fn console(
        &self,
        id: Id<VirtualMachine>,
        kind: ConsoleKind,
    ) -> Result<Box<dyn Console>, ProviderError> {
        self.weather.enter().await?;
        let (mut inside, outside) = tokio::io::duplex(CONSOLE);
        if kind == ConsoleKind::Vnc {
            // The buffer takes it without anybody reading.
            let _ = inside.write_all(RFB).await;
        }
        let (machines, clock) = (Arc::clone(&self.machines), Arc::clone(&self.weather.clock));
        let connected = self.change(id, |machine| {
            machine.is_running().then(|| {
                machine.consoles.retain(|console| !console.is_finished());
                let talk = tokio::spawn(echo(inside, machines, id, clock));
                machine.consoles.push(AbortOnDropHandle::new(talk));
            })
        });
        match connected.flatten() {
            Some(()) => Ok(Box::new(outside)),
            None => Err(rejected("it does not run")),
        }
    }
}
