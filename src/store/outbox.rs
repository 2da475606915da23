//! Messages written with the change they tell of and sent after its commit, at least once.
//!
//! A transaction writes one row with all its changes, however many. Hints need no row: a task that can run is its own.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set, ConnectionTrait, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};

use super::{
    Store,
    source::{Parameters, RELAXED},
    tasks::Hint,
};
use crate::{
    domain::{Change, Id, id::Task},
    error::StoreError,
};

/// What one commit has to tell: changes of rows to whoever watches, hints of tasks to whoever works.
#[derive(Clone, Debug, Default)]
pub struct Posted {
    /// Its row in the outbox; `None` when nothing is lost if it is not sent.
    pub id: Option<Uuid>,
    pub changes: Vec<Change>,
    pub hints: Vec<Hint>,
    /// Tasks that may run as soon as their commit, which has not ended yet, has.
    pub foretold: Vec<Id<Task>>,
}

impl Posted {
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.hints.is_empty() && self.foretold.is_empty()
    }
}

mod row {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "outbox")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub message: String,
        pub created_at: DateTimeUtc,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Writes `changes` into the outbox of the open transaction `tx`; the id of their row, if there are any.
pub(super) async fn post(
    tx: &impl ConnectionTrait,
    store: &Store,
    changes: &[Change],
) -> Result<Option<Uuid>, StoreError> {
    if changes.is_empty() {
        return Ok(None);
    }
    let now = store.now();
    let id = store.entropy.uuid(now);
    let row = row::ActiveModel {
        id: Set(id),
        message: Set(text(changes)?),
        created_at: Set(now),
    };
    row::Entity::insert(row).exec_without_returning(tx).await?;
    Ok(Some(id))
}

/// Changes as a row keeps them: text, which the database neither reads nor checks.
pub(super) fn text(changes: &[Change]) -> Result<String, DbErr> {
    serde_json::to_string(changes).map_err(|error| DbErr::Json(error.to_string()))
}

/// The oldest messages written before `before` and not yet sent.
pub async fn left_over(
    store: &Store,
    before: DateTime<Utc>,
    limit: u64,
) -> Result<Vec<Posted>, StoreError> {
    let rows = row::Entity::find()
        .filter(row::Column::CreatedAt.lt(before))
        .order_by_asc(row::Column::Id)
        .limit(limit)
        .all(store.db())
        .await?;
    let read = |row: row::Model| {
        let changes = serde_json::from_str(&row.message).unwrap_or_else(|error| {
            // Another version's words; its rows are where they were, and whoever watches reads them at the next one.
            tracing::warn!(%error, "a message in the outbox could not be read");
            Vec::new()
        });
        Posted {
            id: Some(row.id),
            changes,
            ..Posted::default()
        }
    };
    Ok(rows.into_iter().map(read).collect())
}

/// Forgets messages that have been sent. One that comes back after a crash is sent twice, which does no harm; so nobody waits
/// for the disk.
pub async fn forget(store: &Store, ids: Vec<Uuid>) -> Result<(), StoreError> {
    let mut parameters = Parameters::of(store.engine());
    let sql = if parameters.is_postgres() {
        let ids = parameters.put(ids);
        format!("DELETE FROM outbox USING {RELAXED} WHERE id = ANY ({ids}::uuid[])")
    } else {
        let ids = parameters.rows(&ids);
        format!("DELETE FROM outbox WHERE id IN (SELECT x.id FROM {ids})")
    };
    store
        .engine()
        .execute_raw(parameters.statement(sql))
        .await?;
    Ok(())
}
