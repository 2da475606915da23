//! Tasks: the row, its insertion and its reading. `hold` has what a run may write, `idle` what moves those nobody runs.

mod hold;
mod idle;

use std::time::Duration;

use sea_orm::{
    ActiveValue::Set,
    Condition, ConnectionTrait, QueryOrder as _, QuerySelect as _, Select, UpdateMany,
    entity::prelude::*,
    sea_query::{LockBehavior, LockType, Query, SelectStatement},
};

pub use hold::{Outcome, Renewed, claim, fence, progress, renew, settle};
pub use idle::{due, next_due, reannounce, request_cancel, take_expired, wake, wake_due};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        id::{Task, User},
        policy::Resource,
        task::{Priority, TaskEvent, TaskState},
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
fn live_of(subject: Uuid) -> Select<Entity> {
    let live = [TaskState::Queued, TaskState::Running, TaskState::Waiting].map(TaskState::as_str);
    let tasks = Entity::find()
        .filter(Column::SubjectId.eq(subject))
        .filter(Column::State.is_in(live));
    tasks.order_by_asc(Column::Id).limit(100)
}

/// The tasks of a subject that have not ended.
pub async fn unscoped_live_of(
    db: &impl ConnectionTrait,
    subject: Uuid,
) -> Result<Vec<Model>, StoreError> {
    Ok(live_of(subject).all(db).await?)
}

/// The same, locked by this transaction. Tasks are locked before what they work on, here as in a run's own writes, so
/// that nobody waits in a circle.
pub async fn lock_live_of(tx: &Tx<'_>, subject: Uuid) -> Result<Vec<Model>, StoreError> {
    Ok(live_of(subject).lock_exclusive().all(tx).await?)
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

/// An update that takes tasks from `from` by `event`, as the life cycle has it, and touches no others.
///
/// PostgreSQL refuses a column that is set twice, so each is set in one place.
fn step(from: TaskState, event: TaskEvent) -> Result<UpdateMany<Entity>, StoreError> {
    let to = from.after(event)?;
    Ok(Entity::update_many()
        .col_expr(Column::State, Expr::value(to.as_str()))
        .col_expr(Column::Version, plus_one(Column::Version))
        .filter(in_state(from)))
}

/// The same for a step that takes a task off its worker, to wait for `wake_on` if anything.
fn step_off_worker(
    from: TaskState,
    event: TaskEvent,
    wake_on: Option<String>,
) -> Result<UpdateMany<Entity>, StoreError> {
    Ok(step(from, event)?
        .col_expr(Column::WorkerId, Expr::value(None::<Uuid>))
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTimeUtc>))
        .col_expr(Column::WakeOn, Expr::value(wake_on)))
}

/// Makes an update's tasks due now, and known to be announced.
fn due_now(update: UpdateMany<Entity>, now: DateTimeUtc) -> UpdateMany<Entity> {
    update
        .col_expr(Column::RunAt, Expr::value(now))
        .col_expr(Column::AnnouncedAt, Expr::value(now))
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
