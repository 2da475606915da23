//! Lists and rows as subscriptions: as they are now, and again after every change that shows.
//!
//! A change wakes the subscriptions it may concern, by its table and owner; they read again, at most twenty times a second
//! each, and send what differs from what was sent last. Nothing is read while nothing changes.

use std::{borrow::Cow, collections::HashSet, pin::Pin, sync::Arc, time::Duration};

use async_graphql::{
    Context, ID, Name, Response, ServerError, ServerResult, SubscriptionType, Value,
    indexmap::IndexMap,
    registry::{MetaType, Registry},
};
use futures_util::{Stream, future::select_all, stream};
use tokio::time::Instant;

use super::{
    super::viewer,
    filter::argument,
    lists::{Entry, LISTS, list, node},
    noun::Noun,
    row::{object, output_field},
};
use crate::{
    domain::{
        Table,
        policy::{Action, Scope, Viewer, scope},
    },
    live::{EventBus, Freshness, Interest, InterestListener, Looker},
};

/// Shortest time between two looks of one subscription.
const PAUSE: Duration = Duration::from_millis(50);
/// Pause before the next look while the database is away.
const OUTAGE: Duration = Duration::from_millis(500);

/// The part of the subscription type that the declarations make.
#[derive(Default)]
pub struct LiveLists;

/// The table whose changes are announced for a noun.
fn table_of(noun: &Noun) -> Option<Table> {
    match noun.table {
        "container" => Some(Table::Container),
        "task" | "task_archive" => Some(Table::Task),
        _ => None,
    }
}

/// What a list of `noun` depends on, for the viewer: its own rows and those its links point at.
fn interests(noun: &'static Noun, viewer: Viewer) -> Vec<Interest> {
    let linked = noun.links.iter().map(|link| (link.noun)());
    let mut interests = Vec::new();
    for noun in std::iter::once(noun).chain(linked) {
        let Some(table) = table_of(noun) else {
            continue;
        };
        interests.push(match scope(viewer, Action::Read, noun.resource) {
            Scope::Everything => Interest::All(table),
            Scope::OwnedBy(user) => Interest::Owner(table, user.uuid()),
            Scope::Nothing => continue,
        });
    }
    interests
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
                let arguments = entry.arguments(registry);
                let connection = entry.connection(registry);
                let doc = format!(
                    "The same list as the query's `{}`: as it is now, and again after every change of it.",
                    entry.list
                );
                let mut field = output_field(entry.list, connection, doc, arguments);
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
            match self.value().await {
                Ok(value) if self.sent.as_ref() == Some(&value) => {}
                Ok(value) => {
                    self.sent = Some(value.clone());
                    return Some(self.response(value));
                }
                // What was sent stays true until the database is back; the first look has nothing to stay with.
                Err(error) if self.sent.is_some() && is_outage(&error) => {
                    self.looker.settle();
                    pause_until(Instant::now() + OUTAGE).await;
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
            let interests = match self.look {
                Look::List(entry) => interests((entry.noun)(), viewer),
                Look::Node => node_interests(&self.ctx.param_value::<ID>("id", None)?.1, viewer),
            };
            let bus: &Arc<dyn EventBus> = self.ctx.data_unchecked();
            // One change is one reason to look.
            let interests: HashSet<Interest> = interests.into_iter().collect();
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

    fn response(&self, value: Value) -> Response {
        let key = Name::new(&self.ctx.item.node.response_key().node);
        Response::new(Value::Object(IndexMap::from_iter([(key, value)])))
    }

    fn failed(&self, error: ServerError) -> Response {
        let mut response = match self.look {
            Look::Node => self.response(Value::Null),
            Look::List(_) => Response::default(),
        };
        response.errors.push(error);
        response
    }
}

fn node_interests(id: &str, viewer: Viewer) -> Vec<Interest> {
    let nouns = LISTS.iter().map(|entry| (entry.noun)());
    let mut found = Vec::new();
    for noun in nouns {
        let Some(uuid) = super::lists::parse_id(noun, id) else {
            continue;
        };
        if let Some(table) = table_of(noun) {
            found.push(Interest::Row(table, uuid));
        }
        for link in noun.links {
            found.extend(interests((link.noun)(), viewer));
        }
    }
    found
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
