//! People who can sign in.

use sea_orm::{ActiveValue::Set, ConnectionTrait, SqlErr, entity::prelude::*};

use super::{Tx, scoped::Scoped};
use crate::{
    domain::{
        Id, Table,
        id::User,
        policy::{Resource, Role},
        value::{DisplayName, Email},
    },
    error::{AppError, StoreError},
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "account")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub email: String,
    pub name: String,
    pub password_hash: String,
    pub role: String,
    pub disabled: bool,
    /// Which images of the catalogue they get.
    pub release_channel: String,
    pub version: i64,
    pub created_at: DateTimeUtc,
    pub updated_at: DateTimeUtc,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::User;
    fn owner() -> Option<Column> {
        Some(Column::Id)
    }
}

impl Model {
    pub const fn id(&self) -> Id<User> {
        Id::new(self.id)
    }

    pub fn role(&self) -> Result<Role, StoreError> {
        Role::parse(&self.role).ok_or(StoreError::Unreadable {
            column: "account.role",
        })
    }
}

/// Adds an account; a second one with the same e-mail address is a conflict.
pub async fn insert(
    tx: &mut Tx<'_>,
    email: &Email,
    name: &DisplayName,
    password_hash: String,
    role: Role,
) -> Result<Model, AppError> {
    let now = tx.now();
    let row = ActiveModel {
        id: Set(tx.new_id::<User>().uuid()),
        email: Set(email.as_str().to_owned()),
        name: Set(name.as_str().to_owned()),
        password_hash: Set(password_hash),
        role: Set(role.as_str().to_owned()),
        disabled: Set(false),
        release_channel: Set("stable".to_owned()),
        version: Set(1),
        created_at: Set(now),
        updated_at: Set(now),
    };
    let row = row
        .insert(tx)
        .await
        .map_err(|error| match error.sql_err() {
            Some(SqlErr::UniqueConstraintViolation(_)) => {
                AppError::Conflict("an account with this e-mail address exists")
            }
            _ => error.into(),
        })?;
    tx.touched(Table::User, row.id, Some(row.id));
    Ok(row)
}

/// The account of an address, for the check of its password.
pub async fn unscoped_by_email(
    db: &impl ConnectionTrait,
    email: &Email,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find()
        .filter(Column::Email.eq(email.as_str()))
        .one(db)
        .await?)
}

/// The account behind a session, for the check of a token.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<User>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// Whether no account exists at all.
pub async fn is_empty(db: &impl ConnectionTrait) -> Result<bool, StoreError> {
    use sea_orm::QuerySelect as _;
    let any: Option<Uuid> = Entity::find()
        .select_only()
        .column(Column::Id)
        .into_tuple()
        .one(db)
        .await?;
    Ok(any.is_none())
}

/// The row, locked by this transaction: those who count what an owner has take turns.
pub async fn lock(tx: &Tx<'_>, id: Id<User>) -> Result<Option<Model>, StoreError> {
    use sea_orm::QuerySelect as _;
    let row = Entity::find_by_id(id.uuid()).lock_exclusive();
    Ok(row.one(tx).await?)
}

/// Moves an account to another release channel.
pub async fn set_release_channel(
    tx: &mut Tx<'_>,
    id: Id<User>,
    channel: &str,
) -> Result<Option<Model>, StoreError> {
    let now = tx.now();
    let changed = Entity::update_many()
        .col_expr(Column::ReleaseChannel, Expr::value(channel))
        .col_expr(
            Column::Version,
            sea_orm::ExprTrait::add(Expr::col(Column::Version), 1),
        )
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .filter(Column::Id.eq(id.uuid()))
        .exec_with_returning(tx)
        .await?;
    tx.touched(Table::User, id.uuid(), Some(id.uuid()));
    Ok(changed.into_iter().next())
}

/// Replaces the password's hash.
pub async fn set_password_hash(
    tx: &mut Tx<'_>,
    id: Id<User>,
    hash: String,
) -> Result<(), StoreError> {
    let now = tx.now();
    Entity::update_many()
        .col_expr(Column::PasswordHash, Expr::value(hash))
        .col_expr(
            Column::Version,
            sea_orm::ExprTrait::add(Expr::col(Column::Version), 1),
        )
        .col_expr(Column::UpdatedAt, Expr::value(now))
        .filter(Column::Id.eq(id.uuid()))
        .exec(tx)
        .await?;
    tx.touched(Table::User, id.uuid(), Some(id.uuid()));
    Ok(())
}
