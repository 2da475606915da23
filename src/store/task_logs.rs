//! What a task's runs have said, line by line.

use std::{collections::HashMap, fmt::Write as _};

use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, QueryOrder as _, QuerySelect as _, QueryTrait as _, Statement,
    entity::prelude::*,
    sea_query::{all, any},
};

use super::{Store, Tx, tasks::Lease};
use crate::{
    domain::{Id, id::Task},
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "task_log")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub task_id: Uuid,
    pub attempt: i32,
    pub level: String,
    pub message: String,
    pub at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

/// How loud a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    Info,
    Warn,
    Error,
}

crate::domain::machine::named!(Level { Info = "info", Warn = "warn", Error = "error" });

/// A line to add.
pub(super) struct NewLine<'a> {
    pub lease: Lease,
    pub level: Level,
    pub message: &'a str,
}

/// Adds lines of runs whose leases the caller has checked in this transaction.
pub(super) async fn append(tx: &mut Tx<'_>, lines: Vec<NewLine<'_>>) -> Result<(), StoreError> {
    if lines.is_empty() {
        return Ok(());
    }
    let now = tx.now();
    let rows: Vec<ActiveModel> = lines
        .into_iter()
        .map(|line| ActiveModel {
            id: Set(tx.new_id::<Task>().uuid()),
            task_id: Set(line.lease.task.uuid()),
            attempt: Set(line.lease.attempt),
            level: Set(line.level.as_str().to_owned()),
            message: Set(line.message.to_owned()),
            at: Set(now),
        })
        .collect();
    Entity::insert_many(rows).exec_without_returning(tx).await?;
    Ok(())
}

/// A line's place among those of its task: later attempts come after earlier ones, whatever their workers' clocks say.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    pub attempt: i32,
    pub id: Uuid,
}

impl Model {
    pub const fn place(&self) -> Place {
        Place {
            attempt: self.attempt,
            id: self.id,
        }
    }
}

/// The first `limit` lines after `after`, oldest first. The caller has checked that the task may be read.
pub async fn page(
    store: &Store,
    task: Id<Task>,
    after: Option<Place>,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    page_in(store.db(), task, after, limit).await
}

/// The same of several tasks, by one statement; none of one that has not said anything.
pub async fn pages(
    store: &Store,
    tasks: &[Id<Task>],
    after: Option<Place>,
    limit: u64,
) -> Result<HashMap<Uuid, Vec<Model>>, StoreError> {
    if tasks.is_empty() {
        return Ok(HashMap::new());
    }
    let backend = store.db().get_database_backend();
    let (mut text, mut values) = (String::new(), Vec::new());
    for task in tasks {
        let page = first_lines(*task, after, limit).build(backend);
        // Each has an end of its own, and goes by the index to it.
        let own = page.values.map(|values| values.0).unwrap_or_default();
        let sql = renumbered(&page.sql, values.len());
        values.extend(own);
        let and = if text.is_empty() { "" } else { " UNION ALL " };
        let _ = write!(text, "{and}SELECT * FROM ({sql}) AS x{}", values.len());
    }
    let statement = Statement::from_sql_and_values(backend, text, values);
    let lines = Entity::find().from_raw_sql(statement).all(store.db());
    let mut all: HashMap<Uuid, Vec<Model>> = HashMap::new();
    for line in lines.await? {
        all.entry(line.task_id).or_default().push(line);
    }
    Ok(all)
}

/// The text of a statement whose parameters come behind `before` others. Only PostgreSQL's have numbers.
fn renumbered(sql: &str, before: usize) -> String {
    let mut parts = sql.split('$');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = part.split_at(end);
        let number: usize = number.parse().unwrap_or_default();
        let _ = write!(text, "${}{rest}", number + before);
    }
    text
}

pub(super) async fn page_in(
    db: &impl ConnectionTrait,
    task: Id<Task>,
    after: Option<Place>,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    Ok(first_lines(task, after, limit).all(db).await?)
}

fn first_lines(task: Id<Task>, after: Option<Place>, limit: u64) -> Select<Entity> {
    let mut lines = Entity::find().filter(Column::TaskId.eq(task.uuid()));
    if let Some(Place { attempt, id }) = after {
        let same = all![Column::Attempt.eq(attempt), Column::Id.gt(id)];
        lines = lines.filter(any![Column::Attempt.gt(attempt), same]);
    }
    lines
        .order_by_asc(Column::Attempt)
        .order_by_asc(Column::Id)
        .limit(limit)
}
