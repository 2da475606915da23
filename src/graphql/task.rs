//! Tasks.

use std::sync::Arc;

use async_graphql::{
    Context, Enum, ID, InputObject, Json, Object, Result, SimpleObject, Subscription,
};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _};
use sea_orm::{ColumnTrait as _, QueryFilter as _};

use super::{
    error::nullable,
    id,
    page::{Page, Window, page},
    services, viewer,
};
use crate::{
    domain::{Id, Machine as _, Table, id, policy::Action, task},
    error::AppError,
    live::{self, EventBus},
    store::{
        archive,
        scoped::Scoped as _,
        task_logs,
        tasks::{self, TaskInput as _},
    },
    tasks::{create_container, delete_container},
};

/// Where a task stands.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "task::TaskState")]
pub enum TaskState {
    /// Waits for a worker, or for the time of its next attempt.
    Queued,
    /// A worker is at it.
    Running,
    /// Waits for something outside; no worker holds it.
    Waiting,
    /// Done; `result` has what came of it.
    Succeeded,
    /// Given up; `error` says why.
    Failed,
    /// Ended because somebody asked.
    Cancelled,
}

/// Which tasks go first.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "task::Priority")]
pub enum TaskPriority {
    /// A person is watching.
    Interactive,
    /// The ordinary.
    Normal,
    /// Nobody is watching.
    Background,
}

/// Why the last attempt of a task went wrong.
#[derive(SimpleObject)]
pub struct TaskError {
    /// The kind of error, for programs.
    code: String,
    /// What happened, for people.
    message: String,
}

/// A finished step of a task.
#[derive(SimpleObject)]
pub struct TaskStep {
    /// Its name.
    name: String,
    /// What came of it.
    output: Json<serde_json::Value>,
    /// When it was undone, because the task was given up.
    undone_at: Option<DateTime<Utc>>,
}

/// A task that ended long ago, as the archive keeps it.
#[derive(SimpleObject)]
pub struct ArchivedTask {
    /// The id it had as a task.
    id: ID,
    /// What kind of work it was.
    kind: String,
    /// How it ended.
    state: TaskState,
    /// When it ended.
    finished_at: DateTime<Utc>,
    /// When it went into the archive.
    archived_at: DateTime<Utc>,
    /// All of it: its input, result, error, attempts and log.
    document: Json<serde_json::Value>,
}

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

/// A piece of long work. It survives the loss of any worker, and what it does outside happens once.
pub struct Task(pub tasks::Model);

/// A piece of long work. It survives the loss of any worker, and what it does outside happens once.
#[Object]
impl Task {
    async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// What kind of work, such as `create_container`.
    async fn kind(&self) -> &str {
        &self.0.kind
    }
    /// Where it stands.
    async fn state(&self) -> Result<TaskState> {
        Ok(self.0.state()?.into())
    }
    /// Grows by one with every change.
    async fn version(&self) -> i64 {
        self.0.version
    }
    /// Which tasks go first.
    async fn priority(&self) -> TaskPriority {
        self.0.priority().into()
    }
    /// How much is done, in percent, as the work itself reports it.
    async fn progress(&self) -> i16 {
        self.0.progress
    }
    /// What was done last, in words.
    async fn progress_message(&self) -> Option<&str> {
        self.0.progress_message.as_deref()
    }
    /// How often a worker has taken it, after a wait as well.
    async fn attempt(&self) -> i32 {
        self.0.attempt
    }
    /// How many attempts went wrong, those of lost workers among them.
    async fn failures(&self) -> i32 {
        self.0.failures
    }
    /// After so many failures it is given up.
    async fn max_attempts(&self) -> i32 {
        self.0.max_attempts
    }
    /// The id of what it works on.
    async fn subject_id(&self) -> Option<ID> {
        let subject = self.0.subject_id?;
        let is_about_container = [create_container::Input::KIND, delete_container::Input::KIND]
            .contains(&self.0.kind.as_str());
        is_about_container.then(|| Id::<id::Container>::new(subject).to_string().into())
    }
    /// What it was asked to do, as its kind wrote it down.
    async fn input(&self) -> Json<serde_json::Value> {
        Json(self.0.input.clone())
    }
    /// The version of the input's form.
    async fn input_version(&self) -> i32 {
        self.0.input_version
    }
    /// The task it is a part of.
    async fn parent_id(&self) -> Option<ID> {
        let parent = Id::<id::Task>::new(self.0.parent_id?);
        Some(parent.to_string().into())
    }
    /// The parts it has split its work into, the oldest first; at most 100.
    async fn children(&self, ctx: &Context<'_>) -> Result<Vec<Task>> {
        let children = services(ctx).children(viewer(ctx)?, &self.0).await?;
        Ok(children.into_iter().map(Task).collect())
    }
    /// The steps it has finished and does not repeat, in order.
    async fn steps(&self, ctx: &Context<'_>) -> Result<Vec<TaskStep>> {
        let steps = tasks::steps(&services(ctx).store, self.0.id()).await?;
        let step = |step: tasks::Step| TaskStep {
            name: step.name,
            output: Json(step.output),
            undone_at: step.compensated_at,
        };
        Ok(steps.into_iter().map(step).collect())
    }
    /// What came of it.
    async fn result(&self) -> Option<Json<serde_json::Value>> {
        self.0.result.clone().map(Json)
    }
    /// Why the last attempt went wrong.
    async fn error(&self) -> Option<TaskError> {
        let code = self.0.error_code.clone()?;
        Some(TaskError {
            code,
            message: self.0.error_message.clone().unwrap_or_default(),
        })
    }
    /// What its runs have said, the oldest first.
    async fn logs(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many; 1 to 500.", default = 100)] first: i32,
        #[graphql(desc = "Only what was said after the line with this cursor.")] after: Option<
            String,
        >,
    ) -> Result<Vec<TaskLogLine>> {
        use async_graphql::connection::CursorType as _;
        let limit = u64::try_from(first)
            .ok()
            .filter(|first| (1..=500).contains(first));
        let limit = limit.ok_or_else(|| AppError::Invalid {
            field: "first",
            reason: "1 to 500 lines are expected".to_owned(),
        })?;
        let after = after
            .map(|text| super::page::Cursor::decode_cursor(&text))
            .transpose()?;
        let lines = task_logs::page(
            &services(ctx).store,
            self.0.id(),
            after.map(|cursor| cursor.0),
            limit,
        )
        .await?;
        Ok(lines.into_iter().map(line).collect())
    }
    /// When it was asked for.
    async fn created_at(&self) -> DateTime<Utc> {
        self.0.created_at
    }
    /// When its next attempt may begin, or its wait ends at the latest.
    async fn run_at(&self) -> DateTime<Utc> {
        self.0.run_at
    }
    /// When it is given up, whatever its attempts.
    async fn deadline_at(&self) -> DateTime<Utc> {
        self.0.deadline_at
    }
    /// When a worker took it first.
    async fn started_at(&self) -> Option<DateTime<Utc>> {
        self.0.started_at
    }
    /// When it ended.
    async fn finished_at(&self) -> Option<DateTime<Utc>> {
        self.0.finished_at
    }
    /// When somebody asked it to stop.
    async fn cancel_requested_at(&self) -> Option<DateTime<Utc>> {
        self.0.cancel_requested_at
    }
}

fn line(row: task_logs::Model) -> TaskLogLine {
    let level = task_logs::Level::parse(&row.level).unwrap_or(task_logs::Level::Info);
    TaskLogLine {
        cursor: row.id.simple().to_string(),
        at: row.at,
        attempt: row.attempt,
        level: level.into(),
        message: row.message,
    }
}

/// A task that only takes its time.
#[derive(InputObject)]
pub struct StartDemoTaskInput {
    /// How many steps, 1 to 1000.
    #[graphql(default = 10)]
    steps: i32,
    /// How long each step lasts, 0 to 60000 milliseconds.
    #[graphql(default = 200)]
    step_millis: i32,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
}

/// The task that was enqueued.
#[derive(SimpleObject)]
pub struct StartDemoTaskPayload {
    /// The task, `QUEUED`.
    task: Task,
}

/// A task to stop.
#[derive(InputObject)]
pub struct CancelTaskInput {
    /// The task.
    id: ID,
}

/// The task that was asked to stop.
#[derive(SimpleObject)]
pub struct CancelTaskPayload {
    /// The task; it is `CANCELLED` once what it did is undone.
    task: Task,
}

#[derive(Default)]
pub struct TaskQuery;

#[expect(
    clippy::too_many_arguments,
    reason = "a field's arguments, as its clients see them"
)]
#[Object]
impl TaskQuery {
    /// One task; null with the error `NOT_FOUND` when there is none the viewer may see.
    async fn task(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The task's id.")] id: ID,
    ) -> Option<Task> {
        let found = async {
            Ok::<_, async_graphql::Error>(services(ctx).task(viewer(ctx)?, self::id(&id)?).await?)
        };
        nullable(ctx, found.await).map(Task)
    }

    /// The viewer's tasks, or everybody's for an administrator; the newest first.
    async fn tasks(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many, from the start; 0 to 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "At most so many, from the end; 0 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
        #[graphql(desc = "Only those in one of these states.")] states: Option<Vec<TaskState>>,
        #[graphql(desc = "Only those of one of these kinds, such as `demo`.")] kinds: Option<
            Vec<String>,
        >,
    ) -> Result<Page<Task>> {
        let viewer = viewer(ctx)?;
        crate::services::signed_in(viewer)?;
        let mut rows = tasks::Entity::visible_to(viewer, Action::Read);
        if let Some(states) = states {
            let names = states
                .into_iter()
                .map(|state| task::TaskState::from(state).as_str());
            rows = rows.filter(tasks::Column::State.is_in(names));
        }
        if let Some(kinds) = kinds {
            rows = rows.filter(tasks::Column::Kind.is_in(kinds));
        }
        let window = Window {
            first,
            after,
            last,
            before,
        };
        Ok(page(
            ctx,
            &services(ctx).store,
            rows,
            tasks::Column::Id,
            window,
            |row| (row.id, Task(row)),
        )
        .await?)
    }

    /// The viewer's tasks that ended long ago, or everybody's for an administrator; the newest first.
    async fn archived_tasks(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many, from the start; 0 to 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "At most so many, from the end; 0 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Page<ArchivedTask>> {
        let viewer = viewer(ctx)?;
        crate::services::signed_in(viewer)?;
        let window = Window {
            first,
            after,
            last,
            before,
        };
        let rows = archive::Entity::visible_to(viewer, Action::Read);
        let wrap = |row: archive::Model| (row.id, archived(row));
        Ok(page(
            ctx,
            &services(ctx).store,
            rows,
            archive::Column::Id,
            window,
            wrap,
        )
        .await?)
    }
}

fn archived(row: archive::Model) -> ArchivedTask {
    let state = row.state().unwrap_or(task::TaskState::Failed);
    ArchivedTask {
        id: row.id().to_string().into(),
        kind: row.kind,
        state: state.into(),
        finished_at: row.finished_at,
        archived_at: row.archived_at,
        document: Json(row.document),
    }
}

#[derive(Default)]
pub struct TaskMutation;

#[Object]
impl TaskMutation {
    /// Starts a task that only takes its time, to try out progress, cancellation and live updates.
    async fn start_demo_task(
        &self,
        ctx: &Context<'_>,
        input: StartDemoTaskInput,
    ) -> Result<StartDemoTaskPayload> {
        let key = input.idempotency_key.as_deref();
        let task = services(ctx)
            .start_demo_task(viewer(ctx)?, input.steps, input.step_millis, key)
            .await?;
        Ok(StartDemoTaskPayload { task: Task(task) })
    }

    /// Asks a task to stop. A running step hears of it at once; what was done is undone before the task ends.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` when it has ended.
    async fn cancel_task(
        &self,
        ctx: &Context<'_>,
        input: CancelTaskInput,
    ) -> Result<CancelTaskPayload> {
        let task = services(ctx)
            .cancel_task(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(CancelTaskPayload { task: Task(task) })
    }
}

#[derive(Default)]
pub struct TaskSubscription;

#[Subscription]
impl TaskSubscription {
    /// A task as it is now and after every change, until it has ended.
    async fn task_updated(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The task's id.")] id: ID,
    ) -> Result<impl Stream<Item = Result<Task>> + use<>> {
        let (viewer, id, services) = (
            viewer(ctx)?,
            super::id::<id::Task>(&id)?,
            services(ctx).clone(),
        );
        let bus: &Arc<dyn EventBus> = ctx.data_unchecked();
        let read = move || {
            let services = services.clone();
            async move {
                let row = services.task(viewer, id).await?;
                Ok::<_, AppError>(live::Seen {
                    version: row.version,
                    is_last: row.state()?.is_terminal(),
                    row,
                })
            }
        };
        let rows = live::watch(&**bus, Table::Task, id.uuid(), read).await?;
        Ok(rows.map(|row| Ok(Task(row?))))
    }
}
