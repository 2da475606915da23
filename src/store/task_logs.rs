//! What a task's runs have said, line by line.

use std::collections::HashMap;

use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait, QueryOrder as _, QuerySelect as _, QueryTrait as _,
    entity::prelude::*,
    sea_query::{Asterisk, Expr, Query, UnionType, all, any},
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
    // Each has an end of its own, and goes by the index to it.
    let each = tasks.iter().map(|task| {
        let lines = first_lines(*task, after, limit).into_query();
        let mut page = Query::select();
        page.expr(Expr::col(Asterisk)).from_subquery(lines, "page");
        page
    });
    let together = each.reduce(|mut all, page| {
        all.union(UnionType::All, page);
        all
    });
    let Some(together) = together else {
        return Ok(HashMap::new());
    };
    let statement = store.db().get_database_backend().build(&together);
    let lines = Entity::find().from_raw_sql(statement).all(store.db());
    let mut all: HashMap<Uuid, Vec<Model>> = HashMap::new();
    for line in lines.await? {
        all.entry(line.task_id).or_default().push(line);
    }
    Ok(all)
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
