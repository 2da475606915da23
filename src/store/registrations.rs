//! Tokens that make one machine a host of one cluster; kept as hashes, spent once.

use sea_orm::{ActiveValue::Set, QuerySelect as _, entity::prelude::*};

use super::Tx;
use crate::{
    domain::{
        Id,
        id::{Cluster, Host, User},
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "registration_token")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub cluster_id: Uuid,
    pub hash: String,
    pub created_by: Uuid,
    pub created_at: DateTimeUtc,
    pub expires_at: DateTimeUtc,
    pub used_at: Option<DateTimeUtc>,
    pub host_id: Option<Uuid>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

/// Adds a token by its hash.
pub async fn insert(
    tx: &mut Tx<'_>,
    cluster: Id<Cluster>,
    hash: String,
    by: Id<User>,
    expires_at: DateTimeUtc,
) -> Result<Model, StoreError> {
    let row = ActiveModel {
        id: Set(tx.store.entropy.uuid(tx.now())),
        cluster_id: Set(cluster.uuid()),
        hash: Set(hash),
        created_by: Set(by.uuid()),
        created_at: Set(tx.now()),
        expires_at: Set(expires_at),
        used_at: Set(None),
        host_id: Set(None),
    };
    Ok(row.insert(tx).await?)
}

/// The token of a hash that has not ended, spent or not, locked by this transaction.
pub async fn lock(tx: &Tx<'_>, hash: &str) -> Result<Option<Model>, StoreError> {
    let token = Entity::find()
        .filter(Column::Hash.eq(hash))
        .filter(Column::ExpiresAt.gt(tx.now()))
        .lock_exclusive();
    Ok(token.one(tx).await?)
}

/// Spends a token.
pub async fn spend(tx: &mut Tx<'_>, row: &Model, host: Id<Host>) -> Result<(), StoreError> {
    let patch = ActiveModel {
        id: Set(row.id),
        used_at: Set(Some(tx.now())),
        host_id: Set(Some(host.uuid())),
        ..Default::default()
    };
    patch.update(tx).await?;
    Ok(())
}
