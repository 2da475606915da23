//! Signing up, logging in and out, and keeping a session alive.

use chrono::{DateTime, Utc};

use super::{Services, signed_in};
use crate::{
    auth::SecretToken,
    domain::{
        Id,
        id::User,
        policy::{Action, Role, Viewer},
        value::{DisplayName, Email, NewPassword},
    },
    error::{AppError, InField as _},
    store::{
        accounts,
        login_events::{self, Outcome},
        scoped::Scoped as _,
        sessions::{self, Origin, Spent},
    },
};

/// What somebody gets for proving who they are. Both tokens are shown once.
pub struct LoggedIn {
    pub account: accounts::Model,
    pub session: sessions::Model,
    pub access_token: String,
    pub access_token_expires_at: DateTime<Utc>,
    pub refresh_token: String,
}

impl Services {
    /// Opens an account and its first session.
    pub async fn sign_up(
        &self,
        email: &str,
        name: &str,
        password: &str,
        origin: &Origin,
    ) -> Result<LoggedIn, AppError> {
        let email = Email::parse(email).in_field("email")?;
        let name = DisplayName::parse(name).in_field("name")?;
        let password = NewPassword::parse(password).in_field("password")?;
        let hash = self.auth.passwords.hash(&password).await?;
        let refresh = SecretToken::generate();
        let mut tx = self.store.begin().await?;
        let account = accounts::insert(&mut tx, &email, &name, hash, Role::User).await?;
        let session = sessions::open(
            &mut tx,
            account.id(),
            origin,
            refresh.hash,
            self.auth.lives.get().refresh,
        )
        .await?;
        tx.commit().await?;
        self.logged_in(account, session, refresh.token)
    }

    /// Opens a session. The same answer, after the same time, for a wrong password and for an unknown address.
    pub async fn log_in(
        &self,
        email: &str,
        password: &str,
        origin: &Origin,
    ) -> Result<LoggedIn, AppError> {
        const WRONG: AppError =
            AppError::Unauthenticated("the e-mail address or the password is wrong");
        let account = match Email::parse(email) {
            Ok(email) => accounts::unscoped_by_email(self.store.db(), &email).await?,
            Err(_) => None,
        };
        // Nobody can have chosen a longer one; hashing it would only cost.
        let hash = account
            .as_ref()
            .filter(|_| password.len() <= 4096)
            .map(|account| account.password_hash.clone());
        if !self
            .auth
            .passwords
            .is_right(password.get(..4096).unwrap_or(password), hash)
            .await?
        {
            let owner = account.map(|account| account.id());
            self.refused(owner, Outcome::Refused, origin).await?;
            return Err(WRONG);
        }
        let account = account.ok_or(WRONG)?;
        if account.disabled {
            self.refused(Some(account.id()), Outcome::Disabled, origin)
                .await?;
            return Err(WRONG);
        }
        let refresh = SecretToken::generate();
        let mut tx = self.store.begin().await?;
        login_events::record(&mut tx, Some(account.id()), Outcome::Succeeded, origin).await?;
        let session = sessions::open(
            &mut tx,
            account.id(),
            origin,
            refresh.hash,
            self.auth.lives.get().refresh,
        )
        .await?;
        tx.commit().await?;
        self.logged_in(account, session, refresh.token)
    }

    /// Records a log-in that was refused.
    async fn refused(
        &self,
        owner: Option<Id<User>>,
        outcome: Outcome,
        origin: &Origin,
    ) -> Result<(), AppError> {
        let mut tx = self.store.begin().await?;
        login_events::record(&mut tx, owner, outcome, origin).await?;
        Ok(tx.commit().await?)
    }

    /// Spends a refresh token for new tokens of the same session. A token spent before ends the session: one of the
    /// two who have it is not its owner.
    pub async fn refresh_session(&self, token: &str) -> Result<LoggedIn, AppError> {
        const REFUSED: AppError =
            AppError::Unauthenticated("the refresh token is not valid, log in again");
        let next = SecretToken::generate();
        let mut tx = self.store.begin().await?;
        let spent = sessions::rotate(
            &mut tx,
            &SecretToken::hash_of(token),
            next.hash,
            self.auth.lives.get().refresh,
        )
        .await?;
        let session = match spent {
            Spent::Rotated(session) => session,
            Spent::Reused => {
                tx.commit().await?;
                tracing::warn!("a refresh token was presented twice; its session has ended");
                return Err(REFUSED);
            }
            Spent::Refused => return Err(REFUSED),
        };
        let account = accounts::unscoped_by_id(&tx, session.owner()).await?;
        let account = account.filter(|account| !account.disabled).ok_or(REFUSED)?;
        tx.commit().await?;
        self.logged_in(account, session, next.token)
    }

    /// Ends this session, or all of the person's.
    pub async fn log_out(&self, viewer: Viewer, everywhere: bool) -> Result<u64, AppError> {
        let user = signed_in(viewer)?;
        let mut tx = self.store.begin().await?;
        let ended = match viewer.session().filter(|_| !everywhere) {
            Some(session) => sessions::end_one(&mut tx, session, "logged_out").await?,
            None => sessions::end_all(&mut tx, user, "logged_out_everywhere").await?,
        };
        tx.commit().await?;
        Ok(ended)
    }

    /// The viewer's own account; `None` for nobody.
    pub async fn own_account(&self, viewer: Viewer) -> Result<Option<accounts::Model>, AppError> {
        use sea_orm::{ColumnTrait as _, QueryFilter as _};
        let Some(user) = viewer.user() else {
            return Ok(None);
        };
        let own = accounts::Entity::visible_to(viewer, Action::Read)
            .filter(accounts::Column::Id.eq(user.uuid()));
        Ok(own.one(self.store.db()).await?)
    }

    fn logged_in(
        &self,
        account: accounts::Model,
        session: sessions::Model,
        refresh_token: String,
    ) -> Result<LoggedIn, AppError> {
        let (access_token, access_token_expires_at) =
            self.auth
                .sign(account.id(), session.id(), self.store.now())?;
        Ok(LoggedIn {
            account,
            session,
            access_token,
            access_token_expires_at,
            refresh_token,
        })
    }
}
