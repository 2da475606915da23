//! Schedules: tasks that recur, each time once across all workers.

use std::time::Duration;

use sea_orm::{ActiveValue::Set, QueryOrder as _, QuerySelect as _, entity::prelude::*};
use serde::{Deserialize, Serialize};

use super::{
    Store, Tx,
    scoped::Scoped,
    tasks::{self, NewTask},
};
use crate::{
    domain::{Id, Table, cadence::Cadence, id::Schedule, policy::Resource, task::Priority},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "task_schedule")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub name: String,
    pub template: Json,
    pub cron: String,
    pub time_zone: String,
    pub enabled: bool,
    pub next_at: DateTimeUtc,
    pub last_at: Option<DateTimeUtc>,
    pub last_task_id: Option<Uuid>,
    pub version: i64,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Schedule;
    fn owner() -> Option<Column> {
        None
    }
}

/// What each of a schedule's tasks is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Template {
    pub kind: String,
    pub input_version: i32,
    pub input: Json,
    pub rank: i16,
    pub max_attempts: i32,
    pub deadline_seconds: u64,
}

impl From<NewTask> for Template {
    fn from(task: NewTask) -> Self {
        Self {
            kind: task.kind.into_owned(),
            input_version: task.input_version,
            input: task.input,
            rank: task.priority.rank(),
            max_attempts: task.max_attempts,
            deadline_seconds: task.deadline.as_secs(),
        }
    }
}

impl Template {
    fn into_task(self, key: String) -> NewTask {
        NewTask {
            kind: self.kind.into(),
            input_version: self.input_version,
            input: self.input,
            owner: None,
            subject: None,
            parent: None,
            priority: Priority::from_rank(self.rank),
            max_attempts: self.max_attempts,
            run_at: None,
            deadline: Duration::from_secs(self.deadline_seconds),
            idempotency_key: Some(key),
            unique_key: None,
            trace: None,
        }
    }
}

impl Model {
    pub const fn id(&self) -> Id<Schedule> {
        Id::new(self.id)
    }

    pub fn template(&self) -> Result<Template, StoreError> {
        serde_json::from_value(self.template.clone()).map_err(|_| StoreError::Unreadable {
            column: "task_schedule.template",
        })
    }
}

/// A schedule to add or to put in another's place.
#[derive(Clone, Debug)]
pub struct NewSchedule {
    pub name: String,
    pub template: Template,
    pub cron: String,
    pub time_zone: String,
    pub enabled: bool,
    pub next_at: DateTimeUtc,
}

/// Adds a schedule, or puts it in the place of the one with its name.
pub async fn put(tx: &mut Tx<'_>, schedule: NewSchedule) -> Result<Model, StoreError> {
    let now = tx.now();
    let template =
        serde_json::to_value(schedule.template).map_err(|error| DbErr::Json(error.to_string()))?;
    let named = Entity::find().filter(Column::Name.eq(schedule.name.as_str()));
    let mut row = ActiveModel {
        template: Set(template),
        cron: Set(schedule.cron),
        time_zone: Set(schedule.time_zone),
        enabled: Set(schedule.enabled),
        next_at: Set(schedule.next_at),
        updated_at: Set(now),
        ..Default::default()
    };
    if let Some(earlier) = named.lock_exclusive().one(tx).await? {
        row.id = Set(earlier.id);
        row.version = Set(earlier.version + 1);
        let row = row.update(tx).await?;
        tx.touched(Table::Schedule, row.id, None);
        return Ok(row);
    }
    row.id = Set(tx.new_id::<Schedule>().uuid());
    row.name = Set(schedule.name);
    row.version = Set(1);
    row.created_at = Set(now);
    row.last_at = Set(None);
    row.last_task_id = Set(None);
    let row = row.insert(tx).await?;
    tx.touched(Table::Schedule, row.id, None);
    Ok(row)
}

/// The schedule of that name.
pub async fn unscoped_by_name(
    db: &impl sea_orm::ConnectionTrait,
    name: &str,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find().filter(Column::Name.eq(name)).one(db).await?)
}

/// Removes a schedule; whether there was one. The tasks it has made stay.
pub async fn remove(tx: &mut Tx<'_>, id: Id<Schedule>) -> Result<bool, StoreError> {
    let removed = Entity::delete_by_id(id.uuid()).exec(tx).await?;
    tx.touched(Table::Schedule, id.uuid(), None);
    Ok(removed.rows_affected == 1)
}

/// Enqueues a task for each schedule whose time has come; how many.
///
/// A schedule's next time moves by a compare-and-set in the transaction that adds the task, so that two leaders at
/// once make one task. Times that were missed while nobody worked are made up for by one task, not by many.
pub async fn fire_due(store: &Store, limit: u64) -> Result<usize, StoreError> {
    let now = store.now();
    let due = Entity::find()
        .filter(Column::Enabled.eq(true))
        .filter(Column::NextAt.lte(now))
        .order_by_asc(Column::NextAt)
        .limit(limit)
        .all(store.engine())
        .await?;
    let mut fired = 0;
    for schedule in due {
        if fire(store, &schedule, now).await? {
            fired += 1;
        }
    }
    Ok(fired)
}

async fn fire(store: &Store, schedule: &Model, now: DateTimeUtc) -> Result<bool, StoreError> {
    // Both were checked when the schedule was put; a newer version's that cannot be read here is left to it.
    let (Ok(cadence), Ok(template)) = (
        Cadence::parse(&schedule.cron, &schedule.time_zone),
        schedule.template(),
    ) else {
        tracing::warn!(schedule = schedule.name, "it cannot be read");
        return Ok(false);
    };
    let mut tx = store.begin_engine().await?;
    let next = cadence.next(now);
    let moved = Entity::update_many()
        .col_expr(
            Column::NextAt,
            Expr::value(next.unwrap_or(schedule.next_at)),
        )
        .col_expr(Column::Enabled, Expr::value(next.is_some()))
        .col_expr(Column::LastAt, Expr::value(schedule.next_at))
        .col_expr(Column::Version, Expr::value(schedule.version + 1))
        .filter(Column::Id.eq(schedule.id))
        .filter(Column::Version.eq(schedule.version))
        .exec(&tx)
        .await?;
    if moved.rows_affected == 0 {
        return Ok(false);
    }
    let key = format!(
        "schedule:{}:{}",
        schedule.id.simple(),
        schedule.next_at.timestamp_micros()
    );
    let made = tasks::insert(&mut tx, template.into_task(key)).await?;
    Entity::update_many()
        .col_expr(Column::LastTaskId, Expr::value(made.task.id))
        .filter(Column::Id.eq(schedule.id))
        .exec(&tx)
        .await?;
    tx.touched(Table::Schedule, schedule.id, None);
    tx.commit().await?;
    Ok(true)
}
