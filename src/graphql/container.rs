//! Containers.

use std::sync::Arc;

use async_graphql::{Context, Enum, ID, InputObject, Object, Result, SimpleObject, Subscription};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};
use sea_orm::{ColumnTrait as _, QueryFilter as _};

use super::{
    app::{App, Region},
    error::nullable,
    id,
    page::{Page, Window, page},
    services,
    task::Task,
    viewer,
};
use crate::{
    domain::{Id, Table, container, id, policy::Action},
    error::AppError,
    live::{self, EventBus},
    services::containers::Create,
    store::{apps, containers, regions, scoped::Scoped as _},
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
pub struct Container(pub containers::Model);

/// An app running for somebody.
#[Object]
impl Container {
    async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// Where it stands.
    async fn state(&self) -> Result<ContainerState> {
        Ok(self.0.state()?.into())
    }
    /// Grows by one with every change.
    async fn version(&self) -> i64 {
        self.0.version
    }
    /// What runs in it.
    async fn app(&self, ctx: &Context<'_>) -> Result<Option<App>> {
        Ok(
            apps::unscoped_by_id(services(ctx).store.db(), Id::new(self.0.app_id))
                .await?
                .map(App),
        )
    }
    /// Where it runs.
    async fn region(&self, ctx: &Context<'_>) -> Result<Option<Region>> {
        Ok(
            regions::unscoped_by_id(services(ctx).store.db(), Id::new(self.0.region_id))
                .await?
                .map(Region),
        )
    }
    /// Dots per inch of its display.
    async fn dpi(&self) -> i16 {
        self.0.dpi
    }
    /// The kind of engine it runs on; null until one has taken it.
    async fn provider(&self) -> Option<&str> {
        self.0.provider.as_deref()
    }
    /// Its address in its engine's network.
    async fn ip(&self) -> Option<&str> {
        self.0.ip.as_deref()
    }
    /// Its ports and where they are published.
    async fn ports(&self) -> Vec<PublishedPort> {
        self.0
            .ports
            .0
            .iter()
            .map(|(inside, published)| PublishedPort {
                inside: *inside,
                published: *published,
            })
            .collect()
    }
    /// Why it failed; null unless it did.
    async fn failure(&self) -> Option<Failure> {
        let code = self.0.failure_code.clone()?;
        Some(Failure {
            code,
            reason: self.0.failure_reason.clone().unwrap_or_default(),
        })
    }
    /// When it was asked for.
    async fn created_at(&self) -> DateTime<Utc> {
        self.0.created_at
    }
    /// When it changed last.
    async fn updated_at(&self) -> DateTime<Utc> {
        self.0.updated_at
    }
    /// When it began to run.
    async fn running_at(&self) -> Option<DateTime<Utc>> {
        self.0.running_at
    }
    /// When it failed or was gone.
    async fn ended_at(&self) -> Option<DateTime<Utc>> {
        self.0.ended_at
    }
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
pub struct ContainerQuery;

#[Object]
impl ContainerQuery {
    /// One container; null with the error `NOT_FOUND` when there is none the viewer may see.
    async fn container(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container's id.")] id: ID,
    ) -> Option<Container> {
        let found = async {
            Ok::<_, async_graphql::Error>(
                services(ctx)
                    .container(viewer(ctx)?, self::id(&id)?)
                    .await?,
            )
        };
        nullable(ctx, found.await).map(Container)
    }

    /// The viewer's containers, or everybody's for an administrator; the newest first.
    async fn containers(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many, from the start; 0 to 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "At most so many, from the end; 0 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those in one of these states.")] states: Option<Vec<ContainerState>>,
    ) -> Result<Page<Container>> {
        let viewer = viewer(ctx)?;
        crate::services::signed_in(viewer)?;
        let mut rows = containers::Entity::visible_to(viewer, Action::Read);
        if let Some(states) = states {
            let names = states
                .into_iter()
                .map(|state| container::ContainerState::from(state).as_str());
            rows = rows.filter(containers::Column::State.is_in(names));
        }
        let window = Window {
            first,
            after,
            last,
            before,
        };
        Ok(page(
            ctx,
            &services(ctx).store,
            rows,
            containers::Column::Id,
            window,
            |row| (row.id, Container(row)),
        )
        .await?)
    }
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
        input: CreateContainerInput,
    ) -> Result<CreateContainerPayload> {
        let wanted = Create {
            app: &input.app,
            region: &input.region,
            dpi: input.dpi,
            idempotency_key: input.idempotency_key.as_deref(),
        };
        let created = services(ctx).create_container(viewer(ctx)?, wanted).await?;
        Ok(CreateContainerPayload {
            container: Container(created.container),
            task: Task(created.task),
            secret_key: created.secret_key,
        })
    }

    /// Gives a container up, in whatever state it is; the task removes it.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` when it is gone already.
    async fn delete_container(
        &self,
        ctx: &Context<'_>,
        input: DeleteContainerInput,
    ) -> Result<DeleteContainerPayload> {
        let deleted = services(ctx).delete_container(
            viewer(ctx)?,
            id(&input.id)?,
            input.idempotency_key.as_deref(),
        );
        let (container, task) = deleted.await?;
        Ok(DeleteContainerPayload {
            container: Container(container),
            task: Task(task),
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
        let (viewer, id, services) = (
            viewer(ctx)?,
            super::id::<id::Container>(&id)?,
            services(ctx).clone(),
        );
        let bus: &Arc<dyn EventBus> = ctx.data_unchecked();
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
        let rows = live::watch(&**bus, Table::Container, id.uuid(), read).await?;
        Ok(rows.map(|row| Ok(Container(row?))))
    }
}
