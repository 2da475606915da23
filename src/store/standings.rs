//! Whether logins still stand.

use sea_orm::{FromQueryResult, QueryResult, entity::prelude::*};

use super::{Store, source::Parameters};
use crate::{
    domain::{
        Id,
        id::{Session, User},
        policy::Role,
    },
    error::StoreError,
};

/// A login with what its account has to say about it.
#[derive(Clone, Debug, FromQueryResult)]
pub struct Standing {
    id: Uuid,
    owner_id: Uuid,
    expires_at: DateTimeUtc,
    ended_at: Option<DateTimeUtc>,
    role: String,
    pub disabled: bool,
}

impl Standing {
    pub const fn session(&self) -> Id<Session> {
        Id::new(self.id)
    }

    pub const fn owner(&self) -> Id<User> {
        Id::new(self.owner_id)
    }

    pub fn is_live(&self, now: DateTimeUtc) -> bool {
        self.ended_at.is_none() && self.expires_at > now
    }

    pub fn role(&self) -> Result<Role, StoreError> {
        Role::parse(&self.role).ok_or(StoreError::Unreadable {
            column: "account.role",
        })
    }
}

/// Looks logins up.
#[derive(Clone)]
pub struct Standings(Store);

impl Standings {
    pub const fn new(store: Store) -> Self {
        Self(store)
    }

    /// The login as it is now; `None` when there is none. Those who ask at the same moment are looked up together.
    pub async fn of(&self, session: Id<Session>) -> Result<Option<Standing>, StoreError> {
        let mut parameters = Parameters::of(self.0.db());
        let session = parameters.put(session.uuid());
        let sql = format!(
            "SELECT s.id, s.owner_id, s.expires_at, s.ended_at, a.role, a.disabled \
             FROM session AS s JOIN account AS a ON a.id = s.owner_id WHERE s.id = {session}"
        );
        // Boxed, because whoever stays open waits for this from time to time and has room for it all the time.
        let found = Box::pin(self.0.read(parameters.statement(sql))).await?;
        let standing = |row: &QueryResult| Standing::from_query_result(row, "");
        Ok(found.first().map(standing).transpose()?)
    }
}
