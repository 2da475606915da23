//! Messages written with the change they tell of and sent after its commit, at least once.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set, ColumnTrait as _, ConnectionTrait, EntityTrait as _, QueryFilter as _,
    QueryOrder as _, QuerySelect as _, entity::prelude::*,
};
use serde::{Deserialize, Serialize};

use super::Store;
use crate::{domain::Change, error::StoreError};

/// What is told after a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Message {
    Change(Change),
    /// A task can run: a hint for whichever worker is free.
    Dispatch {
        task: Uuid,
        rank: i16,
    },
}

/// A message with its row in the outbox.
#[derive(Clone, Debug)]
pub struct Posted {
    pub id: Uuid,
    pub message: Message,
}

mod row {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "outbox")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: Uuid,
        pub message: Json,
        pub created_at: DateTimeUtc,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Writes `messages` into the outbox of the open transaction `tx`.
pub(super) async fn post(
    tx: &impl ConnectionTrait,
    store: &Store,
    messages: Vec<Message>,
) -> Result<Vec<Posted>, StoreError> {
    if messages.is_empty() {
        return Ok(Vec::new());
    }
    let now = store.now();
    let posted: Vec<Posted> = messages
        .into_iter()
        .map(|message| Posted {
            id: store.entropy.uuid(now),
            message,
        })
        .collect();
    let rows = posted
        .iter()
        .map(|posted| {
            let message = serde_json::to_value(&posted.message)
                .map_err(|error| DbErr::Json(error.to_string()))?;
            Ok(row::ActiveModel {
                id: Set(posted.id),
                message: Set(message),
                created_at: Set(now),
            })
        })
        .collect::<Result<Vec<_>, DbErr>>()?;
    row::Entity::insert_many(rows)
        .exec_without_returning(tx)
        .await?;
    Ok(posted)
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
        serde_json::from_value(row.message)
            .map(|message| Posted {
                id: row.id,
                message,
            })
            .map_err(|_| StoreError::Unreadable {
                column: "outbox.message",
            })
    };
    rows.into_iter().map(read).collect()
}

/// Forgets messages that have been sent.
pub async fn forget(store: &Store, ids: impl IntoIterator<Item = Uuid>) -> Result<(), StoreError> {
    row::Entity::delete_many()
        .filter(row::Column::Id.is_in(ids))
        .exec(store.db())
        .await?;
    Ok(())
}
