//! The lists at the top of the schema: for each entity a list, its aggregates, and one row by its id.

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use async_graphql::{
    ContainerType, Context, ContextSelectionSet, ID, InputType, ObjectType, OutputType, Positioned,
    ServerError, ServerResult, Value, VisitorContext,
    parser::types::{Field, VariableDefinition},
    registry::{MetaField, MetaInputValue, MetaType, MetaTypeId, Registry},
    resolver_utils::resolve_container,
};
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::{
    super::{error::nullable, services, viewer},
    aggregate,
    below::{self, Given, Plan, plan},
    cell::Cell,
    connection::{Compiled, Connection},
    filter::{Filter, argument},
    noun::{Kind, Noun},
    order::OrderBy,
    page::Page,
    read::{Asked, DEFAULT, MOST, Part, by_ids, check_access},
    row::{Row, Shown, object, output_field, record_columns},
    select::{Columns, Shape, collect},
};
use crate::{
    domain::{self, policy::Viewer},
    error::AppError,
    store::{
        accounts, apps, archive, audit, clusters, connection_logs, containers, engines, hosts,
        images, login_events, machines, pools, regions, schedules, sessions, snapshots, tasks,
    },
};

/// A list of the schema.
pub struct Entry {
    /// The field with the list.
    pub list: &'static str,
    /// The field with one of its rows.
    pub one: &'static str,
    /// The subscription to what is added, of a list that only grows.
    pub added: Option<&'static str>,
    pub noun: fn() -> &'static Noun,
    connection: fn(&mut Registry) -> String,
    filter: fn(&mut Registry) -> MetaInputValue,
    /// The arguments that choose a part of the list.
    pub arguments: fn(&mut Registry) -> [MetaInputValue; 6],
    row: fn(&mut Registry) -> String,
    resolve_list: for<'a> fn(&'a Context<'a>, Asked, Viewer) -> BoxFuture<'a, ServerResult<Value>>,
    resolve_one:
        for<'a> fn(&'a Context<'a>, Vec<Cell<'static>>) -> BoxFuture<'a, ServerResult<Value>>,
}

const fn entry<E: Shown>(list: &'static str, one: &'static str) -> Entry {
    Entry {
        list,
        one,
        added: None,
        noun: E::noun,
        connection: Connection::<E>::create_type_info,
        filter: filter_argument::<E>,
        arguments: list_arguments::<E>,
        row: <Option<Row<E>> as OutputType>::create_type_info,
        resolve_list: |ctx, asked, viewer| {
            Box::pin(async move {
                let part = located(ctx, Part::new(E::noun(), asked, viewer).map_err(Into::into))?;
                by_resolvers::<E>(ctx, part).await
            })
        },
        resolve_one: |ctx, cells| {
            Box::pin(async move {
                let selection = ctx.with_selection_set(&ctx.item.node.selection_set);
                Row::<E>::from_cells(cells)
                    .resolve(&selection, ctx.item)
                    .await
            })
        },
    }
}

impl Entry {
    /// Of a list whose rows neither change nor end before their time.
    const fn growing(mut self, added: &'static str) -> Self {
        self.added = Some(added);
        self
    }
}

/// Every list.
pub static LISTS: [Entry; 18] = [
    entry::<apps::Entity>("apps", "app"),
    entry::<audit::Entity>("auditEvents", "auditEvent").growing("auditEventAdded"),
    entry::<clusters::Entity>("clusters", "cluster"),
    entry::<connection_logs::Entity>("connectionLogs", "connectionLog"),
    entry::<containers::Entity>("containers", "container"),
    entry::<engines::Entity>("engines", "engine"),
    entry::<hosts::Entity>("hosts", "host"),
    entry::<login_events::Entity>("loginEvents", "loginEvent").growing("loginEventAdded"),
    entry::<images::Entity>("machineImages", "machineImage"),
    entry::<regions::Entity>("regions", "region"),
    entry::<schedules::Entity>("schedules", "schedule"),
    entry::<sessions::Entity>("sessions", "session"),
    entry::<snapshots::Entity>("snapshots", "snapshot"),
    entry::<tasks::Entity>("tasks", "task"),
    // After the tasks, whose ids theirs were.
    entry::<archive::Entity>("archivedTasks", "archivedTask"),
    entry::<accounts::Entity>("users", "user"),
    entry::<machines::Entity>("virtualMachines", "virtualMachine"),
    entry::<pools::Entity>("warmPools", "warmPool"),
];

/// The declaration of a table's rows.
pub fn noun_of_table(table: &str) -> Option<&'static Noun> {
    let mut nouns = LISTS.iter().map(|entry| (entry.noun)());
    nouns.find(|noun| noun.table == table)
}

/// The list behind a field.
pub fn entry_of_list(name: &str) -> Option<&'static Entry> {
    LISTS.iter().find(|entry| entry.list == name)
}

/// The types and the row an id may point at.
fn entries_of_id(id: &str) -> impl Iterator<Item = (&'static Entry, Uuid)> {
    LISTS.iter().filter_map(move |entry| {
        let uuid = parse_id((entry.noun)(), id)?;
        Some((entry, uuid))
    })
}

/// Reads an id of the noun's rows.
pub fn parse_id(noun: &'static Noun, text: &str) -> Option<Uuid> {
    let Kind::Id(prefix) = noun.fields.first()?.kind else {
        return None;
    };
    domain::id::read(prefix, text)
}

/// The arguments that choose a part of a list of `E`s.
pub fn list_arguments<E: Shown>(registry: &mut Registry) -> [MetaInputValue; 6] {
    [
        filter_argument::<E>(registry),
        argument(
            "orderBy",
            <Option<Vec<OrderBy<E>>> as InputType>::create_type_info(registry),
            "In this order, at most four keys; the newest first by default.",
        ),
        argument(
            "first",
            "Int",
            "At most so many, from the start; 0 to 100, 20 by default.",
        ),
        argument("after", "String", "Only what comes after this cursor."),
        argument("last", "Int", "At most so many, from the end; 0 to 100."),
        argument("before", "String", "Only what comes before this cursor."),
    ]
}

fn filter_argument<E: Shown>(registry: &mut Registry) -> MetaInputValue {
    let filter = <Option<Filter<E>> as InputType>::create_type_info(registry);
    argument("filter", filter, "Only those that are like this.")
}

/// The part of the query type that the declarations make.
#[derive(Default)]
pub struct Lists;

impl Entry {
    pub fn filter_argument(&self, registry: &mut Registry) -> MetaInputValue {
        (self.filter)(registry)
    }

    pub fn connection(&self, registry: &mut Registry) -> String {
        (self.connection)(registry)
    }

    fn fields(&self, registry: &mut Registry) -> [MetaField; 3] {
        let noun = (self.noun)();
        let arguments = (self.arguments)(registry);
        let connection = (self.connection)(registry);
        let whose = if noun.owner.is_some() {
            ": the viewer's, or everybody's for an administrator"
        } else {
            ""
        };
        let doc = format!("The `{}`s in reach{whose}.", noun.name);
        let mut list = output_field(self.list, connection, doc, arguments);
        list.compute_complexity = Some(list_cost);
        let doc = format!(
            "One `{}`; null with the error `NOT_FOUND` when there is none the viewer may see.",
            noun.name
        );
        let row = (self.row)(registry);
        let one = output_field(self.one, row, doc, [argument("id", "ID!", "Its id.")]);
        let filter = self.filter_argument(registry);
        let aggregate = aggregate::field(registry, self.list, noun, filter);
        [list, one, aggregate]
    }
}

/// A list costs what one of its rows costs, times the rows asked for.
pub fn list_cost(
    ctx: &VisitorContext<'_>,
    variables: &[Positioned<VariableDefinition>],
    field: &Field,
    below: usize,
) -> ServerResult<usize> {
    let first: Option<i32> = ctx.param_value(variables, field, "first", None)?;
    let last: Option<i32> = ctx.param_value(variables, field, "last", None)?;
    let rows = first
        .or(last)
        .map_or(DEFAULT, |rows| u16::try_from(rows).unwrap_or(0).min(MOST));
    Ok(1 + below * usize::from(rows.max(1)))
}

impl OutputType for Lists {
    fn type_name() -> Cow<'static, str> {
        "Lists".into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_output_type::<Self, _>(MetaTypeId::Object, |registry| {
            let mut fields = Vec::new();
            for entry in &LISTS {
                fields.extend(entry.fields(registry));
            }
            register_node(registry);
            let id = argument("id", "ID!", "The id of anything.");
            let doc = "Whatever has this id; null with the error `NOT_FOUND` when there is none the viewer may see.";
            fields.push(output_field("node", "Node", doc, [id]));
            let ids = argument("ids", "[ID!]!", "The ids, at most 100.");
            let doc = "Whatever has these ids, in their order; null for what the viewer may not see.";
            fields.push(output_field("nodes", "[Node]!", doc, [ids]));
            object("Lists".to_owned(), "Everything that is listed.", fields)
        })
    }

    async fn resolve(
        &self,
        ctx: &ContextSelectionSet<'_>,
        _: &Positioned<Field>,
    ) -> ServerResult<Value> {
        resolve_container(ctx, self).await
    }
}

fn register_node(registry: &mut Registry) {
    let id = output_field("id", "ID!", "Its id, unlike any other.", []);
    let node = MetaType::Interface {
        name: "Node".to_owned(),
        description: Some("Whatever has an id.".to_owned()),
        fields: std::iter::once(("id".to_owned(), id)).collect(),
        possible_types: LISTS
            .iter()
            .map(|entry| (entry.noun)().name.to_owned())
            .collect(),
        extends: false,
        inaccessible: false,
        tags: Vec::new(),
        keys: None,
        visible: None,
        rust_typename: None,
        directive_invocations: Vec::new(),
        requires_scopes: Vec::new(),
    };
    registry.types.insert("Node".to_owned(), node);
}

impl ContainerType for Lists {
    async fn resolve_field(&self, ctx: &Context<'_>) -> ServerResult<Option<Value>> {
        let name = ctx.item.node.name.node.as_str();
        match name {
            "node" => {
                let (_, id) = ctx.param_value::<ID>("id", None)?;
                return Ok(Some(
                    nullable(ctx, node(ctx, &id).await).unwrap_or_default(),
                ));
            }
            "nodes" => return nodes(ctx).await.map(Some),
            _ => {}
        }
        for entry in &LISTS {
            if entry.list == name {
                return list(ctx, entry).await.map(Some);
            }
            if entry.one == name {
                let (_, id) = ctx.param_value::<ID>("id", None)?;
                let uuid = parse_id((entry.noun)(), &id);
                return Ok(Some(one(ctx, entry, uuid).await));
            }
            if name.strip_prefix(entry.list) == Some("Aggregate") {
                return aggregate::resolve(ctx, (entry.noun)()).await.map(Some);
            }
        }
        Ok(None)
    }
}

impl ObjectType for Lists {}

fn located<T>(ctx: &Context<'_>, result: async_graphql::Result<T>) -> ServerResult<T> {
    result.map_err(|error| ctx.set_error_path(error.into_server_error(ctx.item.pos)))
}

/// An error without its place, which whoever passes it on gives it.
pub(super) fn unlocated(error: ServerError) -> async_graphql::Error {
    async_graphql::Error {
        message: error.message,
        source: error.source,
        extensions: error.extensions,
    }
}

/// The arguments of a field, with its variables put in.
pub fn arguments(ctx: &Context<'_>, noun: &'static Noun) -> ServerResult<Asked> {
    let mut asked = Asked::default();
    for (name, value) in arguments_of(ctx)? {
        located(ctx, asked.read(noun, &name, value).map_err(Into::into))?;
    }
    Ok(asked)
}

/// The arguments that were given, as values.
pub fn arguments_of(ctx: &Context<'_>) -> ServerResult<Vec<(String, Value)>> {
    let mut given = Vec::new();
    for (name, _) in &ctx.item.node.arguments {
        let name = name.node.as_str();
        given.push((name.to_owned(), ctx.param_value::<Any>(name, None)?.1.0));
    }
    Ok(given)
}

/// Any value of an argument; its type is checked before, by the registered one.
struct Any(Value);

impl InputType for Any {
    type RawValueType = Self;
    fn type_name() -> Cow<'static, str> {
        "Any".into()
    }
    fn create_type_info(_: &mut Registry) -> String {
        "Any".to_owned()
    }
    fn parse(value: Option<Value>) -> async_graphql::InputValueResult<Self> {
        Ok(Self(value.unwrap_or_default()))
    }
    fn to_value(&self) -> Value {
        self.0.clone()
    }
    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }
}

/// Whether no other field of the operation's top goes into the same key: a text cannot be merged with another.
fn stands_alone(ctx: &Context<'_>) -> bool {
    let key = ctx.item.node.response_key().node.as_str();
    let top = &ctx.query_env.operation.node.selection_set.node;
    let fragments = &ctx.query_env.fragments;
    let names = ["Query", "Subscription"];
    names.iter().all(|name| {
        let collected = collect(fragments, name, [top]).unwrap_or_default();
        collected
            .iter()
            .all(|(known, fields)| *known != key || fields.len() == 1)
    })
}

/// A ready text as a value.
fn raw(text: String) -> Value {
    serde_json::value::RawValue::from_string(text)
        .ok()
        .and_then(|raw| async_graphql::to_value(raw).ok())
        .unwrap_or_default()
}

/// A page of a list.
pub async fn list(ctx: &Context<'_>, entry: &Entry) -> ServerResult<Value> {
    let noun = (entry.noun)();
    let viewer = located(ctx, viewer(ctx))?;
    let asked = arguments(ctx, noun)?;
    let selection = [&ctx.item.node.selection_set.node];
    let compiled = Compiled::compile(&ctx.query_env.fragments, noun, selection);
    // What cannot be asked of a list below is refused at its place, by the resolvers.
    let ready = compiled.filter(|_| stands_alone(ctx)).and_then(|compiled| {
        let plans = plan(&compiled.columns, viewer, &given(ctx)).ok()?;
        Some((compiled, plans))
    });
    match ready {
        Some((compiled, plans)) => {
            let store = &services(ctx).store;
            let page = Page::read(store, noun, &compiled, (asked, plans), viewer).await;
            let text = page.and_then(|page| page.text());
            located(ctx, text.map(raw).map_err(Into::into))
        }
        None => (entry.resolve_list)(ctx, asked, viewer).await,
    }
}

/// The values of the operation's variables.
pub(super) fn given<'a>(ctx: &'a Context<'_>) -> Given<'a> {
    let operation = &ctx.query_env.operation.node;
    let definitions = operation.variable_definitions.iter();
    Given::new(
        &ctx.query_env.variables,
        definitions.map(|definition| &definition.node),
    )
}

/// Resolves the list below a row, whose id stands in the column of the list's rows.
pub type ResolveMany =
    for<'a> fn(&'a Context<'a>, &'static str, Uuid) -> BoxFuture<'a, ServerResult<Option<Value>>>;

/// Resolves the `E`s with the id of a row in `column`.
pub fn resolve_many<'a, E: Shown>(
    ctx: &'a Context<'a>,
    column: &'static str,
    id: Uuid,
) -> BoxFuture<'a, ServerResult<Option<Value>>> {
    Box::pin(async move {
        let viewer = located(ctx, viewer(ctx))?;
        let asked = arguments(ctx, E::noun())?;
        let part = Part::in_reach(E::noun(), asked, viewer).map_err(Into::into);
        let part = located(ctx, part)?.within(column, id);
        by_resolvers::<E>(ctx, part).await.map(Some)
    })
}

async fn by_resolvers<E: Shown>(ctx: &Context<'_>, part: Part) -> ServerResult<Value> {
    let read = async {
        let store = &services(ctx).store;
        let with_total = ctx.look_ahead().field("totalCount").exists();
        let columns = record_columns(E::noun());
        let found = part.fetch(store, &columns, with_total).await?;
        let rows = part.rows(&found, &columns, with_total)?;
        Ok::<_, AppError>(Connection::<E>::of(&rows))
    };
    let connection = located(ctx, read.await.map_err(Into::into))?;
    let selection = ctx.with_selection_set(&ctx.item.node.selection_set);
    connection.resolve(&selection, ctx.item).await
}

/// One row by the field named after its type.
async fn one(ctx: &Context<'_>, entry: &'static Entry, id: Option<Uuid>) -> Value {
    let noun = (entry.noun)();
    let what = match noun.fields.first().map(|field| &field.kind) {
        Some(Kind::Id(prefix)) => prefix,
        _ => "row",
    };
    let candidates = id.map(|id| (entry, id)).into_iter();
    let found = async {
        let viewer = viewer(ctx)?;
        check_access(noun, viewer)?;
        let found = first(ctx, candidates, viewer).await?;
        Ok::<_, async_graphql::Error>(found.ok_or(AppError::NotFound { what })?)
    };
    nullable(ctx, found.await).unwrap_or_default()
}

/// One row by its id alone.
pub async fn node(ctx: &Context<'_>, id: &str) -> async_graphql::Result<Value> {
    let found = first(ctx, entries_of_id(id), viewer(ctx)?).await?;
    Ok(found.ok_or(AppError::NotFound { what: "node" })?)
}

async fn nodes(ctx: &Context<'_>) -> ServerResult<Value> {
    let (_, ids) = ctx.param_value::<Vec<ID>>("ids", None)?;
    if ids.len() > usize::from(MOST) {
        let refused = AppError::Invalid {
            field: "ids",
            reason: format!("{MOST} ids at most"),
        };
        return located(ctx, Err(refused.into()));
    }
    let viewer = located(ctx, viewer(ctx))?;
    let mut each = vec![Value::Null; ids.len()];
    // One statement a type, however many ids.
    for entry in &LISTS {
        let places = (0..)
            .zip(&ids)
            .filter(|(place, _)| each[*place] == Value::Null);
        let wanted = places.filter_map(|(place, id)| Some((place, parse_id((entry.noun)(), id)?)));
        let wanted: Vec<(usize, Uuid)> = wanted.collect();
        let uuids: Vec<Uuid> = wanted.iter().map(|(_, uuid)| *uuid).collect();
        let found = located(ctx, reached(ctx, entry, &uuids, viewer).await)?;
        for (place, uuid) in wanted {
            if let Some(value) = found.get(&uuid) {
                each[place] = value.clone();
            }
        }
    }
    Ok(Value::List(each))
}

/// The first of the candidates that the viewer reaches, as far as it is selected.
async fn first(
    ctx: &Context<'_>,
    candidates: impl Iterator<Item = (&'static Entry, Uuid)>,
    viewer: Viewer,
) -> async_graphql::Result<Option<Value>> {
    for (entry, id) in candidates {
        let found = reached(ctx, entry, &[id], viewer).await?;
        if let Some(value) = found.into_values().next() {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

/// Those of a type's rows that the viewer reaches, as far as they are selected.
async fn reached(
    ctx: &Context<'_>,
    entry: &Entry,
    ids: &[Uuid],
    viewer: Viewer,
) -> async_graphql::Result<HashMap<Uuid, Value>> {
    let mut reached = HashMap::new();
    if ids.is_empty() {
        return Ok(reached);
    }
    let noun = (entry.noun)();
    let ids: Vec<Cell> = ids.iter().map(|id| Cell::Uuid(*id)).collect();
    let selected = Selected::compile(ctx, noun, viewer);
    let rows = by_ids(&services(ctx).store, viewer, noun, &ids, &selected.columns).await?;
    let ids: Vec<Option<Uuid>> = rows.iter().map(|row| id_behind(row)).collect();
    let values = selected.values(ctx, entry, rows).await?;
    reached.extend(
        ids.into_iter()
            .zip(values)
            .filter_map(|(id, value)| Some((id?, value))),
    );
    Ok(reached)
}

/// The id of a row that was read with it behind.
pub(super) fn id_behind(row: &[Cell<'_>]) -> Option<Uuid> {
    match row.last() {
        Some(Cell::Uuid(id)) => Some(*id),
        _ => None,
    }
}

/// What is selected of rows: compiled, or all of it for the resolvers.
pub(super) struct Selected {
    pub columns: Columns,
    shape: Option<(Shape, Vec<Arc<Plan>>)>,
}

impl Selected {
    pub fn compile(ctx: &Context<'_>, noun: &'static Noun, viewer: Viewer) -> Self {
        let selection = [&ctx.item.node.selection_set.node];
        let mut columns = Columns::default();
        let shape = Shape::compile(&ctx.query_env.fragments, noun, 0, selection, &mut columns);
        let shape = shape.filter(|_| stands_alone(ctx)).and_then(|shape| {
            let plans = plan(&columns, viewer, &given(ctx)).ok()?;
            Some((shape, plans))
        });
        if shape.is_none() {
            columns = record_columns(noun);
        }
        Self { columns, shape }
    }

    /// Rows as they were selected.
    pub async fn values(
        &self,
        ctx: &Context<'_>,
        entry: &Entry,
        rows: Vec<Vec<Cell<'static>>>,
    ) -> async_graphql::Result<Vec<Value>> {
        let mut values = Vec::with_capacity(rows.len());
        if let Some((shape, plans)) = &self.shape {
            let store = &services(ctx).store;
            let cells: Vec<&[Cell<'_>]> = rows.iter().map(Vec::as_slice).collect();
            let reading = below::read(store, plans, &cells);
            let below = reading.await?;
            let below = below::written(&below)?;
            for row in cells {
                let mut text = String::new();
                shape.write(&mut text, row, &below);
                values.push(raw(text));
            }
        } else {
            for cells in rows {
                let resolved = (entry.resolve_one)(ctx, cells).await;
                values.push(resolved.map_err(unlocated)?);
            }
        }
        Ok(values)
    }
}
