//! What is done with virtual machines, their images and their snapshots.

use async_graphql::{Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{
    id,
    machine::{MachineImage, Snapshot, VirtualMachine},
    services,
    task::Task,
    viewer,
};
use crate::{
    domain::virtual_machine,
    error::AppError,
    services::{
        images,
        machines::{Size, Wanted},
    },
};

/// Which console of a virtual machine.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "virtual_machine::ConsoleKind")]
pub enum ConsoleKind {
    /// Bytes of its first serial port, as they come.
    Serial,
    /// Its screen, keyboard and mouse by the RFB protocol (RFC 6143), as noVNC speaks it.
    Vnc,
}

/// A virtual machine to be made.
#[derive(InputObject)]
pub struct CreateVirtualMachineInput {
    /// Its guest's host name: 1 to 63 lower-case letters, digits and dashes.
    name: String,
    /// The slug of an image on offer.
    image: String,
    /// The name of a region that takes machines.
    region: String,
    /// The cluster it has to be in; the least full one of the region by default.
    cluster: Option<ID>,
    /// Its processors, 1 to 256; the image's by default.
    cpus: Option<i32>,
    /// Its memory in MiB, 32 or more; the image's by default.
    memory_mebibytes: Option<i32>,
    /// The least size of its disk in MiB; the image's by default, and never less.
    disk_mebibytes: Option<i32>,
    /// OpenSSH public keys that may log in, at most 20.
    #[graphql(default)]
    ssh_keys: Vec<String>,
    /// The same key again gives the same machine again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// A virtual machine that will be made, and the task that does it.
#[derive(SimpleObject)]
pub struct CreateVirtualMachinePayload {
    /// The machine, `REQUESTED`.
    virtual_machine: VirtualMachine,
    /// The task that brings it to `RUNNING`.
    task: Task,
    /// What the machine shows to prove which one it is; shown this once, null for a repeated request.
    secret_key: Option<String>,
}

/// A virtual machine something is to be done with.
#[derive(InputObject)]
pub struct VirtualMachineInput {
    /// The machine.
    id: ID,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// A virtual machine to be stopped.
#[derive(InputObject)]
pub struct StopVirtualMachineInput {
    /// The machine.
    id: ID,
    /// Seconds its guest gets to power off before it is ended, 0 to 3600.
    #[graphql(default = 60)]
    grace_seconds: u32,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// A virtual machine as it is now, and the task that brings it where it is to be.
#[derive(SimpleObject)]
pub struct VirtualMachineTaskPayload {
    /// The machine.
    virtual_machine: VirtualMachine,
    /// The task.
    task: Task,
}

/// What a virtual machine at rest will have from its next start on; what is not given stays.
#[derive(InputObject)]
pub struct ResizeVirtualMachineInput {
    /// The machine, `STOPPED` or `FAILED`.
    id: ID,
    /// Its processors, 1 to 256.
    cpus: Option<i32>,
    /// Its memory in MiB, 32 or more.
    memory_mebibytes: Option<i32>,
    /// The least size of its disk in MiB; not less than it has.
    disk_mebibytes: Option<i32>,
}

/// A virtual machine as it is now.
#[derive(SimpleObject)]
pub struct ResizeVirtualMachinePayload {
    /// The machine.
    virtual_machine: VirtualMachine,
}

/// A snapshot to be taken.
#[derive(InputObject)]
pub struct SnapshotVirtualMachineInput {
    /// The machine, `RUNNING` or `STOPPED`.
    id: ID,
    /// What to call it: 1 to 100 characters.
    name: String,
}

/// A snapshot, and the task that works on it.
#[derive(SimpleObject)]
pub struct SnapshotPayload {
    /// The snapshot.
    snapshot: Snapshot,
    /// The task.
    task: Task,
}

/// A snapshot to be given back to its machine.
#[derive(InputObject)]
pub struct RestoreVirtualMachineInput {
    /// The snapshot; its machine is `STOPPED` or `FAILED`.
    snapshot: ID,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// A snapshot to be removed.
#[derive(InputObject)]
pub struct DeleteSnapshotInput {
    /// The snapshot.
    id: ID,
}

/// A console to be opened.
#[derive(InputObject)]
pub struct OpenConsoleInput {
    /// The machine.
    id: ID,
    /// Which of its consoles.
    #[graphql(default_with = "ConsoleKind::Serial")]
    kind: ConsoleKind,
}

/// What opens a console, once.
#[derive(SimpleObject)]
pub struct OpenConsolePayload {
    /// The WebSocket to connect to, a path of this server. Ask for the sub-protocols `console` and the token, in this order;
    /// binary frames carry the bytes both ways.
    path: String,
    /// The token; shown this once.
    token: String,
    /// When it ends unless it is used before.
    expires_at: DateTime<Utc>,
}

/// An image as it is to be.
#[derive(InputObject)]
pub struct PutMachineImageInput {
    /// The name to ask for it by: 1 to 63 lower-case letters, digits and dashes.
    slug: String,
    /// The name to show.
    name: String,
    /// What it is, in a sentence or two.
    #[graphql(default)]
    description: String,
    /// Its disk (qcow2 or raw), a file in the engine's folder of images; an empty one when not given.
    disk: Option<String>,
    /// A kernel in that folder to boot instead of what is on the disk.
    kernel: Option<String>,
    /// What the kernel begins with, in that folder.
    initrd: Option<String>,
    /// What the kernel is told.
    #[graphql(default)]
    command_line: String,
    /// What its serial console says once it is up; when not given it is taken to be up as soon as it runs.
    ready_text: Option<String>,
    /// The TCP ports its guest listens on, at most 50.
    #[graphql(default)]
    ports: Vec<i32>,
    /// The processors of a machine that asks for no others, 1 to 256.
    #[graphql(default = 1)]
    cpus: i32,
    /// The memory of a machine that asks for no other, in MiB, 32 or more.
    #[graphql(default = 512)]
    memory_mebibytes: i32,
    /// The disk of a machine that asks for no other, in MiB.
    #[graphql(default = 1024)]
    disk_mebibytes: i32,
    /// Whether it is on offer.
    #[graphql(default = true)]
    active: bool,
}

/// An image as it is now.
#[derive(SimpleObject)]
pub struct PutMachineImagePayload {
    /// The image.
    image: MachineImage,
}

#[derive(Default)]
pub struct MachineMutation;

#[Object]
impl MachineMutation {
    /// Asks for a virtual machine. It is there at once, `REQUESTED`; the task brings it to `RUNNING`.
    ///
    /// Errors: `UNAUTHENTICATED`, `BAD_USER_INPUT` for an unknown image, region or cluster or a size out of range, `CONFLICT`
    /// for an idempotency key of another request, `QUOTA_EXCEEDED` when the viewer has as many as one may have.
    async fn create_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine to make.")] input: CreateVirtualMachineInput,
    ) -> Result<CreateVirtualMachinePayload> {
        let unknown = |_| AppError::Invalid {
            field: "cluster",
            reason: "there is no such cluster in this region".to_owned(),
        };
        let cluster = input.cluster.as_deref().map(|text| id(text));
        let wanted = Wanted {
            name: &input.name,
            image: &input.image,
            region: &input.region,
            cluster: cluster.transpose().map_err(unknown)?,
            size: Size {
                cpus: input.cpus,
                memory_mebibytes: input.memory_mebibytes,
                disk_mebibytes: input.disk_mebibytes,
            },
            ssh_keys: input.ssh_keys,
            idempotency_key: input.idempotency_key.as_deref(),
        };
        let created = services(ctx).create_machine(viewer(ctx)?, wanted).await?;
        Ok(CreateVirtualMachinePayload {
            virtual_machine: VirtualMachine::of(&created.machine),
            task: Task::of(&created.task),
            secret_key: created.secret_key,
        })
    }

    /// Starts a virtual machine that does not run, with what it is to have now.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` unless it is `STOPPED` or `FAILED`.
    async fn start_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine to start.")] input: VirtualMachineInput,
    ) -> Result<VirtualMachineTaskPayload> {
        let key = input.idempotency_key.as_deref();
        let started = services(ctx).start_machine(viewer(ctx)?, id(&input.id)?, key);
        Ok(started.await?.into())
    }

    /// Asks a virtual machine's guest to power off (ACPI), and ends it when it has not in time. Its disk is kept.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT`, `ILLEGAL_STATE` unless it is `RUNNING` or `BOOTING`.
    async fn stop_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine to stop.")] input: StopVirtualMachineInput,
    ) -> Result<VirtualMachineTaskPayload> {
        let key = input.idempotency_key.as_deref();
        let (grace, machine) = (input.grace_seconds, id(&input.id)?);
        let stopped = services(ctx).stop_machine(viewer(ctx)?, machine, (grace, false), key);
        Ok(stopped.await?.into())
    }

    /// Stops a virtual machine as `stopVirtualMachine` does, and starts it again.
    ///
    /// Errors: as `stopVirtualMachine`.
    async fn restart_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine to restart.")] input: StopVirtualMachineInput,
    ) -> Result<VirtualMachineTaskPayload> {
        let key = input.idempotency_key.as_deref();
        let (grace, machine) = (input.grace_seconds, id(&input.id)?);
        let stopped = services(ctx).stop_machine(viewer(ctx)?, machine, (grace, true), key);
        Ok(stopped.await?.into())
    }

    /// Changes what a virtual machine at rest has from its next start on. A disk only grows.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT`, `ILLEGAL_STATE` unless it is `STOPPED` or `FAILED`.
    async fn resize_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What it is to have.")] input: ResizeVirtualMachineInput,
    ) -> Result<ResizeVirtualMachinePayload> {
        let size = Size {
            cpus: input.cpus,
            memory_mebibytes: input.memory_mebibytes,
            disk_mebibytes: input.disk_mebibytes,
        };
        let row = services(ctx)
            .resize_machine(viewer(ctx)?, id(&input.id)?, size)
            .await?;
        Ok(ResizeVirtualMachinePayload {
            virtual_machine: VirtualMachine::of(&row),
        })
    }

    /// Gives a virtual machine up, in whatever state it is; the task removes it, its disk and its snapshots.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` when it is gone already.
    async fn delete_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine to remove.")] input: VirtualMachineInput,
    ) -> Result<VirtualMachineTaskPayload> {
        let key = input.idempotency_key.as_deref();
        let deleted = services(ctx).delete_machine(viewer(ctx)?, id(&input.id)?, key);
        Ok(deleted.await?.into())
    }

    /// Keeps what a virtual machine's disk has now. Of a running one it is what a power cut would leave.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT`, `ILLEGAL_STATE`, `QUOTA_EXCEEDED` for more than 20.
    async fn snapshot_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Of what, and its name.")] input: SnapshotVirtualMachineInput,
    ) -> Result<SnapshotPayload> {
        let taken = services(ctx).snapshot_machine(viewer(ctx)?, id(&input.id)?, &input.name);
        Ok(taken.await?.into())
    }

    /// Gives a virtual machine's disk what a snapshot has kept; what was written since is lost.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` unless the snapshot is `READY` and its machine at rest.
    async fn restore_virtual_machine(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The snapshot.")] input: RestoreVirtualMachineInput,
    ) -> Result<VirtualMachineTaskPayload> {
        let key = input.idempotency_key.as_deref();
        let restored = services(ctx).restore_machine(viewer(ctx)?, id(&input.snapshot)?, key);
        Ok(restored.await?.into())
    }

    /// Forgets a snapshot.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` when it is gone already.
    async fn delete_snapshot(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The snapshot.")] input: DeleteSnapshotInput,
    ) -> Result<SnapshotPayload> {
        let deleted = services(ctx).delete_snapshot(viewer(ctx)?, id(&input.id)?);
        Ok(deleted.await?.into())
    }

    /// A token that opens a console of a virtual machine once, within a minute.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` unless it runs.
    async fn open_console(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The console.")] input: OpenConsoleInput,
    ) -> Result<OpenConsolePayload> {
        let opened = services(ctx)
            .open_console(viewer(ctx)?, id(&input.id)?, input.kind.into())
            .await?;
        Ok(OpenConsolePayload {
            path: crate::services::machines::CONSOLE_PATH.to_owned(),
            token: opened.token,
            expires_at: opened.expires_at,
        })
    }

    /// Adds an image to the catalogue, or changes the one with its slug. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`.
    async fn put_machine_image(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The image as it is to be.")] input: PutMachineImageInput,
    ) -> Result<PutMachineImagePayload> {
        let image = images::Image {
            slug: &input.slug,
            name: &input.name,
            description: &input.description,
            disk: input.disk.as_deref(),
            kernel: input.kernel.as_deref(),
            initrd: input.initrd.as_deref(),
            command_line: &input.command_line,
            ready_text: input.ready_text.as_deref(),
            ports: input.ports,
            cpus: input.cpus,
            memory_mebibytes: input.memory_mebibytes,
            disk_mebibytes: input.disk_mebibytes,
            active: input.active,
        };
        let row = services(ctx).put_image(viewer(ctx)?, image).await?;
        Ok(PutMachineImagePayload {
            image: MachineImage::of(&row),
        })
    }
}

impl From<(crate::store::machines::Model, crate::store::tasks::Model)>
    for VirtualMachineTaskPayload
{
    fn from((row, task): (crate::store::machines::Model, crate::store::tasks::Model)) -> Self {
        Self {
            virtual_machine: VirtualMachine::of(&row),
            task: Task::of(&task),
        }
    }
}

impl From<(crate::store::snapshots::Model, crate::store::tasks::Model)> for SnapshotPayload {
    fn from((row, task): (crate::store::snapshots::Model, crate::store::tasks::Model)) -> Self {
        Self {
            snapshot: Snapshot::of(&row),
            task: Task::of(&task),
        }
    }
}
