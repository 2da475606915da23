//! Tasks: the row, its reading, and what a kind says of its input.
//!
//! `enqueue` adds rows, `claim` takes them, `hold` has what a run may write, `settle` its end, `steps` and `family` what
//! runs leave behind, `idle` moves those nobody runs, `due` looks for those somebody should.

mod claim;
mod commit;
mod due;
mod enqueue;
mod family;
mod hold;
mod idle;
mod lists;
mod settle;
mod steps;

use std::{borrow::Cow, time::Duration};

use sea_orm::{
    Condition, ConnectionTrait, QueryOrder as _, QuerySelect as _, Select, UpdateMany,
    entity::prelude::*,
};

pub use claim::{Claimed, Claimer, KnownKind, claim};
pub use commit::claim_foretold;
pub use due::{Cursor, due, next_due, reannounce};
pub use enqueue::{Enqueued, Enqueuer, earlier, insert, insert_all, insert_batch, live_of_share};
pub(super) use family::LIVE_CHILD;
pub use family::{Child, children, spawn};
pub use hold::{Renewed, Report, arm, fence, renew, report};
pub use idle::{drop_stranded, reprioritise, request_cancel, revive, take_expired, wake, wake_due};
pub use lists::{LeaseHeld, held_by_worker};
pub use settle::{Outcome, settle};
pub use steps::{Step, mark_compensated, record_step, steps, steps_of};

use super::{Store, Tx, scoped::Scoped};
use crate::{
    domain::{
        Change, ChangeKind, Id, Machine as _, Table,
        id::{Task, User},
        policy::Resource,
        task::{Priority, TaskEvent, TaskState},
        trace::TraceParent,
        value::IdempotencyKey,
    },
    error::{AppError, StoreError},
    telemetry::trace::{self, Attribute, Kind},
};

/// How long an announced task may go unclaimed before the sweeper announces it again.
pub const SILENCE: Duration = Duration::from_secs(5);
/// What a task waits on whose children have not all ended.
pub const CHILDREN: &str = "children";

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
    /// Whose turn it takes: the owner's, or the service's own.
    pub share: Uuid,
    /// When the sweeper announces it, if it is still queued then.
    pub hint_at: DateTimeUtc,
    pub worker_id: Option<Uuid>,
    pub lease_until: Option<DateTimeUtc>,
    /// What it waits for or, while it runs, is going to wait for.
    pub wake_on: Option<String>,
    /// Whether that has happened while it ran.
    pub signalled: bool,
    pub cancel_requested_at: Option<DateTimeUtc>,
    pub progress: i16,
    pub progress_message: Option<String>,
    pub result: Option<Json>,
    pub error_code: Option<String>,
    pub error_message: Option<String>,
    pub idempotency_key: Option<String>,
    /// No two tasks with the same one live at the same time.
    pub unique_key: Option<String>,
    pub parent_id: Option<Uuid>,
    pub created_at: DateTimeUtc,
    pub started_at: Option<DateTimeUtc>,
    pub finished_at: Option<DateTimeUtc>,
    /// The span its runs are parts of the trace of, as a `traceparent`.
    pub trace_context: Option<String>,
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

    /// The hint that leads a worker to it.
    pub fn hint(&self) -> Hint {
        Hint {
            task: self.id(),
            priority: self.priority(),
            share: self.share,
            trace: self.trace_context.as_deref().and_then(TraceParent::parse),
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

/// The key to every write of one run: a write whose attempt or worker is not the newest changes nothing.
///
/// The worker belongs to it because a claim is not flushed to the disk: if the database's machine dies at once, the
/// same attempt may be given out again, to another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Lease {
    pub task: Id<Task>,
    pub attempt: i32,
    pub worker: Uuid,
}

/// What a worker needs to know to look for a task in turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hint {
    pub task: Id<Task>,
    pub priority: Priority,
    pub share: Uuid,
    /// What it is a part of, where that is known; it does not go with the hint.
    pub trace: Option<TraceParent>,
}

/// A task to enqueue.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub kind: Cow<'static, str>,
    pub input_version: i32,
    pub input: Json,
    pub owner: Option<Id<User>>,
    pub subject: Option<Uuid>,
    pub parent: Option<Id<Task>>,
    pub priority: Priority,
    pub max_attempts: i32,
    /// When it may run; `None` is at once.
    pub run_at: Option<DateTimeUtc>,
    /// From when it may run to the moment it is given up, whatever its attempts.
    pub deadline: Duration,
    pub idempotency_key: Option<String>,
    pub unique_key: Option<String>,
    /// What its runs are parts of.
    pub trace: Option<TraceParent>,
}

impl NewTask {
    #[must_use]
    pub fn with_key(mut self, key: Option<IdempotencyKey>) -> Self {
        self.idempotency_key = key.map(|key| key.as_str().to_owned());
        self
    }

    fn share(&self) -> Uuid {
        self.owner.map_or(Uuid::nil(), Id::uuid)
    }
}

/// The task an owner enqueued with `key` before.
pub async fn by_idempotency_key(
    db: &impl ConnectionTrait,
    owner: Id<User>,
    key: &IdempotencyKey,
) -> Result<Option<Model>, StoreError> {
    let found = Entity::find()
        .filter(Column::Share.eq(owner.uuid()))
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
    let live = TaskState::LIVE.map(TaskState::as_str);
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

/// Makes an update's tasks due now, and known to be announced.
fn due_now(update: UpdateMany<Entity>, now: DateTimeUtc) -> UpdateMany<Entity> {
    update
        .col_expr(Column::RunAt, Expr::value(now))
        .col_expr(Column::HintAt, Expr::value(now + SILENCE))
}

/// Tells that what is under way asks for a task; what the task's runs are parts of.
fn asked_for(kind: &'static str) -> Option<TraceParent> {
    let now = trace::now()?;
    let created = trace::record(Kind::Producer, (now, now), || {
        let attributes = vec![
            Attribute::new("messaging.system", "main-webserver"),
            Attribute::new("messaging.operation.type", "create"),
            Attribute::new("messaging.operation.name", "create"),
            Attribute::new("messaging.destination.name", kind),
        ];
        (format!("create {kind}").into(), attributes)
    });
    // Of what is not recorded, that is handed on.
    created.or_else(trace::current)
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
    /// From the moment it may run to the moment it is given up.
    const DEADLINE: Duration = Duration::from_secs(3600);

    /// Brings the input of an older `version` into this one's shape, so that what was queued before a deploy runs
    /// after it.
    ///
    /// # Errors
    /// What is wrong with it; the task is given up with these words.
    fn upgrade(version: i32, _input: Json) -> Result<Json, String> {
        Err(format!("input version {version} is not read any more"))
    }

    /// Reads a recorded input, an older version's too.
    fn decode(version: i32, input: Json) -> Result<Self, String> {
        let input = if version == Self::VERSION {
            input
        } else {
            Self::upgrade(version, input)?
        };
        serde_json::from_value(input).map_err(|error| error.to_string())
    }

    /// The task that does this for `owner`, working on `subject`.
    fn into_task(
        self,
        owner: Option<Id<User>>,
        subject: Option<Uuid>,
    ) -> Result<NewTask, AppError> {
        Ok(NewTask {
            kind: Self::KIND.into(),
            input_version: Self::VERSION,
            input: serde_json::to_value(self).map_err(AppError::internal)?,
            owner,
            subject,
            parent: None,
            priority: Self::PRIORITY,
            max_attempts: Self::MAX_ATTEMPTS,
            run_at: None,
            deadline: Self::DEADLINE,
            idempotency_key: None,
            unique_key: None,
            trace: asked_for(Self::KIND),
        })
    }
}
