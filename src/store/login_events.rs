//! Who tried to log in, when, from where, and what came of it. Rows are added and never changed.

use sea_orm::{ActiveValue::Set, entity::prelude::*};

use super::{Tx, scoped::Scoped, sessions::Origin};
use crate::{
    domain::{
        Id, Table,
        id::{LoginEvent, User},
        policy::Resource,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "login_event")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    /// Whose account it was; `None` when there is none with that address.
    pub owner_id: Option<Uuid>,
    pub outcome: String,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::LoginEvent;
    fn owner() -> Option<Column> {
        // Whoever tries a password is not the one whose it is; only administrators see any.
        None
    }
}

/// What came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    Succeeded,
    /// The password was wrong, or there is no such account.
    Refused,
    /// The account is disabled.
    Disabled,
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Refused => "refused",
            Self::Disabled => "disabled",
        }
    }
}

/// Records a try.
pub async fn record(
    tx: &mut Tx<'_>,
    owner: Option<Id<User>>,
    outcome: Outcome,
    origin: &Origin,
) -> Result<(), StoreError> {
    let (id, now) = (tx.new_id::<LoginEvent>().uuid(), tx.now());
    let origin = origin.clipped();
    let row = ActiveModel {
        id: Set(id),
        owner_id: Set(owner.map(Id::uuid)),
        outcome: Set(outcome.as_str().to_owned()),
        ip: Set(origin.ip),
        user_agent: Set(origin.user_agent),
        at: Set(now),
    };
    Entity::insert(row).exec_without_returning(tx).await?;
    tx.touched(Table::LoginEvent, id, None);
    Ok(())
}
