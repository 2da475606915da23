//! What containers and virtual machines write.

use std::sync::Arc;

use async_graphql::{Context, ID, Object, Result, SimpleObject, Subscription};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _, stream};

use super::{services, viewer};
use crate::{
    domain::{Table, policy::Viewer},
    error::AppError,
    live::{self, EventBus, Interest},
    services::{
        Services,
        logs::{LIFE, Subject},
    },
    store::logs,
};

/// Most lines of one answer, and of one event.
const MOST: u64 = 500;

/// A line a container or the serial console of a virtual machine has written.
#[derive(SimpleObject)]
pub struct LogLine {
    /// The place of this line, to ask for what comes after it.
    cursor: String,
    /// When, by its engine's clock; for a virtual machine when it was read.
    at: DateTime<Utc>,
    /// Whether it was written to the standard error.
    is_error: bool,
    /// The line; at most 8192 characters.
    message: String,
}

fn line(row: logs::Model) -> LogLine {
    LogLine {
        cursor: row.line.to_string(),
        at: row.at,
        is_error: row.is_error,
        message: row.message,
    }
}

/// Reads the last lines somebody asks for.
async fn last_lines(ctx: &Context<'_>, subject: Subject, last: i32) -> Result<Vec<LogLine>> {
    let last = u64::try_from(last).ok();
    let last = last.filter(|last| (1..=MOST).contains(last));
    let last = last.ok_or_else(|| AppError::Invalid {
        field: "last",
        reason: format!("1 to {MOST} lines are expected"),
    })?;
    let lines = services(ctx).logs(viewer(ctx)?, subject, last).await?;
    Ok(lines.into_iter().map(line).collect())
}

#[derive(Default)]
pub struct LogQuery;

#[Object]
impl LogQuery {
    /// The last lines a container has written, the oldest first.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT`, `UNAVAILABLE` when no worker could bring them in time.
    async fn container_logs(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container's id.")] id: ID,
        #[graphql(desc = "At most so many, 1 to 500.", default = 100)] last: i32,
    ) -> Result<Vec<LogLine>> {
        last_lines(ctx, Subject::Container(super::id(&id)?), last).await
    }

    /// The last lines of a virtual machine's serial console, the oldest first.
    ///
    /// Errors: as `containerLogs`.
    async fn virtual_machine_logs(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine's id.")] id: ID,
        #[graphql(desc = "At most so many, 1 to 500.", default = 100)] last: i32,
    ) -> Result<Vec<LogLine>> {
        last_lines(ctx, Subject::Machine(super::id(&id)?), last).await
    }
}

/// Reads what is written after a line, as it comes.
async fn lines_after(
    ctx: &Context<'_>,
    subject: Subject,
    after: Option<String>,
) -> Result<impl Stream<Item = Result<Vec<LogLine>>> + use<>> {
    let (viewer, services) = (viewer(ctx)?, services(ctx).clone());
    services.want_logs(viewer, subject).await?;
    let after = after.map(|cursor| cursor.parse::<i64>()).transpose();
    let after = after.map_err(|_| AppError::Invalid {
        field: "cursor",
        reason: "not one of this list's cursors".to_owned(),
    })?;
    let bus: &Arc<dyn EventBus> = ctx.data_unchecked();
    let listener = bus.listen_to(Interest::Row(Table::Log, subject.uuid()));
    let store = services.store.clone();
    let signs = signs(services, viewer, subject, listener);
    let read = move |after: Option<i64>| {
        let store = store.clone();
        async move {
            let lines = logs::page(&store, subject.uuid(), after.unwrap_or(0), MOST).await?;
            Ok(live::More {
                is_all: (lines.len() as u64) < MOST,
                next: lines.last().map(|line| line.line),
                items: lines,
            })
        }
    };
    let added = live::tail(signs.boxed(), after, read);
    Ok(added.map(|lines| Ok(lines?.into_iter().map(line).collect())))
}

#[derive(Default)]
pub struct LogSubscription;

#[Subscription]
impl LogSubscription {
    /// What a container has written and writes, in portions as it comes: the last 1000 lines first, or what comes after a line.
    /// No line comes twice; after a loss of the connection go on from the cursor of the last one.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT` for a cursor of another list.
    async fn container_log_added(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The container's id.")] id: ID,
        #[graphql(desc = "Only what is written after the line with this cursor.")] after: Option<
            String,
        >,
    ) -> Result<impl Stream<Item = Result<Vec<LogLine>>> + use<>> {
        lines_after(ctx, Subject::Container(super::id(&id)?), after).await
    }

    /// What a virtual machine's serial console has said and says, over its restarts, as `containerLogAdded` tells it.
    ///
    /// Errors: as `containerLogAdded`.
    async fn virtual_machine_log_added(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The machine's id.")] id: ID,
        #[graphql(desc = "Only what is written after the line with this cursor.")] after: Option<
            String,
        >,
    ) -> Result<impl Stream<Item = Result<Vec<LogLine>>> + use<>> {
        lines_after(ctx, Subject::Machine(super::id(&id)?), after).await
    }
}

/// Says that there may be more, and meanwhile that somebody goes on reading; ends with the subject.
fn signs(
    services: Services,
    viewer: Viewer,
    subject: Subject,
    listener: live::InterestListener,
) -> impl Stream<Item = Result<(), AppError>> + Send + 'static {
    stream::unfold(
        (services, listener, true),
        move |(services, mut listener, is_first)| async move {
            if !is_first {
                tokio::select! {
                    is_open = listener.changed() => if !is_open { return None; },
                    () = services.store.clock.sleep(LIFE / 3) => {}
                }
            }
            let sign = match services.want_logs(viewer, subject).await {
                // What is not there for a moment is asked for again.
                Err(AppError::Unavailable { .. }) => Ok(()),
                sign => sign,
            };
            Some((sign, (services, listener, false)))
        },
    )
}
