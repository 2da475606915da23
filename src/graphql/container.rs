//! Containers.

use async_graphql::{
    Context, Enum, ID, InputObject, Name, Object, Result, SimpleObject, Subscription, Value, value,
};
use futures_util::{Stream, StreamExt as _};

use super::{
    id,
    list::{
        cell::{
            Cell,
            Storage::{Big, Json, Small, Text, Time, Uuid},
        },
        noun::{Kind, Noun, field, link, made, words},
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
    services::containers::Create,
    store::{accounts, apps, containers, regions},
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
    listed: None,
    fields: &[
        field("id", &[("id", Uuid)], Kind::Id("container"), "Its id.").filtered(),
        field(
            "state",
            &[("state", Text)],
            Kind::Word(words::<ContainerState>()),
            "Where it stands.",
        )
        .filtered()
        .grouped(),
        field(
            "version",
            &[("version", Big)],
            Kind::Int,
            "Grows by one with every change.",
        ),
        field(
            "dpi",
            &[("dpi", Small)],
            Kind::Int,
            "Dots per inch of its display.",
        )
        .filtered()
        .measured(),
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
        field(
            "createdAt",
            &[("created_at", Time)],
            Kind::Time,
            "When it was asked for.",
        )
        .filtered()
        .ordered_by_id()
        .measured()
        .grouped(),
        field(
            "updatedAt",
            &[("updated_at", Time)],
            Kind::Time,
            "When it changed last.",
        )
        .filtered()
        .ordered()
        .measured(),
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
        link::<accounts::Entity>("owner", "owner_id", "Whose it is.").filtered(),
    ],
};

impl Shown for containers::Entity {
    fn noun() -> &'static Noun {
        &CONTAINER
    }
}

/// The published ports, from the object of ports inside and outside that the database has.
fn ports(cells: &[Cell]) -> Value {
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
    /// Dots per inch of its display, 48 to 480.
    #[graphql(default = 96)]
    dpi: i32,
    /// The same key again gives the same container again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
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
    /// Errors: `UNAUTHENTICATED`, `BAD_USER_INPUT` for an unknown app or region or a dpi out of range, `CONFLICT` for an
    /// idempotency key of another request.
    async fn create_container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container to make.")] input: CreateContainerInput,
    ) -> Result<CreateContainerPayload> {
        let wanted = Create {
            app: &input.app,
            region: &input.region,
            dpi: input.dpi,
            idempotency_key: input.idempotency_key.as_deref(),
        };
        let created = services(ctx).create_container(viewer(ctx)?, wanted).await?;
        Ok(CreateContainerPayload {
            container: Container::of(&created.container),
            task: Task::of(&created.task),
            secret_key: created.secret_key,
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
