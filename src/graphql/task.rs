//! Tasks.

use async_graphql::{
    ContainerType as _, Context, Enum, Error, ID, InputObject, Json as JsonScalar, Object, Result,
    ServerResult, SimpleObject, Subscription, Value, registry::Registry,
};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _, future::BoxFuture};

use super::{
    account::owner,
    container::coded,
    error::Coded,
    id,
    list::{
        cell::{
            Cell,
            Storage::{Int, Json, Small, Text, Time, Uuid},
        },
        noun::{self, Kind, Noun, Words, created_at, field, made, many, version, words},
        read::check_access,
        row::{MetaFields, Record, Row, Shown, fields_of},
    },
    services,
    task_log::{self, TaskLogLine},
    task_parts::{PartLoader, StepsOf},
    viewer,
};
use crate::{
    domain::{self, Id, Machine as _, Table, id, id::Identified as _, policy::Resource, task},
    error::AppError,
    live,
    store::tasks::{self, TaskInput as _},
    tasks::{
        assign_container, clusters, create_container, delete_container, delete_machine,
        drain_container, drain_host, refill_pool, run_machine, snapshot_machine, stop_machine,
    },
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
    output: JsonScalar<serde_json::Value>,
    /// When it was undone, because the task was given up.
    undone_at: Option<DateTime<Utc>>,
}

/// A piece of long work. It survives the loss of any worker, and what it does outside happens once.
pub type Task = Row<tasks::Entity>;

/// The priorities by their ranks.
const PRIORITIES: Words = {
    let mut priorities = words::<TaskPriority>();
    priorities.ranks = &[
        (task::Priority::Interactive.rank() as i64, "INTERACTIVE"),
        (task::Priority::Normal.rank() as i64, "NORMAL"),
        (task::Priority::Background.rank() as i64, "BACKGROUND"),
    ];
    priorities
};

static TASK: Noun = Noun {
    name: "Task",
    doc: "A piece of long work. It survives the loss of any worker, and what it does outside happens once.",
    table: "task",
    resource: Resource::Task,
    owner: Some("owner_id"),
    host: None,
    listed: None,
    fields: &[
        noun::id("task"),
        field(
            "kind",
            &[("kind", Text)],
            Kind::Text,
            "What kind of work, such as `create_container`.",
        )
        .filtered()
        .grouped(),
        field(
            "state",
            &[("state", Text)],
            Kind::Word(words::<TaskState>()),
            "Where it stands.",
        )
        .filtered()
        .grouped(),
        version(),
        field(
            "priority",
            &[("priority", Small)],
            Kind::Word(PRIORITIES),
            "Which tasks go first.",
        )
        .filtered()
        .grouped(),
        field(
            "progress",
            &[("progress", Small)],
            Kind::Int,
            "How much is done, in percent, as the work itself reports it.",
        )
        .filtered(),
        field(
            "progressMessage",
            &[("progress_message", Text)],
            Kind::Text,
            "What was done last, in words.",
        )
        .nullable(),
        field(
            "attempt",
            &[("attempt", Int)],
            Kind::Int,
            "How often a worker has taken it, after a wait as well.",
        )
        .filtered()
        .measured(),
        field(
            "failures",
            &[("failures", Int)],
            Kind::Int,
            "How many attempts went wrong, those of lost workers among them.",
        )
        .filtered()
        .measured(),
        field(
            "maxAttempts",
            &[("max_attempts", Int)],
            Kind::Int,
            "After so many failures it is given up.",
        ),
        field(
            "subjectId",
            &[("subject_id", Uuid), ("kind", Text)],
            made::<Option<ID>>(subject),
            "The id of what it works on.",
        )
        .nullable(),
        field(
            "input",
            &[("input", Json)],
            Kind::Json,
            "What it was asked to do, as its kind wrote it down.",
        ),
        field(
            "inputVersion",
            &[("input_version", Int)],
            Kind::Int,
            "The version of the input's form.",
        ),
        field(
            "parentId",
            &[("parent_id", Uuid)],
            Kind::Id("task"),
            "The task it is a part of.",
        )
        .nullable()
        .filtered(),
        field(
            "workerId",
            &[("worker_id", Uuid)],
            Kind::Id("worker"),
            "The worker that took it last. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "result",
            &[("result", Json)],
            Kind::Json,
            "What came of it.",
        )
        .nullable(),
        field(
            "error",
            &[("error_code", Text), ("error_message", Text)],
            made::<Option<TaskError>>(|cells| coded(cells, "message")),
            "Why the last attempt went wrong.",
        )
        .nullable(),
        created_at("When it was asked for.").measured().grouped(),
        field(
            "runAt",
            &[("run_at", Time)],
            Kind::Time,
            "When its next attempt may begin, or its wait ends at the latest.",
        )
        .filtered(),
        field(
            "deadlineAt",
            &[("deadline_at", Time)],
            Kind::Time,
            "When it is given up, whatever its attempts.",
        )
        .filtered(),
        field(
            "startedAt",
            &[("started_at", Time)],
            Kind::Time,
            "When a worker took it first.",
        )
        .nullable()
        .filtered()
        .measured(),
        field(
            "finishedAt",
            &[("finished_at", Time)],
            Kind::Time,
            "When it ended.",
        )
        .nullable()
        .filtered()
        .measured()
        .grouped(),
        field(
            "cancelRequestedAt",
            &[("cancel_requested_at", Time)],
            Kind::Time,
            "When somebody asked it to stop.",
        )
        .nullable()
        .filtered(),
    ],
    links: &[owner("Who asked for it.")],
    many: &[many::<tasks::Entity>(
        "subtasks",
        "parent_id",
        "The parts it has split its work into.",
    )],
};

impl Shown for tasks::Entity {
    fn noun() -> &'static Noun {
        &TASK
    }

    fn rest(registry: &mut Registry) -> MetaFields {
        fields_of::<TaskParts>(registry)
    }

    fn resolve_rest<'a>(
        record: &'a Record,
        ctx: &'a Context<'a>,
    ) -> BoxFuture<'a, ServerResult<Option<Value>>> {
        Box::pin(async move { TaskParts(Id::new(record.id())).resolve_field(ctx).await })
    }
}

fn subject(cells: &[Cell]) -> Value {
    let (Cell::Uuid(subject), Some(kind)) = (&cells[0], cells[1].text()) else {
        return Value::Null;
    };
    let prefix = match kind {
        create_container::Input::KIND
        | delete_container::Input::KIND
        | drain_container::Input::KIND
        | assign_container::Input::KIND => id::Container::PREFIX,
        clusters::Create::KIND
        | clusters::Drain::KIND
        | clusters::Delete::KIND
        | clusters::Command::KIND => id::Cluster::PREFIX,
        drain_host::Input::KIND => id::Host::PREFIX,
        refill_pool::Input::KIND => id::Pool::PREFIX,
        run_machine::Input::KIND
        | stop_machine::Input::KIND
        | snapshot_machine::Input::KIND
        | delete_machine::Input::KIND => id::VirtualMachine::PREFIX,
        _ => return Value::Null,
    };
    Value::from(domain::id::written(prefix, *subject))
}

/// What a task has in other tables.
struct TaskParts(Id<id::Task>);

#[Object]
impl TaskParts {
    /// The parts it has split its work into, the oldest first; at most 100.
    #[graphql(
        complexity = "1 + 20 * child_complexity",
        deprecation = "`subtasks` has them as a list with filters, orders and pages."
    )]
    async fn children(&self, ctx: &Context<'_>) -> Result<Vec<Task>> {
        let children = services(ctx).children(viewer(ctx)?, self.0).await?;
        Ok(children.iter().map(Task::of).collect())
    }
    /// The steps it has finished and does not repeat, in order.
    async fn steps(&self, ctx: &Context<'_>) -> Result<Vec<TaskStep>> {
        let loader: &PartLoader = ctx.data_unchecked();
        let steps = loader.load_one(StepsOf(self.0)).await;
        let steps = steps
            .map_err(|error| Error::from(Coded(&error)))?
            .unwrap_or_default();
        let step = |step: tasks::Step| TaskStep {
            name: step.name,
            output: JsonScalar(step.output),
            undone_at: step.compensated_at,
        };
        Ok(steps.into_iter().map(step).collect())
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
        task_log::lines(ctx, self.0, first, after.as_deref()).await
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
pub struct TaskMutation;

#[Object]
impl TaskMutation {
    /// Starts a task that only takes its time, to try out progress, cancellation and live updates.
    async fn start_demo_task(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "How long it takes.")] input: StartDemoTaskInput,
    ) -> Result<StartDemoTaskPayload> {
        let key = input.idempotency_key.as_deref();
        let task = services(ctx)
            .start_demo_task(viewer(ctx)?, input.steps, input.step_millis, key)
            .await?;
        Ok(StartDemoTaskPayload {
            task: Task::of(&task),
        })
    }

    /// Asks a task to stop. A running step hears of it at once; what was done is undone before the task ends.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` when it has ended.
    async fn cancel_task(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The task to stop.")] input: CancelTaskInput,
    ) -> Result<CancelTaskPayload> {
        let task = services(ctx)
            .cancel_task(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(CancelTaskPayload {
            task: Task::of(&task),
        })
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
        let rows = watch_row(ctx, &id).await?;
        Ok(rows.map(|row| Ok(Task::of(&row?))))
    }
    /// What the runs of a task say: what they have said until now, then more as it comes, until the task has ended. No
    /// line is left out or comes twice; after a loss of the connection go on from the cursor of the last one.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT` for a cursor of another list.
    async fn task_log_added(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The task's id.")] id: ID,
        #[graphql(desc = "Only what is said after the line with this cursor.")] after: Option<
            String,
        >,
    ) -> Result<impl Stream<Item = Result<Vec<TaskLogLine>>> + use<>> {
        let rows = watch_row(ctx, &id).await?;
        let id = super::id(&id)?;
        task_log::added(ctx, rows.boxed(), id, after.as_deref())
    }
}

/// The row of a task, now and after every change, until it has ended.
async fn watch_row(
    ctx: &Context<'_>,
    id: &ID,
) -> Result<impl Stream<Item = Result<tasks::Model, AppError>> + use<>> {
    let viewer = viewer(ctx)?;
    check_access(&TASK, viewer)?;
    let id = super::id::<id::Task>(id)?;
    let services = services(ctx).clone();
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
    Ok(super::watch(ctx, (Table::Task, id.uuid()), read).await?)
}
