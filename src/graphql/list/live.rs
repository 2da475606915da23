//! Lists and rows as subscriptions: as they are now, and again after every change that shows.
//!
//! A change wakes the subscriptions it may concern, by its table and owner; they read again, at most twenty times a second
//! each, and send what differs from what was sent last. Nothing is read while nothing changes.

use std::{borrow::Cow, collections::HashSet, pin::Pin, sync::Arc, time::Duration};

use async_graphql::{
    Context, ID, Name, Response, ServerError, ServerResult, SubscriptionType, Value,
    indexmap::IndexMap,
    parser::types::SelectionSet,
    registry::{MetaType, Registry},
};
use futures_util::{Stream, StreamExt as _, future::select_all, stream};
use tokio::time::Instant;

use super::{
    super::viewer,
    added::added,
    filter::argument,
    lists::{Entry, LISTS, arguments_of, given, list, node},
    noun::Noun,
    row::{object, output_field},
    select::{self, collect},
};
use crate::{
    domain::{
        Table,
        policy::{Action, Resource, Scope, Viewer, scope},
    },
    live::{self, EventBus, Freshness, Interest, InterestListener, Looker},
};

/// Shortest time between two looks of one subscription.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// The part of the subscription type that the declarations make.
#[derive(Default)]
pub struct LiveLists;

/// The table whose changes are announced for a noun.
pub(super) fn table_of(noun: &Noun) -> Table {
    match noun.resource {
        Resource::App => Table::App,
        Resource::AuditEvent => Table::AuditEvent,
        Resource::Cluster => Table::Cluster,
        Resource::ConnectionLog => Table::ConnectionLog,
        Resource::Container | Resource::Report => Table::Container,
        Resource::Engine => Table::Engine,
        Resource::Host => Table::Host,
        Resource::Image => Table::Image,
        Resource::LoginEvent => Table::LoginEvent,
        Resource::Pool => Table::Pool,
        Resource::Region => Table::Region,
        Resource::Schedule => Table::Schedule,
        Resource::Setting => Table::Configuration,
        Resource::Session => Table::Session,
        Resource::Snapshot => Table::Snapshot,
        Resource::Task | Resource::Queue | Resource::Worker | Resource::Backup => Table::Task,
        Resource::User => Table::User,
        Resource::VirtualMachine => Table::VirtualMachine,
    }
}

/// The lists that only grow, each with the field that streams what is added.
pub fn growing() -> impl Iterator<Item = (&'static str, &'static Entry)> {
    LISTS.iter().filter_map(|entry| Some((entry.added?, entry)))
}

/// All of a noun's rows that the viewer reaches.
fn all_of(noun: &Noun, viewer: Viewer) -> Option<Interest> {
    let table = table_of(noun);
    match scope(viewer, Action::Read, noun.resource) {
        Scope::Everything => Some(Interest::All(table)),
        // Changes are told apart by owner, not by host; there are few agents.
        Scope::OnHost(_) if noun.host.is_some() => Some(Interest::All(table)),
        Scope::OwnedBy(user) if noun.owner.is_some() => Some(Interest::Owner(table, user.uuid())),
        Scope::OwnedBy(_) | Scope::OnHost(_) | Scope::Nothing => None,
    }
}

/// Collects what is shown beside rows of `noun`: those that links point at and those of lists below them, at any depth.
fn shown_below<'a>(
    ctx: &'a Context<'_>,
    noun: &'static Noun,
    sets: impl IntoIterator<Item = &'a SelectionSet>,
    viewer: Viewer,
    found: &mut Vec<Interest>,
) {
    let collected = collect(&ctx.query_env.fragments, noun.name, sets);
    for (_, fields) in collected.unwrap_or_default() {
        let name = fields[0].name.node.as_str();
        if let Some(link) = noun.link(name) {
            let there = (link.noun)();
            found.extend(all_of(there, viewer));
            shown_below(ctx, there, select::sets(&fields), viewer, found);
        } else if let Some(many) = noun.many(name) {
            let there = (many.noun)();
            found.extend(all_of(there, viewer));
            for (_, value) in given(ctx).values_of(fields[0]) {
                chosen_by(&value, there, viewer, found);
            }
            rows_of_list(ctx, there, select::sets(&fields), viewer, found);
        }
    }
}

/// The same of the selections of a list.
fn rows_of_list<'a>(
    ctx: &'a Context<'_>,
    noun: &'static Noun,
    sets: impl IntoIterator<Item = &'a SelectionSet>,
    viewer: Viewer,
    found: &mut Vec<Interest>,
) {
    let fragments = &ctx.query_env.fragments;
    let connection = format!("{}Connection", noun.name);
    for (_, fields) in collect(fragments, &connection, sets).unwrap_or_default() {
        match fields[0].name.node.as_str() {
            "nodes" => shown_below(ctx, noun, select::sets(&fields), viewer, found),
            "edges" => {
                let edge = format!("{}Edge", noun.name);
                let edges = collect(fragments, &edge, select::sets(&fields));
                for (_, fields) in edges.unwrap_or_default() {
                    if fields[0].name.node.as_str() == "node" {
                        shown_below(ctx, noun, select::sets(&fields), viewer, found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Collects the rows an argument of a list chooses by.
fn chosen_by(value: &Value, noun: &'static Noun, viewer: Viewer, found: &mut Vec<Interest>) {
    for link in noun.links {
        if mentions(value, link.name) {
            found.extend(all_of((link.noun)(), viewer));
        }
    }
}

/// Whether an object in `value` has the field `name`.
fn mentions(value: &Value, name: &str) -> bool {
    match value {
        Value::Object(object) => object
            .iter()
            .any(|(key, value)| key.as_str() == name || mentions(value, name)),
        Value::List(items) => items.iter().any(|item| mentions(item, name)),
        _ => false,
    }
}

/// What a watched list depends on, for the viewer: its own rows and those it shows or is chosen by.
fn list_interests(ctx: &Context<'_>, noun: &'static Noun, viewer: Viewer) -> Vec<Interest> {
    let mut found: Vec<Interest> = all_of(noun, viewer).into_iter().collect();
    for (_, value) in arguments_of(ctx).unwrap_or_default() {
        chosen_by(&value, noun, viewer, &mut found);
    }
    let selection = [&ctx.item.node.selection_set.node];
    rows_of_list(ctx, noun, selection, viewer, &mut found);
    found
}

/// What a watched row depends on.
fn node_interests(ctx: &Context<'_>, viewer: Viewer) -> ServerResult<Vec<Interest>> {
    let (_, id) = ctx.param_value::<ID>("id", None)?;
    let mut found = Vec::new();
    for noun in LISTS.iter().map(|entry| (entry.noun)()) {
        if let Some(uuid) = super::lists::parse_id(noun, &id) {
            found.push(Interest::Row(table_of(noun), uuid));
            let selection = [&ctx.item.node.selection_set.node];
            shown_below(ctx, noun, selection, viewer, &mut found);
        }
    }
    Ok(found)
}

/// What is looked at.
#[derive(Clone, Copy)]
enum Look {
    List(&'static Entry),
    Node,
}

impl SubscriptionType for LiveLists {
    fn type_name() -> Cow<'static, str> {
        "LiveLists".into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_subscription_type::<Self, _>(|registry| {
            let mut fields = Vec::new();
            for entry in &LISTS {
                let arguments = (entry.arguments)(registry);
                let connection = entry.connection(registry);
                let doc = format!(
                    "The same list as the query's `{}`: as it is now, and again after every change of it.",
                    entry.list
                );
                let mut field = output_field(entry.list, connection, doc, arguments);
                field.compute_complexity = Some(super::lists::list_cost);
                fields.push(field);
            }
            for (name, entry) in growing() {
                let noun = (entry.noun)();
                let doc = format!(
                    "Each `{}` that is added: its own message, or one with others it was added with, the oldest first. \
                     After a loss of the connection go on from the id of the last one; what was made up to ten seconds \
                     before that one may then come again, since its writing may have taken longer. For administrators.",
                    noun.name
                );
                let after = argument("after", "ID", "Only what is added after the one with this id; else from now on.");
                let filter = entry.filter_argument(registry);
                let rows = format!("[{}!]!", noun.name);
                let mut field = output_field(name, rows, doc, [after, filter]);
                field.compute_complexity = Some(super::lists::list_cost);
                fields.push(field);
            }
            let id = argument("id", "ID!", "The id of anything.");
            let doc = "Whatever has this id: as it is now, and again after every change; null with an error, and no more, when the viewer may not see it.";
            fields.push(output_field("node", "Node", doc, [id]));
            let mut ty = object("LiveLists".to_owned(), "Lists and rows to watch.", fields);
            if let MetaType::Object {
                is_subscription, ..
            } = &mut ty
            {
                *is_subscription = true;
            }
            ty
        })
    }

    fn create_field_stream<'a>(
        &'a self,
        ctx: &'a Context<'_>,
    ) -> Option<Pin<Box<dyn Stream<Item = Response> + Send + 'a>>> {
        let name = ctx.item.node.name.node.as_str();
        if let Some((_, entry)) = growing().find(|(added, _)| *added == name) {
            return Some(added(ctx, entry).boxed());
        }
        let look = if name == "node" {
            Look::Node
        } else {
            Look::List(LISTS.iter().find(|entry| entry.list == name)?)
        };
        let freshness = ctx.data_opt::<Freshness>().cloned().unwrap_or_default();
        let watch = Watch {
            ctx,
            look,
            listeners: None,
            looker: freshness.looker(),
            sent: None,
            looked_at: None,
            is_over: false,
        };
        Some(Box::pin(stream::unfold(watch, async |mut watch| {
            watch.next().await.map(|response| (response, watch))
        })))
    }
}

struct Watch<'a, 'b> {
    ctx: &'a Context<'b>,
    look: Look,
    /// There before the first look, so that nothing is missed in between.
    listeners: Option<Vec<InterestListener>>,
    looker: Looker,
    sent: Option<Value>,
    looked_at: Option<Instant>,
    is_over: bool,
}

impl Watch<'_, '_> {
    async fn next(&mut self) -> Option<Response> {
        while !self.is_over {
            // Whoever asks for more has passed on what was given.
            self.looker.settle();
            if let Err(error) = self.wait().await {
                self.is_over = true;
                return Some(self.failed(error));
            }
            self.looker.begin();
            self.looked_at = Some(Instant::now());
            // It takes much room, and is there only while somebody looks.
            match Box::pin(self.value()).await {
                Ok(value) if self.sent.as_ref() == Some(&value) => {}
                Ok(value) => {
                    self.sent = Some(value.clone());
                    return Some(response(self.ctx, value));
                }
                // What was sent stays true until the database is back; the first look has nothing to stay with.
                Err(error) if self.sent.is_some() && is_outage(&error) => {
                    self.looker.settle();
                    live::pause().await;
                    self.looked_at = None;
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(self.failed(error));
                }
            }
        }
        None
    }

    /// Waits for a reason to look; the first time, and after an outage, there is one at once.
    async fn wait(&mut self) -> ServerResult<()> {
        let Some(listeners) = &mut self.listeners else {
            let viewer =
                viewer(self.ctx).map_err(|error| error.into_server_error(self.ctx.item.pos))?;
            // One change is one reason to look.
            let interests = match self.look {
                Look::List(entry) => list_interests(self.ctx, (entry.noun)(), viewer),
                Look::Node => node_interests(self.ctx, viewer)?,
            };
            let interests: HashSet<Interest> = interests.into_iter().collect();
            let bus: &Arc<dyn EventBus> = self.ctx.data_unchecked();
            let listeners = interests
                .into_iter()
                .map(|interest| bus.listen_to(interest));
            self.listeners = Some(listeners.collect());
            return Ok(());
        };
        let Some(looked_at) = self.looked_at else {
            return Ok(());
        };
        let changed = async {
            let each = listeners
                .iter_mut()
                .map(|listener| Box::pin(listener.changed()));
            if each.len() == 0 {
                std::future::pending::<()>().await;
            }
            select_all(each).await;
            // What changes meanwhile is seen together.
            pause_until(looked_at + PAUSE).await;
            for listener in listeners {
                listener.catch_up();
            }
        };
        tokio::select! {
            () = changed => {}
            // Somebody who has just come sees nothing older than that.
            () = self.looker.asked() => {}
        }
        Ok(())
    }

    async fn value(&self) -> ServerResult<Value> {
        match self.look {
            Look::List(entry) => list(self.ctx, entry).await,
            Look::Node => {
                let (_, id) = self.ctx.param_value::<ID>("id", None)?;
                let found = node(self.ctx, &id).await;
                found.map_err(|error| {
                    self.ctx
                        .set_error_path(error.into_server_error(self.ctx.item.pos))
                })
            }
        }
    }

    fn failed(&self, error: ServerError) -> Response {
        let mut response = match self.look {
            Look::Node => response(self.ctx, Value::Null),
            Look::List(_) => Response::default(),
        };
        response.errors.push(error);
        response
    }
}

/// What a subscription sends: the value of its field.
pub(super) fn response(ctx: &Context<'_>, value: Value) -> Response {
    let key = Name::new(&ctx.item.node.response_key().node);
    Response::new(Value::Object(IndexMap::from_iter([(key, value)])))
}

fn is_outage(error: &ServerError) -> bool {
    let code = error
        .extensions
        .as_ref()
        .and_then(|extensions| extensions.get("code"));
    code == Some(&Value::from("UNAVAILABLE"))
}

async fn pause_until(at: Instant) {
    tokio::time::sleep_until(at).await;
}
