//! Who somebody is: passwords, access tokens, refresh tokens. What they may do is `domain::policy`.

mod password;
mod token;

use std::{sync::Arc, time::Duration};

pub use password::{Passwords, generate as generate_password};
pub use token::{AccessTokens, RefreshToken};

use crate::{
    domain::{
        Keyring,
        policy::{Role, Viewer},
    },
    error::AppError,
    store::{Store, accounts, sessions},
};

/// The checks of identity, and what they are made with.
#[derive(Clone)]
pub struct Auth {
    pub passwords: Arc<Passwords>,
    pub tokens: Arc<AccessTokens>,
    pub refresh_life: Duration,
}

impl Auth {
    pub fn new(keyring: &Keyring, access_life: Duration, refresh_life: Duration) -> Self {
        let tokens = AccessTokens::new(&keyring.access_token_key(), access_life);
        Self {
            passwords: Arc::new(Passwords::default()),
            tokens: Arc::new(tokens),
            refresh_life,
        }
    }

    /// Who sends this `Authorization` value: nobody without one.
    ///
    /// The session is looked up, so that a log-out or a disabled account counts at once.
    pub async fn viewer(
        &self,
        store: &Store,
        authorization: Option<&str>,
    ) -> Result<Viewer, AppError> {
        const OVER: AppError = AppError::Unauthenticated("the session is over, log in again");
        let Some(authorization) = authorization else {
            return Ok(Viewer::Anonymous);
        };
        let bearer = authorization
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let (_, token) = bearer.ok_or(AppError::Unauthenticated(
            "the authorization has the form 'Bearer <access token>'",
        ))?;
        let claimed = self.tokens.verify(token.trim(), store.now())?;
        let session = sessions::unscoped_by_id(store.db(), claimed.session)
            .await?
            .ok_or(OVER)?;
        if !session.is_live(store.now()) || session.owner() != claimed.user {
            return Err(OVER);
        }
        let account = accounts::unscoped_by_id(store.db(), claimed.user)
            .await?
            .ok_or(OVER)?;
        if account.disabled {
            return Err(AppError::Unauthenticated("this account is disabled"));
        }
        let (id, session) = (account.id(), session.id());
        Ok(match account.role()? {
            Role::User => Viewer::User { id, session },
            Role::Admin => Viewer::Admin { id, session },
        })
    }
}
