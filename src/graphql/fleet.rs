//! The fleet as operators see it: warm pools, engines, the audit log; and the catalogue as they change it.

use async_graphql::{
    Context, ID, InputObject, MaybeUndefined, Object, Result, SimpleObject, Value,
};

use super::{
    account::User,
    app::{App, Region},
    id,
    list::{
        cell::{
            Cell,
            Storage::{Int, Json, Text, Time, Uuid},
        },
        noun::{self, Kind, Noun, created_at, field, link, made, words},
        row::{Row, Shown},
    },
    services,
    task::Task,
    viewer,
};
use crate::{
    domain::policy::Resource,
    error::AppError,
    services::catalogue,
    store::{apps, audit, engines, pools, regions},
};

/// Containers kept running for nobody.
pub type WarmPool = Row<pools::Entity>;

static POOL: Noun = Noun {
    name: "WarmPool",
    doc: "Containers of an app kept running in a region for whoever asks next. Only administrators see any.",
    table: "warm_pool",
    resource: Resource::Pool,
    owner: None,
    host: None,
    listed: None,
    fields: &[
        noun::id("pool"),
        field(
            "size",
            &[("size", Int)],
            Kind::Int,
            "How many there are to be.",
        )
        .measured(),
        created_at("When it was made."),
        field(
            "updatedAt",
            &[("updated_at", Time)],
            Kind::Time,
            "When its size was last set.",
        ),
    ],
    links: &[
        link::<apps::Entity>("app", "app_id", "What runs in them.").filtered(),
        link::<regions::Entity>("region", "region_id", "Where they run.").filtered(),
    ],
    many: &[],
};

impl Shown for pools::Entity {
    fn noun() -> &'static Noun {
        &POOL
    }
}

/// How an engine is.
#[derive(async_graphql::Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "engines::EngineState")]
pub enum EngineState {
    /// It answers.
    Up,
    /// It does not; nothing is concluded from what it does not say.
    Down,
}

/// A difference between what the database wants and what an engine has.
#[derive(SimpleObject)]
pub struct Finding {
    /// The container or the virtual machine it is about.
    subject_id: ID,
    /// What is different: `VANISHED`, `ORPHAN`, `UNWANTED`, `OUTDATED`, `ENDED`, `PANICKED`, `RUNNING` (and should not),
    /// `MOVED`, `SEEN` or `STUCK`.
    kind: String,
    /// What is done about it: `RECREATE`, `REMOVE`, `DELETE`, `FAIL`, `UPDATE`, `RESUME`, `REST`, `END`, `ENQUEUE`, or `WAIT`
    /// while it may mend itself.
    action: String,
    /// In words.
    detail: String,
}

static ENGINE: Noun = Noun {
    name: "Engine",
    doc: "An engine that runs containers or virtual machines, as the last look at it found it. Only administrators see any.",
    table: "engine",
    resource: Resource::Engine,
    owner: None,
    host: None,
    listed: None,
    fields: &[
        noun::id("engine"),
        field(
            "provider",
            &[("provider", Text)],
            Kind::Text,
            "Its kind: `docker`, `swarm`, `simulated`, `qemu`, `libvirt` or `simulated-machines`.",
        )
        .filtered()
        .ordered()
        .grouped(),
        field(
            "endpoint",
            &[("endpoint", Text)],
            Kind::Text,
            "Where it is; empty for the workers' own.",
        )
        .filtered(),
        field(
            "state",
            &[("state", Text)],
            Kind::Word(words::<EngineState>()),
            "Whether it answers.",
        )
        .filtered()
        .grouped(),
        field(
            "engineVersion",
            &[("engine_version", Text)],
            Kind::Text,
            "What it says it is.",
        )
        .nullable(),
        field(
            "problem",
            &[("problem", Text)],
            Kind::Text,
            "Why it could not be looked at; null while it answers.",
        )
        .nullable(),
        field(
            "failures",
            &[("failures", Int)],
            Kind::Int,
            "Looks in a row that failed; the next ones are made less often.",
        ),
        field(
            "instances",
            &[("instances", Int)],
            Kind::Int,
            "How many containers of this service it has.",
        )
        .measured(),
        field(
            "findings",
            &[("findings", Json)],
            made::<Vec<Finding>>(findings),
            "What the last look found different from what is wanted, and what is done about it.",
        ),
        field(
            "since",
            &[("since", Time)],
            Kind::Time,
            "When it came into its state.",
        ),
        field(
            "lookedAt",
            &[("looked_at", Time)],
            Kind::Time,
            "When it was last looked at.",
        ),
    ],
    links: &[],
    many: &[],
};

impl Shown for engines::Entity {
    fn noun() -> &'static Noun {
        &ENGINE
    }
}

fn findings(cells: &[Cell]) -> Value {
    match cells.first() {
        Some(Cell::Json(found)) => super::list::cell::json_value(found.clone()),
        _ => Value::List(Vec::new()),
    }
}

static AUDIT: Noun = Noun {
    name: "AuditEvent",
    doc: "Something that was done: by whom, to what, and when. Only administrators see any.",
    table: "audit_event",
    resource: Resource::AuditEvent,
    owner: None,
    host: None,
    listed: None,
    fields: &[
        noun::id("event"),
        field(
            "actor",
            &[("actor", Text)],
            Kind::Text,
            "What acted: `user`, `admin`, `host`, `system` or `anonymous`.",
        )
        .filtered()
        .grouped(),
        field(
            "actorId",
            &[("actor", Text), ("actor_id", Uuid)],
            made::<Option<ID>>(|cells| prefixed(&cells[0], &cells[1], true)),
            "Who acted; null for the service itself.",
        )
        .nullable(),
        field(
            "action",
            &[("action", Text)],
            Kind::Text,
            "What was done, such as `cluster.create` or `reconcile.recreate`.",
        )
        .filtered()
        .grouped(),
        field(
            "object",
            &[("object", Text)],
            Kind::Text,
            "The kind of thing it was done to.",
        )
        .filtered()
        .grouped(),
        field(
            "objectId",
            &[("object", Text), ("object_id", Uuid)],
            made::<Option<ID>>(|cells| prefixed(&cells[0], &cells[1], false)),
            "The thing it was done to.",
        )
        .nullable(),
        field("detail", &[("detail", Json)], Kind::Json, "More about it."),
        field("at", &[("at", Time)], Kind::Time, "When.")
            .filtered()
            .ordered_by_id()
            .measured()
            .grouped(),
    ],
    links: &[],
    many: &[],
};

impl Shown for audit::Entity {
    fn noun() -> &'static Noun {
        &AUDIT
    }
}

/// An id with its prefix, from the kind of thing and the bare id.
fn prefixed(kind: &Cell, id: &Cell, is_actor: bool) -> Value {
    let (Some(kind), Cell::Uuid(id)) = (kind.text(), id) else {
        return Value::Null;
    };
    // Administrators are accounts as well.
    let kind = if is_actor && kind == "admin" {
        "user"
    } else {
        kind
    };
    Value::from(crate::domain::id::written(kind, *id))
}

/// An app as it is to be.
#[derive(InputObject)]
pub struct PutAppInput {
    /// The name to ask for it by: 1 to 63 lower-case letters, digits and dashes.
    slug: String,
    /// The name to show.
    name: String,
    /// The shelf it stands on.
    #[graphql(default)]
    category: String,
    /// What it is, in a sentence or two.
    #[graphql(default)]
    description: String,
    /// The container image it runs from.
    image: String,
    /// Images of release channels that have one of their own.
    #[graphql(default)]
    images: Vec<ChannelImageInput>,
    /// Replaces the image's command; empty keeps it.
    #[graphql(default)]
    command: Vec<String>,
    /// The TCP ports it listens on inside its container.
    #[graphql(default)]
    ports: Vec<i32>,
    /// Its share of processors, in thousandths of one; 0 sets no limit.
    #[graphql(default = 0)]
    cpu_millis: i32,
    /// Its memory, in MiB; 0 sets no limit.
    #[graphql(default = 0)]
    memory_mebibytes: i32,
    /// Whether it is on offer.
    #[graphql(default = true)]
    active: bool,
}

/// The image of a release channel.
#[derive(InputObject)]
pub struct ChannelImageInput {
    /// The release channel.
    channel: String,
    /// Its image.
    image: String,
}

/// An app as it is now.
#[derive(SimpleObject)]
pub struct PutAppPayload {
    /// The app.
    app: App,
}

/// What is to be different about a region; what is not given stays.
#[derive(InputObject)]
pub struct UpdateRegionInput {
    /// The region.
    id: ID,
    /// Whether it takes new containers.
    enabled: Option<bool>,
    /// The kind of engine of what has no cluster there; null for the workers' default.
    provider: MaybeUndefined<String>,
}

/// A region as it is now.
#[derive(SimpleObject)]
pub struct UpdateRegionPayload {
    /// The region.
    region: Region,
}

/// How many containers are to be kept running for nobody.
#[derive(InputObject)]
pub struct SetWarmPoolInput {
    /// The slug of an app on offer.
    app: String,
    /// The name of a region that takes containers.
    region: String,
    /// How many, 0 to 10000.
    size: i32,
}

/// The pool, and the task that fills it.
#[derive(SimpleObject)]
pub struct SetWarmPoolPayload {
    /// The pool.
    warm_pool: WarmPool,
    /// The task that brings it to its size.
    task: Task,
}

/// Who is to be on which release channel.
#[derive(InputObject)]
pub struct SetReleaseChannelInput {
    /// The account.
    user: ID,
    /// The release channel, such as `stable` or `beta`: 1 to 63 lower-case letters, digits and dashes.
    channel: String,
}

/// An account as it is now.
#[derive(SimpleObject)]
pub struct SetReleaseChannelPayload {
    /// The account.
    user: User,
}

/// A look at every engine.
#[derive(InputObject)]
pub struct ReconcileInput {
    /// Whether it only says what it would mend.
    #[graphql(default = false)]
    dry_run: bool,
}

/// The task that looks.
#[derive(SimpleObject)]
pub struct ReconcilePayload {
    /// Its result has what was found at each engine, and what was done about it.
    task: Task,
}

#[derive(Default)]
pub struct FleetMutation;

#[Object]
impl FleetMutation {
    /// Adds an app to the catalogue, or changes the one with its slug. Containers there are keep what they were made from.
    /// For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`.
    async fn put_app(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The app as it is to be.")] input: PutAppInput,
    ) -> Result<PutAppPayload> {
        let images = input.images.into_iter();
        let app = catalogue::App {
            slug: &input.slug,
            name: &input.name,
            category: &input.category,
            description: &input.description,
            image: &input.image,
            images: images.map(|of| (of.channel, of.image)).collect(),
            command: input.command,
            ports: input.ports,
            cpu_millis: input.cpu_millis,
            memory_mebibytes: input.memory_mebibytes,
            active: input.active,
        };
        let row = services(ctx).put_app(viewer(ctx)?, app).await?;
        Ok(PutAppPayload { app: App::of(&row) })
    }

    /// Opens or closes a region, and chooses its kind of engine. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `BAD_USER_INPUT`.
    async fn update_region(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What is to be different.")] input: UpdateRegionInput,
    ) -> Result<UpdateRegionPayload> {
        let provider = match input.provider {
            MaybeUndefined::Undefined => None,
            MaybeUndefined::Null => Some(None),
            MaybeUndefined::Value(name) => Some(Some(name)),
        };
        let row = services(ctx)
            .update_region(viewer(ctx)?, id(&input.id)?, input.enabled, provider)
            .await?;
        Ok(UpdateRegionPayload {
            region: Region::of(&row),
        })
    }

    /// Sets how many containers of an app are kept running in a region for whoever asks next; 0 ends it. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`.
    async fn set_warm_pool(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How many of what, and where.")] input: SetWarmPoolInput,
    ) -> Result<SetWarmPoolPayload> {
        let (pool, task) = services(ctx)
            .set_warm_pool(viewer(ctx)?, &input.app, &input.region, input.size)
            .await?;
        Ok(SetWarmPoolPayload {
            warm_pool: WarmPool::of(&pool),
            task: Task::of(&task),
        })
    }

    /// Looks at every engine now and mends what differs from what is wanted. What each regular look finds stands in `engines`.
    /// For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`.
    async fn reconcile(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How.")] input: ReconcileInput,
    ) -> Result<ReconcilePayload> {
        let task = services(ctx).reconcile(viewer(ctx)?, input.dry_run).await?;
        Ok(ReconcilePayload {
            task: Task::of(&task),
        })
    }

    /// Moves somebody to another release channel; their next containers are made from its images. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `BAD_USER_INPUT`.
    async fn set_release_channel(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Who, and where to.")] input: SetReleaseChannelInput,
    ) -> Result<SetReleaseChannelPayload> {
        let unknown = |_: AppError| AppError::NotFound { what: "user" };
        let user = id(&input.user).map_err(unknown)?;
        let row = services(ctx)
            .set_release_channel(viewer(ctx)?, user, &input.channel)
            .await?;
        Ok(SetReleaseChannelPayload {
            user: User::of(&row),
        })
    }
}
