//! Tokens that open one console of one machine; kept as hashes, spent once.

use sea_orm::{ActiveValue::Set, entity::prelude::*};

use super::{Store, Tx};
use crate::{
    domain::{
        Id,
        id::{Session, User, VirtualMachine},
        virtual_machine::ConsoleKind,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "console_token")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub hash: String,
    pub machine_id: Uuid,
    pub created_by: Uuid,
    /// The login it was asked for in, with which the console ends.
    pub session_id: Uuid,
    pub kind: String,
    pub created_at: DateTimeUtc,
    pub expires_at: DateTimeUtc,
    pub used_at: Option<DateTimeUtc>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Model {
    pub const fn machine(&self) -> Id<VirtualMachine> {
        Id::new(self.machine_id)
    }

    pub const fn by(&self) -> (Id<User>, Id<Session>) {
        (Id::new(self.created_by), Id::new(self.session_id))
    }

    pub fn kind(&self) -> Result<ConsoleKind, StoreError> {
        ConsoleKind::parse(&self.kind).ok_or(StoreError::Unreadable {
            column: "console_token.kind",
        })
    }
}

/// Adds a token by its hash, and forgets those that have ended.
pub async fn insert(
    tx: &mut Tx<'_>,
    hash: String,
    machine: Id<VirtualMachine>,
    kind: ConsoleKind,
    (user, session): (Id<User>, Id<Session>),
    expires_at: DateTimeUtc,
) -> Result<(), StoreError> {
    let now = tx.now();
    Entity::delete_many()
        .filter(Column::ExpiresAt.lt(now))
        .exec(tx)
        .await?;
    let row = ActiveModel {
        id: Set(tx.store.entropy.uuid(now)),
        hash: Set(hash),
        machine_id: Set(machine.uuid()),
        created_by: Set(user.uuid()),
        session_id: Set(session.uuid()),
        kind: Set(kind.as_str().to_owned()),
        created_at: Set(now),
        expires_at: Set(expires_at),
        used_at: Set(None),
    };
    Entity::insert(row).exec_without_returning(tx).await?;
    Ok(())
}

/// Spends the token of a hash; `None` for one that is unknown, has ended or was spent. One statement, so that of two who come
/// with it one is let in.
pub async fn spend(store: &Store, hash: &str) -> Result<Option<Model>, StoreError> {
    let now = store.now();
    let spent = Entity::update_many()
        .col_expr(Column::UsedAt, Expr::value(now))
        .filter(Column::Hash.eq(hash))
        .filter(Column::UsedAt.is_null())
        .filter(Column::ExpiresAt.gt(now))
        .exec_with_returning(store.db())
        .await?;
    Ok(spent.into_iter().next())
}
