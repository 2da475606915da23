//! Who somebody is: passwords, access tokens, refresh tokens. What they may do is `domain::policy`.

mod password;
mod token;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
pub use password::{Passwords, generate as generate_password};
pub use token::{AccessTokens, HostCredential, SecretToken};

use crate::{
    domain::{
        Dial, Id, Keyring,
        id::{Host, Session, User},
        policy::{Role, Viewer},
    },
    error::AppError,
    store::{Store, hosts, standings::Standings},
};

/// How long tokens live.
#[derive(Clone, Copy, Debug)]
pub struct Lives {
    pub access: Duration,
    /// Of a refresh token that nobody uses.
    pub refresh: Duration,
}

/// The checks of identity, and what they are made with.
#[derive(Clone)]
pub struct Auth {
    pub passwords: Arc<Passwords>,
    tokens: Arc<AccessTokens>,
    pub lives: Dial<Lives>,
    standings: Standings,
}

impl Auth {
    pub fn new(store: &Store, keyring: &Keyring, lives: Dial<Lives>) -> Self {
        let tokens = AccessTokens::new(&keyring.access_token_key());
        Self {
            passwords: Arc::new(Passwords::default()),
            tokens: Arc::new(tokens),
            lives,
            standings: Standings::new(store.clone()),
        }
    }

    /// An access token for this login, and when it ends.
    pub fn sign(
        &self,
        user: Id<User>,
        session: Id<Session>,
        now: DateTime<Utc>,
    ) -> Result<(String, DateTime<Utc>), AppError> {
        let life = self.lives.get().access;
        self.tokens.sign(user, session, life, now)
    }

    /// Whether a session still stands, for what has been opened in it.
    pub async fn stands(&self, session: Id<Session>, now: DateTime<Utc>) -> Result<bool, AppError> {
        let standing = self.standings.of(session).await?;
        Ok(standing.is_some_and(|standing| standing.is_live(now) && !standing.disabled))
    }

    /// The host a credential names.
    async fn host(&self, store: &Store, id: Id<Host>, hash: &str) -> Result<Viewer, AppError> {
        let row = hosts::unscoped_by_id(store.db(), id).await?;
        let is_right = row.is_some_and(|row| row.is_credential(hash, store.now()));
        if is_right {
            return Ok(Viewer::Host { id });
        }
        Err(AppError::Unauthenticated(
            "the host's credential is unknown or revoked",
        ))
    }

    /// Which registration of a host counts now, for what its agent has opened; `None` when it has no credential any more.
    pub async fn registration(&self, store: &Store, id: Id<Host>) -> Result<Option<i32>, AppError> {
        let row = hosts::unscoped_by_id(store.db(), id).await?;
        let row = row.filter(|row| row.credential_hash.is_some());
        Ok(row.map(|row| row.registrations))
    }

    /// Who sends this `Authorization` value: nobody without one.
    pub async fn viewer(
        &self,
        store: &Store,
        authorization: Option<&str>,
    ) -> Result<Viewer, AppError> {
        let (viewer, _) = self.viewer_until(store, authorization).await?;
        Ok(viewer)
    }

    /// The same, and when that ends, which a connection that stays open has to know.
    ///
    /// The session is looked up, so that a log-out or a disabled account counts at once.
    pub async fn viewer_until(
        &self,
        store: &Store,
        authorization: Option<&str>,
    ) -> Result<(Viewer, Option<DateTime<Utc>>), AppError> {
        const OVER: AppError = AppError::Unauthenticated("the session is over, log in again");
        let Some(authorization) = authorization else {
            return Ok((Viewer::Anonymous, None));
        };
        let bearer = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = bearer.ok_or(AppError::Unauthenticated(
            "the authorization has the form 'Bearer <access token>'",
        ))?;
        if let Some((host, hash)) = HostCredential::read(token.trim()) {
            return Ok((self.host(store, host, &hash).await?, None));
        }
        let claimed = self.tokens.verify(token.trim(), store.now())?;
        let standing = self.standings.of(claimed.session).await?.ok_or(OVER)?;
        if !standing.is_live(store.now()) || standing.owner() != claimed.user {
            return Err(OVER);
        }
        if standing.disabled {
            return Err(AppError::Unauthenticated("this account is disabled"));
        }
        let (id, session) = (standing.owner(), standing.session());
        let viewer = match standing.role()? {
            Role::User => Viewer::User { id, session },
            Role::Admin => Viewer::Admin { id, session },
        };
        Ok((viewer, Some(claimed.expires)))
    }
}
