//! Tasks: inserting, claiming by compare-and-set, holding by lease, and every write fenced by the attempt.

use std::time::Duration;

use sea_orm::{
    ActiveValue::Set,
    Condition, ConnectionTrait, QueryOrder as _, QuerySelect as _, UpdateMany,
    entity::prelude::*,
    sea_query::{LockBehavior, LockType, Query, SelectStatement},
};

use super::{Store, Tx, scoped::Scoped};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        id::{Task, User},
        policy::Resource,
        task::{Priority, TaskState},
        value::IdempotencyKey,
    },
    error::{AppError, StoreError},
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "task")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub kind: String,
    pub input_version: i32,
    pub input: Json,
    pub owner_id: Option<Uuid>,
    /// What it works on; the kind says in which table.
    pub subject_id: Option<Uuid>,
    pub state: String,
    pub priority: i16,
    pub version: i64,
    /// The fence: grows with every claim, never goes back.
    pub attempt: i32,
    /// Attempts that ended badly, a lost worker's among them.
    pub failures: i32,
    pub max_attempts: i32,
    pub run_at: DateTimeUtc,
    pub deadline_at: DateTimeUtc,
    /// When the queue last heard of it; `None` until its time comes.
    pub announced_at: Option<DateTimeUtc>,
    pub worker_id: Option<Uuid>,
    pub lease_until: Option<DateTimeUtc>,
    pub wake_on: Option<String>,
    pub cancel_requested_at: Option<DateTimeUtc>,
    pub progress: i16,
    pub progress_message: Option<String>,
    pub result: Option<Json>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub idempotency_key: Option<String>,
    pub created_at: DateTimeUtc,
    pub started_at: Option<DateTimeUtc>,
    pub finished_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Task;
    fn owner() -> Option<Column> {
        Some(Column::OwnerId)
    }
}

impl Model {
    pub const fn id(&self) -> Id<Task> {
        Id::new(self.id)
    }

    pub fn state(&self) -> Result<TaskState, StoreError> {
        TaskState::parse(&self.state).ok_or(StoreError::Unreadable {
            column: "task.state",
        })
    }

    pub const fn priority(&self) -> Priority {
        Priority::from_rank(self.priority)
    }

    pub const fn lease(&self) -> Lease {
        Lease {
            task: self.id(),
            attempt: self.attempt,
        }
    }

    fn change(&self, kind: ChangeKind) -> Change {
        Change {
            table: Table::Task,
            id: self.id,
            version: self.version,
            owner: self.owner_id,
            kind,
        }
    }
}

/// The key to every write of one run: a write with an attempt that is not the newest changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Lease {
    pub task: Id<Task>,
    pub attempt: i32,
}

/// A task to enqueue.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub kind: &'static str,
    pub input_version: i32,
    pub input: Json,
    pub owner: Option<Id<User>>,
    pub subject: Option<Uuid>,
    pub priority: Priority,
    pub max_attempts: i32,
    /// From now to the moment it is given up, whatever its attempts.
    pub deadline: Duration,
    pub idempotency_key: Option<IdempotencyKey>,
}

/// Adds a task that can run at once, and its announcement.
pub async fn insert(tx: &mut Tx<'_>, task: NewTask) -> Result<Model, AppError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<Task>().uuid()),
        kind: Set(task.kind.to_owned()),
        input_version: Set(task.input_version),
        input: Set(task.input),
        owner_id: Set(task.owner.map(Id::uuid)),
        subject_id: Set(task.subject),
        state: Set(TaskState::Queued.as_str().to_owned()),
        priority: Set(task.priority.rank()),
        version: Set(1),
        attempt: Set(0),
        failures: Set(0),
        max_attempts: Set(task.max_attempts),
        run_at: Set(now),
        deadline_at: Set(now + task.deadline),
        announced_at: Set(Some(now)),
        worker_id: Set(None),
        lease_until: Set(None),
        wake_on: Set(None),
        cancel_requested_at: Set(None),
        progress: Set(0),
        progress_message: Set(None),
        result: Set(None),
        error_code: Set(None),
        error_message: Set(None),
        idempotency_key: Set(task.idempotency_key.map(|key| key.as_str().to_owned())),
        created_at: Set(now),
        started_at: Set(None),
        finished_at: Set(None),
    };
    let row = row
        .insert(tx)
        .await
        .map_err(|error| match error.sql_err() {
            Some(sea_orm::SqlErr::UniqueConstraintViolation(_)) => AppError::Conflict(
                "the same idempotency key is being used by another request, try again",
            ),
            _ => error.into(),
        })?;
    tx.changed(row.change(ChangeKind::Updated));
    tx.dispatch(row.id(), row.priority());
    Ok(row)
}

/// The task an owner enqueued with `key` before.
pub async fn by_idempotency_key(
    db: &impl ConnectionTrait,
    owner: Id<User>,
    key: &IdempotencyKey,
) -> Result<Option<Model>, StoreError> {
    let found = Entity::find()
        .filter(Column::OwnerId.eq(owner.uuid()))
        .filter(Column::IdempotencyKey.eq(key.as_str()));
    Ok(found.one(db).await?)
}

/// The row itself, for the engine.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<Task>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// The tasks of a subject that have not ended.
pub async fn unscoped_live_of(
    db: &impl ConnectionTrait,
    subject: Uuid,
) -> Result<Vec<Model>, StoreError> {
    let live = [TaskState::Queued, TaskState::Running, TaskState::Waiting].map(TaskState::as_str);
    let tasks = Entity::find()
        .filter(Column::SubjectId.eq(subject))
        .filter(Column::State.is_in(live));
    Ok(tasks.order_by_asc(Column::Id).limit(100).all(db).await?)
}

fn plus_one(column: Column) -> Expr {
    sea_orm::ExprTrait::add(Expr::col(column), 1)
}

fn or_else(column: Column, value: DateTimeUtc) -> Expr {
    sea_orm::ExprTrait::if_null(Expr::col(column), value)
}

/// Rows to change, picked without waiting for rows another process is changing.
///
/// PostgreSQL skips them (`FOR UPDATE SKIP LOCKED`); SQLite has one writer, so there are none.
fn pick(condition: Condition, limit: u64) -> SelectStatement {
    Query::select()
        .column(Column::Id)
        .from(Entity)
        .cond_where(condition)
        .order_by(Column::RunAt, sea_orm::Order::Asc)
        .limit(limit)
        .lock_with_behavior(LockType::Update, LockBehavior::SkipLocked)
        .to_owned()
}

fn in_state(state: TaskState) -> Condition {
    Condition::all().add(Column::State.eq(state.as_str()))
}

/// An update that moves a task to `state`. PostgreSQL refuses a column that is set twice, so each is set in one place.
fn moved_to(state: TaskState) -> UpdateMany<Entity> {
    Entity::update_many()
        .col_expr(Column::State, Expr::value(state.as_str()))
        .col_expr(Column::Version, plus_one(Column::Version))
}

/// An update that moves a task to `state` and off its worker, to wait for `wake_on` if anything.
fn let_go_to(state: TaskState, wake_on: Option<String>) -> UpdateMany<Entity> {
    moved_to(state)
        .col_expr(Column::WorkerId, Expr::value(None::<Uuid>))
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTimeUtc>))
        .col_expr(Column::WakeOn, Expr::value(wake_on))
}

/// Claims those of `ids` that may run now: worker, lease and attempt + 1 in one statement.
///
/// What another worker holds, or has finished, is left out; that is not an error.
pub async fn claim(
    store: &Store,
    ids: &[Id<Task>],
    worker: Uuid,
    lease: Duration,
) -> Result<Vec<Model>, StoreError> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let now = store.now();
    let may_run = in_state(TaskState::Queued)
        .add(Column::Id.is_in(ids.iter().map(|id| id.uuid())))
        .add(Column::RunAt.lte(now));
    let mut tx = store.begin().await?;
    let claimed = moved_to(TaskState::Running)
        .col_expr(Column::WorkerId, Expr::value(worker))
        .col_expr(Column::LeaseUntil, Expr::value(now + lease))
        .col_expr(Column::Attempt, plus_one(Column::Attempt))
        .col_expr(Column::StartedAt, or_else(Column::StartedAt, now))
        .filter(Column::Id.in_subquery(pick(may_run, ids.len() as u64)))
        .filter(Column::State.eq(TaskState::Queued.as_str()))
        .exec_with_returning(&tx)
        .await?;
    for task in &claimed {
        tx.changed(task.change(ChangeKind::Updated));
    }
    tx.commit().await?;
    Ok(claimed)
}

/// A lease that is still held, and whether its task is to stop.
pub struct Renewed {
    pub lease: Lease,
    pub is_cancel_requested: bool,
}

/// Renews what `worker` holds of `tasks`, in one statement; what is missing from the answer is lost.
pub async fn renew(
    store: &Store,
    worker: Uuid,
    tasks: &[Id<Task>],
    lease: Duration,
) -> Result<Vec<Renewed>, StoreError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let held = Entity::update_many()
        .col_expr(Column::LeaseUntil, Expr::value(store.now() + lease))
        .filter(in_state(TaskState::Running))
        .filter(Column::WorkerId.eq(worker))
        .filter(Column::Id.is_in(tasks.iter().map(|id| id.uuid())))
        .exec_with_returning(store.db())
        .await?;
    Ok(held
        .iter()
        .map(|task| Renewed {
            lease: task.lease(),
            is_cancel_requested: task.cancel_requested_at.is_some(),
        })
        .collect())
}

fn held_by(lease: Lease) -> Condition {
    in_state(TaskState::Running)
        .add(Column::Id.eq(lease.task.uuid()))
        .add(Column::Attempt.eq(lease.attempt))
}

/// Makes sure the open transaction belongs to the newest run of its task, and keeps it so until the commit: the row
/// stays locked, so another worker's claim waits.
///
/// # Errors
/// [`StoreError::LeaseLost`] when another run has begun or the task has ended.
pub async fn fence(tx: &Tx<'_>, lease: Lease) -> Result<(), StoreError> {
    let touched = Entity::update_many()
        .col_expr(Column::Attempt, Expr::col(Column::Attempt))
        .filter(held_by(lease))
        .exec(tx)
        .await?;
    if touched.rows_affected == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost)
    }
}

/// Records how far a run has come: `percent` of 100, and in words.
pub async fn progress(
    tx: &mut Tx<'_>,
    lease: Lease,
    percent: u8,
    message: &str,
) -> Result<(), StoreError> {
    let update = Entity::update_many()
        .col_expr(Column::Progress, Expr::value(i16::from(percent.min(100))))
        .col_expr(Column::ProgressMessage, Expr::value(message))
        .col_expr(Column::Version, plus_one(Column::Version));
    write_held(tx, update, lease).await.map(drop)
}

/// Performs `update` on the task of `lease` and announces it.
async fn write_held(
    tx: &mut Tx<'_>,
    update: UpdateMany<Entity>,
    lease: Lease,
) -> Result<Model, StoreError> {
    let task = update
        .filter(held_by(lease))
        .exec_with_returning(tx)
        .await?
        .into_iter()
        .next();
    let task = task.ok_or(StoreError::LeaseLost)?;
    tx.changed(task.change(ChangeKind::Updated));
    Ok(task)
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    Succeeded(Json),
    /// To be tried again at `at`; counts as a failure.
    Retry {
        at: DateTimeUtc,
        code: &'static str,
        message: String,
    },
    /// Waits for `wake_on`, at most until `until`; no worker holds it.
    Park {
        until: DateTimeUtc,
        wake_on: Option<String>,
    },
    Failed {
        code: &'static str,
        message: String,
    },
    Cancelled,
    /// The worker stops and gives the task back unfinished; counts as nothing.
    HandBack,
}

/// Writes how the run that holds `lease` ended.
///
/// # Errors
/// [`StoreError::LeaseLost`] when the run is not the newest any more; nothing is written then.
pub async fn settle(store: &Store, lease: Lease, outcome: Outcome) -> Result<Model, StoreError> {
    let now = store.now();
    let never: Option<DateTimeUtc> = None;
    let mut tx = store.begin().await?;
    let is_hand_back = matches!(outcome, Outcome::HandBack);
    let update = match outcome {
        Outcome::Succeeded(result) => let_go_to(TaskState::Succeeded, None)
            .col_expr(Column::Progress, Expr::value(100_i16))
            .col_expr(Column::Result, Expr::value(result))
            .col_expr(Column::ErrorCode, Expr::value(None::<String>))
            .col_expr(Column::ErrorMessage, Expr::value(None::<String>))
            .col_expr(Column::FinishedAt, Expr::value(now)),
        Outcome::Retry { at, code, message } => let_go_to(TaskState::Queued, None)
            .col_expr(Column::Failures, plus_one(Column::Failures))
            .col_expr(Column::RunAt, Expr::value(at))
            .col_expr(Column::AnnouncedAt, Expr::value(never))
            .col_expr(Column::ErrorCode, Expr::value(code))
            .col_expr(Column::ErrorMessage, Expr::value(message)),
        Outcome::Park { until, wake_on } => {
            let_go_to(TaskState::Waiting, wake_on).col_expr(Column::RunAt, Expr::value(until))
        }
        Outcome::Failed { code, message } => let_go_to(TaskState::Failed, None)
            .col_expr(Column::ErrorCode, Expr::value(code))
            .col_expr(Column::ErrorMessage, Expr::value(message))
            .col_expr(Column::FinishedAt, Expr::value(now)),
        Outcome::Cancelled => {
            let_go_to(TaskState::Cancelled, None).col_expr(Column::FinishedAt, Expr::value(now))
        }
        Outcome::HandBack => let_go_to(TaskState::Queued, None)
            .col_expr(Column::RunAt, Expr::value(now))
            .col_expr(Column::AnnouncedAt, Expr::value(now)),
    };
    let task = write_held(&mut tx, update, lease).await?;
    if is_hand_back {
        tx.dispatch(task.id(), task.priority());
    }
    tx.commit().await?;
    Ok(task)
}

/// Asks a task to stop. One that is not running is made to run at once, so that its kind can undo what it did.
///
/// Asking again, or asking what has ended, changes nothing.
pub async fn request_cancel(tx: &mut Tx<'_>, task: &Model) -> Result<Model, StoreError> {
    if task.state()?.is_terminal() || task.cancel_requested_at.is_some() {
        return Ok(task.clone());
    }
    let now = tx.now();
    let is_idle = Condition::any()
        .add(Column::State.eq(TaskState::Queued.as_str()))
        .add(Column::State.eq(TaskState::Waiting.as_str()));
    let asked = |update: UpdateMany<Entity>| {
        update
            .col_expr(Column::CancelRequestedAt, Expr::value(now))
            .filter(Column::Id.eq(task.id))
    };
    let idle = asked(let_go_to(TaskState::Queued, None))
        .col_expr(Column::RunAt, Expr::value(now))
        .col_expr(Column::AnnouncedAt, Expr::value(now))
        .filter(is_idle)
        .exec_with_returning(tx)
        .await?;
    if let Some(task) = idle.into_iter().next() {
        tx.changed(task.change(ChangeKind::Updated));
        tx.dispatch(task.id(), task.priority());
        return Ok(task);
    }
    let running = asked(Entity::update_many())
        .col_expr(Column::Version, plus_one(Column::Version))
        .filter(in_state(TaskState::Running))
        .exec_with_returning(tx)
        .await?;
    // Neither idle nor running: it ended between the reading and now.
    let task = running.into_iter().next().ok_or(StoreError::Stale)?;
    tx.changed(task.change(ChangeKind::CancelRequested));
    Ok(task)
}

/// Queues the parked tasks that wait for `topic`.
pub async fn wake(store: &Store, topic: &str) -> Result<usize, StoreError> {
    queue_again(
        store,
        in_state(TaskState::Waiting).add(Column::WakeOn.eq(topic)),
        1000,
        false,
    )
    .await
}

/// Queues the parked tasks whose time has come.
pub async fn wake_due(store: &Store, limit: u64) -> Result<usize, StoreError> {
    queue_again(
        store,
        in_state(TaskState::Waiting).add(Column::RunAt.lte(store.now())),
        limit,
        false,
    )
    .await
}

/// Takes tasks from workers that have been silent longer than their lease; counts as a failure.
pub async fn take_expired(store: &Store, limit: u64) -> Result<usize, StoreError> {
    queue_again(
        store,
        in_state(TaskState::Running).add(Column::LeaseUntil.lt(store.now())),
        limit,
        true,
    )
    .await
}

async fn queue_again(
    store: &Store,
    which: Condition,
    limit: u64,
    is_failure: bool,
) -> Result<usize, StoreError> {
    let now = store.now();
    let mut tx = store.begin().await?;
    let mut update = let_go_to(TaskState::Queued, None)
        .col_expr(Column::RunAt, Expr::value(now))
        .col_expr(Column::AnnouncedAt, Expr::value(now))
        .filter(Column::Id.in_subquery(pick(which, limit)));
    if is_failure {
        update = update
            .col_expr(Column::Failures, plus_one(Column::Failures))
            .col_expr(Column::ErrorCode, Expr::value("WORKER_LOST"))
            .col_expr(
                Column::ErrorMessage,
                Expr::value("the worker stopped renewing its lease"),
            );
    }
    let queued = update.exec_with_returning(&tx).await?;
    for task in &queued {
        tx.changed(task.change(ChangeKind::Updated));
        tx.dispatch(task.id(), task.priority());
    }
    let count = queued.len();
    tx.commit().await?;
    Ok(count)
}

/// Marks due tasks that nobody took since `silence` as announced now, and returns them to be announced again.
pub async fn reannounce(
    store: &Store,
    silence: Duration,
    limit: u64,
) -> Result<Vec<(Id<Task>, Priority)>, StoreError> {
    let now = store.now();
    let unheard = Condition::any()
        .add(Column::AnnouncedAt.is_null())
        .add(Column::AnnouncedAt.lt(now - silence));
    let due = in_state(TaskState::Queued)
        .add(Column::RunAt.lte(now))
        .add(unheard);
    let tasks = Entity::update_many()
        .col_expr(Column::AnnouncedAt, Expr::value(now))
        .filter(Column::Id.in_subquery(pick(due, limit)))
        .exec_with_returning(store.db())
        .await?;
    Ok(tasks
        .iter()
        .map(|task| (task.id(), task.priority()))
        .collect())
}

/// Tasks that may run now, the most urgent first: what a worker lives on while the queue is away.
pub async fn due(store: &Store, limit: u64) -> Result<Vec<Id<Task>>, StoreError> {
    let ids: Vec<Uuid> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(in_state(TaskState::Queued))
        .filter(Column::RunAt.lte(store.now()))
        .order_by_asc(Column::Priority)
        .order_by_asc(Column::RunAt)
        .limit(limit)
        .into_tuple()
        .all(store.db())
        .await?;
    Ok(ids.into_iter().map(Id::new).collect())
}

/// When the next parked or postponed task is due.
pub async fn next_due(store: &Store) -> Result<Option<DateTimeUtc>, StoreError> {
    let postponed = in_state(TaskState::Queued).add(Column::AnnouncedAt.is_null());
    let at: Option<Option<DateTimeUtc>> = Entity::find()
        .select_only()
        .column_as(Column::RunAt.min(), "at")
        .filter(
            Condition::any()
                .add(in_state(TaskState::Waiting))
                .add(postponed),
        )
        .into_tuple()
        .one(store.db())
        .await?;
    Ok(at.flatten())
}

/// The input of a kind of task: what enqueues it and how it is to be run.
pub trait TaskInput:
    serde::Serialize + serde::de::DeserializeOwned + Send + Sync + 'static
{
    /// The kind's name on the wire and in the database.
    const KIND: &'static str;
    /// Grows when the input's shape changes in a way `#[serde(default)]` cannot bridge.
    const VERSION: i32 = 1;
    const PRIORITY: Priority = Priority::Normal;
    const MAX_ATTEMPTS: i32 = 5;
    /// From enqueuing to the moment it is given up.
    const DEADLINE: Duration = Duration::from_secs(3600);

    /// The task that does this for `owner`, working on `subject`.
    fn into_task(
        self,
        owner: Option<Id<User>>,
        subject: Option<Uuid>,
    ) -> Result<NewTask, AppError> {
        Ok(NewTask {
            kind: Self::KIND,
            input_version: Self::VERSION,
            input: serde_json::to_value(self).map_err(AppError::internal)?,
            owner,
            subject,
            priority: Self::PRIORITY,
            max_attempts: Self::MAX_ATTEMPTS,
            deadline: Self::DEADLINE,
            idempotency_key: None,
        })
    }
}
