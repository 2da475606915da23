//! Hosts, and what their agents say.

use std::{collections::BTreeMap, sync::Arc};

use async_graphql::{
    Context, Enum, ID, InputObject, Object, Result, SimpleObject, Subscription, Value,
};
use futures_util::{Stream, stream};

use super::{
    container::Container,
    id,
    list::{
        cell::{
            Cell,
            Storage::{Big, Bool, Int, Text, Time},
        },
        noun::{self, Kind, Noun, created_at, field, link, made, many, version, words},
        row::{Row, Shown},
    },
    services,
    task::Task,
    viewer,
};
use crate::{
    domain::{self, Table, policy::Resource},
    error::AppError,
    live::{EventBus, Interest},
    services::{
        clusters::HostCommandKind,
        hosts::{Heartbeat, Registration},
        reports::{Report, Seen},
    },
    store::{clusters, containers, host_commands, hosts, machines, tasks},
};

/// Where a host stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "domain::host::HostStatus")]
pub enum HostStatus {
    /// It has a credential and has not been heard of yet.
    Registered,
    /// It is heard of, and takes containers.
    Healthy,
    /// It has been silent for a while; nobody knows how its containers are.
    Stale,
    /// It takes no new containers, and those it has are leaving.
    Draining,
    /// It is gone, or given up; what somebody had on it is made anew elsewhere.
    Dead,
}

/// A machine that runs containers.
pub type Host = Row<hosts::Entity>;

static HOST: Noun = Noun {
    name: "Host",
    doc: "A machine that runs containers. Only administrators see any, and each host sees itself.",
    table: "host",
    resource: Resource::Host,
    owner: None,
    host: Some("id"),
    listed: None,
    fields: &[
        noun::id("host"),
        field(
            "instanceId",
            &[("instance_id", Text)],
            Kind::Text,
            "What the machine is called where it comes from.",
        )
        .filtered(),
        field(
            "instanceType",
            &[("instance_type", Text)],
            Kind::Text,
            "What kind of machine it is.",
        )
        .filtered()
        .grouped(),
        field("ip", &[("ip", Text)], Kind::Text, "Its address.")
            .nullable()
            .filtered(),
        field(
            "endpoint",
            &[("endpoint", Text)],
            Kind::Text,
            "Where its engine is; null for the workers' own.",
        )
        .nullable(),
        field(
            "status",
            &[("status", Text)],
            Kind::Word(words::<HostStatus>()),
            "Where it stands.",
        )
        .filtered()
        .grouped(),
        field(
            "cordoned",
            &[("cordoned", Bool)],
            Kind::Bool,
            "Whether somebody has taken it out of service; it stays so until `activateHost`.",
        )
        .filtered(),
        version(),
        field(
            "cpuMillis",
            &[("cpu_millis", Big)],
            Kind::Int,
            "Its processors, in thousandths of one.",
        )
        .measured(),
        field(
            "cpuUsedMillis",
            &[("cpu_used_millis", Big)],
            Kind::Int,
            "How much of them is at work, by its own account.",
        )
        .measured(),
        field(
            "memoryMebibytes",
            &[("memory_bytes", Big)],
            made::<i64>(mebibytes),
            "Its memory, in MiB.",
        ),
        field(
            "memoryAvailableMebibytes",
            &[("memory_available_bytes", Big)],
            made::<i64>(mebibytes),
            "How much of it is available, by its own account, in MiB.",
        ),
        field(
            "containers",
            &[("containers", Int)],
            Kind::Int,
            "How many containers it has, by its own account.",
        )
        .measured(),
        field(
            "heartbeat",
            &[("heartbeat", Big)],
            Kind::Int,
            "The number of its newest heartbeat.",
        ),
        field(
            "agentVersion",
            &[("agent_version", Text)],
            Kind::Text,
            "The version of its agent; null without one.",
        )
        .nullable()
        .filtered()
        .grouped(),
        field(
            "lastSeenAt",
            &[("last_seen_at", Time)],
            Kind::Time,
            "When it was last heard of.",
        )
        .nullable()
        .filtered(),
        created_at("When it was registered."),
    ],
    links: &[link::<clusters::Entity>("cluster", "cluster_id", "The cluster it is in.").filtered()],
    many: &[
        many::<containers::Entity>("placedContainers", "host_id", "The containers on it."),
        many::<machines::Entity>(
            "placedVirtualMachines",
            "host_id",
            "The virtual machines on it.",
        ),
        many::<tasks::Entity>("tasks", "subject_id", "The tasks that are about it."),
    ],
};

impl Shown for hosts::Entity {
    fn noun() -> &'static Noun {
        &HOST
    }
}

pub fn mebibytes(cells: &[Cell]) -> Value {
    match &cells[0] {
        Cell::Int(bytes) => Value::from(bytes >> 20),
        _ => Value::Null,
    }
}

/// A machine that wants to be a host.
#[derive(InputObject)]
pub struct RegisterHostInput {
    /// The registration token of a cluster.
    token: String,
    /// What the machine is called where it comes from, 1 to 128 bytes; the same one again is the same host again.
    instance_id: String,
    /// What kind of machine it is, at most 64 bytes.
    #[graphql(default)]
    instance_type: String,
    /// Its address.
    ip: Option<String>,
    /// Where the workers reach its engine, `tcp://…`; null when it is their own.
    endpoint: Option<String>,
    /// Its processors, in thousandths of one.
    cpu_millis: i64,
    /// Its memory, in bytes.
    memory_bytes: i64,
    /// The version of its agent.
    agent_version: Option<String>,
}

/// A machine that has become a host.
#[derive(SimpleObject)]
pub struct RegisterHostPayload {
    /// The host, `REGISTERED`; its first heartbeat makes it `HEALTHY`.
    host: Host,
    /// What its agent shows from now on, as a bearer token; it is shown this once.
    credential: String,
}

/// A sign of life.
#[derive(InputObject)]
pub struct HeartbeatInput {
    /// Grows with each; one that is not newer than the newest changes nothing.
    number: i64,
    /// How much of its processors is at work, in thousandths of one.
    cpu_used_millis: i64,
    /// How much of its memory is available, in bytes.
    memory_available_bytes: i64,
    /// How many containers of this service it has.
    containers: i32,
    /// Whether the machine is going away: it is drained then.
    #[graphql(default = false)]
    dying: bool,
    /// The version of its agent.
    agent_version: Option<String>,
}

/// Something a host is told to do.
#[derive(SimpleObject)]
pub struct HostCommand {
    /// Its id, to report by.
    id: ID,
    /// What to do.
    command: super::cluster::HostCommandName,
    /// What it is done with.
    argument: Option<String>,
}

impl HostCommand {
    fn of(row: host_commands::Model) -> Option<Self> {
        Some(Self {
            id: row.id().to_string().into(),
            command: HostCommandKind::parse(&row.command)?.into(),
            argument: row.argument,
        })
    }

    fn all(rows: Vec<host_commands::Model>) -> Vec<Self> {
        rows.into_iter().filter_map(Self::of).collect()
    }
}

/// The answer to a sign of life.
#[derive(SimpleObject)]
pub struct HeartbeatPayload {
    /// The host as it is now.
    host: Host,
    /// Whether this one was newer than all before.
    accepted: bool,
    /// What it has been told and has not done.
    commands: Vec<HostCommand>,
    /// Whether it should report each of its containers now, because nobody knows how they are.
    report_all: bool,
    /// Seconds until the next one is expected.
    interval_seconds: i64,
}

/// How a container is, as its host sees it.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum ContainerReport {
    /// It runs, and is healthy if its image has a health check: `CREATING` and `UNKNOWN` become `RUNNING`.
    Ready,
    /// It has ended by itself: it becomes `FAILED`.
    Exited,
    /// Its engine has it no more: it is made anew.
    Gone,
    /// A client is in it.
    Connected,
    /// Its client has left.
    Disconnected,
}

/// A port of a container and where it is published.
#[derive(InputObject)]
pub struct PublishedPortInput {
    /// The TCP port inside the container.
    inside: u16,
    /// The TCP port of the host.
    published: u16,
}

/// What a host tells of a container on it.
#[derive(InputObject)]
pub struct ReportContainerInput {
    /// The container.
    id: ID,
    /// How it is.
    report: ContainerReport,
    /// Which time it was made; a report about an older time changes nothing.
    generation: i32,
    /// With what code it ended.
    #[graphql(default = 0)]
    exit_code: i64,
    /// Its address in its engine's network.
    ip: Option<String>,
    /// Its ports and where they are published.
    ports: Option<Vec<PublishedPortInput>>,
    /// The last it said, for people; at most 1000 characters are kept.
    message: Option<String>,
}

/// The container as it is after the report.
#[derive(SimpleObject)]
pub struct ReportContainerPayload {
    /// The container.
    container: Container,
}

/// What came of a command.
#[derive(InputObject)]
pub struct ReportCommandInput {
    /// The command.
    id: ID,
    /// Whether it was done.
    succeeded: bool,
    /// What it said; at most 16 KiB are kept.
    output: Option<String>,
}

/// Whether it was taken.
#[derive(SimpleObject)]
pub struct ReportCommandPayload {
    /// Always true.
    ok: bool,
}

/// Another credential.
#[derive(SimpleObject)]
pub struct RotateHostCredentialPayload {
    /// What the agent shows from now on; the one before counts for five minutes more. It is shown this once.
    credential: String,
}

/// A host that is meant.
#[derive(InputObject)]
pub struct HostInput {
    /// The host.
    id: ID,
}

/// A host that is being emptied, and the task that does it.
#[derive(SimpleObject)]
pub struct DrainHostPayload {
    /// The host, `DRAINING`.
    host: Host,
    /// The task that ends when the host is empty.
    task: Task,
}

/// A host as it is now.
#[derive(SimpleObject)]
pub struct ActivateHostPayload {
    /// The host.
    host: Host,
}

/// A host as it is now.
#[derive(SimpleObject)]
pub struct RevokeHostPayload {
    /// The host.
    host: Host,
}

#[derive(Default)]
pub struct HostMutation;

#[Object]
impl HostMutation {
    /// Makes a machine a host, by the registration token of a cluster. The token is spent.
    ///
    /// Errors: `UNAUTHENTICATED` for a token that is unknown, spent or too old, `BAD_USER_INPUT`.
    async fn register_host(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine.")] input: RegisterHostInput,
    ) -> Result<RegisterHostPayload> {
        let wanted = Registration {
            token: &input.token,
            instance_id: &input.instance_id,
            instance_type: &input.instance_type,
            ip: input.ip.as_deref(),
            endpoint: input.endpoint.as_deref(),
            cpu_millis: input.cpu_millis,
            memory_bytes: input.memory_bytes,
            agent_version: input.agent_version.as_deref(),
        };
        let (host, credential) = services(ctx).register_host(wanted).await?;
        Ok(RegisterHostPayload {
            host: Host::of(&host),
            credential,
        })
    }

    /// A host's sign of life. For hosts.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN` for anybody but a host, `BAD_USER_INPUT`.
    async fn heartbeat(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How the host is.")] input: HeartbeatInput,
    ) -> Result<HeartbeatPayload> {
        let beat = Heartbeat {
            number: input.number,
            cpu_used_millis: input.cpu_used_millis,
            memory_available_bytes: input.memory_available_bytes,
            containers: input.containers,
            is_dying: input.dying,
            agent_version: input.agent_version,
        };
        let services = services(ctx);
        let heard = services.heartbeat(viewer(ctx)?, beat).await?;
        Ok(HeartbeatPayload {
            host: Host::of(&heard.host),
            accepted: heard.is_newest,
            commands: HostCommand::all(heard.commands),
            report_all: heard.should_report,
            interval_seconds: i64::try_from(services.fleet.get().heartbeat.as_secs())
                .unwrap_or(i64::MAX),
        })
    }

    /// What a host tells of a container on it. For hosts.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN` for anybody but a host, `NOT_FOUND` for a container that is not on it.
    async fn report_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How the container is.")] input: ReportContainerInput,
    ) -> Result<ReportContainerPayload> {
        let ports = input.ports.map(|ports| {
            let ports = ports.into_iter().map(|port| (port.inside, port.published));
            ports.collect::<BTreeMap<_, _>>()
        });
        let report = Report {
            id: id(&input.id)?,
            generation: input.generation,
            seen: match input.report {
                ContainerReport::Ready => Seen::Ready,
                ContainerReport::Exited => Seen::Exited {
                    code: input.exit_code,
                },
                ContainerReport::Gone => Seen::Gone,
                ContainerReport::Connected => Seen::Connected,
                ContainerReport::Disconnected => Seen::Disconnected,
            },
            ip: input.ip,
            ports,
            message: input.message,
        };
        let row = services(ctx).report_container(viewer(ctx)?, report).await?;
        Ok(ReportContainerPayload {
            container: Container::of(&row),
        })
    }

    /// What came of a command. For hosts.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN` for anybody but a host, `NOT_FOUND` for a command it has not, or has told of.
    async fn report_command(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What came of it.")] input: ReportCommandInput,
    ) -> Result<ReportCommandPayload> {
        services(ctx)
            .report_command(viewer(ctx)?, id(&input.id)?, input.succeeded, input.output)
            .await?;
        Ok(ReportCommandPayload { ok: true })
    }

    /// Gives the host that asks another credential. For hosts.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN` for anybody but a host.
    async fn rotate_host_credential(
        &self,
        ctx: &Context<'_>,
    ) -> Result<RotateHostCredentialPayload> {
        let credential = services(ctx).rotate_host_credential(viewer(ctx)?).await?;
        Ok(RotateHostCredentialPayload { credential })
    }

    /// Takes a host out of service: it gets no more containers, those it has finish, and it is `DEAD` when it is empty, whatever its
    /// agent says. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `ILLEGAL_STATE` when it was taken out of service already.
    async fn drain_host(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The host to drain.")] input: HostInput,
    ) -> Result<DrainHostPayload> {
        let (host, task) = services(ctx)
            .drain_host(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(DrainHostPayload {
            host: Host::of(&host),
            task: Task::of(&task),
        })
    }

    /// Puts a host that was drained back into service; one that is `DEAD` comes back when it is heard of. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`.
    async fn activate_host(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The host to use again.")] input: HostInput,
    ) -> Result<ActivateHostPayload> {
        let host = services(ctx)
            .activate_host(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(ActivateHostPayload {
            host: Host::of(&host),
        })
    }

    /// Takes a host's credential away: its agent is refused from now on, and its open connections end. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`.
    async fn revoke_host(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The host to refuse.")] input: HostInput,
    ) -> Result<RevokeHostPayload> {
        let host = services(ctx)
            .revoke_host(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(RevokeHostPayload {
            host: Host::of(&host),
        })
    }
}

#[derive(Default)]
pub struct HostSubscription;

#[Subscription]
impl HostSubscription {
    /// What the host that asks is told, at once and whenever there is more: all it has not reported on. For hosts.
    async fn host_commands(
        &self,
        ctx: &Context<'_>,
    ) -> Result<impl Stream<Item = Result<Vec<HostCommand>>> + use<>> {
        let (viewer, services) = (viewer(ctx)?, services(ctx).clone());
        services.host_commands(viewer).await?;
        let domain::policy::Viewer::Host { id } = viewer else {
            return Err(AppError::Forbidden.into());
        };
        let bus: &Arc<dyn EventBus> = ctx.data_unchecked();
        let listener = bus.listen_to(Interest::Row(Table::HostCommand, id.uuid()));
        let state = (listener, services, true);
        Ok(stream::unfold(
            state,
            move |(mut listener, services, is_first)| async move {
                if !is_first && !listener.changed().await {
                    return None;
                }
                let commands = services.host_commands(viewer).await;
                let commands = commands.map(HostCommand::all).map_err(Into::into);
                Some((commands, (listener, services, false)))
            },
        ))
    }
}
