//! The life of a machine: made, started, ended, removed. Whoever does one of these has its lock.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{
    NAME, accel, disk,
    folder::{Lock, Phase, Place, Record, disk_in, keep_in},
    host::{Host, Look, gone, terminate, terminate_all},
    launch,
    process::Process,
    program::{self, SYSTEM, blocking, failed, file_error, quota},
    qmp, room, seed,
};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{Guest, Instance, ProviderError, Status, host_ports, image_files},
};

/// Longest start of QEMU's own, before the guest's.
const START: Duration = Duration::from_secs(60);
/// How often other ports are tried when some are taken meanwhile.
const TRIES: u32 = 5;
/// What a machine of an older generation gets to end by itself.
const OLD: Duration = Duration::from_secs(5);
/// A console's log that is longer is begun anew at the next start.
const LONGEST_LOG: u64 = 32 << 20;
/// How often a guest is looked at that was asked to end.
const LOOK: Duration = Duration::from_millis(100);

impl Host {
    pub(super) async fn ensure(
        &self,
        guest: &Guest,
        stop: &CancellationToken,
    ) -> Result<Instance<VirtualMachine>, ProviderError> {
        let place = self.place(guest.id).await?;
        go_on(stop)?;
        let lock = self.lock(&place).await?;
        go_on(stop)?;
        let mut known = self.look(&place, Some(&lock)).await?;
        if known
            .as_ref()
            .is_some_and(|look| look.record.generation < guest.generation)
        {
            self.remove_held(&place, OLD).await?;
            go_on(stop)?;
            known = None;
        }
        if let Some(look) = &known
            && (look.is_running() || look.record.generation > guest.generation)
        {
            return Ok(look.instance(guest.id));
        }
        let is_new = known.is_none();
        let started = self.start_or_undo(&place, guest, known, stop).await;
        if started.is_err() && is_new {
            lock.forget();
        }
        started
    }

    async fn start_or_undo(
        &self,
        place: &Place,
        guest: &Guest,
        known: Option<Look>,
        stop: &CancellationToken,
    ) -> Result<Instance<VirtualMachine>, ProviderError> {
        let found = image_files::find(NAME, &self.settings.images, &guest.image).await?;
        self.has_room(guest).await?;
        let (record, is_new) = match known {
            Some(look) => (look.record, false),
            None => (self.make(place, guest, &found).await?, true),
        };
        let started = match go_on(stop) {
            Ok(()) => self.start(place, guest, &found, &record).await,
            Err(stopped) => Err(stopped),
        };
        if let Err(error) = started {
            terminate_all(place).await?;
            let place = place.clone();
            blocking(move || {
                let undone = if is_new {
                    place.remove()
                } else {
                    place.keep(&record)
                };
                undone.map_err(file_error("what a failed start has left"))
            })
            .await?;
            return Err(error);
        }
        self.tell(guest.id);
        let look = self.look(place, None).await?;
        look.map(|look| look.instance(guest.id))
            .ok_or_else(|| failed("it vanished after its start".to_owned()))
    }

    async fn has_room(&self, guest: &Guest) -> Result<(), ProviderError> {
        let settings = &self.settings;
        let kept = settings.memory_reserve_bytes;
        let kept = kept.saturating_add(self.promised().await?);
        room::for_memory(guest.memory_bytes, kept)?;
        room::for_disk(self.root().await?, settings.disk_reserve_bytes)
    }

    /// Makes the machine beside its place, and moves it there.
    async fn make(
        &self,
        place: &Place,
        guest: &Guest,
        found: &image_files::Found,
    ) -> Result<Record, ProviderError> {
        if let Some(disk) = &found.disk {
            image_files::verify(NAME, disk).await?;
        }
        let record = Record {
            id: guest.id.to_string(),
            generation: guest.generation,
            deployment: guest.deployment.clone(),
            ip: None,
            ports: std::collections::BTreeMap::new(),
            cpus: guest.cpus,
            memory_bytes: guest.memory_bytes,
            disk_bytes: guest.disk_bytes,
            ready_text: guest.image.ready_text.clone(),
            phase: Phase::Created,
            starts: 0,
            log_start: 0,
        };
        let made = make_in_place(place, guest, found, &record).await;
        if made.is_err() {
            let place = place.clone();
            let given_up = blocking(move || place.give_up().map_err(file_error("the attempt")));
            given_up.await?;
        }
        made.map(|()| record)
    }

    /// Starts a machine that does not run.
    async fn start(
        &self,
        place: &Place,
        guest: &Guest,
        found: &image_files::Found,
        before: &Record,
    ) -> Result<(), ProviderError> {
        // One that an attempt has started which was then killed would have the disk.
        terminate_all(place).await?;
        disk::grow(place, guest.disk_bytes).await?;
        let accel = accel::find(self.settings.accel, &place.folder()).await;
        for _ in 0..TRIES {
            let record = self.about_to_start(place, guest, before).await?;
            let line = launch::arguments(place, guest, found, accel, &record.ports);
            let output = program::run(SYSTEM, line, START).await?;
            if output.is_success() {
                return settled(place, record).await;
            }
            let complaint = output.complaint();
            if !program::is_port_taken(&complaint) {
                tracing::warn!(machine = %guest.id, complaint, "QEMU did not start");
                return Err(program::classify(&complaint));
            }
        }
        Err(quota("its ports are taken again and again".to_owned()))
    }

    /// Writes down that a start is under way, and what it is given.
    async fn about_to_start(
        &self,
        place: &Place,
        guest: &Guest,
        before: &Record,
    ) -> Result<Record, ProviderError> {
        let (place, guest, mut record) = (place.clone(), guest.clone(), before.clone());
        blocking(move || {
            record.ports =
                host_ports::free(NAME, &guest.ports, guest.publish_address, &record.ports)?;
            record.ip = Some(guest.publish_address.to_string());
            let write = || {
                seed::write(&place.folder(), &guest)?;
                // A pid file is about the process that is to come.
                match std::fs::remove_file(place.pid_file()) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(error);
                    }
                    _ => {}
                }
                let log = std::fs::File::options()
                    .create(true)
                    .truncate(false)
                    .write(true)
                    .open(place.console_log())?;
                if log.metadata()?.len() > LONGEST_LOG {
                    log.set_len(0)?;
                }
                record.log_start = log.metadata()?.len();
                record.starts += 1;
                record.phase = Phase::Starting;
                record.cpus = guest.cpus;
                record.memory_bytes = guest.memory_bytes;
                record.disk_bytes = guest.disk_bytes.max(record.disk_bytes);
                record.ready_text.clone_from(&guest.image.ready_text);
                place.keep(&record)?;
                Ok(record)
            };
            write().map_err(file_error("the machine's folder"))
        })
        .await
    }

    /// Removes it with all it has; the same for what is left of one.
    pub(super) async fn remove(
        &self,
        id: Id<VirtualMachine>,
        grace: Duration,
    ) -> Result<(), ProviderError> {
        let place = self.place(id).await?;
        let lock = self.lock(&place).await?;
        let was_there = place.is_there();
        self.remove_held(&place, grace).await?;
        lock.forget();
        if was_there {
            self.tell(id);
        }
        Ok(())
    }

    async fn remove_held(&self, place: &Place, grace: Duration) -> Result<(), ProviderError> {
        if place.is_there() {
            if let Ok(Some(process)) = process_of(place).await {
                end_softly(place, process, grace).await?;
            }
            terminate_all(place).await?;
        }
        self.forget(place.id);
        let place = place.clone();
        blocking(move || place.remove().map_err(file_error("the machine's folder"))).await
    }

    pub(super) async fn power_off(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        let place = self.place(id).await?;
        let Some(look) = self.look(&place, None).await? else {
            return Ok(());
        };
        let Some(process) = look.process.filter(|_| look.is_running()) else {
            return Ok(());
        };
        let asked = qmp::ask(&place.monitor(), "system_powerdown").await;
        match asked {
            Err(_) if !process.is_alive() => Ok(()),
            asked => asked.map(drop),
        }
    }

    pub(super) async fn kill(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        let place = self.place(id).await?;
        if !place.is_there() {
            return Ok(());
        }
        let _lock = self.lock(&place).await?;
        match process_of(&place).await? {
            Some(process) => self.end(&place, process).await,
            None => Ok(()),
        }
    }

    /// A machine for what is done with its disk; held, and seen whether it runs.
    pub(super) async fn held(
        &self,
        id: Id<VirtualMachine>,
    ) -> Result<Option<(Place, Lock, Look)>, ProviderError> {
        let place = self.place(id).await?;
        if !place.is_there() {
            return Ok(None);
        }
        let lock = self.lock(&place).await?;
        let look = self.look(&place, Some(&lock)).await?;
        Ok(look.map(|look| (place, lock, look)))
    }
}

fn go_on(stop: &CancellationToken) -> Result<(), ProviderError> {
    if stop.is_cancelled() {
        return Err(ProviderError::Stopped);
    }
    Ok(())
}

async fn make_in_place(
    place: &Place,
    guest: &Guest,
    found: &image_files::Found,
    record: &Record,
) -> Result<(), ProviderError> {
    let (its, told, kept) = (place.clone(), guest.clone(), record.clone());
    let making = blocking(move || {
        let write = || {
            let making = its.begin()?;
            seed::write(&making, &told)?;
            keep_in(&making, &kept)?;
            Ok(making)
        };
        write().map_err(file_error("the machine's folder"))
    })
    .await?;
    let disk = disk_in(&making);
    disk::make(&disk, found.disk.as_ref(), guest.disk_bytes).await?;
    let its = place.clone();
    blocking(move || {
        let finish = || {
            std::fs::File::open(disk_in(&making))?.sync_all()?;
            its.finish()
        };
        finish().map_err(file_error("the machine's folder"))
    })
    .await
}

/// Writes down that the process is there: without one, it has ended by itself from now on.
async fn settled(place: &Place, mut record: Record) -> Result<(), ProviderError> {
    record.phase = Phase::Started;
    let place = place.clone();
    blocking(move || {
        place
            .keep(&record)
            .map_err(file_error("the machine's record"))
    })
    .await
}

async fn process_of(place: &Place) -> Result<Option<Process>, ProviderError> {
    let pid_file = place.pid_file();
    blocking(move || {
        Ok(match Process::named_by(&pid_file) {
            Ok(process) => process,
            Err(_) => Process::all_with(&pid_file).into_iter().next(),
        })
    })
    .await
}

/// Asks a guest to power off, waits for that up to `grace`, and ends what is left.
async fn end_softly(place: &Place, process: Process, grace: Duration) -> Result<(), ProviderError> {
    let monitor = place.monitor();
    let ended = async {
        if qmp::ask(&monitor, "system_powerdown").await.is_err() {
            return;
        }
        while let Ok(qmp::RunState::Running | qmp::RunState::Waiting) =
            qmp::run_state(&monitor).await
        {
            program::moment(LOOK).await;
        }
    };
    if !grace.is_zero() {
        let _ = tokio::time::timeout(grace, ended).await;
    }
    // One that ends by itself meanwhile is waited for, not told.
    if gone(process, Duration::ZERO).await {
        return Ok(());
    }
    terminate(place, process).await
}

/// Whether a status is one of a machine whose disk nobody has.
pub(super) const fn is_at_rest(status: Status) -> bool {
    matches!(
        status,
        Status::Off | Status::Created | Status::Exited { .. }
    )
}
