//! One directory of machines, and how each of them is.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{OnceCell, broadcast};

use super::{
    NAME, QemuSettings,
    folder::{Lock, Phase, Place, Record, machines, prepare},
    process::Process,
    program::{blocking, failed, file_error, moment},
    qmp::{self, RunState},
};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{Happened, Instance, ProviderError, Status, console_log, instance_name},
};

/// Longest wait for another's attempt at the same machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often a lock or a process is looked at that is waited for.
const LOOK: Duration = Duration::from_millis(25);
/// What a process gets to go once it was told to.
const GOING: Duration = Duration::from_secs(5);
/// What the kernel gets to end a process.
const ENDING: Duration = Duration::from_secs(20);
/// What becomes of the code of a process nobody has waited for.
const UNKNOWN_CODE: i64 = -1;

/// What all parts of the engine share.
pub(super) struct Host {
    pub(super) settings: QemuSettings,
    root: OnceCell<PathBuf>,
    /// How far the consoles were read for what says that a guest is up.
    read: Mutex<HashMap<Id<VirtualMachine>, Read>>,
    happened: broadcast::Sender<Happened<VirtualMachine>>,
}

#[derive(Clone, Copy)]
struct Read {
    /// Which start it is about.
    starts: u32,
    to: u64,
    is_up: bool,
}

/// A machine as it was found.
pub(super) struct Look {
    pub(super) record: Record,
    pub(super) process: Option<Process>,
    pub(super) status: Status,
}

impl Look {
    pub(super) fn instance(&self, id: Id<VirtualMachine>) -> Instance<VirtualMachine> {
        let record = &self.record;
        Instance {
            id,
            generation: record.generation,
            deployment: Some(record.deployment.clone()),
            node: None,
            handle: format!("{}.{}", instance_name(id), record.generation),
            status: self.status,
            // What is outside reaches it by its ports alone.
            ip: record.ip.clone().filter(|_| self.process.is_some()),
            ports: if self.process.is_some() {
                record.ports.clone()
            } else {
                BTreeMap::new()
            },
        }
    }

    /// Whether QEMU has its disk.
    pub(super) fn is_running(&self) -> bool {
        self.process.is_some() && self.status != Status::Off
    }
}

impl Host {
    pub(super) fn new(settings: QemuSettings) -> Self {
        Self {
            settings,
            root: OnceCell::new(),
            read: Mutex::default(),
            happened: broadcast::Sender::new(256),
        }
    }

    /// The directory, made at the first use.
    pub(super) async fn root(&self) -> Result<&PathBuf, ProviderError> {
        let directory = self.settings.directory.clone();
        let make = || {
            blocking(move || {
                prepare(&directory).map_err(|error| ProviderError::Rejected {
                    engine: NAME,
                    why: format!("the directory of machines cannot be used: {error}"),
                })
            })
        };
        self.root.get_or_try_init(make).await
    }

    pub(super) async fn place(&self, id: Id<VirtualMachine>) -> Result<Place, ProviderError> {
        Ok(Place::new(id, self.root().await?.clone()))
    }

    /// Tells that something happened.
    pub(super) fn tell(&self, id: Id<VirtualMachine>) {
        let _ = self.happened.send(Happened { id });
    }

    pub(super) fn told(&self) -> broadcast::Receiver<Happened<VirtualMachine>> {
        self.happened.subscribe()
    }

    /// The machine for this attempt alone, waited for.
    pub(super) async fn lock(&self, place: &Place) -> Result<Lock, ProviderError> {
        let wait = async {
            loop {
                let place = place.clone();
                let tried =
                    blocking(move || place.try_lock().map_err(file_error("the machine's lock")));
                if let Some(lock) = tried.await? {
                    return Ok(lock);
                }
                moment(LOOK).await;
            }
        };
        let locked = tokio::time::timeout(PATIENCE, wait).await;
        locked.map_err(|_| ProviderError::TimedOut {
            engine: NAME,
            after: PATIENCE,
        })?
    }

    /// How a machine is; `None` when there is none. One whose guest has ended is put to rest on the way, by whoever sees it
    /// first: by `held` when the caller has its lock.
    pub(super) async fn look(
        &self,
        place: &Place,
        held: Option<&Lock>,
    ) -> Result<Option<Look>, ProviderError> {
        let mut before = None;
        loop {
            let Some((record, process)) = found(place).await? else {
                return Ok(None);
            };
            let Some(process) = process else {
                let status = match record.phase {
                    Phase::Created => Status::Created,
                    Phase::Off => Status::Off,
                    Phase::Starting if held.is_none() && is_locked(place).await => Status::Starting,
                    Phase::Starting | Phase::Started => Status::Exited { code: UNKNOWN_CODE },
                };
                // It may have been put to rest between the look at its record and that at its process.
                let is_sure = before.as_ref() == Some(&record);
                if matches!(status, Status::Exited { .. }) && !is_sure {
                    before = Some(record);
                    continue;
                }
                return Ok(Some(Look {
                    record,
                    process: None,
                    status,
                }));
            };
            let status = match qmp::run_state(&place.monitor()).await {
                Ok(RunState::Shutdown) => {
                    if self.rest(place, &record, process, held).await? {
                        continue;
                    }
                    Status::Off
                }
                Ok(RunState::Broken) => Status::Unhealthy,
                Ok(RunState::Running) => self.up(place, &record).await?,
                Ok(RunState::Waiting) => Status::Starting,
                // Its end has come meanwhile.
                Err(_) if !process.is_alive() => continue,
                // It has not got so far that it listens, somebody keeps its monitor busy, or it hangs.
                Err(_) => match self.up(place, &record).await? {
                    Status::Ready if held.is_some() || !is_locked(place).await => Status::Unhealthy,
                    other => other,
                },
            };
            return Ok(Some(Look {
                record,
                process: Some(process),
                status,
            }));
        }
    }

    /// Ends a process whose guest has; `false` when somebody else has the machine and will.
    async fn rest(
        &self,
        place: &Place,
        record: &Record,
        process: Process,
        held: Option<&Lock>,
    ) -> Result<bool, ProviderError> {
        let mut own = None;
        if held.is_none() {
            let place = place.clone();
            let tried = move || place.try_lock().map_err(file_error("the machine's lock"));
            own = blocking(tried).await?;
            if own.is_none() {
                return Ok(false);
            }
        }
        // Another may have done so, and started it again, before the lock was had.
        let is_same = found(place)
            .await?
            .is_some_and(|(now, its)| its == Some(process) && now.starts == record.starts);
        if is_same {
            self.end(place, process).await?;
        }
        drop(own);
        Ok(true)
    }

    /// Ends a process for good: the record says so first, so that it is not taken for a crash.
    pub(super) async fn end(&self, place: &Place, process: Process) -> Result<(), ProviderError> {
        let its = place.clone();
        blocking(move || {
            let Some(mut record) = its.record().map_err(file_error("its record"))? else {
                return Ok(());
            };
            record.phase = Phase::Off;
            its.keep(&record).map_err(file_error("its record"))
        })
        .await?;
        terminate(place, process).await?;
        self.tell(place.id);
        Ok(())
    }

    /// Whether a running guest is up, by what it has said since its start.
    async fn up(&self, place: &Place, record: &Record) -> Result<Status, ProviderError> {
        let Some(text) = record.ready_text.clone() else {
            return Ok(Status::Ready);
        };
        let known = self.reads().get(&place.id).copied();
        let known = known.filter(|read| read.starts == record.starts);
        if known.is_some_and(|read| read.is_up) {
            return Ok(Status::Ready);
        }
        let (log, from) = (
            place.console_log(),
            known.map_or(record.log_start, |read| read.to),
        );
        let seen = blocking(move || {
            console_log::search(&log, from, &text).map_err(file_error("its console's log"))
        });
        let seen = seen.await?;
        let read = Read {
            starts: record.starts,
            to: seen.err().unwrap_or(from),
            is_up: seen.is_ok(),
        };
        self.reads().insert(place.id, read);
        Ok(if read.is_up {
            Status::Ready
        } else {
            Status::Starting
        })
    }

    /// Bytes that the machines running here may take yet of what they were given: a guest touches its memory little by
    /// little, and the host counts it as free until then.
    pub(super) async fn promised(&self) -> Result<u64, ProviderError> {
        let root = self.root().await?.clone();
        blocking(move || {
            let all = machines(&root).map_err(file_error("the directory of machines"))?;
            let promised = all.iter().filter_map(|place| {
                let process = Process::named_by(&place.pid_file()).ok().flatten()?;
                let given = place.record().ok().flatten()?.memory_bytes;
                let taken = u64::try_from(process.taken()?.memory_bytes).unwrap_or(0);
                Some(given.saturating_sub(taken))
            });
            Ok(promised.sum())
        })
        .await
    }

    /// Forgets what is kept in memory of a machine that is gone.
    pub(super) fn forget(&self, id: Id<VirtualMachine>) {
        self.reads().remove(&id);
    }

    fn reads(&self) -> std::sync::MutexGuard<'_, HashMap<Id<VirtualMachine>, Read>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The record and the process of a machine.
async fn found(place: &Place) -> Result<Option<(Record, Option<Process>)>, ProviderError> {
    let place = place.clone();
    blocking(move || {
        let record = place
            .record()
            .map_err(|error| failed(format!("its record cannot be read: {error}")))?;
        let Some(record) = record else {
            return Ok(None);
        };
        let process = match Process::named_by(&place.pid_file()) {
            Ok(process) => process,
            // All processes are looked through only when one may have been started without a word.
            Err(_) if matches!(record.phase, Phase::Created | Phase::Off) => None,
            Err(_) => Process::all_with(&place.pid_file()).into_iter().next(),
        };
        Ok(Some((record, process)))
    })
    .await
}

async fn is_locked(place: &Place) -> bool {
    let place = place.clone();
    let tried = tokio::task::spawn_blocking(move || place.try_lock()).await;
    !matches!(tried, Ok(Ok(Some(_))))
}

/// Ends a process in order if it still listens, else at once, and sees it gone.
pub(super) async fn terminate(place: &Place, process: Process) -> Result<(), ProviderError> {
    let told = tokio::time::timeout(GOING, qmp::ask(&place.monitor(), "quit")).await;
    if !matches!(told, Ok(Ok(_))) || !gone(process, GOING).await {
        process.kill();
        if !gone(process, ENDING).await {
            return Err(failed(format!("process {} does not end", process.pid)));
        }
    }
    Ok(())
}

/// Ends whatever was started for a machine, of which its record may know nothing.
pub(super) async fn terminate_all(place: &Place) -> Result<(), ProviderError> {
    // The one that is to run is started by another with the same command line.
    for _ in 0..10 {
        let pid_file = place.pid_file();
        let all = blocking(move || Ok(Process::all_with(&pid_file))).await?;
        if all.is_empty() {
            return Ok(());
        }
        for process in all {
            process.kill();
            gone(process, ENDING).await;
        }
    }
    Err(failed("its processes do not end".to_owned()))
}

/// Waits until a process is gone; `false` when it is not in time.
pub(super) async fn gone(process: Process, limit: Duration) -> bool {
    let wait = async {
        while process.is_alive() {
            moment(LOOK).await;
        }
    };
    tokio::time::timeout(limit, wait).await.is_ok()
}

/// What the engine and its streams hold.
pub(super) type Shared = Arc<Host>;
