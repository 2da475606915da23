//! Lists that only grow, as streams: every row once, the oldest first.
//!
//! Rows are in the order of their ids, which is that of the time they were made; but who made the earlier row may commit it
//! later. So each look goes back behind the newest row that was sent, and leaves out what was sent.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_graphql::{Context, Error, Response, Value};
use chrono::{DateTime, Utc};
use futures_util::{
    Stream, StreamExt as _,
    stream::{self, BoxStream},
};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    super::{access::Access, services, viewer},
    cell::Cell,
    filter::Tree,
    lists::{Entry, Selected, arguments, id_behind, parse_id, unlocated},
    live::{PAUSE, response, table_of},
    noun::Noun,
    read::{self, MOST},
};
use crate::{
    domain::{
        entropy::earliest,
        policy::{Action, Viewer},
    },
    error::AppError,
    live::{self, EventBus, Interest, More},
    store::Store,
};

/// The longest a row may take from its making to its commit.
const LONGEST: Duration = Duration::from_secs(10);

/// The rows of the list that are added, as far as they are selected.
pub fn added<'a>(
    ctx: &'a Context<'_>,
    entry: &'static Entry,
) -> impl Stream<Item = Response> + Send + 'a {
    let began = begin(ctx, entry);
    stream::once(std::future::ready(began)).flat_map(move |began| match began {
        Ok((signs, place)) => {
            let selected = Arc::clone(&place.selected);
            let rows = live::tail(signs, None::<()>, move |_| {
                let place = place.clone();
                async move { place.more().await }
            });
            rows.then(move |rows| {
                let selected = Arc::clone(&selected);
                async move { answer(ctx, entry, &selected, rows).await }
            })
            .boxed()
        }
        Err(error) => stream::once(std::future::ready(refused(ctx, error))).boxed(),
    })
}

type Signs = BoxStream<'static, Result<(), AppError>>;

fn begin(ctx: &Context<'_>, entry: &Entry) -> async_graphql::Result<(Signs, Place)> {
    let noun = (entry.noun)();
    let viewer = viewer(ctx)?;
    if let Some(refused) = Access::Whole(Action::Read, noun.resource).refusal(viewer) {
        return Err(refused.into());
    }
    let asked = arguments(ctx, noun).map_err(unlocated)?;
    if let Some(filter) = &asked.filter {
        filter.check(viewer)?;
    }
    let after = asked.after.map(|id| {
        parse_id(noun, &id).ok_or_else(|| AppError::Invalid {
            field: "after",
            reason: "not the id of one of these".to_owned(),
        })
    });
    let after = after.transpose()?;
    // There before the first look, so that nothing is missed in between.
    let bus: &Arc<dyn EventBus> = ctx.data_unchecked();
    let listener = bus.listen_to(Interest::All(table_of(noun)));
    let selected = Arc::new(Selected::compile(ctx, noun, viewer));
    let signs = stream::unfold((listener, None), async |(mut listener, looked_at)| {
        if let Some(looked_at) = looked_at {
            if !listener.changed().await {
                return None;
            }
            tokio::time::sleep_until(looked_at + PAUSE).await;
            listener.catch_up();
        }
        Some((Ok(()), (listener, Some(Instant::now()))))
    });
    let place = Place {
        store: services(ctx).store.clone(),
        noun,
        viewer,
        filter: asked.filter.map(Arc::new),
        selected,
        sent: Arc::new(Mutex::new(Sent {
            is_begun: after.is_some(),
            ids: after.into_iter().collect(),
            behind: after.map(|id| earliest(made_at(id) - LONGEST)),
        })),
    };
    Ok((signs.boxed(), place))
}

/// When a thing of this id was made.
fn made_at(id: Uuid) -> DateTime<Utc> {
    let millis = id.as_u128() >> 80;
    DateTime::from_timestamp_millis(i64::try_from(millis).unwrap_or_default()).unwrap_or_default()
}

/// How far a stream has come.
#[derive(Clone)]
struct Place {
    store: Store,
    noun: &'static Noun,
    viewer: Viewer,
    filter: Option<Arc<Tree>>,
    selected: Arc<Selected>,
    sent: Arc<Mutex<Sent>>,
}

struct Sent {
    /// Whether what is there already has been passed by.
    is_begun: bool,
    /// Nothing up to this id is looked for any more.
    behind: Option<Uuid>,
    /// What has been sent and is behind that.
    ids: BTreeSet<Uuid>,
}

impl Place {
    /// What has been added since the last look.
    async fn more(&self) -> Result<More<Vec<Cell<'static>>, ()>, AppError> {
        let longest_ago = earliest(self.store.now() - LONGEST);
        let (behind, ids) = {
            let sent = self.sent();
            let ids: Vec<Uuid> = sent.ids.iter().copied().collect();
            (sent.behind.unwrap_or(longest_ago), ids)
        };
        let filter = self.filter.as_deref();
        let (viewer, columns) = (self.viewer, &self.selected.columns);
        let rows = read::added(
            &self.store,
            viewer,
            self.noun,
            filter,
            (behind, &ids),
            columns,
        );
        let rows = rows.await?;
        let is_all = rows.len() < usize::from(MOST);
        let mut sent = self.sent();
        let newest = |row: &Vec<Cell<'_>>| id_behind(row);
        sent.ids.extend(rows.iter().filter_map(newest));
        // While there is more, only so far as it has been read.
        let read_to = rows.last().and_then(newest).filter(|_| !is_all);
        let behind = read_to.map_or(longest_ago, |id| {
            longest_ago.min(earliest(made_at(id) - LONGEST))
        });
        let behind = sent.behind.map_or(behind, |before| before.max(behind));
        sent.behind = Some(behind);
        sent.ids.retain(|id| *id > behind);
        let items = if sent.is_begun { rows } else { Vec::new() };
        sent.is_begun |= is_all;
        Ok(More {
            items,
            next: None,
            is_all,
        })
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, Sent> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(
    ctx: &Context<'_>,
    entry: &Entry,
    selected: &Selected,
    rows: Result<Vec<Vec<Cell<'static>>>, AppError>,
) -> Response {
    let values = async { selected.values(ctx, entry, rows?).await };
    match values.await {
        Ok(values) => response(ctx, Value::List(values)),
        Err(error) => refused(ctx, error),
    }
}

fn refused(ctx: &Context<'_>, error: Error) -> Response {
    let mut response = Response::default();
    let error = error.into_server_error(ctx.item.pos);
    response.errors.push(ctx.set_error_path(error));
    response
}
