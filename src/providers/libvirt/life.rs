//! The life of a machine: made, started, ended, removed. Whoever does one of these has its lock.

use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    domain::{self, Accel},
    host::{Host, Pools},
    look::{self, Doing, Found, Phase, Record},
    store::Places,
    virsh::{NO_DOMAIN, failed, quota, said},
};
use crate::{
    domain::{Id, id::VirtualMachine},
    providers::{
        Guest, Instance, ProviderError, Status, image_files, instance_name,
        program::{is_port_taken, moment},
    },
};

/// How often other ports are tried when some are taken meanwhile.
const TRIES: u32 = 5;
/// What a machine of an older generation gets to end by itself.
const OLD: Duration = Duration::from_secs(5);
/// How often a guest is looked at that was asked to end.
const LOOK: Duration = Duration::from_millis(200);
const NOT_RUNNING: &[&str] = &[
    "failed to get domain",
    "Domain not found",
    "domain is not running",
];

/// A start, and what it needs.
struct Start<'a> {
    guest: &'a Guest,
    image: image_files::Found,
    accel: Accel,
    places: Places,
    pools: &'a Pools,
}

impl Host {
    pub(super) async fn ensure(
        &self,
        guest: &Guest,
        stop: &CancellationToken,
    ) -> Result<Instance<VirtualMachine>, ProviderError> {
        go_on(stop)?;
        let _lock = self.lock(guest.id).await?;
        go_on(stop)?;
        let mut known = self.look(guest.id, true).await?;
        if known
            .as_ref()
            .is_some_and(|(found, _)| found.record.generation < guest.generation)
        {
            self.remove_held(guest.id, OLD).await?;
            go_on(stop)?;
            known = None;
        }
        if let Some((found, status)) = &known
            && (found.has_process() || found.record.generation > guest.generation)
        {
            if found.has_process() {
                // Who has started it may have been killed before that was written down.
                self.note(found, Phase::Started).await?;
            }
            return Ok(found.instance(*status));
        }
        // What has never run is made anew, as its making may have been cut short.
        let before = known
            .map(|(found, _)| found)
            .filter(|found| found.phase != Phase::Created);
        self.start_or_undo(guest, before, stop).await?;
        self.tell(guest.id);
        let look = self.look(guest.id, true).await?;
        look.map(|(found, status)| found.instance(status))
            .ok_or_else(|| failed("it vanished after its start".to_owned()))
    }

    async fn start_or_undo(
        &self,
        guest: &Guest,
        before: Option<Found>,
        stop: &CancellationToken,
    ) -> Result<(), ProviderError> {
        let pools = self.pools().await?;
        let start = Start {
            guest,
            image: pools.images.image(&self.virsh, &guest.image).await?,
            accel: self.accel().await?,
            places: self.places(guest.id).await?,
            pools,
        };
        let settings = &self.settings;
        let reserves = (settings.disk_reserve_bytes, settings.memory_reserve_bytes);
        let room = pools
            .machines
            .has_room(&self.virsh, guest.memory_bytes, reserves);
        room.await?;
        let Some(before) = before else {
            let started = async {
                self.make(&start).await?;
                go_on(stop)?;
                self.start(&start, None).await
            };
            if let Err(error) = started.await {
                self.remove_held(guest.id, Duration::ZERO).await?;
                return Err(error);
            }
            return Ok(());
        };
        go_on(stop)?;
        let name = &start.places.name;
        let definition = self.virsh.ask(&["dumpxml", "--inactive", name]).await?;
        let started = self.start(&start, Some(&before)).await;
        if started.is_err() {
            self.define(&definition).await?;
        }
        started
    }

    pub(super) async fn define(&self, xml: &str) -> Result<(), ProviderError> {
        let define = ["define", "/dev/stdin"];
        self.virsh.give(&define, xml.as_bytes()).await
    }

    /// Makes what a machine has. Its domain is first, so that what is left of a killed attempt is seen.
    async fn make(&self, start: &Start<'_>) -> Result<(), ProviderError> {
        let guest = start.guest;
        let record = Record {
            generation: guest.generation,
            deployment: guest.deployment.clone(),
            ports: BTreeMap::new(),
            ip: None,
            ready_text: None,
            starts: 0,
            log_start: 0,
        };
        self.define(&start.xml((&record, Phase::Created))?).await?;
        let pool = &start.pools.machines;
        pool.delete(&self.virsh, &start.places).await?;
        let (places, base) = (&start.places, start.image.disk.as_ref());
        pool.make(&self.virsh, places, base, guest.disk_bytes).await
    }

    /// Starts a machine that does not run. Until it does, it is seen as it was before.
    async fn start(&self, start: &Start<'_>, before: Option<&Found>) -> Result<(), ProviderError> {
        let (guest, pool) = (start.guest, &start.pools.machines);
        if before.is_some() {
            pool.grow(&self.virsh, &start.places, guest.disk_bytes)
                .await?;
        }
        pool.tell(&self.virsh, &start.places, guest).await?;
        let log_start = self.log(guest.id).await?.length().await?;
        let phase = before.map_or(Phase::Created, |found| match found.rest() {
            Some(Status::Off) => Phase::Off,
            _ => found.phase,
        });
        let mut ports = before.map_or_else(BTreeMap::new, |found| found.record.ports.clone());
        for attempt in 0..TRIES {
            ports = self.ports(guest, &ports, attempt)?;
            let record = Record {
                generation: guest.generation,
                deployment: guest.deployment.clone(),
                ports: ports.clone(),
                ip: Some(guest.publish_address.to_string()),
                ready_text: guest.image.ready_text.clone(),
                starts: before.map_or(0, |found| found.record.starts) + 1,
                log_start,
            };
            self.define(&start.xml((&record, phase))?).await?;
            let output = self.virsh.run(&["start", &start.places.name], None).await?;
            // Another worker may have been faster.
            let is_started =
                output.is_success() || output.stderr.contains("Domain is already active");
            if is_started {
                return self.settled(guest.id).await;
            }
            if !is_port_taken(&output.stderr) {
                said(&output)?;
            }
        }
        Err(quota("its ports are taken again and again".to_owned()))
    }

    /// Writes down that it runs: without a process, it has ended by itself from now on.
    async fn settled(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        match look::find(&self.virsh, id).await? {
            Some(found) => self.note(&found, Phase::Started).await,
            None => Ok(()),
        }
    }

    /// Removes it with all it has; the same for what is left of one.
    pub(super) async fn remove(
        &self,
        id: Id<VirtualMachine>,
        grace: Duration,
    ) -> Result<(), ProviderError> {
        let _lock = self.lock(id).await?;
        self.remove_held(id, grace).await?;
        self.tell(id);
        Ok(())
    }

    async fn remove_held(
        &self,
        id: Id<VirtualMachine>,
        grace: Duration,
    ) -> Result<(), ProviderError> {
        let name = instance_name(id);
        if !grace.is_zero() {
            let _ = tokio::time::timeout(grace, self.end_softly(id)).await;
        }
        self.virsh.tried(&["destroy", &name], NOT_RUNNING).await?;
        let undefine = [
            "undefine",
            &name,
            "--snapshots-metadata",
            "--checkpoints-metadata",
            "--managed-save",
            "--nvram",
        ];
        self.virsh.tried(&undefine, NO_DOMAIN).await?;
        self.forget(id);
        let pools = self.pools().await?;
        let places = self.places(id).await?;
        pools.machines.delete(&self.virsh, &places).await
    }

    /// Asks a guest to power off, and waits for that.
    async fn end_softly(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        let name = instance_name(id);
        if !self.press(&name).await? {
            return Ok(());
        }
        loop {
            let found = look::find(&self.virsh, id).await?;
            if found.is_none_or(|found| found.doing != Doing::Running) {
                return Ok(());
            }
            moment(LOOK).await;
        }
    }

    /// Presses the power button; `false` when there is nothing to be ended.
    async fn press(&self, name: &str) -> Result<bool, ProviderError> {
        let shutdown = ["shutdown", name, "--mode", "acpi"];
        self.virsh.tried(&shutdown, NOT_RUNNING).await
    }

    pub(super) async fn power_off(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        self.press(&instance_name(id)).await.map(drop)
    }

    pub(super) async fn kill(&self, id: Id<VirtualMachine>) -> Result<(), ProviderError> {
        let _lock = self.lock(id).await?;
        let Some(found) = look::find(&self.virsh, id).await? else {
            return Ok(());
        };
        if !found.has_process() {
            return Ok(());
        }
        // First, so that it is not taken for a crash.
        self.note(&found, Phase::Off).await?;
        let destroy = ["destroy", &instance_name(id)];
        self.virsh.tried(&destroy, NOT_RUNNING).await?;
        self.tell(id);
        Ok(())
    }
}

impl Start<'_> {
    fn xml(&self, told: (&Record, Phase)) -> Result<String, ProviderError> {
        domain::xml(self.guest, &self.places, &self.image, self.accel, told)
    }
}

fn go_on(stop: &CancellationToken) -> Result<(), ProviderError> {
    if stop.is_cancelled() {
        return Err(ProviderError::Stopped);
    }
    Ok(())
}
