//! The queue as operators see and steer it.

use async_graphql::{Context, ID, InputObject, Json, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{
    id, services,
    task::{Task, TaskPriority, TaskState},
    viewer,
};
use crate::{
    domain::{
        Id,
        id::{self, Worker as WorkerId},
        task,
    },
    services::queue::{DeadLetters, Wanted},
    store::{
        statistics::{self, Statistics},
        tasks::{KnownKind, LeaseHeld},
        workers,
    },
};

/// How many tasks of a kind are in a state. Of the ended ones only the failed are counted: the dead letters.
#[derive(SimpleObject)]
pub struct QueueDepth {
    /// The kind, such as `create_container`.
    kind: String,
    /// The state.
    state: TaskState,
    /// How many.
    count: i64,
    /// When the one that has been due longest became so; null for states other than `QUEUED`.
    oldest_due_at: Option<DateTime<Utc>>,
}

/// Times that a half, 95 and 99 in a hundred do not exceed, in milliseconds.
#[derive(SimpleObject)]
pub struct Latency {
    /// Half of them took no longer.
    p50: f64,
    /// 95 in a hundred took no longer.
    p95: f64,
    /// 99 in a hundred took no longer.
    p99: f64,
}

impl From<statistics::Percentiles> for Latency {
    fn from(seen: statistics::Percentiles) -> Self {
        Self {
            p50: seen.p50,
            p95: seen.p95,
            p99: seen.p99,
        }
    }
}

/// What became of the tasks of a kind that ended lately.
#[derive(SimpleObject)]
pub struct QueueRate {
    /// The kind.
    kind: String,
    /// Ended well, per minute.
    succeeded_per_minute: f64,
    /// Became dead letters, per minute.
    failed_per_minute: f64,
    /// Were cancelled, per minute.
    cancelled_per_minute: f64,
    /// From the time a task was due to its start, of those that ended in their first attempt.
    wait: Latency,
    /// From its first start to its end.
    run: Latency,
}

/// The state of the queue, counted every few seconds.
pub struct Queue(Statistics);

/// The state of the queue, counted every few seconds.
#[Object]
impl Queue {
    /// When it was counted.
    async fn at(&self) -> DateTime<Utc> {
        self.0.at
    }
    /// How many tasks of each kind are in each state.
    async fn depths(&self) -> Vec<QueueDepth> {
        let depths = self.0.depths.iter().filter_map(|depth| {
            Some(QueueDepth {
                kind: depth.kind.clone(),
                state: task::TaskState::parse(&depth.state)?.into(),
                count: depth.count,
                oldest_due_at: depth.oldest_due_at,
            })
        });
        depths.collect()
    }
    /// Rates and latencies of each kind, over the last five minutes or the newest 20000 ended tasks.
    async fn rates(&self) -> Vec<QueueRate> {
        let minutes = statistics::WINDOW.as_secs_f64() / 60.0;
        #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
        let per_minute = |count: i64| count as f64 / minutes;
        let rates = self.0.recent.iter().map(|recent| QueueRate {
            kind: recent.kind.clone(),
            succeeded_per_minute: per_minute(recent.succeeded),
            failed_per_minute: per_minute(recent.failed),
            cancelled_per_minute: per_minute(recent.cancelled),
            wait: recent.wait.into(),
            run: recent.run.into(),
        });
        rates.collect()
    }
    /// The kinds whose tasks no worker takes until they are resumed.
    async fn paused_kinds(&self, ctx: &Context<'_>) -> Result<Vec<String>> {
        let paused = services(ctx).paused_kinds(viewer(ctx)?).await?;
        Ok(paused.into_iter().collect())
    }
    /// The kinds that have unfinished tasks and no living worker that knows them: they wait for one.
    async fn unknown_kinds(&self, ctx: &Context<'_>) -> Result<Vec<String>> {
        let workers = services(ctx).workers(viewer(ctx)?).await?;
        let known: Vec<KnownKind> = workers.iter().flat_map(workers::Model::known).collect();
        let mut unknown: Vec<String> = self
            .0
            .depths
            .iter()
            .filter(|depth| depth.state != task::TaskState::Failed.as_str())
            .filter(|depth| !known.iter().any(|known| known.kind == depth.kind))
            .map(|depth| depth.kind.clone())
            .collect();
        unknown.dedup();
        Ok(unknown)
    }
}

/// A kind of task that a worker can run.
#[derive(SimpleObject)]
pub struct WorkerKind {
    /// The kind.
    name: String,
    /// The newest version of its input that the worker reads; older ones it reads too.
    input_version: i32,
}

/// A task in the hands of a worker.
#[derive(SimpleObject)]
pub struct Lease {
    /// The task.
    task_id: ID,
    /// Its kind.
    kind: String,
    /// The attempt the lease is for.
    attempt: i32,
    /// When another may take the task, unless the lease is renewed.
    until: Option<DateTime<Utc>>,
}

/// A process that runs tasks.
pub struct Worker(workers::Model);

/// A process that runs tasks.
#[Object]
impl Worker {
    /// Its id.
    async fn id(&self) -> ID {
        Id::<WorkerId>::new(self.0.id).to_string().into()
    }
    /// The machine it runs on.
    async fn host(&self) -> &str {
        &self.0.host
    }
    /// Its process id there.
    async fn pid(&self) -> i32 {
        self.0.pid
    }
    /// The version of the service it is.
    async fn version(&self) -> &str {
        &self.0.version
    }
    /// The kinds it knows.
    async fn kinds(&self) -> Vec<WorkerKind> {
        let kinds = self.0.known().into_iter().map(|known| WorkerKind {
            name: known.kind,
            input_version: known.version,
        });
        kinds.collect()
    }
    /// How many tasks it runs at once.
    async fn concurrency(&self) -> i32 {
        self.0.concurrency
    }
    /// How many it ran when it was last seen.
    async fn running(&self) -> i32 {
        self.0.running
    }
    /// Whether it takes no more tasks and ends when those it has are done.
    async fn draining(&self) -> bool {
        self.0.draining
    }
    /// When it started.
    async fn started_at(&self) -> DateTime<Utc> {
        self.0.started_at
    }
    /// When it last gave a sign of life.
    async fn seen_at(&self) -> DateTime<Utc> {
        self.0.seen_at
    }
    /// What it holds, at most 1000.
    async fn leases(&self, ctx: &Context<'_>) -> Result<Vec<Lease>> {
        let lease = |held: LeaseHeld| Lease {
            task_id: Id::<id::Task>::new(held.id).to_string().into(),
            kind: held.kind,
            attempt: held.attempt,
            until: held.lease_until,
        };
        let held = services(ctx).leases(viewer(ctx)?, &self.0).await?;
        Ok(held.into_iter().map(lease).collect())
    }
}

#[derive(Default)]
pub struct QueueQuery;

#[Object]
impl QueueQuery {
    /// The state of the queue. For administrators.
    async fn queue(&self, ctx: &Context<'_>) -> Result<Queue> {
        Ok(Queue(services(ctx).queue_statistics(viewer(ctx)?).await?))
    }

    /// The living workers, the oldest first. For administrators.
    async fn workers(&self, ctx: &Context<'_>) -> Result<Vec<Worker>> {
        let workers = services(ctx).workers(viewer(ctx)?).await?;
        Ok(workers.into_iter().map(Worker).collect())
    }
}

/// A task asked for by its kind.
#[derive(InputObject)]
pub struct CreateTaskInput {
    /// The kind: `demo` or `noop`.
    kind: String,
    /// The kind's input; for `demo` `{ steps, stepMillis }`, for `noop` nothing.
    #[graphql(default_with = "Json(serde_json::json!({}))")]
    input: Json<serde_json::Value>,
    /// Which tasks go first; the kind's own when not given.
    priority: Option<TaskPriority>,
    /// When it may run; at once when not given.
    run_at: Option<DateTime<Utc>>,
    /// The same key again gives the same task again; 1 to 128 visible ASCII characters.
    idempotency_key: Option<String>,
    /// While a task with this key has not ended, asking for another gives that one; 1 to 128 visible ASCII characters.
    unique_key: Option<String>,
}

impl From<CreateTaskInput> for Wanted {
    fn from(input: CreateTaskInput) -> Self {
        Self {
            kind: input.kind,
            input: input.input.0,
            priority: input.priority.map(task::Priority::from),
            run_at: input.run_at,
            idempotency_key: input.idempotency_key,
            unique_key: input.unique_key,
        }
    }
}

/// The task that was enqueued.
#[derive(SimpleObject)]
pub struct CreateTaskPayload {
    /// The task; an earlier one when a key led to it.
    task: Task,
}

/// Tasks asked for together.
#[derive(InputObject)]
pub struct CreateTasksInput {
    /// 1 to 1000 tasks; all are enqueued or none.
    tasks: Vec<CreateTaskInput>,
}

/// The tasks that were enqueued.
#[derive(SimpleObject)]
pub struct CreateTasksPayload {
    /// The tasks, in the order they were asked for.
    tasks: Vec<Task>,
}

/// A task to try again.
#[derive(InputObject)]
pub struct RetryTaskInput {
    /// The task, `FAILED` or `CANCELLED`.
    id: ID,
}

/// The task that is tried again.
#[derive(SimpleObject)]
pub struct RetryTaskPayload {
    /// The task, `QUEUED`.
    task: Task,
}

/// Which dead letters to try again; every condition narrows them down.
#[derive(InputObject)]
pub struct RetryDeadLettersInput {
    /// Only those of this kind.
    kind: Option<String>,
    /// Only those whose error has this code.
    error_code: Option<String>,
    /// Only those that failed before this time.
    failed_before: Option<DateTime<Utc>>,
    /// At most so many, the oldest first; 1 to 1000.
    #[graphql(default = 100)]
    first: i32,
}

/// The tasks that are tried again.
#[derive(SimpleObject)]
pub struct RetryDeadLettersPayload {
    /// The tasks, `QUEUED`; fewer than asked for when there are no more.
    tasks: Vec<Task>,
}

/// A task and its new priority.
#[derive(InputObject)]
pub struct SetTaskPriorityInput {
    /// The task, not ended.
    id: ID,
    /// The new priority.
    priority: TaskPriority,
}

/// The task with its new priority.
#[derive(SimpleObject)]
pub struct SetTaskPriorityPayload {
    /// The task.
    task: Task,
}

/// A kind of task.
#[derive(InputObject)]
pub struct TaskKindInput {
    /// The kind, such as `create_container`.
    kind: String,
}

/// The queue after a kind was paused or resumed.
#[derive(SimpleObject)]
pub struct TaskKindPayload {
    /// The kinds that are paused now.
    paused_kinds: Vec<String>,
}

#[derive(Default)]
pub struct QueueMutation;

#[Object]
impl QueueMutation {
    /// Enqueues a task by its kind's name. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`, `CONFLICT` for a key used otherwise,
    /// `QUOTA_EXCEEDED`, `UNAVAILABLE` when the queue is full.
    async fn create_task(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The task to enqueue.")] input: CreateTaskInput,
    ) -> Result<CreateTaskPayload> {
        let task = services(ctx)
            .create_task(viewer(ctx)?, input.into())
            .await?;
        Ok(CreateTaskPayload {
            task: Task::of(&task),
        })
    }

    /// Enqueues up to 1000 tasks in one commit. For administrators; errors as of `createTask`.
    async fn create_tasks(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The tasks to enqueue.")] input: CreateTasksInput,
    ) -> Result<CreateTasksPayload> {
        let wanted = input.tasks.into_iter().map(Wanted::from).collect();
        let tasks = services(ctx).create_tasks(viewer(ctx)?, wanted).await?;
        Ok(CreateTasksPayload {
            tasks: tasks.into_iter().map(|task| Task::of(&task)).collect(),
        })
    }

    /// Tries a task again that failed or was cancelled: with no failures and a new deadline, behind its finished
    /// steps.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `ILLEGAL_STATE` when it has not ended or has succeeded.
    async fn retry_task(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The task to try again.")] input: RetryTaskInput,
    ) -> Result<RetryTaskPayload> {
        let task = services(ctx)
            .retry_task(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(RetryTaskPayload {
            task: Task::of(&task),
        })
    }

    /// Tries failed tasks again. For administrators.
    async fn retry_dead_letters(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which of them.")] input: RetryDeadLettersInput,
    ) -> Result<RetryDeadLettersPayload> {
        let which = DeadLetters {
            kind: input.kind,
            error_code: input.error_code,
            failed_before: input.failed_before,
        };
        let tasks = services(ctx)
            .retry_dead_letters(viewer(ctx)?, which, input.first)
            .await?;
        Ok(RetryDeadLettersPayload {
            tasks: tasks.into_iter().map(|task| Task::of(&task)).collect(),
        })
    }

    /// Gives a task another priority. For administrators.
    ///
    /// Errors: `NOT_FOUND`, `ILLEGAL_STATE` when it has ended.
    async fn set_task_priority(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The task and its new priority.")] input: SetTaskPriorityInput,
    ) -> Result<SetTaskPriorityPayload> {
        let task = services(ctx)
            .set_task_priority(viewer(ctx)?, id(&input.id)?, input.priority.into())
            .await?;
        Ok(SetTaskPriorityPayload {
            task: Task::of(&task),
        })
    }

    /// Keeps workers from taking tasks of a kind; those that run go on. For administrators.
    async fn pause_task_kind(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The kind to pause.")] input: TaskKindInput,
    ) -> Result<TaskKindPayload> {
        set_paused(ctx, &input.kind, true).await
    }

    /// Lets workers take tasks of a kind again. For administrators.
    async fn resume_task_kind(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The kind to resume.")] input: TaskKindInput,
    ) -> Result<TaskKindPayload> {
        set_paused(ctx, &input.kind, false).await
    }
}

async fn set_paused(ctx: &Context<'_>, kind: &str, is_paused: bool) -> Result<TaskKindPayload> {
    let (services, viewer) = (services(ctx), viewer(ctx)?);
    services.set_kind_paused(viewer, kind, is_paused).await?;
    let paused_kinds = services.paused_kinds(viewer).await?.into_iter().collect();
    Ok(TaskKindPayload { paused_kinds })
}
