//! People and their sessions.

use async_graphql::{Context, Enum, ID, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{error::nullable, origin, services, viewer};
use crate::{
    domain::policy,
    services::accounts::LoggedIn,
    store::{accounts, sessions},
};

/// What an account may do.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "policy::Role")]
pub enum Role {
    /// Sees and touches what is theirs.
    User,
    /// Sees and touches everything.
    Admin,
}

/// A person who can log in.
pub struct User(pub accounts::Model);

/// A person who can log in.
#[Object]
impl User {
    async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// The address they log in with.
    async fn email(&self) -> &str {
        &self.0.email
    }
    /// What they are called.
    async fn name(&self) -> &str {
        &self.0.name
    }
    /// What they may do.
    async fn role(&self) -> Result<Role> {
        Ok(self.0.role()?.into())
    }
    /// When the account was opened.
    async fn created_at(&self) -> DateTime<Utc> {
        self.0.created_at
    }
}

/// A login. It lives as long as its refresh tokens are spent in time.
pub struct Session(pub sessions::Model);

/// A login. It lives as long as its refresh tokens are spent in time.
#[Object]
impl Session {
    async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// The address the login came from.
    async fn ip(&self) -> Option<&str> {
        self.0.ip.as_deref()
    }
    /// The program the login came from, as it named itself.
    async fn user_agent(&self) -> Option<&str> {
        self.0.user_agent.as_deref()
    }
    /// When the login was.
    async fn created_at(&self) -> DateTime<Utc> {
        self.0.created_at
    }
    /// When a refresh token was spent last.
    async fn last_used_at(&self) -> DateTime<Utc> {
        self.0.last_used_at
    }
    /// When it ends unless a refresh token is spent before.
    async fn expires_at(&self) -> DateTime<Utc> {
        self.0.expires_at
    }
}

/// What proves from now on who somebody is. Both tokens are shown this once.
#[derive(SimpleObject)]
#[graphql(name = "Credentials")]
pub struct Credentials {
    /// The account.
    user: User,
    /// The login these tokens belong to.
    session: Session,
    /// Goes into the header `Authorization: Bearer …`, or into the payload of `connection_init` on a WebSocket.
    access_token: String,
    /// When the access token ends.
    access_token_expires_at: DateTime<Utc>,
    /// Can be exchanged once, by `refreshSession`, for new tokens.
    refresh_token: String,
}

impl From<LoggedIn> for Credentials {
    fn from(in_: LoggedIn) -> Self {
        Self {
            user: User(in_.account),
            session: Session(in_.session),
            access_token: in_.access_token,
            access_token_expires_at: in_.access_token_expires_at,
            refresh_token: in_.refresh_token,
        }
    }
}

/// A new account.
#[derive(InputObject)]
pub struct SignUpInput {
    /// The address to log in with.
    email: String,
    /// What to be called, 1 to 100 characters.
    name: String,
    /// 12 to 256 characters.
    #[graphql(secret)]
    password: String,
}

/// A login.
#[derive(InputObject)]
pub struct LogInInput {
    /// The account's address.
    email: String,
    /// The account's password.
    #[graphql(secret)]
    password: String,
}

/// A session to keep.
#[derive(InputObject)]
pub struct RefreshSessionInput {
    /// The newest refresh token. One that was spent before ends its session.
    #[graphql(secret)]
    refresh_token: String,
}

/// What to end.
#[derive(InputObject, Default)]
pub struct LogOutInput {
    /// Ends all of the account's sessions, not only this one.
    #[graphql(default)]
    everywhere: bool,
}

/// What was ended.
#[derive(SimpleObject)]
pub struct LogOutPayload {
    /// Always true; a failure is an error.
    ok: bool,
    /// How many sessions ended.
    ended_sessions: i32,
}

#[derive(Default)]
pub struct AccountQuery;

#[Object]
impl AccountQuery {
    /// The person who asks; null when nobody is logged in.
    async fn viewer(&self, ctx: &Context<'_>) -> Option<User> {
        let found =
            async { Ok::<_, async_graphql::Error>(services(ctx).own_account(viewer(ctx)?).await?) };
        nullable(ctx, found.await).flatten().map(User)
    }
}

#[derive(Default)]
pub struct AccountMutation;

#[Object]
impl AccountMutation {
    /// Opens an account and logs in.
    async fn sign_up(&self, ctx: &Context<'_>, input: SignUpInput) -> Result<Credentials> {
        let SignUpInput {
            email,
            name,
            password,
        } = input;
        Ok(services(ctx)
            .sign_up(&email, &name, &password, &origin(ctx))
            .await?
            .into())
    }

    /// Logs in with address and password.
    async fn log_in(&self, ctx: &Context<'_>, input: LogInInput) -> Result<Credentials> {
        Ok(services(ctx)
            .log_in(&input.email, &input.password, &origin(ctx))
            .await?
            .into())
    }

    /// Spends a refresh token for new tokens of the same session.
    async fn refresh_session(
        &self,
        ctx: &Context<'_>,
        input: RefreshSessionInput,
    ) -> Result<Credentials> {
        Ok(services(ctx)
            .refresh_session(&input.refresh_token)
            .await?
            .into())
    }

    /// Ends the session the access token belongs to; both kinds of its tokens stop working at once.
    async fn log_out(
        &self,
        ctx: &Context<'_>,
        input: Option<LogOutInput>,
    ) -> Result<LogOutPayload> {
        let ended = services(ctx)
            .log_out(viewer(ctx)?, input.unwrap_or_default().everywhere)
            .await?;
        Ok(LogOutPayload {
            ok: true,
            ended_sessions: i32::try_from(ended).unwrap_or(i32::MAX),
        })
    }
}
