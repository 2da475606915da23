//! Rows of several tasks that one statement has changed, as messages; and lists the operators read.

use sea_orm::{
    FromQueryResult, QueryOrder as _, QueryResult, QuerySelect as _, entity::prelude::*,
};

use super::{Column, Entity, Hint, Model, Tx, in_state};
use crate::{
    domain::{
        Change, ChangeKind, Id, Table,
        id::Task,
        task::{Priority, TaskState},
    },
    error::StoreError,
    store::Store,
};

/// What a statement returns of the tasks it has changed.
pub(super) const CHANGED: &str = "task.id, task.version, task.owner_id, task.priority, task.share";

pub(super) const fn task_change(task: Id<Task>, version: i64, owner: Option<Uuid>) -> Change {
    Change {
        table: Table::Task,
        id: task.uuid(),
        version,
        owner,
        kind: ChangeKind::Updated,
    }
}

/// Announces the rows a statement has returned as [`CHANGED`], as runnable too when they are.
pub(super) fn changed_tasks(
    tx: &mut Tx<'_>,
    rows: &[QueryResult],
    is_runnable: bool,
) -> Result<(), StoreError> {
    for row in rows {
        let task = Id::<Task>::new(row.try_get("", "id")?);
        tx.changed(task_change(
            task,
            row.try_get("", "version")?,
            row.try_get("", "owner_id")?,
        ));
        if is_runnable {
            tx.dispatch(read_hint(row)?);
        }
    }
    Ok(())
}

/// The hint in a row that has `id`, `priority` and `share`.
pub(super) fn read_hint(row: &QueryResult) -> Result<Hint, DbErr> {
    Ok(Hint {
        task: Id::new(row.try_get("", "id")?),
        priority: Priority::from_rank(row.try_get("", "priority")?),
        share: row.try_get("", "share")?,
        trace: None,
    })
}

/// The same for rows read as a whole.
pub(super) fn announce(tx: &mut Tx<'_>, tasks: &[Model]) {
    for task in tasks {
        tx.changed(task.change(ChangeKind::Updated));
        tx.dispatch(task.hint());
    }
}

/// A lease as an operator sees it.
#[derive(Clone, Debug, FromQueryResult)]
pub struct LeaseHeld {
    pub id: Uuid,
    pub kind: String,
    pub attempt: i32,
    pub lease_until: Option<DateTimeUtc>,
}

/// What a worker holds, at most `limit`.
pub async fn held_by_worker(
    store: &Store,
    worker: Uuid,
    limit: u64,
) -> Result<Vec<LeaseHeld>, StoreError> {
    Ok(Entity::find()
        .select_only()
        .columns([
            Column::Id,
            Column::Kind,
            Column::Attempt,
            Column::LeaseUntil,
        ])
        .filter(in_state(TaskState::Running))
        .filter(Column::WorkerId.eq(worker))
        .order_by_asc(Column::Id)
        .limit(limit)
        .into_model()
        .all(store.db())
        .await?)
}
