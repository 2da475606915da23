//! The one schema: a file a noun with its type, queries, mutations and subscriptions.
//!
//! A resolver has three moves: parse, one call, wrap. Business rules live in `services`, access in `domain::policy`.

mod account;
mod app;
mod container;
pub mod error;
mod limits;
pub mod operations;
mod page;
mod queue;
mod schedule;
mod task;

use std::{sync::Arc, time::Duration};

use async_graphql::{
    Context, Data, Executor, MergedObject, MergedSubscription, Request, Response, SDLExportOptions,
    Schema, ServerError, parser::types::OperationType,
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use operations::Operations;

use crate::{
    domain::{Id, id::Identified, policy::Viewer},
    error::AppError,
    live::EventBus,
    services::Services,
    store::sessions::Origin,
};

/// Everything that can be read.
#[derive(MergedObject, Default)]
pub struct Query(
    account::AccountQuery,
    app::AppQuery,
    container::ContainerQuery,
    task::TaskQuery,
    queue::QueueQuery,
    schedule::ScheduleQuery,
);

/// Everything that can be done.
#[derive(MergedObject, Default)]
pub struct Mutation(
    account::AccountMutation,
    container::ContainerMutation,
    task::TaskMutation,
    queue::QueueMutation,
    schedule::ScheduleMutation,
);

/// Everything that can be watched.
#[derive(MergedSubscription, Default)]
pub struct Subscription(container::ContainerSubscription, task::TaskSubscription);

type ApiSchema = Schema<Query, Mutation, Subscription>;

/// Deepest nesting of a query. The introspection query of common clients needs 13.
const DEPTH: usize = 15;
/// Most fields of a query, list items not counted.
const COMPLEXITY: usize = 1000;
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
    operations: Arc<Operations>,
    longest: Duration,
}

/// What is offered beside the operations themselves.
pub struct Offer {
    pub operations: Operations,
    /// Whether the schema answers questions about itself.
    pub introspection: bool,
    /// Bounds a query or a mutation; a subscription has no end.
    pub longest: Duration,
}

impl Api {
    pub fn new(services: Services, bus: Arc<dyn EventBus>, offer: Offer) -> Self {
        let mut schema = builder().data(services).data(bus);
        if !offer.introspection {
            // A suggestion gives a part of the schema away.
            schema = schema.disable_introspection().disable_suggestions();
        }
        Self {
            schema: schema.finish(),
            operations: Arc::new(offer.operations),
            longest: offer.longest,
        }
    }

    /// The text of the persisted operation `name`.
    pub fn operation(&self, name: &str) -> Option<&str> {
        self.operations.named(name)
    }

    /// The kind of the operation a request would execute; `None` when it cannot be.
    pub fn kind(request: &mut Request) -> Option<OperationType> {
        let name = request.operation_name.clone();
        let document = request.parsed_query().ok()?;
        limits::chosen(document, name.as_deref()).map(|operation| operation.ty)
    }

    /// Completes a request that names a persisted operation.
    pub fn resolve(&self, request: &mut Request) -> Result<(), AppError> {
        self.operations.resolve(request)
    }

    /// Completes and checks a request before it is executed.
    fn admit(&self, request: &mut Request) -> Result<(), Response> {
        let refused = |error: ServerError| error::with_codes(Response::from_errors(vec![error]));
        let shown = |error: AppError| refused(error::Coded(&error).into());
        self.resolve(request).map_err(shown)?;
        let (name, variables) = (
            request.operation_name.clone(),
            std::mem::take(&mut request.variables),
        );
        let document = request.parsed_query().map_err(refused)?;
        limits::check(document).map_err(shown)?;
        if let Some(operation) = limits::chosen(document, name.as_deref()) {
            limits::check_variables(operation, &variables).map_err(shown)?;
        }
        request.variables = variables;
        Ok(())
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

impl Executor for Api {
    async fn execute(&self, mut request: Request) -> Response {
        if let Err(refused) = self.admit(&mut request) {
            return refused;
        }
        let answer = tokio::time::timeout(self.longest, self.schema.execute(request)).await;
        error::with_codes(answer.unwrap_or_else(|_| {
            let late = AppError::Unavailable {
                what: "an answer in time",
            };
            Response::from_errors(vec![ServerError::from(error::Coded(&late))])
        }))
    }

    fn execute_stream(
        &self,
        mut request: Request,
        session_data: Option<Arc<Data>>,
    ) -> BoxStream<'static, Response> {
        if let Err(refused) = self.admit(&mut request) {
            return stream::once(std::future::ready(refused)).boxed();
        }
        self.schema
            .execute_stream_with_session_data(request, session_data.unwrap_or_default())
            .map(error::with_codes)
            .boxed()
    }
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
