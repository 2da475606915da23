//! Whether logins still stand: one look into the database for all the requests that ask at the same moment.

use sea_orm::{FromQueryResult, entity::prelude::*};

use super::{
    Store,
    batch::{Batcher, Failed, Limits},
    source::Parameters,
};
use crate::{
    domain::{
        Id,
        id::{Session, User},
        policy::Role,
    },
    error::{AppError, StoreError},
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
pub struct Standings(Batcher<Id<Session>, Result<Option<Standing>, Failed>>);

impl Standings {
    pub fn new(store: Store) -> Self {
        const LIMITS: Limits = Limits {
            batch: 200,
            lanes: 4,
            waiting: 20_000,
        };
        Self(Batcher::new(LIMITS, move |sessions: Vec<Id<Session>>| {
            let store = store.clone();
            Box::pin(async move {
                match look(&store, &sessions).await {
                    Ok(found) => found.into_iter().map(Ok).collect(),
                    Err(error) => vec![Err(Failed::from(&error)); sessions.len()],
                }
            })
        }))
    }

    /// The login as it is now; `None` when there is none.
    pub async fn of(&self, session: Id<Session>) -> Result<Option<Standing>, AppError> {
        self.0
            .submit(session)
            .await
            .map_err(|_| AppError::Unavailable {
                what: "the database",
            })?
            .map_err(AppError::from)
    }
}

async fn look(
    store: &Store,
    sessions: &[Id<Session>],
) -> Result<Vec<Option<Standing>>, StoreError> {
    let db = store.db();
    let mut parameters = Parameters::of(db);
    let wanted: Vec<Uuid> = sessions.iter().map(|session| session.uuid()).collect();
    let rows = parameters.rows(&wanted);
    let sql = format!(
        "SELECT s.id, s.owner_id, s.expires_at, s.ended_at, a.role, a.disabled \
         FROM (SELECT DISTINCT id FROM {rows}) AS x JOIN session AS s ON s.id = x.id JOIN account AS a ON a.id = s.owner_id"
    );
    let found = Standing::find_by_statement(parameters.statement(sql))
        .all(db)
        .await?;
    let of = |session: &Id<Session>| found.iter().find(|s| s.session() == *session).cloned();
    Ok(sessions.iter().map(of).collect())
}
