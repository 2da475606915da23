//! What tasks say while they run.

use async_graphql::{Context, Enum, Error, Result, SimpleObject};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _, stream::BoxStream};

use super::{
    error::Coded,
    services,
    task_parts::{LinesOf, PartLoader},
};
use crate::{
    domain::{Id, id::Task},
    error::AppError,
    live,
    store::task_logs::{self, Place},
};

/// Most lines of one answer, and of one event.
const MOST: u64 = 500;

/// How loud a log line is.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "task_logs::Level")]
pub enum LogLevel {
    /// What is going on.
    Info,
    /// An attempt failed; another follows.
    Warn,
    /// The last attempt failed.
    Error,
}

/// Something a run of a task said.
#[derive(SimpleObject)]
pub struct TaskLogLine {
    /// The place of this line, to ask for what comes after it.
    cursor: String,
    /// When it was said.
    at: DateTime<Utc>,
    /// The attempt that said it.
    attempt: i32,
    /// How loud it is.
    level: LogLevel,
    /// The line.
    message: String,
}

/// The first lines of a task after a cursor, the oldest first.
pub async fn lines(
    ctx: &Context<'_>,
    task: Id<Task>,
    first: i32,
    after: Option<&str>,
) -> Result<Vec<TaskLogLine>> {
    let limit = u64::try_from(first)
        .ok()
        .filter(|first| (1..=MOST).contains(first));
    let limit = limit.ok_or_else(|| AppError::Invalid {
        field: "first",
        reason: format!("1 to {MOST} lines are expected"),
    })?;
    let after = after.map(place).transpose()?;
    let loader: &PartLoader = ctx.data_unchecked();
    let first = limit;
    let lines = loader.load_one(LinesOf { task, after, first }).await;
    let lines = lines.map_err(|error| Error::from(Coded(&error)))?;
    Ok(lines.unwrap_or_default().into_iter().map(line).collect())
}

/// Every line of a task after a cursor, as they come. `rows` tells of changes of the task, and of its end.
pub fn added<R: Send + 'static>(
    ctx: &Context<'_>,
    rows: BoxStream<'static, Result<R, AppError>>,
    task: Id<Task>,
    after: Option<&str>,
) -> Result<impl Stream<Item = Result<Vec<TaskLogLine>>> + use<R>> {
    let after = after.map(place).transpose()?;
    let store = services(ctx).store.clone();
    let read = move |after| {
        let store = store.clone();
        async move {
            let lines = task_logs::page(&store, task, after, MOST).await?;
            let next = lines.last().map(task_logs::Model::place);
            Ok(live::More {
                is_all: (lines.len() as u64) < MOST,
                next,
                items: lines,
            })
        }
    };
    let added = live::tail(rows, after, read);
    Ok(added.map(|lines| Ok(lines?.into_iter().map(line).collect())))
}

fn place(cursor: &str) -> Result<Place, AppError> {
    let read = || {
        let (attempt, id) = cursor.split_once('.')?;
        let id = uuid::Uuid::try_parse(id).ok().filter(|_| id.len() == 32)?;
        let attempt = attempt.parse().ok()?;
        Some(Place { attempt, id })
    };
    read().ok_or_else(|| AppError::Invalid {
        field: "cursor",
        reason: "not one of this list's cursors".to_owned(),
    })
}

fn line(row: task_logs::Model) -> TaskLogLine {
    let level = task_logs::Level::parse(&row.level).unwrap_or(task_logs::Level::Info);
    TaskLogLine {
        cursor: format!("{}.{}", row.attempt, row.id.simple()),
        at: row.at,
        attempt: row.attempt,
        level: level.into(),
        message: row.message,
    }
}
