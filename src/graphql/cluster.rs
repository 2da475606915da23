//! Clusters: the machines of one engine, or one engine of many machines.

use async_graphql::{
    ContainerType as _, Context, Enum, ID, InputObject, Object, Result, ServerResult, SimpleObject,
    Value, registry::Registry,
};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;

use super::{
    id,
    list::{
        cell::Storage::{Int, Text, Time},
        noun::{self, Kind, Noun, created_at, field, link, many, version, words},
        row::{MetaFields, Record, Row, Shown, fields_of},
    },
    services,
    task::Task,
    viewer,
};
use crate::{
    domain::{self, Id, id as ids, policy::Resource},
    error::AppError,
    services::clusters::{Changes, HostCommandKind, Wanted},
    store::{clusters, containers, hosts, machines, regions, tasks},
};

/// Where a cluster stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "domain::cluster::ClusterStatus")]
pub enum ClusterStatus {
    /// Its engine has not answered yet.
    Creating,
    /// It takes containers.
    Active,
    /// It takes no new ones, and those it has are leaving.
    Draining,
    /// What is left in it is being removed.
    Deleting,
    /// It is gone.
    Deleted,
    /// Its engine could not be used; `failureReason` says why.
    Failed,
}

/// Which of the hosts with room gets the next container.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "domain::cluster::Placement")]
pub enum Placement {
    /// The emptiest.
    Spread,
    /// The fullest.
    Pack,
}

/// Where containers run.
pub type Cluster = Row<clusters::Entity>;

static CLUSTER: Noun = Noun {
    name: "Cluster",
    doc: "Where containers run: hosts with an engine each, or one engine of many machines. Only administrators see any.",
    table: "cluster",
    resource: Resource::Cluster,
    owner: None,
    host: None,
    listed: None,
    fields: &[
        noun::id("cluster"),
        field("name", &[("name", Text)], Kind::Text, "Its name.")
            .filtered()
            .ordered(),
        field(
            "provider",
            &[("provider", Text)],
            Kind::Text,
            "Its kind of engine: `docker`, `swarm` or `simulated`.",
        )
        .filtered()
        .grouped(),
        field(
            "endpoint",
            &[("endpoint", Text)],
            Kind::Text,
            "Where its engine is; null for the workers' own, or for those of its hosts.",
        )
        .nullable(),
        field(
            "status",
            &[("status", Text)],
            Kind::Word(words::<ClusterStatus>()),
            "Where it stands.",
        )
        .filtered()
        .grouped(),
        version(),
        field(
            "minContainers",
            &[("min_containers", Int)],
            Kind::Int,
            "The room it keeps, where its engine can add machines.",
        ),
        field(
            "maxContainers",
            &[("max_containers", Int)],
            Kind::Int,
            "Most containers it has at once.",
        )
        .measured(),
        field(
            "placement",
            &[("placement", Text)],
            Kind::Word(words::<Placement>()),
            "Which of its hosts gets the next container.",
        ),
        field(
            "failureReason",
            &[("failure_reason", Text)],
            Kind::Text,
            "Why it cannot be used; null unless it failed.",
        )
        .nullable(),
        created_at("When it was made."),
        field(
            "updatedAt",
            &[("updated_at", Time)],
            Kind::Time,
            "When it changed last.",
        ),
    ],
    links: &[link::<regions::Entity>("region", "region_id", "Where it is.").filtered()],
    many: &[
        many::<hosts::Entity>("hosts", "cluster_id", "Its hosts."),
        many::<containers::Entity>("containers", "cluster_id", "The containers in it."),
        many::<machines::Entity>(
            "virtualMachines",
            "cluster_id",
            "The virtual machines in it.",
        ),
        many::<tasks::Entity>("tasks", "subject_id", "The tasks that are about it."),
    ],
};

impl Shown for clusters::Entity {
    fn noun() -> &'static Noun {
        &CLUSTER
    }

    fn rest(registry: &mut Registry) -> MetaFields {
        fields_of::<ClusterParts>(registry)
    }

    fn resolve_rest<'a>(
        record: &'a Record,
        ctx: &'a Context<'a>,
    ) -> BoxFuture<'a, ServerResult<Option<Value>>> {
        Box::pin(async move { ClusterParts(Id::new(record.id())).resolve_field(ctx).await })
    }
}

/// What follows from a cluster's hosts and containers.
struct ClusterParts(Id<ids::Cluster>);

#[Object]
impl ClusterParts {
    /// What it has and how much of it is taken, counted now from its hosts and containers. For administrators.
    #[graphql(complexity = "10 + child_complexity")]
    async fn capacity(&self, ctx: &Context<'_>) -> Result<ClusterCapacity> {
        let used = services(ctx).cluster_use(viewer(ctx)?, self.0).await?;
        Ok(ClusterCapacity(used))
    }
}

pub struct ClusterCapacity(clusters::Use);

/// What a cluster has and how much of it is taken.
#[Object]
impl ClusterCapacity {
    /// How many of its hosts are healthy.
    async fn hosts(&self) -> i64 {
        self.0.hosts
    }
    /// What these have, in thousandths of a processor.
    async fn cpu_millis(&self) -> i64 {
        self.0.cpu_millis
    }
    /// How much of it is at work, by the hosts' own account.
    async fn cpu_used_millis(&self) -> i64 {
        self.0.cpu_used_millis
    }
    /// How much of it is promised to containers.
    async fn cpu_taken_millis(&self) -> i64 {
        self.0.cpu_taken_millis
    }
    /// The memory these have, in MiB.
    async fn memory_mebibytes(&self) -> i64 {
        self.0.memory_bytes >> 20
    }
    /// How much of it is available, by the hosts' own account.
    async fn memory_available_mebibytes(&self) -> i64 {
        self.0.memory_available_bytes >> 20
    }
    /// How much of it is promised to containers.
    async fn memory_taken_mebibytes(&self) -> i64 {
        self.0.memory_taken_bytes >> 20
    }
    /// Containers on their way.
    async fn pending(&self) -> i64 {
        self.0.pending
    }
    /// Containers that run.
    async fn running(&self) -> i64 {
        self.0.running
    }
}

/// A cluster to be made.
#[derive(InputObject)]
pub struct CreateClusterInput {
    /// Its name, its own: 1 to 63 lower-case letters, digits and dashes.
    name: String,
    /// The name of the region it is in.
    region: String,
    /// Its kind of engine: `docker`, `swarm` or `simulated`.
    provider: String,
    /// Where its engine is, `unix://…` or `tcp://…`; null for the workers' own, or for those of its hosts.
    endpoint: Option<String>,
    /// How many containers it has room for at any time, as far as its engine has spare machines.
    #[graphql(default = 0)]
    min_containers: i32,
    /// Most containers it has at once.
    #[graphql(default = 1000)]
    max_containers: i32,
    /// Which of its hosts gets the next container.
    #[graphql(default_with = "Placement::Spread")]
    placement: Placement,
}

/// What is to be different about a cluster; what is not given stays.
#[derive(InputObject)]
pub struct UpdateClusterInput {
    /// The cluster.
    id: ID,
    /// How many containers it has room for at any time, as far as its engine has spare machines.
    min_containers: Option<i32>,
    /// Most containers it has at once; those it has stay when there are more.
    max_containers: Option<i32>,
    /// Which of its hosts gets the next container.
    placement: Option<Placement>,
}

/// A cluster that is meant.
#[derive(InputObject)]
pub struct ClusterInput {
    /// The cluster.
    id: ID,
}

/// A cluster and the task that works on it.
#[derive(SimpleObject)]
pub struct ClusterTaskPayload {
    /// The cluster.
    cluster: Cluster,
    /// The task.
    task: Task,
}

/// A cluster as it is now.
#[derive(SimpleObject)]
pub struct UpdateClusterPayload {
    /// The cluster.
    cluster: Cluster,
}

/// What the hosts of a cluster can be told.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "HostCommandKind")]
pub enum HostCommandName {
    /// Fetch the image that `argument` names, so that containers start quicker.
    PullImage,
    /// Remove the images nothing uses.
    PruneImages,
    /// Say how the engine is.
    Diagnose,
}

/// Something for every host of a cluster to do.
#[derive(InputObject)]
pub struct SendClusterCommandInput {
    /// The cluster.
    id: ID,
    /// What to do.
    command: HostCommandName,
    /// What it is done with: the image of `PULL_IMAGE`.
    argument: Option<String>,
}

/// The task that has it done.
#[derive(SimpleObject)]
pub struct SendClusterCommandPayload {
    /// It succeeds when every host has done it; its result has what each said.
    task: Task,
}

/// A machine to be let into a cluster.
#[derive(InputObject)]
pub struct CreateRegistrationTokenInput {
    /// The cluster.
    cluster: ID,
    /// How long the token can be used, in seconds: 10 to 604800.
    #[graphql(default = 3600)]
    life_seconds: u32,
}

/// A token that makes one machine a host.
#[derive(SimpleObject)]
pub struct CreateRegistrationTokenPayload {
    /// The token; it is shown this once and can be used once.
    token: String,
    /// When it ends.
    expires_at: DateTime<Utc>,
}

#[derive(Default)]
pub struct ClusterMutation;

#[Object]
impl ClusterMutation {
    /// Makes a cluster, `CREATING`; the task looks whether its engine answers and brings it to `ACTIVE`. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`, `CONFLICT` for a name that is taken.
    async fn create_cluster(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The cluster to make.")] input: CreateClusterInput,
    ) -> Result<ClusterTaskPayload> {
        let wanted = Wanted {
            name: &input.name,
            region: &input.region,
            provider: &input.provider,
            endpoint: input.endpoint.as_deref(),
            min_containers: input.min_containers,
            max_containers: input.max_containers,
            placement: input.placement.into(),
        };
        payload(services(ctx).create_cluster(viewer(ctx)?, wanted).await)
    }

    /// Changes how many containers a cluster has, and how they are placed. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `BAD_USER_INPUT`.
    async fn update_cluster(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What is to be different.")] input: UpdateClusterInput,
    ) -> Result<UpdateClusterPayload> {
        let changes = Changes {
            min_containers: input.min_containers,
            max_containers: input.max_containers,
            placement: input.placement.map(Into::into),
        };
        let row = services(ctx)
            .update_cluster(viewer(ctx)?, id(&input.id)?, changes)
            .await?;
        Ok(UpdateClusterPayload {
            cluster: Cluster::of(&row),
        })
    }

    /// Takes no more containers into a cluster and lets those it has finish. An empty one is drained at once.
    /// For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `ILLEGAL_STATE` unless it is `ACTIVE`.
    async fn drain_cluster(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The cluster to drain.")] input: ClusterInput,
    ) -> Result<ClusterTaskPayload> {
        payload(
            services(ctx)
                .drain_cluster(viewer(ctx)?, id(&input.id)?)
                .await,
        )
    }

    /// Uses a drained or failed cluster again, once its engine answers. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `ILLEGAL_STATE` unless it is `DRAINING` or `FAILED`.
    async fn activate_cluster(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The cluster to use again.")] input: ClusterInput,
    ) -> Result<ClusterTaskPayload> {
        payload(
            services(ctx)
                .activate_cluster(viewer(ctx)?, id(&input.id)?)
                .await,
        )
    }

    /// Removes a cluster with all that is in it. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `ILLEGAL_STATE` when it is gone already.
    async fn delete_cluster(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The cluster to remove.")] input: ClusterInput,
    ) -> Result<ClusterTaskPayload> {
        payload(
            services(ctx)
                .delete_cluster(viewer(ctx)?, id(&input.id)?)
                .await,
        )
    }

    /// Has every host of a cluster do something. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `BAD_USER_INPUT`.
    async fn send_cluster_command(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What to do.")] input: SendClusterCommandInput,
    ) -> Result<SendClusterCommandPayload> {
        let task = services(ctx)
            .send_cluster_command(
                viewer(ctx)?,
                id(&input.id)?,
                input.command.into(),
                input.argument,
            )
            .await?;
        Ok(SendClusterCommandPayload {
            task: Task::of(&task),
        })
    }

    /// A token that lets one machine into a cluster as a host. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `BAD_USER_INPUT`.
    async fn create_registration_token(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Where to.")] input: CreateRegistrationTokenInput,
    ) -> Result<CreateRegistrationTokenPayload> {
        if !(10..=604_800).contains(&input.life_seconds) {
            return Err(AppError::Invalid {
                field: "lifeSeconds",
                reason: "10 to 604800 is expected".to_owned(),
            }
            .into());
        }
        let life = std::time::Duration::from_secs(input.life_seconds.into());
        let (token, expires_at) = services(ctx)
            .create_registration_token(viewer(ctx)?, id(&input.cluster)?, life)
            .await?;
        Ok(CreateRegistrationTokenPayload { token, expires_at })
    }
}

fn payload(
    done: Result<(clusters::Model, crate::store::tasks::Model), AppError>,
) -> Result<ClusterTaskPayload> {
    let (cluster, task) = done?;
    Ok(ClusterTaskPayload {
        cluster: Cluster::of(&cluster),
        task: Task::of(&task),
    })
}
