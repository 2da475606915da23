//! Virtual machines, their images and their snapshots: what is shown of them.

use async_graphql::{Context, Enum, ID, Result, SimpleObject, Subscription};
use futures_util::{Stream, StreamExt as _};

use super::{
    account::owner,
    container::{Failure, PublishedPort, coded, ports},
    host::mebibytes,
    list::{
        cell::{
            Cell,
            Storage::{Big, Bool, Int, Json, Small, Text, Time},
        },
        noun::{self, Kind, Noun, created_at, field, link, made, many, updated_at, version, words},
        read::check_access,
        row::{Row, Shown},
    },
    services, viewer,
};
use crate::{
    domain::{Table, id, policy::Resource, virtual_machine},
    error::AppError,
    live,
    store::{clusters, connection_logs, hosts, images, machines, regions, snapshots, tasks},
};

/// Where a virtual machine stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "virtual_machine::MachineState")]
pub enum VirtualMachineState {
    /// Asked for; no engine knows of it yet.
    Requested,
    /// Getting its disk and its engine.
    Provisioning,
    /// Running; its guest is not up yet.
    Booting,
    /// Its guest is up.
    Running,
    /// Its guest has been asked to power off.
    Stopping,
    /// Not running; its disk is kept.
    Stopped,
    /// Being removed.
    Deleting,
    /// Gone from its engine, and its disk with it.
    Deleted,
    /// Could not be made, or died; `failure` says why. What there is of its disk is kept.
    Failed,
    /// Its host is lost; nobody can tell.
    Unknown,
}

/// Where a snapshot stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "virtual_machine::SnapshotState")]
pub enum SnapshotState {
    /// Being taken.
    Creating,
    /// Can be given back to its machine.
    Ready,
    /// Being removed.
    Deleting,
    /// Gone.
    Deleted,
    /// Could not be taken; `failure` says why.
    Failed,
}

/// What a virtual machine takes of its host, as last measured.
#[derive(SimpleObject)]
pub struct MachineUsage {
    /// Processor time since its start, in milliseconds.
    cpu_milliseconds: i64,
    /// Memory of its host it is in, in MiB.
    memory_mebibytes: i64,
    /// Room on its host's disk, in MiB.
    disk_mebibytes: i64,
    /// When it was measured.
    at: chrono::DateTime<chrono::Utc>,
}

fn usage(cells: &[Cell]) -> async_graphql::Value {
    let [
        Cell::Int(cpu),
        Cell::Int(memory),
        Cell::Int(disk),
        Cell::Time(at),
        ..,
    ] = cells
    else {
        return async_graphql::Value::Null;
    };
    async_graphql::value!({
        "cpuMilliseconds": cpu / 1000,
        "memoryMebibytes": memory >> 20,
        "diskMebibytes": disk >> 20,
        "at": at.to_rfc3339(),
    })
}

/// A virtual machine of somebody.
pub type VirtualMachine = Row<machines::Entity>;

static MACHINE: Noun = Noun {
    name: "VirtualMachine",
    doc: "A virtual machine of somebody.",
    table: "virtual_machine",
    resource: Resource::VirtualMachine,
    owner: Some("owner_id"),
    host: None,
    listed: None,
    fields: &[
        noun::id("machine"),
        field(
            "name",
            &[("name", Text)],
            Kind::Text,
            "Its guest's host name.",
        )
        .filtered()
        .ordered(),
        field(
            "state",
            &[("state", Text)],
            Kind::Word(words::<VirtualMachineState>()),
            "Where it stands.",
        )
        .filtered()
        .grouped(),
        version(),
        field("cpus", &[("cpus", Small)], Kind::Int, "Its processors.")
            .filtered()
            .measured(),
        field(
            "memoryMebibytes",
            &[("memory_bytes", Big)],
            made::<i64>(mebibytes),
            "Its memory, in MiB.",
        ),
        field(
            "diskMebibytes",
            &[("disk_bytes", Big)],
            made::<i64>(mebibytes),
            "The size of its disk, in MiB; that of its image where it is larger.",
        ),
        field(
            "sshKeys",
            &[("ssh_keys", Json)],
            made::<Vec<String>>(|cells| match &cells[0] {
                Cell::Json(keys) => super::list::cell::json_value(keys.clone()),
                _ => async_graphql::Value::List(Vec::new()),
            }),
            "The OpenSSH public keys its guest has been given.",
        ),
        field(
            "generation",
            &[("generation", Int)],
            Kind::Int,
            "How often its disk has been made.",
        ),
        field(
            "provider",
            &[("provider", Text)],
            Kind::Text,
            "The kind of engine it is on; null until one has taken it.",
        )
        .nullable()
        .filtered()
        .grouped(),
        field(
            "handle",
            &[("handle", Text)],
            Kind::Text,
            "Its engine's own id of it. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "ip",
            &[("ip", Text)],
            Kind::Text,
            "The address its ports are reached at.",
        )
        .nullable()
        .filtered(),
        field(
            "ports",
            &[("ports", Json)],
            made::<Vec<PublishedPort>>(ports),
            "Its guest's ports and where they are published, while it runs.",
        ),
        field(
            "usage",
            &[
                ("cpu_used_micros", Big),
                ("memory_used_bytes", Big),
                ("disk_used_bytes", Big),
                ("measured_at", Time),
            ],
            made::<Option<MachineUsage>>(usage),
            "What it takes of its host; null until it has been measured.",
        )
        .nullable(),
        field(
            "failure",
            &[("failure_code", Text), ("failure_reason", Text)],
            made::<Option<Failure>>(|cells| coded(cells, "reason")),
            "Why it failed; null unless it did.",
        )
        .nullable(),
        created_at("When it was asked for.").measured().grouped(),
        updated_at().measured(),
        field(
            "runningAt",
            &[("running_at", Time)],
            Kind::Time,
            "When its guest was up last.",
        )
        .nullable()
        .filtered()
        .ordered()
        .measured(),
        field(
            "endedAt",
            &[("ended_at", Time)],
            Kind::Time,
            "When it stopped, failed or was gone; null while it is wanted to run.",
        )
        .nullable()
        .filtered(),
    ],
    links: &[
        link::<images::Entity>("image", "image_id", "What it started from.").filtered(),
        link::<regions::Entity>("region", "region_id", "Where it runs.").filtered(),
        owner("Whose it is."),
        link::<clusters::Entity>(
            "cluster",
            "cluster_id",
            "The cluster it is in. For administrators.",
        )
        .filtered(),
        link::<hosts::Entity>(
            "host",
            "host_id",
            "The computer it runs on. For administrators.",
        )
        .filtered(),
    ],
    many: &[
        many::<snapshots::Entity>("snapshots", "machine_id", "Its snapshots."),
        many::<tasks::Entity>("tasks", "subject_id", "The tasks that are about it."),
        many::<connection_logs::Entity>(
            "connectionLogs",
            "machine_id",
            "The connections of clients to it.",
        ),
    ],
};

impl Shown for machines::Entity {
    fn noun() -> &'static Noun {
        &MACHINE
    }
}

/// What a virtual machine's disk had at a time.
pub type Snapshot = Row<snapshots::Entity>;

static SNAPSHOT: Noun = Noun {
    name: "Snapshot",
    doc: "What a virtual machine's disk had at a time.",
    table: "snapshot",
    resource: Resource::Snapshot,
    owner: Some("owner_id"),
    host: None,
    listed: None,
    fields: &[
        noun::id("snapshot"),
        field(
            "name",
            &[("name", Text)],
            Kind::Text,
            "What its owner calls it.",
        )
        .filtered()
        .ordered(),
        field(
            "state",
            &[("state", Text)],
            Kind::Word(words::<SnapshotState>()),
            "Where it stands.",
        )
        .filtered()
        .grouped(),
        version(),
        field(
            "failure",
            &[("failure_code", Text), ("failure_reason", Text)],
            made::<Option<Failure>>(|cells| coded(cells, "reason")),
            "Why it failed; null unless it did.",
        )
        .nullable(),
        created_at("When it was asked for."),
        updated_at(),
    ],
    links: &[
        link::<machines::Entity>("virtualMachine", "machine_id", "Whose disk it is of.").filtered(),
        owner("Whose it is."),
    ],
    many: &[],
};

impl Shown for snapshots::Entity {
    fn noun() -> &'static Noun {
        &SNAPSHOT
    }
}

/// What virtual machines can be started from.
pub type MachineImage = Row<images::Entity>;

static IMAGE: Noun = Noun {
    name: "MachineImage",
    doc: "What virtual machines can be started from. Lists have those on offer.",
    table: "image",
    resource: Resource::Image,
    owner: None,
    host: None,
    listed: Some("active"),
    fields: &[
        noun::id("image"),
        field(
            "slug",
            &[("slug", Text)],
            Kind::Text,
            "The name to ask for it by.",
        )
        .filtered()
        .ordered(),
        field("name", &[("name", Text)], Kind::Text, "The name to show.")
            .filtered()
            .ordered(),
        field(
            "description",
            &[("description", Text)],
            Kind::Text,
            "What it is, in a sentence or two.",
        ),
        field(
            "disk",
            &[("disk", Text)],
            Kind::Text,
            "Its disk, in the engine's folder of images. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "kernel",
            &[("kernel", Text)],
            Kind::Text,
            "The kernel to boot instead of what is on the disk. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "initrd",
            &[("initrd", Text)],
            Kind::Text,
            "What the kernel begins with. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "commandLine",
            &[("command_line", Text)],
            Kind::Text,
            "What the kernel is told. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "readyText",
            &[("ready_text", Text)],
            Kind::Text,
            "What its serial console says once it is up. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "ports",
            &[("ports", Json)],
            made::<Vec<u16>>(|cells| match &cells[0] {
                Cell::Json(ports) => super::list::cell::json_value(ports.clone()),
                _ => async_graphql::Value::List(Vec::new()),
            }),
            "The TCP ports its guest listens on.",
        ),
        field(
            "cpus",
            &[("cpus", Small)],
            Kind::Int,
            "The processors of a machine that asks for no others.",
        )
        .filtered(),
        field(
            "memoryMebibytes",
            &[("memory_bytes", Big)],
            made::<i64>(mebibytes),
            "The memory of a machine that asks for no other, in MiB.",
        ),
        field(
            "diskMebibytes",
            &[("disk_bytes", Big)],
            made::<i64>(mebibytes),
            "The disk of a machine that asks for no other, in MiB.",
        ),
        field(
            "active",
            &[("active", Bool)],
            Kind::Bool,
            "Whether it is on offer.",
        ),
        created_at("When it came into the catalogue."),
    ],
    links: &[],
    many: &[many::<machines::Entity>(
        "virtualMachines",
        "image_id",
        "The virtual machines made of it.",
    )],
};

impl Shown for images::Entity {
    fn noun() -> &'static Noun {
        &IMAGE
    }
}

#[derive(Default)]
pub struct MachineSubscription;

#[Subscription]
impl MachineSubscription {
    /// A virtual machine as it is now and after every change, until it is `DELETED`.
    async fn virtual_machine_updated(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine's id.")] id: ID,
    ) -> Result<impl Stream<Item = Result<VirtualMachine>> + use<>> {
        let viewer = viewer(ctx)?;
        check_access(&MACHINE, viewer)?;
        let (id, services) = (super::id::<id::VirtualMachine>(&id)?, services(ctx).clone());
        let read = move || {
            let services = services.clone();
            async move {
                let row = services.machine(viewer, id).await?;
                let is_last = crate::domain::Machine::is_terminal(row.state()?);
                Ok::<_, AppError>(live::Seen {
                    version: row.version,
                    is_last,
                    row,
                })
            }
        };
        let rows = super::watch(ctx, (Table::VirtualMachine, id.uuid()), read).await?;
        Ok(rows.map(|row| Ok(VirtualMachine::of(&row?))))
    }
}
