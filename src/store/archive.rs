//! Ended tasks that are kept for the record: out of the way of the engine, whole, and for a time.

use chrono::{DateTime, Utc};
use sea_orm::{ActiveValue::Set, Condition, QueryOrder as _, QuerySelect as _, entity::prelude::*};
use serde_json::json;

use super::{Store, scoped::Scoped, source::stamp, task_logs, tasks};
use crate::{
    domain::{Id, Table, id::Task, policy::Resource, task::TaskState},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "task_archive")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub kind: String,
    pub owner_id: Option<Uuid>,
    pub state: String,
    pub finished_at: DateTimeUtc,
    pub archived_at: DateTimeUtc,
    /// The task with its log, as it was.
    pub document: Json,
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
            column: "task_archive.state",
        })
    }
}

/// From when on ended tasks go to the archive, dead letters too, and archived ones go for good.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    pub ended_before: DateTime<Utc>,
    pub failed_before: DateTime<Utc>,
    pub archived_before: DateTime<Utc>,
}

/// Most log lines that go with a task.
const LINES: u64 = 1000;

/// Moves at most `limit` ended tasks to the archive, each with its log; how many.
///
/// A task with a living child stays, so that the child finds its parent.
pub async fn move_ended(store: &Store, cut: Cut, limit: u64) -> Result<usize, StoreError> {
    use tasks::{Column as C, Entity as Tasks};
    let mut tx = store.begin_engine().await?;
    let failed = TaskState::Failed.as_str();
    let old = Condition::any()
        .add(
            Condition::all()
                .add(C::FinishedAt.lt(cut.ended_before))
                .add(C::State.ne(failed)),
        )
        .add(
            Condition::all()
                .add(C::FinishedAt.lt(cut.failed_before))
                .add(C::State.eq(failed)),
        );
    let found = Tasks::find()
        .filter(C::FinishedAt.is_not_null())
        .filter(Expr::cust(format!("NOT EXISTS ({})", tasks::LIVE_CHILD)))
        .filter(old)
        .order_by_asc(C::FinishedAt)
        .limit(limit)
        .lock_with_behavior(
            sea_orm::sea_query::LockType::Update,
            sea_orm::sea_query::LockBehavior::SkipLocked,
        )
        .all(&tx)
        .await?;
    if found.is_empty() {
        return Ok(0);
    }
    let now = store.now();
    let mut rows = Vec::with_capacity(found.len());
    for task in &found {
        let lines = task_logs::page_in(&tx, task.id(), None, LINES).await?;
        rows.push(ActiveModel {
            id: Set(task.id),
            kind: Set(task.kind.clone()),
            owner_id: Set(task.owner_id),
            state: Set(task.state.clone()),
            finished_at: Set(task.finished_at.unwrap_or(now)),
            archived_at: Set(now),
            document: Set(document(task, &lines)),
        });
    }
    let again = sea_orm::sea_query::OnConflict::column(Column::Id)
        .update_columns([
            Column::State,
            Column::FinishedAt,
            Column::ArchivedAt,
            Column::Document,
        ])
        .to_owned();
    Entity::insert_many(rows)
        .on_conflict(again)
        .exec_without_returning(&tx)
        .await?;
    Tasks::delete_many()
        .filter(C::Id.is_in(found.iter().map(|task| task.id)))
        .exec(&tx)
        .await?;
    for task in &found {
        tx.touched(Table::Task, task.id, task.owner_id);
    }
    tx.commit().await?;
    Ok(found.len())
}

/// Removes at most `limit` tasks from the archive; how many.
pub async fn drop_old(store: &Store, cut: Cut, limit: u64) -> Result<u64, StoreError> {
    let old: Vec<Uuid> = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::ArchivedAt.lt(cut.archived_before))
        .order_by_asc(Column::ArchivedAt)
        .limit(limit)
        .into_tuple()
        .all(store.engine())
        .await?;
    let dropped = Entity::delete_many().filter(Column::Id.is_in(old));
    Ok(dropped.exec(store.engine()).await?.rows_affected)
}

/// An archived task, for the engine.
pub async fn unscoped_by_id(store: &Store, id: Id<Task>) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(store.db()).await?)
}

fn document(task: &tasks::Model, lines: &[task_logs::Model]) -> Json {
    let at = |time: Option<DateTimeUtc>| time.map(stamp);
    let log: Vec<Json> = lines
        .iter()
        .map(|line| {
            json!({
                "at": stamp(line.at), "attempt": line.attempt, "level": line.level, "message": line.message,
            })
        })
        .collect();
    json!({
        "inputVersion": task.input_version,
        "input": task.input,
        "subject": task.subject_id,
        "parent": task.parent_id,
        "attempt": task.attempt,
        "failures": task.failures,
        "maxAttempts": task.max_attempts,
        "progress": task.progress,
        "progressMessage": task.progress_message,
        "result": task.result,
        "errorCode": task.error_code,
        "errorMessage": task.error_message,
        "createdAt": stamp(task.created_at),
        "startedAt": at(task.started_at),
        "cancelRequestedAt": at(task.cancel_requested_at),
        "log": log,
    })
}
