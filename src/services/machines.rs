//! Asking for virtual machines, starting, stopping and changing them, and giving them up.

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ActiveValue::Set, ColumnTrait as _, QueryFilter as _};
use serde_json::json;

use super::{
    BEING_USED, REUSED, Services, containers::replayed_on, idempotency_key, replayed, signed_in,
};
use crate::{
    auth::SecretToken,
    domain::{
        Id, IllegalTransition,
        id::{Cluster, User, VirtualMachine},
        policy::{Action, Viewer},
        value::{IdempotencyKey, Slug},
        virtual_machine::{ConsoleKind, MachineEvent, MachineState},
    },
    error::{AppError, InField as _},
    store::{
        Tx, accounts, audit, console_tokens, images,
        machines::{self, ActiveModel, Model, NewMachine},
        scoped::Scoped as _,
        tasks::{self, TaskInput as _},
    },
    tasks::{delete_machine, machine::locked, run_machine, stop_machine},
};

/// Where a token opens a console, over a WebSocket.
pub const CONSOLE_PATH: &str = "/console/machine";
/// How long a token opens a console.
const CONSOLE: TimeDelta = TimeDelta::seconds(60);
/// Longest a guest may be waited for, in seconds.
const LONGEST_GRACE: u32 = 3600;
/// Most SSH keys of one machine.
const KEYS: usize = 20;

/// What somebody wants; what is not given is the image's.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub image: &'a str,
    pub region: &'a str,
    pub cluster: Option<Id<Cluster>>,
    pub size: Size,
    pub ssh_keys: Vec<String>,
    pub idempotency_key: Option<&'a str>,
}

/// How large a machine is to be; what is not given stays.
#[derive(Clone, Copy, Default)]
pub struct Size {
    pub cpus: Option<i32>,
    pub memory_mebibytes: Option<i32>,
    pub disk_mebibytes: Option<i32>,
}

/// A machine that has been asked for.
pub struct Created {
    pub machine: Model,
    pub task: tasks::Model,
    /// What the machine shows to prove which one it is; `None` when the request is a repeated one.
    pub secret_key: Option<String>,
}

/// What opens one console once.
pub struct Opened {
    pub token: String,
    pub expires_at: DateTime<Utc>,
}

const NO_MACHINE: AppError = AppError::NotFound {
    what: "virtual machine",
};

/// What a machine in this state does not let be done with it.
pub(super) fn illegal(state: MachineState, event: &str) -> AppError {
    AppError::Illegal(IllegalTransition {
        from: state.as_str().to_uppercase(),
        event: event.to_owned(),
    })
}

/// A size within bounds: processors, bytes of memory and of disk.
fn sized(size: Size, now: (i16, i64, i64)) -> Result<(i16, i64, i64), AppError> {
    let refused = |field, reason: String| AppError::Invalid { field, reason };
    let cpus = match size.cpus {
        None => now.0,
        Some(cpus) => i16::try_from(cpus)
            .ok()
            .filter(|cpus| (1..=256).contains(cpus))
            .ok_or_else(|| refused("cpus", "1 to 256 is expected".to_owned()))?,
    };
    let bytes = |field, mebibytes: Option<i32>, now: i64, range: std::ops::RangeInclusive<i32>| {
        let Some(mebibytes) = mebibytes else {
            return Ok(now);
        };
        if range.contains(&mebibytes) {
            return Ok(i64::from(mebibytes) << 20);
        }
        let (least, most) = (range.start(), range.end());
        Err(refused(field, format!("{least} to {most} is expected")))
    };
    let memory = bytes(
        "memoryMebibytes",
        size.memory_mebibytes,
        now.1,
        32..=16_777_216,
    )?;
    let disk = bytes("diskMebibytes", size.disk_mebibytes, now.2, 1..=67_108_864)?;
    // A disk only grows: what is on its end would be lost.
    if disk < now.2 {
        let reason = format!("a disk only grows; it has {} MiB", now.2 >> 20);
        return Err(refused("diskMebibytes", reason));
    }
    Ok((cpus, memory, disk))
}

fn host_name(name: &str) -> Result<String, AppError> {
    let slug = Slug::parse(name).in_field("name")?;
    let slug = slug.as_str();
    if slug.starts_with('-') || slug.ends_with('-') {
        return Err(AppError::Invalid {
            field: "name",
            reason: "a host name neither begins nor ends with a dash".to_owned(),
        });
    }
    Ok(slug.to_owned())
}

fn ssh_keys(keys: Vec<String>) -> Result<Vec<String>, AppError> {
    let is_key = |key: &String| {
        let mut parts = key.split(' ');
        let kind = parts.next().unwrap_or_default();
        let body = parts.next().unwrap_or_default();
        key.len() <= 4096
            && (kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-"))
            && !body.is_empty()
            && key.chars().all(|c| !c.is_control())
    };
    if keys.len() <= KEYS && keys.iter().all(is_key) {
        return Ok(keys);
    }
    Err(AppError::Invalid {
        field: "sshKeys",
        reason: format!(
            "at most {KEYS} OpenSSH public keys are expected, such as: ssh-ed25519 AAAA… name"
        ),
    })
}

impl Services {
    /// Records a machine and the task that makes it.
    pub async fn create_machine(
        &self,
        viewer: Viewer,
        wanted: Wanted<'_>,
    ) -> Result<Created, AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(wanted.idempotency_key)?;
        let machine = self.resolve_machine(viewer, owner, wanted).await?;
        if let Some(created) = self.replayed_machine(owner, key.as_ref(), &machine).await? {
            return Ok(created);
        }
        self.admission.admit(&self.store, owner, 1).await?;
        let mut tx = self.store.begin().await?;
        // The owner's row stays locked until the transaction ends, so that those who count take turns.
        accounts::lock(&tx, owner).await?;
        if machines::unscoped_count_of(&tx, owner).await? >= self.fleet.get().machines_per_owner {
            return Err(AppError::QuotaExceeded {
                what: "virtual machines",
                limit: self.fleet.get().machines_per_owner,
            });
        }
        let (row, task) = run_machine::request(&mut tx, machine, key).await?;
        // Somebody else's request with the same key was first after all.
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        let detail = json!({ "name": row.name, "cpus": row.cpus, "memoryBytes": row.memory_bytes });
        audit::record(&mut tx, viewer, "machine.create", row.id(), detail).await?;
        tx.commit().await?;
        Ok(Created {
            secret_key: Some(self.keyring.machine_key(row.id())),
            machine: row,
            task,
        })
    }

    async fn resolve_machine(
        &self,
        viewer: Viewer,
        owner: Id<User>,
        wanted: Wanted<'_>,
    ) -> Result<NewMachine, AppError> {
        let name = host_name(wanted.name)?;
        let slug = Slug::parse(wanted.image).in_field("image")?;
        let offered = images::Entity::visible_to(viewer, Action::Read)
            .filter(images::Column::Slug.eq(slug.as_str()))
            .filter(images::Column::Active.eq(true));
        let image = offered.one(self.store.db()).await?;
        let image = image.ok_or_else(|| AppError::Invalid {
            field: "image",
            reason: format!("there is no image '{}'", slug.as_str()),
        })?;
        let region = self.open_region(viewer, wanted.region).await?;
        if let Some(id) = wanted.cluster {
            self.open_cluster(id, region.id).await?;
        }
        let usual = (image.cpus, image.memory_bytes, image.disk_bytes);
        let (cpus, memory_bytes, disk_bytes) = sized(wanted.size, usual)?;
        Ok(NewMachine {
            owner,
            image: image.id(),
            region: region.id(),
            cluster: wanted.cluster,
            name,
            cpus,
            memory_bytes,
            disk_bytes,
            ssh_keys: ssh_keys(wanted.ssh_keys)?,
        })
    }

    /// What an earlier request with the same key has got.
    async fn replayed_machine(
        &self,
        owner: Id<User>,
        key: Option<&IdempotencyKey>,
        wanted: &NewMachine,
    ) -> Result<Option<Created>, AppError> {
        let db = self.store.db();
        let kind = run_machine::Input::KIND;
        let Some(task) = replayed(db, owner, key, kind).await? else {
            return Ok(None);
        };
        let row = match task.subject_id {
            Some(id) => machines::unscoped_by_id(db, Id::new(id)).await?,
            None => None,
        };
        let same = |row: &Model| {
            row.image_id == wanted.image.uuid()
                && row.region_id == wanted.region.uuid()
                && row.name == wanted.name
        };
        Ok(Some(Created {
            machine: row.filter(same).ok_or(REUSED)?,
            task,
            secret_key: None,
        }))
    }

    /// Starts a machine that does not run, with what it is to have now.
    pub async fn start_machine(
        &self,
        viewer: Viewer,
        id: Id<VirtualMachine>,
        key: Option<&str>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(key)?;
        let mut tx = self.store.begin().await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, id).await?;
        let kind = run_machine::Input::KIND;
        if let Some(task) = replayed_on(&tx, owner, key.as_ref(), kind, row.id).await? {
            return Ok((row, task));
        }
        let event = MachineEvent::Start;
        let (row, task) = run_machine::request_again(&mut tx, &row, event, key).await?;
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        audit::record(&mut tx, viewer, "machine.start", id, json!({})).await?;
        tx.commit().await?;
        Ok((row, task))
    }

    /// Has a machine's guest power off, ends it after `grace` seconds, and starts it again if `restart` says so.
    pub async fn stop_machine(
        &self,
        viewer: Viewer,
        id: Id<VirtualMachine>,
        (grace, restart): (u32, bool),
        key: Option<&str>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(key)?;
        if grace > LONGEST_GRACE {
            return Err(AppError::Invalid {
                field: "graceSeconds",
                reason: format!("0 to {LONGEST_GRACE} is expected"),
            });
        }
        let mut tx = self.store.begin().await?;
        let (live, row) = reached(&tx, viewer, Action::Operate, id).await?;
        let kind = stop_machine::Input::KIND;
        if let Some(task) = replayed_on(&tx, owner, key.as_ref(), kind, row.id).await? {
            return Ok((row, task));
        }
        let input = stop_machine::Input {
            machine: row.id,
            grace,
            restart,
        };
        let (row, task) = stop_machine::request(&mut tx, &row, &live, input, key).await?;
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        let action = if restart {
            "machine.restart"
        } else {
            "machine.stop"
        };
        audit::record(
            &mut tx,
            viewer,
            action,
            id,
            json!({ "graceSeconds": grace }),
        )
        .await?;
        tx.commit().await?;
        Ok((row, task))
    }

    /// Changes what a machine at rest will have from its next start on.
    pub async fn resize_machine(
        &self,
        viewer: Viewer,
        id: Id<VirtualMachine>,
        size: Size,
    ) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let mut tx = self.store.begin().await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, id).await?;
        if !row.state()?.is_at_rest() {
            return Err(illegal(row.state()?, "resize"));
        }
        let now = (row.cpus, row.memory_bytes, row.disk_bytes);
        let (cpus, memory_bytes, disk_bytes) = sized(size, now)?;
        let patch = ActiveModel {
            cpus: Set(cpus),
            memory_bytes: Set(memory_bytes),
            disk_bytes: Set(disk_bytes),
            ..ActiveModel::default()
        };
        let row = machines::change(&mut tx, &row, patch).await?;
        let detail = json!({ "cpus": cpus, "memoryBytes": memory_bytes, "diskBytes": disk_bytes });
        audit::record(&mut tx, viewer, "machine.resize", id, detail).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Marks a machine as unwanted, stops what works on it, and records the task that removes it with its disk.
    pub async fn delete_machine(
        &self,
        viewer: Viewer,
        id: Id<VirtualMachine>,
        key: Option<&str>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(key)?;
        let mut tx = self.store.begin().await?;
        let (live, row) = reached(&tx, viewer, Action::Delete, id).await?;
        let kind = delete_machine::Input::KIND;
        if let Some(task) = replayed_on(&tx, owner, key.as_ref(), kind, row.id).await? {
            return Ok((row, task));
        }
        let is_asked_already = row.state()? == MachineState::Deleting;
        let (row, task) = delete_machine::request(&mut tx, &row, &live, key).await?;
        if !task.is_new && !is_asked_already {
            return Err(BEING_USED);
        }
        if task.is_new {
            audit::record(&mut tx, viewer, "machine.delete", id, json!({})).await?;
        }
        tx.commit().await?;
        Ok((row, task.task))
    }

    /// A token that opens a console of a machine that runs, once and soon.
    pub async fn open_console(
        &self,
        viewer: Viewer,
        id: Id<VirtualMachine>,
        kind: ConsoleKind,
    ) -> Result<Opened, AppError> {
        let by = signed_in(viewer)?;
        let session = viewer
            .session()
            .unwrap_or_else(|| Id::new(uuid::Uuid::nil()));
        let mut tx = self.store.begin().await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, id).await?;
        match row.state()? {
            MachineState::Booting | MachineState::Running | MachineState::Stopping => {}
            state => return Err(illegal(state, "open a console")),
        }
        let token = SecretToken::generate();
        let expires_at = tx.now() + CONSOLE;
        console_tokens::insert(&mut tx, token.hash, id, kind, (by, session), expires_at).await?;
        let detail = json!({ "kind": kind.as_str() });
        audit::record(&mut tx, viewer, "machine.console", id, detail).await?;
        tx.commit().await?;
        Ok(Opened {
            token: token.token,
            expires_at,
        })
    }

    /// The machine, the console and the login that a token stands for; it is spent by this.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` for a token that is unknown, has ended or was used.
    pub async fn enter_console(
        &self,
        token: &str,
    ) -> Result<(Model, ConsoleKind, Viewer), AppError> {
        const REFUSED: AppError = AppError::Unauthenticated("a new console token is expected");
        let hash = SecretToken::hash_of(token);
        let spent = console_tokens::spend(&self.store, &hash).await?;
        let spent = spent.ok_or(REFUSED)?;
        let row = machines::unscoped_by_id(self.store.db(), spent.machine()).await?;
        let (id, session) = spent.by();
        Ok((
            row.ok_or(REFUSED)?,
            spent.kind()?,
            Viewer::User { id, session },
        ))
    }

    /// One machine the viewer may see.
    pub async fn machine(&self, viewer: Viewer, id: Id<VirtualMachine>) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let reached = machines::Entity::visible_to(viewer, Action::Read)
            .filter(machines::Column::Id.eq(id.uuid()));
        reached.one(self.store.db()).await?.ok_or(NO_MACHINE)
    }
}

/// A machine the viewer reaches, and its tasks that have not ended, all locked by this transaction.
pub(super) async fn reached(
    tx: &Tx<'_>,
    viewer: Viewer,
    action: Action,
    id: Id<VirtualMachine>,
) -> Result<(Vec<tasks::Model>, Model), AppError> {
    let reached =
        machines::Entity::visible_to(viewer, action).filter(machines::Column::Id.eq(id.uuid()));
    reached.one(tx).await?.ok_or(NO_MACHINE)?;
    locked(tx, id).await?.ok_or(NO_MACHINE)
}
