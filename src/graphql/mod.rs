//! The one schema: a file a noun with its type, queries, mutations and subscriptions.
//!
//! A resolver has three moves: parse, one call, wrap. Business rules live in `services`, access in `domain::policy`.

pub mod access;
mod account;
mod app;
mod archived_task;
mod backup;
mod cluster;
mod connection_log;
mod container;
pub mod error;
mod fleet;
pub mod follow;
mod host;
pub mod limits;
pub mod list;
mod log;
mod log_filter;
mod machine;
mod machine_actions;
pub mod operations;
mod queue;
mod report;
mod schedule;
mod settings;
mod task;
mod task_log;
mod task_parts;
mod told;

use std::{sync::Arc, time::Duration};

use async_graphql::{
    Context, MergedObject, MergedSubscription, Request, Response, SDLExportOptions, Schema,
    ServerError, dataloader::DataLoader, parser::types::OperationType,
};
use futures_util::Stream;
use operations::{Known, Operations};
use told::Told;
use uuid::Uuid;

use crate::{
    domain::{Dial, Id, Table, id::Identified, policy::Viewer},
    error::AppError,
    live::{self, EventBus, Freshness, Shared},
    services::Services,
    store::{Store, sessions::Origin},
    telemetry::Meters,
};

/// Everything that can be read.
#[derive(MergedObject, Default)]
pub struct Query(
    list::lists::Lists,
    account::AccountQuery,
    backup::BackupQuery,
    connection_log::ConnectionLogQuery,
    container::ContainerQuery,
    log::LogQuery,
    log_filter::LogFilterQuery,
    queue::QueueQuery,
    report::ReportQuery,
    settings::SettingsQuery,
);

/// Everything that can be done.
#[derive(MergedObject, Default)]
pub struct Mutation(
    account::AccountMutation,
    backup::BackupMutation,
    cluster::ClusterMutation,
    connection_log::ConnectionLogMutation,
    container::ContainerMutation,
    fleet::FleetMutation,
    host::HostMutation,
    log_filter::LogFilterMutation,
    machine_actions::MachineMutation,
    task::TaskMutation,
    queue::QueueMutation,
    schedule::ScheduleMutation,
    settings::SettingsMutation,
);

/// Everything that can be watched.
#[derive(MergedSubscription, Default)]
pub struct Subscription(
    list::live::LiveLists,
    container::ContainerSubscription,
    log::LogSubscription,
    host::HostSubscription,
    machine::MachineSubscription,
    task::TaskSubscription,
);

type ApiSchema = Schema<Query, Mutation, Subscription>;

/// Deepest nesting of a query. The introspection query of common clients needs 13.
const DEPTH: usize = 15;
/// Most fields of a query, those of a list's rows counted for each row it asks for.
const COMPLEXITY: usize = 10_000;
/// Most directives on one field.
const DIRECTIVES: usize = 8;

/// Who asks, found out once a request or once a socket.
pub struct Requester {
    pub viewer: Result<Viewer, AppError>,
    pub origin: Origin,
}

/// The executable schema with its limits; every answer's errors carry a code.
#[derive(Clone)]
pub struct Api {
    schema: ApiSchema,
    store: Store,
    operations: Arc<Operations>,
    shared: Shared<follow::Key, follow::Answer>,
    longest: Dial<Duration>,
    meters: Arc<Meters>,
}

/// What is offered beside the operations themselves.
pub struct Offer {
    pub operations: Operations,
    /// Whether the schema answers questions about itself.
    pub introspection: bool,
    /// Bounds a query or a mutation; a subscription has no end.
    pub longest: Dial<Duration>,
    /// Where operations are counted.
    pub meters: Arc<Meters>,
}

impl Api {
    pub fn new(services: Services, bus: Arc<dyn EventBus>, offer: Offer) -> Self {
        let store = services.store.clone();
        let links = list::row::Links {
            store: store.clone(),
        };
        let links = DataLoader::new(links, tokio::spawn);
        let parts = task_parts::loader(store.clone());
        let mut schema = builder().data(services).data(bus).data(links).data(parts);
        if !offer.introspection {
            // A suggestion gives a part of the schema away.
            schema = schema.disable_introspection().disable_suggestions();
        }
        Self {
            schema: schema.finish(),
            store,
            operations: Arc::new(offer.operations),
            shared: Shared::default(),
            longest: offer.longest,
            meters: offer.meters,
        }
    }

    /// The text of the persisted operation `name`.
    pub fn operation(&self, name: &str) -> Option<&str> {
        self.operations.named(name)
    }

    /// The same as it was read.
    pub fn operation_document(&self, name: &str) -> Option<Arc<Known>> {
        self.operations.document(self.operation(name)?).ok()
    }

    /// Completes and checks a request, before anything is executed.
    pub fn prepare(&self, mut request: Request) -> Result<Prepared, Box<Response>> {
        let refused =
            |error: ServerError| Box::new(error::with_codes(Response::from_errors(vec![error])));
        let shown = |error: AppError| refused(error::Coded(&error).into());
        self.operations.resolve(&mut request).map_err(shown)?;
        let document = self.operations.document(&request.query).map_err(refused)?;
        let chosen = limits::chosen(&document.document, request.operation_name.as_deref());
        if let Some(operation) = chosen {
            limits::check_variables(operation, &request.variables).map_err(shown)?;
        }
        let kind = chosen.map(|operation| operation.ty);
        Ok(Prepared {
            request,
            kind,
            document,
            requester: None,
        })
    }

    /// The answer to a query or a mutation, as a text where it can be written at once.
    pub async fn answer(&self, prepared: Prepared) -> Answer {
        let told = self.told(&prepared);
        let answer = told.around(self.answer_now(prepared)).await;
        told.end(match &answer {
            Answer::Text(_) => told::OK,
            Answer::Response(response) => told::code(response),
        });
        answer
    }

    /// The answer to a query or a mutation.
    pub async fn run(&self, prepared: Prepared) -> Response {
        let told = self.told(&prepared);
        let answer = told.around(self.run_now(prepared)).await;
        told.end(told::code(&answer));
        answer
    }

    fn told(&self, prepared: &Prepared) -> Told {
        let label = prepared.document.label(&prepared.request);
        Told::begin(label, Arc::clone(&self.meters))
    }

    async fn answer_now(&self, prepared: Prepared) -> Answer {
        if let (Some(OperationType::Query), Some(ready), Some(viewer)) =
            (prepared.kind, prepared.document.ready(), prepared.viewer())
        {
            let answer = ready.answer(&self.store, viewer, &prepared.request.variables);
            if let Ok(Some(text)) = tokio::time::timeout(self.longest.get(), answer).await {
                return Answer::Text(text);
            }
        }
        Answer::Response(Box::new(self.run_now(prepared).await))
    }

    async fn run_now(&self, prepared: Prepared) -> Response {
        let document = Arc::clone(&prepared.document);
        let answer = self.schema.execute(prepared.into_request());
        let answer = tokio::time::timeout(self.longest.get(), answer).await;
        let answer = answer.unwrap_or_else(|_| late());
        if answer.errors.is_empty() {
            document.is_valid(COMPLEXITY);
        }
        error::with_codes(answer)
    }
}

/// The answer that was not there in time.
fn late() -> Response {
    error::refusal(&AppError::Unavailable {
        what: "an answer in time",
    })
}

/// A request that may be executed.
pub struct Prepared {
    request: Request,
    /// What it executes; `None` when it names no operation of its document.
    pub kind: Option<OperationType>,
    document: Arc<Known>,
    requester: Option<Requester>,
}

/// An answer to a query or a mutation.
pub enum Answer {
    /// The whole of it, without errors.
    Text(String),
    Response(Box<Response>),
}

impl Prepared {
    /// Adds what its resolvers see of the requester.
    #[must_use]
    pub fn by(mut self, requester: Requester) -> Self {
        self.requester = Some(requester);
        self
    }

    fn viewer(&self) -> Option<Viewer> {
        self.requester.as_ref()?.viewer.as_ref().ok().copied()
    }

    fn into_request(self) -> Request {
        let mut request = self.request;
        if let Some(requester) = self.requester {
            request = request.data(requester);
        }
        request.set_parsed_query(self.document.document.clone());
        request
    }
}

fn builder() -> async_graphql::SchemaBuilder<Query, Mutation, Subscription> {
    Schema::build(
        Query::default(),
        Mutation::default(),
        Subscription::default(),
    )
    .limit_depth(DEPTH)
    .limit_complexity(COMPLEXITY)
    .limit_directives(DIRECTIVES)
}

/// The schema's text, in an order that does not depend on the code's.
pub fn sdl() -> String {
    let options = SDLExportOptions::new()
        .sorted_fields()
        .sorted_arguments()
        .sorted_enum_items()
        .use_space_ident()
        .indent_width(2)
        .prefer_single_line_descriptions();
    let text = builder().finish().sdl_with_options(options);
    format!("{}\n", text.trim_end())
}

/// The SHA-256 of the schema's text, in hexadecimal.
pub fn schema_hash() -> String {
    operations::hash(&sdl())
}

/// Who asks; an authorization that was refused is refused here, field by field, so that logging in stays possible.
fn viewer(ctx: &Context<'_>) -> async_graphql::Result<Viewer> {
    match ctx
        .data_opt::<Requester>()
        .map(|requester| &requester.viewer)
    {
        None => Ok(Viewer::Anonymous),
        Some(Ok(viewer)) => Ok(*viewer),
        Some(Err(error)) => Err(error::Coded(error).into()),
    }
}

fn origin(ctx: &Context<'_>) -> Origin {
    ctx.data_opt::<Requester>()
        .map(|requester| requester.origin.clone())
        .unwrap_or_default()
}

fn services<'a>(ctx: &Context<'a>) -> &'a Services {
    ctx.data_unchecked()
}

/// Reads an id of the right type; any other text is a thing that does not exist.
fn id<T: Identified>(text: &str) -> Result<Id<T>, AppError> {
    Id::parse(text).ok_or(AppError::NotFound { what: T::NOUN })
}

/// A row as a stream, see [`live::watch`].
async fn watch<T, R, F>(
    ctx: &Context<'_>,
    row: (Table, Uuid),
    read: R,
) -> Result<impl Stream<Item = Result<T, AppError>> + use<T, R, F>, AppError>
where
    R: Fn() -> F + Send,
    F: Future<Output = Result<live::Seen<T>, AppError>> + Send,
    T: Send,
{
    let bus: &Arc<dyn EventBus> = ctx.data_unchecked();
    let freshness = ctx.data_opt::<Freshness>().cloned().unwrap_or_default();
    live::watch(&**bus, &freshness, row, read).await
}
