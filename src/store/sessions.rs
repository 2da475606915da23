//! Logins, and the family of refresh tokens each one spends.

use std::time::Duration;

use sea_orm::{ActiveValue::Set, ConnectionTrait, entity::prelude::*};

use super::{Store, Tx, scoped::Scoped};
use crate::{
    domain::{
        Id, Table,
        id::{Session, User},
        policy::Resource,
    },
    error::StoreError,
};

#[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
#[sea_orm(table_name = "session")]
pub struct Model {
    #[sea_orm(primary_key, auto_increment = false)]
    pub id: Uuid,
    pub owner_id: Uuid,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub created_at: DateTimeUtc,
    pub last_used_at: DateTimeUtc,
    pub expires_at: DateTimeUtc,
    pub ended_at: Option<DateTimeUtc>,
    pub ended_reason: Option<String>,
}

#[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
pub enum Relation {}
impl ActiveModelBehavior for ActiveModel {}

impl Scoped for Entity {
    const RESOURCE: Resource = Resource::Session;
    fn owner() -> Option<Column> {
        Some(Column::OwnerId)
    }
}

impl Model {
    pub const fn id(&self) -> Id<Session> {
        Id::new(self.id)
    }

    pub const fn owner(&self) -> Id<User> {
        Id::new(self.owner_id)
    }

    pub fn is_live(&self, now: DateTimeUtc) -> bool {
        self.ended_at.is_none() && self.expires_at > now
    }
}

mod refresh_token {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "refresh_token")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub hash: String,
        pub session_id: Uuid,
        pub created_at: DateTimeUtc,
        pub expires_at: DateTimeUtc,
        pub used_at: Option<DateTimeUtc>,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Where a login comes from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    pub ip: Option<String>,
    pub user_agent: Option<String>,
}

impl Origin {
    /// The same, no longer than a row has room for.
    pub(super) fn clipped(&self) -> Self {
        let clip = |text: &Option<String>, most: usize| {
            text.as_ref()
                .map(|text| text.chars().take(most).collect::<String>())
        };
        Self {
            ip: clip(&self.ip, 64),
            user_agent: clip(&self.user_agent, 512),
        }
    }
}

/// Opens a session whose first refresh token has `token_hash`; both live for `life`.
pub async fn open(
    tx: &mut Tx<'_>,
    owner: Id<User>,
    origin: &Origin,
    token_hash: String,
    life: Duration,
) -> Result<Model, StoreError> {
    let now = tx.now();
    let origin = origin.clipped();
    let session = ActiveModel {
        id: Set(tx.new_id::<Session>().uuid()),
        owner_id: Set(owner.uuid()),
        ip: Set(origin.ip),
        user_agent: Set(origin.user_agent),
        created_at: Set(now),
        last_used_at: Set(now),
        expires_at: Set(now + life),
        ended_at: Set(None),
        ended_reason: Set(None),
    };
    let session = session.insert(tx).await?;
    add_token(tx, &session, token_hash, life).await?;
    touched(tx, &session);
    Ok(session)
}

/// What became of a presented refresh token.
pub enum Spent {
    /// It was the newest of its family; the next one has taken its place.
    Rotated(Model),
    /// It had been spent before: somebody has a copy, so the family has ended.
    Reused,
    /// It is not known, or its time or its session is over.
    Refused,
}

/// Spends the token with `hash` once and puts the one with `next_hash` in its place.
pub async fn rotate(
    tx: &mut Tx<'_>,
    hash: &str,
    next_hash: String,
    life: Duration,
) -> Result<Spent, StoreError> {
    use refresh_token::{Column as TokenColumn, Entity as Tokens};
    let now = tx.now();
    let spent = Tokens::update_many()
        .col_expr(TokenColumn::UsedAt, Expr::value(now))
        .filter(TokenColumn::Hash.eq(hash))
        .filter(TokenColumn::UsedAt.is_null())
        .exec(tx)
        .await?
        .rows_affected;
    let Some(token) = Tokens::find_by_id(hash).one(tx).await? else {
        return Ok(Spent::Refused);
    };
    let Some(session) = Entity::find_by_id(token.session_id).one(tx).await? else {
        return Ok(Spent::Refused);
    };
    if spent == 0 {
        end(tx, Column::Id.eq(session.id), "refresh_token_reused").await?;
        return Ok(Spent::Reused);
    }
    if token.expires_at <= now || !session.is_live(now) {
        return Ok(Spent::Refused);
    }
    add_token(tx, &session, next_hash, life).await?;
    let mut session: ActiveModel = session.into();
    session.last_used_at = Set(now);
    session.expires_at = Set(now + life);
    let session = session.update(tx).await?;
    touched(tx, &session);
    Ok(Spent::Rotated(session))
}

/// Announces the change to the lists of sessions, and to whatever the session keeps open.
fn touched(tx: &mut Tx<'_>, session: &Model) {
    tx.touched(Table::Session, session.id, Some(session.owner_id));
}

async fn add_token(
    tx: &mut Tx<'_>,
    session: &Model,
    hash: String,
    life: Duration,
) -> Result<(), StoreError> {
    let now = tx.now();
    let token = refresh_token::ActiveModel {
        hash: Set(hash),
        session_id: Set(session.id),
        created_at: Set(now),
        expires_at: Set(now + life),
        used_at: Set(None),
    };
    refresh_token::Entity::insert(token)
        .exec_without_returning(tx)
        .await?;
    Ok(())
}

/// Ends one session; ending it again changes nothing.
pub async fn end_one(
    tx: &mut Tx<'_>,
    id: Id<Session>,
    reason: &'static str,
) -> Result<u64, StoreError> {
    end(tx, Column::Id.eq(id.uuid()), reason).await
}

/// Ends every session of a user.
pub async fn end_all(
    tx: &mut Tx<'_>,
    owner: Id<User>,
    reason: &'static str,
) -> Result<u64, StoreError> {
    end(tx, Column::OwnerId.eq(owner.uuid()), reason).await
}

async fn end(
    tx: &mut Tx<'_>,
    which: sea_orm::sea_query::SimpleExpr,
    reason: &'static str,
) -> Result<u64, StoreError> {
    let now = tx.now();
    let live = Entity::find().filter(which.clone());
    let live = live.filter(Column::EndedAt.is_null()).all(tx).await?;
    let ended = Entity::update_many()
        .col_expr(Column::EndedAt, Expr::value(now))
        .col_expr(Column::EndedReason, Expr::value(reason))
        .filter(which)
        .filter(Column::EndedAt.is_null())
        .exec(tx)
        .await?;
    for session in &live {
        touched(tx, session);
    }
    Ok(ended.rows_affected)
}

/// The session an access token names, for the check of that token.
pub async fn unscoped_by_id(
    db: &impl ConnectionTrait,
    id: Id<Session>,
) -> Result<Option<Model>, StoreError> {
    Ok(Entity::find_by_id(id.uuid()).one(db).await?)
}

/// The session a presented refresh token belongs to.
pub async fn unscoped_by_token(store: &Store, hash: &str) -> Result<Option<Model>, StoreError> {
    let Some(token) = refresh_token::Entity::find_by_id(hash)
        .one(store.db())
        .await?
    else {
        return Ok(None);
    };
    unscoped_by_id(store.db(), Id::new(token.session_id)).await
}
