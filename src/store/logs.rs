//! What containers and machines write, as far as somebody wants to read it: brought from the engine by one worker while
//! there is interest.

use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::{
    ActiveValue::Set,
    ConnectionTrait as _, QueryOrder as _, QuerySelect as _,
    entity::prelude::*,
    sea_query::{Expr, OnConflict},
};

use super::{Store, source::statement};
use crate::{domain::Table, error::StoreError};

/// How many lines of one subject are kept.
const KEPT: i64 = 5000;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "log_line")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub subject_id: Uuid,
    /// Grows by one with each line of the subject.
    #[sea_orm(primary_key, auto_increment = false)]
    pub line: i64,
    /// Its place in the engine's own log.
    pub mark: i64,
    pub at: DateTimeUtc,
    pub is_error: bool,
    pub message: String,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

/// Who wants to read.
pub mod interest {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "log_interest")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub subject_id: Uuid,
        pub until: DateTimeUtc,
        /// The worker that brings the lines.
        pub holder: Option<Uuid>,
        pub held_until: Option<DateTimeUtc>,
        /// Whether all it had written when the bringing began is here.
        pub followed: bool,
    }

    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// A line to add.
pub struct NewLine {
    pub mark: i64,
    pub at: DateTimeUtc,
    pub is_error: bool,
    pub message: String,
}

/// Says that somebody reads a subject's log for `life` from now on.
pub async fn want(store: &Store, subject: Uuid, life: Duration) -> Result<(), StoreError> {
    let row = interest::ActiveModel {
        subject_id: Set(subject),
        until: Set(store.now() + life),
        holder: Set(None),
        held_until: Set(None),
        followed: Set(false),
    };
    let longer = OnConflict::column(interest::Column::SubjectId)
        .update_column(interest::Column::Until)
        .to_owned();
    interest::Entity::insert(row)
        .on_conflict(longer)
        .exec_without_returning(store.db())
        .await?;
    Ok(())
}

/// Whether all it had written when its bringing began is here, and more is being brought.
pub async fn is_followed(store: &Store, subject: Uuid) -> Result<bool, StoreError> {
    let row = interest::Entity::find_by_id(subject)
        .one(store.db())
        .await?;
    let now = store.now();
    Ok(row.is_some_and(|row| row.followed && row.held_until.is_some_and(|until| until > now)))
}

/// Takes or keeps the bringing of what is wanted and what nobody else brings; whose it is.
pub async fn hold(store: &Store, holder: Uuid, lease: Duration) -> Result<Vec<Uuid>, StoreError> {
    const HOLD: &str = "UPDATE log_interest SET \
          followed = CASE WHEN holder = $1 THEN followed ELSE FALSE END, holder = $1, held_until = $2 \
        WHERE until > $3 AND (holder IS NULL OR holder = $1 OR held_until < $3) RETURNING subject_id";
    let now = store.now();
    let values: [Value; 3] = [holder.into(), (now + lease).into(), now.into()];
    let held = store
        .db()
        .query_all_raw(statement(store.db(), HOLD, values))
        .await?;
    held.iter()
        .map(|row| Ok(row.try_get("", "subject_id")?))
        .collect()
}

/// Says that all it had written when its bringing began is here.
pub async fn caught_up(store: &Store, subject: Uuid, holder: Uuid) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    interest::Entity::update_many()
        .col_expr(interest::Column::Followed, Expr::value(true))
        .filter(interest::Column::SubjectId.eq(subject))
        .filter(interest::Column::Holder.eq(holder))
        .exec(&tx)
        .await?;
    tx.touched(Table::Log, subject, None);
    tx.commit().await
}

/// Forgets what nobody has wanted for `silence`, with its lines.
pub async fn forget(store: &Store, silence: TimeDelta) -> Result<(), StoreError> {
    let unwanted: Vec<Uuid> = interest::Entity::find()
        .select_only()
        .column(interest::Column::SubjectId)
        .filter(interest::Column::Until.lt(store.now() - silence))
        .limit(100)
        .into_tuple()
        .all(store.db())
        .await?;
    if unwanted.is_empty() {
        return Ok(());
    }
    let tx = store.begin().await?;
    Entity::delete_many()
        .filter(Column::SubjectId.is_in(unwanted.clone()))
        .exec(&tx)
        .await?;
    interest::Entity::delete_many()
        .filter(interest::Column::SubjectId.is_in(unwanted))
        .exec(&tx)
        .await?;
    tx.commit().await
}

/// The newest line of a subject.
pub async fn newest(store: &Store, subject: Uuid) -> Result<Option<Model>, StoreError> {
    let newest = Entity::find()
        .filter(Column::SubjectId.eq(subject))
        .order_by_desc(Column::Line);
    Ok(newest.one(store.db()).await?)
}

/// Adds lines after the line numbered `after`; the number of the last.
///
/// # Errors
/// [`StoreError::LeaseLost`] when another brings them.
pub async fn append(
    store: &Store,
    subject: Uuid,
    after: i64,
    lines: Vec<NewLine>,
) -> Result<i64, StoreError> {
    let mut tx = store.begin().await?;
    let mut number = after;
    let rows = lines.into_iter().map(|line| {
        number += 1;
        ActiveModel {
            subject_id: Set(subject),
            line: Set(number),
            mark: Set(line.mark),
            at: Set(line.at),
            is_error: Set(line.is_error),
            message: Set(line.message),
        }
    });
    let rows: Vec<ActiveModel> = rows.collect();
    let added = Entity::insert_many(rows).exec_without_returning(&tx).await;
    added.map_err(|error| match error.sql_err() {
        Some(sea_orm::SqlErr::UniqueConstraintViolation(_)) => StoreError::LeaseLost,
        _ => error.into(),
    })?;
    Entity::delete_many()
        .filter(Column::SubjectId.eq(subject))
        .filter(Column::Line.lte(number - KEPT))
        .exec(&tx)
        .await?;
    tx.touched(Table::Log, subject, None);
    tx.commit().await?;
    Ok(number)
}

/// The first `limit` lines after a line. The caller has checked that it may be read.
pub async fn page(
    store: &Store,
    subject: Uuid,
    after: i64,
    limit: u64,
) -> Result<Vec<Model>, StoreError> {
    let lines = Entity::find()
        .filter(Column::SubjectId.eq(subject))
        .filter(Column::Line.gt(after))
        .order_by_asc(Column::Line)
        .limit(limit);
    Ok(lines.all(store.db()).await?)
}

/// The last `limit` lines, the oldest first.
pub async fn last(store: &Store, subject: Uuid, limit: u64) -> Result<Vec<Model>, StoreError> {
    let lines = Entity::find()
        .filter(Column::SubjectId.eq(subject))
        .order_by_desc(Column::Line)
        .limit(limit);
    let mut lines = lines.all(store.db()).await?;
    lines.reverse();
    Ok(lines)
}
