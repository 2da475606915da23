//! When containers and machines ran, and for whom: one row from the time one is up until it is not, or is given to another
//! owner. Written by the transition that makes it so, in its transaction.

use sea_orm::{ActiveValue::Set, entity::prelude::*, sea_query::OnConflict};

use super::Tx;
use crate::error::StoreError;

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "running_period")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// `container` or `machine`.
    pub subject: String,
    pub subject_id: Uuid,
    /// `None` while it waited in a warm pool.
    pub owner_id: Option<Uuid>,
    /// A container's app, a machine's image.
    pub product_id: Uuid,
    pub region_id: Uuid,
    pub cluster_id: Option<Uuid>,
    pub release_channel: Option<String>,
    pub began_at: DateTimeUtc,
    pub ended_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

/// What runs, and for whom.
pub(super) struct Runs {
    pub subject: &'static str,
    pub id: Uuid,
    pub owner: Option<Uuid>,
    pub product: Uuid,
    pub region: Uuid,
    pub cluster: Option<Uuid>,
    pub release_channel: Option<String>,
}

/// Records that it is up from `now` on.
pub(super) async fn begin(tx: &Tx<'_>, runs: Runs, now: DateTimeUtc) -> Result<(), StoreError> {
    let row = ActiveModel {
        id: Set(tx.store.entropy.uuid(now)),
        subject: Set(runs.subject.to_owned()),
        subject_id: Set(runs.id),
        owner_id: Set(runs.owner),
        product_id: Set(runs.product),
        region_id: Set(runs.region),
        cluster_id: Set(runs.cluster),
        release_channel: Set(runs.release_channel),
        began_at: Set(now),
        ended_at: Set(None),
    };
    // One that is open already goes on: of what was restored from earlier, only its row may have been brought back.
    Entity::insert(row)
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// Records that it is up no more from `now` on.
pub(super) async fn end(tx: &Tx<'_>, subject: Uuid, now: DateTimeUtc) -> Result<(), StoreError> {
    Entity::update_many()
        .col_expr(Column::EndedAt, Expr::value(now))
        .filter(Column::SubjectId.eq(subject))
        .filter(Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    Ok(())
}

/// Records what a change of state means: from up to down, or the other way.
pub(super) async fn follow(
    tx: &Tx<'_>,
    was_up: bool,
    is_up: bool,
    runs: impl FnOnce() -> Runs,
    subject: Uuid,
) -> Result<(), StoreError> {
    match (was_up, is_up) {
        (false, true) => begin(tx, runs(), tx.now()).await,
        (true, false) => end(tx, subject, tx.now()).await,
        (true, true) | (false, false) => Ok(()),
    }
}
