//! Containers.

use std::time::Duration;

use async_graphql::{
    Context, Enum, ID, InputObject, Name, Object, Result, SimpleObject, Subscription, Value, value,
};
use futures_util::{Stream, StreamExt as _};

use super::{
    account::owner,
    id,
    list::{
        cell::{
            Cell,
            Storage::{Bool, Int, Json, Small, Text, Time},
        },
        noun::{self, Kind, Noun, created_at, field, link, made, many, updated_at, version, words},
        read::check_access,
        row::{Row, Shown},
    },
    services,
    task::Task,
    viewer,
};
use crate::{
    domain::{Table, container, id, policy::Resource},
    error::AppError,
    live,
    services::containers::{Changes, Wanted},
    store::{apps, clusters, connection_logs, containers, hosts, regions, tasks},
};

/// Where a container stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "container::ContainerState")]
pub enum ContainerState {
    /// Asked for; no engine knows of it yet.
    Requested,
    /// Being made on an engine.
    Creating,
    /// Running, and healthy if its image has a health check.
    Running,
    /// Takes no new work and ends when its client leaves.
    Draining,
    /// Exists on its engine and does not run.
    Stopped,
    /// Being removed.
    Deleting,
    /// Gone from its engine.
    Deleted,
    /// Could not be made, or died; `failure` says why.
    Failed,
    /// Its host is lost; nobody can tell.
    Unknown,
}

/// A port of a container and where it can be reached.
#[derive(SimpleObject)]
pub struct PublishedPort {
    /// The TCP port inside the container.
    inside: u16,
    /// The TCP port of the host.
    published: u16,
}

/// Why a container failed.
#[derive(SimpleObject)]
pub struct Failure {
    /// The kind of failure, for programs: `NO_SUCH_IMAGE`, `EXITED`, `UNHEALTHY`, `CANCELLED` and others.
    code: String,
    /// What happened, for people.
    reason: String,
}

/// An app running for somebody.
pub type Container = Row<containers::Entity>;

static CONTAINER: Noun = Noun {
    name: "Container",
    doc: "An app running for somebody.",
    table: "container",
    resource: Resource::Container,
    owner: Some("owner_id"),
    host: Some("host_id"),
    listed: None,
    fields: &[
        noun::id("container"),
        field(
            "state",
            &[("state", Text)],
            Kind::Word(words::<ContainerState>()),
            "Where it stands.",
        )
        .filtered()
        .grouped(),
        version(),
        field(
            "dpi",
            &[("dpi", Small)],
            Kind::Int,
            "Dots per inch of its display.",
        )
        .filtered()
        .measured(),
        field(
            "stun",
            &[("stun", Bool)],
            Kind::Bool,
            "Whether its client reaches it through a STUN server.",
        )
        .filtered(),
        field(
            "releaseChannel",
            &[("release_channel", Text)],
            Kind::Text,
            "The release channel its image is of.",
        )
        .filtered()
        .grouped(),
        field(
            "generation",
            &[("generation", Int)],
            Kind::Int,
            "How often it has been made: it grows with each restart and each move.",
        ),
        field(
            "image",
            &[("image", Text)],
            Kind::Text,
            "The image it runs from. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "node",
            &[("node", Text)],
            Kind::Text,
            "Its engine's own id of the machine it runs on. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "provider",
            &[("provider", Text)],
            Kind::Text,
            "The kind of engine it runs on; null until one has taken it.",
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
            "Its address in its engine's network.",
        )
        .nullable()
        .filtered(),
        field(
            "ports",
            &[("ports", Json)],
            made::<Vec<PublishedPort>>(ports),
            "Its ports and where they are published.",
        ),
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
            "When it began to run.",
        )
        .nullable()
        .filtered()
        .ordered()
        .measured(),
        field(
            "assignedAt",
            &[("assigned_at", Time)],
            Kind::Time,
            "When it got its owner; null while it waits in a warm pool.",
        )
        .nullable()
        .filtered(),
        field(
            "lastPingAt",
            &[("last_ping_at", Time)],
            Kind::Time,
            "When a client was last seen in it.",
        )
        .nullable()
        .filtered(),
        field(
            "endedAt",
            &[("ended_at", Time)],
            Kind::Time,
            "When it failed or was gone.",
        )
        .nullable()
        .filtered()
        .measured(),
    ],
    links: &[
        link::<apps::Entity>("app", "app_id", "What runs in it.").filtered(),
        link::<regions::Entity>("region", "region_id", "Where it runs.").filtered(),
        owner("Whose it is; null while it waits in a warm pool."),
        link::<clusters::Entity>(
            "cluster",
            "cluster_id",
            "The cluster it is in. For administrators.",
        )
        .filtered(),
        link::<hosts::Entity>(
            "host",
            "host_id",
            "The machine it runs on. For administrators, and for the host itself.",
        )
        .filtered(),
    ],
    many: &[
        many::<tasks::Entity>("tasks", "subject_id", "The tasks that are about it."),
        many::<connection_logs::Entity>(
            "connectionLogs",
            "container_id",
            "The connections of clients to it.",
        ),
    ],
};

impl Shown for containers::Entity {
    fn noun() -> &'static Noun {
        &CONTAINER
    }
}

/// The published ports, from the object of ports inside and outside that the database has.
pub fn ports(cells: &[Cell]) -> Value {
    let Some(Cell::Json(serde_json::Value::Object(ports))) = cells.first() else {
        return Value::List(Vec::new());
    };
    let mut ports: Vec<(u16, u16)> = ports
        .iter()
        .filter_map(|(inside, published)| {
            Some((
                inside.parse().ok()?,
                u16::try_from(published.as_u64()?).ok()?,
            ))
        })
        .collect();
    ports.sort_unstable();
    let port = |(inside, published)| value!({"inside": inside, "published": published});
    Value::List(ports.into_iter().map(port).collect())
}

/// A code and the words for people, kept in two columns; null without a code.
pub fn coded(cells: &[Cell], words: &str) -> Value {
    let Some(code) = cells[0].text() else {
        return Value::Null;
    };
    let said = cells[1].text().unwrap_or_default();
    let parts = [("code", code), (words, said)];
    Value::Object(
        parts
            .map(|(key, text)| (Name::new(key), Value::from(text)))
            .into_iter()
            .collect(),
    )
}

/// A container to be made.
#[derive(InputObject)]
pub struct CreateContainerInput {
    /// The slug of an app on offer.
    app: String,
    /// The name of a region that takes containers.
    region: String,
    /// The cluster it has to be in; the least full one of the region by default.
    cluster: Option<ID>,
    /// Dots per inch of its display, 48 to 480.
    #[graphql(default = 96)]
    dpi: i32,
    /// Whether its client reaches it through a STUN server.
    #[graphql(default = false)]
    stun: bool,
    /// The same key again gives the same container again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

impl CreateContainerInput {
    fn wanted(&self) -> Result<Wanted<'_>> {
        let unknown = |_| AppError::Invalid {
            field: "cluster",
            reason: "there is no such cluster in this region".to_owned(),
        };
        Ok(Wanted {
            app: &self.app,
            region: &self.region,
            cluster: self
                .cluster
                .as_deref()
                .map(|text| id(text))
                .transpose()
                .map_err(unknown)?,
            dpi: self.dpi,
            stun: self.stun,
            idempotency_key: self.idempotency_key.as_deref(),
        })
    }
}

/// A container that will be made, and the task that does it.
#[derive(SimpleObject)]
pub struct CreateContainerPayload {
    /// The container, `REQUESTED`.
    container: Container,
    /// The task that brings it to `RUNNING`.
    task: Task,
    /// What the container shows to prove which one it is; shown this once, null for a repeated request.
    secret_key: Option<String>,
}

/// A container that somebody has got.
#[derive(SimpleObject)]
pub struct AssignContainerPayload {
    /// The container: `RUNNING` when it was warm, else `REQUESTED`.
    container: Container,
    /// Whether it was running already, for nobody.
    warm: bool,
    /// The task that brings it to `RUNNING`, or for a warm one fills its pool again.
    task: Task,
    /// What the container shows to prove which one it is; shown this once, null for a repeated request.
    secret_key: Option<String>,
}

/// A container to be drained.
#[derive(InputObject)]
pub struct DrainContainerInput {
    /// The container.
    id: ID,
    /// Seconds its client may stay at most, 0 to 604800; by default what the service is set to.
    patience_seconds: Option<u32>,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// A container that is being drained, and the task that waits for its client.
#[derive(SimpleObject)]
pub struct DrainContainerPayload {
    /// The container, `DRAINING`.
    container: Container,
    /// The task that has it removed once its client has left.
    task: Task,
}

/// A container to be restarted.
#[derive(InputObject)]
pub struct RestartContainerInput {
    /// The container.
    id: ID,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// A container that is being made anew, and the task that does it.
#[derive(SimpleObject)]
pub struct RestartContainerPayload {
    /// The container, `CREATING` and one generation on.
    container: Container,
    /// The task that brings it to `RUNNING`.
    task: Task,
}

/// What is to be different about a container; what is not given stays.
#[derive(InputObject)]
pub struct UpdateContainerInput {
    /// The container.
    id: ID,
    /// Dots per inch of its display, 48 to 480.
    dpi: Option<i32>,
    /// Whether its client reaches it through a STUN server.
    stun: Option<bool>,
}

/// A container as it is now.
#[derive(SimpleObject)]
pub struct UpdateContainerPayload {
    /// The container.
    container: Container,
}

/// What a client needs to know to connect to a container.
#[derive(SimpleObject)]
pub struct ProtocolInfo {
    /// The container.
    container_id: ID,
    /// The address it is reached at; null when its engine tells none.
    address: Option<String>,
    /// Its ports and where they are published.
    ports: Vec<PublishedPort>,
    /// Dots per inch of its display.
    dpi: i32,
    /// Whether to go through a STUN server.
    stun: bool,
    /// How often it has been made; what was known of an older one does not count any more.
    generation: i32,
}

#[derive(Default)]
pub struct ContainerQuery;

#[Object]
impl ContainerQuery {
    /// How a client reaches a container that runs.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` unless it is `RUNNING` or `DRAINING`.
    async fn protocol_info(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container's id.")] id: ID,
    ) -> Result<ProtocolInfo> {
        let row = services(ctx)
            .protocol_info(viewer(ctx)?, super::id(&id)?)
            .await?;
        let ports = row.ports.0.iter().map(|(inside, published)| PublishedPort {
            inside: *inside,
            published: *published,
        });
        Ok(ProtocolInfo {
            container_id: row.id().to_string().into(),
            address: row.ip.clone(),
            ports: ports.collect(),
            dpi: row.dpi.into(),
            stun: row.stun,
            generation: row.generation,
        })
    }
}

/// A container to be removed.
#[derive(InputObject)]
pub struct DeleteContainerInput {
    /// The container.
    id: ID,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// A container that will be removed, and the task that does it.
#[derive(SimpleObject)]
pub struct DeleteContainerPayload {
    /// The container, `DELETING`.
    container: Container,
    /// The task that brings it to `DELETED`.
    task: Task,
}

#[derive(Default)]
pub struct ContainerMutation;

#[Object]
impl ContainerMutation {
    /// Asks for a container. It is there at once, `REQUESTED`; the task brings it to `RUNNING`.
    ///
    /// Errors: `UNAUTHENTICATED`, `BAD_USER_INPUT` for an unknown app, region or cluster or a dpi out of range, `CONFLICT` for
    /// an idempotency key of another request, `QUOTA_EXCEEDED` when the viewer has as many as one may have.
    async fn create_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container to make.")] input: CreateContainerInput,
    ) -> Result<CreateContainerPayload> {
        let created = services(ctx)
            .create_container(viewer(ctx)?, input.wanted()?)
            .await?;
        Ok(CreateContainerPayload {
            container: Container::of(&created.container),
            task: Task::of(&created.task),
            secret_key: created.secret_key,
        })
    }

    /// Gives the viewer a container at once: one that runs for nobody where there is one, else one that will be made.
    ///
    /// Errors: as `createContainer`.
    async fn assign_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container to get.")] input: CreateContainerInput,
    ) -> Result<AssignContainerPayload> {
        let assigned = services(ctx)
            .assign_container(viewer(ctx)?, input.wanted()?)
            .await?;
        Ok(AssignContainerPayload {
            container: Container::of(&assigned.container),
            warm: assigned.is_warm,
            task: Task::of(&assigned.task),
            secret_key: assigned.secret_key,
        })
    }

    /// Lets a container's client finish, and then removes the container.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` unless it is `RUNNING`.
    async fn drain_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container to drain.")] input: DrainContainerInput,
    ) -> Result<DrainContainerPayload> {
        let patience = match input.patience_seconds {
            Some(seconds @ 0..=604_800) => Some(Duration::from_secs(seconds.into())),
            None => None,
            Some(_) => {
                return Err(AppError::Invalid {
                    field: "patienceSeconds",
                    reason: "0 to 604800 is expected".to_owned(),
                }
                .into());
            }
        };
        let drained = services(ctx).drain_container(
            viewer(ctx)?,
            id(&input.id)?,
            patience,
            input.idempotency_key.as_deref(),
        );
        let (container, task) = drained.await?;
        Ok(DrainContainerPayload {
            container: Container::of(&container),
            task: Task::of(&task),
        })
    }

    /// Has a container made anew on its engine; what was written inside it is lost.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` unless it is `RUNNING`, `STOPPED` or `FAILED`, `QUOTA_EXCEEDED`.
    async fn restart_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container to restart.")] input: RestartContainerInput,
    ) -> Result<RestartContainerPayload> {
        let restarted = services(ctx).restart_container(
            viewer(ctx)?,
            id(&input.id)?,
            input.idempotency_key.as_deref(),
        );
        let (container, task) = restarted.await?;
        Ok(RestartContainerPayload {
            container: Container::of(&container),
            task: Task::of(&task),
        })
    }

    /// Changes how a container is shown and reached. It goes on running; whoever asks for its `protocolInfo` is told.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT`, `ILLEGAL_STATE` when it is going or gone.
    async fn update_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What is to be different.")] input: UpdateContainerInput,
    ) -> Result<UpdateContainerPayload> {
        let changes = Changes {
            dpi: input.dpi,
            stun: input.stun,
        };
        let row = services(ctx)
            .update_container(viewer(ctx)?, id(&input.id)?, changes)
            .await?;
        Ok(UpdateContainerPayload {
            container: Container::of(&row),
        })
    }

    /// Gives a container up, in whatever state it is; the task removes it.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` when it is gone already.
    async fn delete_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container to remove.")] input: DeleteContainerInput,
    ) -> Result<DeleteContainerPayload> {
        let deleted = services(ctx).delete_container(
            viewer(ctx)?,
            id(&input.id)?,
            input.idempotency_key.as_deref(),
        );
        let (container, task) = deleted.await?;
        Ok(DeleteContainerPayload {
            container: Container::of(&container),
            task: Task::of(&task),
        })
    }
}

#[derive(Default)]
pub struct ContainerSubscription;

#[Subscription]
impl ContainerSubscription {
    /// A container as it is now and after every change, until it is `DELETED`.
    async fn container_updated(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container's id.")] id: ID,
    ) -> Result<impl Stream<Item = Result<Container>> + use<>> {
        let viewer = viewer(ctx)?;
        check_access(&CONTAINER, viewer)?;
        let (id, services) = (super::id::<id::Container>(&id)?, services(ctx).clone());
        let read = move || {
            let services = services.clone();
            async move {
                let row = services.container(viewer, id).await?;
                let is_last = crate::domain::Machine::is_terminal(row.state()?);
                Ok::<_, AppError>(live::Seen {
                    version: row.version,
                    is_last,
                    row,
                })
            }
        };
        let rows = super::watch(ctx, (Table::Container, id.uuid()), read).await?;
        Ok(rows.map(|row| Ok(Container::of(&row?))))
    }
}
