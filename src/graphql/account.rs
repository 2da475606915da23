//! People and their sessions.

use async_graphql::{Context, Enum, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{
    error::nullable,
    list::{
        cell::Storage::{Bool, Text, Time},
        noun::{self, Kind, Link, Noun, created_at, field, link, many, words},
        row::{Row, Shown},
    },
    origin, services, viewer,
};
use crate::{
    domain::policy::{self, Resource},
    services::accounts::LoggedIn,
    store::{
        accounts, connection_logs, containers, login_events, machines, sessions, snapshots, tasks,
    },
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
pub type User = Row<accounts::Entity>;

static USER: Noun = Noun {
    name: "User",
    doc: "A person who can log in.",
    table: "account",
    resource: Resource::User,
    owner: Some("id"),
    host: None,
    listed: None,
    fields: &[
        noun::id("user"),
        field(
            "email",
            &[("email", Text)],
            Kind::Text,
            "The address they log in with.",
        )
        .filtered()
        .ordered(),
        field(
            "name",
            &[("name", Text)],
            Kind::Text,
            "What they are called.",
        )
        .filtered()
        .ordered(),
        field(
            "role",
            &[("role", Text)],
            Kind::Word(words::<Role>()),
            "What they may do.",
        )
        .filtered()
        .grouped(),
        field(
            "disabled",
            &[("disabled", Bool)],
            Kind::Bool,
            "Whether they are kept from logging in. For administrators.",
        )
        .for_admins()
        .filtered(),
        field(
            "releaseChannel",
            &[("release_channel", Text)],
            Kind::Text,
            "Which images of the catalogue they get.",
        )
        .filtered()
        .grouped(),
        created_at("When the account was opened.")
            .measured()
            .grouped(),
    ],
    links: &[],
    many: &[
        many::<containers::Entity>("containers", "owner_id", "Their containers."),
        many::<machines::Entity>("virtualMachines", "owner_id", "Their virtual machines."),
        many::<snapshots::Entity>("snapshots", "owner_id", "Their snapshots."),
        many::<tasks::Entity>("tasks", "owner_id", "The tasks they have asked for."),
        many::<sessions::Entity>("sessions", "owner_id", "Their sessions."),
        many::<connection_logs::Entity>(
            "connectionLogs",
            "owner_id",
            "The connections to what is theirs.",
        ),
    ],
};

impl Shown for accounts::Entity {
    fn noun() -> &'static Noun {
        &USER
    }
}

/// Whose a row is.
pub(super) const fn owner(doc: &'static str) -> Link {
    link::<accounts::Entity>("owner", "owner_id", doc).filtered()
}

/// A login. It lives as long as its refresh tokens are spent in time.
pub type Session = Row<sessions::Entity>;

static SESSION: Noun = Noun {
    name: "Session",
    doc: "A login. It lives as long as its refresh tokens are spent in time.",
    table: "session",
    resource: Resource::Session,
    owner: Some("owner_id"),
    host: None,
    listed: None,
    fields: &[
        noun::id("session"),
        field(
            "ip",
            &[("ip", Text)],
            Kind::Text,
            "The address the login came from.",
        )
        .nullable()
        .filtered(),
        field(
            "userAgent",
            &[("user_agent", Text)],
            Kind::Text,
            "The program the login came from, as it named itself.",
        )
        .nullable()
        .filtered(),
        created_at("When the login was.").measured().grouped(),
        field(
            "lastUsedAt",
            &[("last_used_at", Time)],
            Kind::Time,
            "When a refresh token was spent last.",
        )
        .filtered()
        .measured(),
        field(
            "expiresAt",
            &[("expires_at", Time)],
            Kind::Time,
            "When it ends unless a refresh token is spent before.",
        )
        .filtered(),
        field(
            "endedAt",
            &[("ended_at", Time)],
            Kind::Time,
            "When it was ended.",
        )
        .nullable()
        .filtered(),
    ],
    links: &[owner("Whose login it is.")],
    many: &[],
};

impl Shown for sessions::Entity {
    fn noun() -> &'static Noun {
        &SESSION
    }
}

/// What came of a try to log in.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It was their password.
    Succeeded,
    /// The password was wrong, or there is no such account.
    Refused,
    /// The account is disabled.
    Disabled,
}

static LOGIN_EVENT: Noun = Noun {
    name: "LoginEvent",
    doc: "A try to log in: of which account, from where, and what came of it. Only administrators see any.",
    table: "login_event",
    resource: Resource::LoginEvent,
    owner: None,
    host: None,
    listed: None,
    fields: &[
        noun::id("login"),
        field(
            "outcome",
            &[("outcome", Text)],
            Kind::Word(words::<LoginOutcome>()),
            "What came of it.",
        )
        .filtered()
        .grouped(),
        field(
            "ip",
            &[("ip", Text)],
            Kind::Text,
            "The address it came from.",
        )
        .nullable()
        .filtered()
        .grouped(),
        field(
            "userAgent",
            &[("user_agent", Text)],
            Kind::Text,
            "The program it came from, as it named itself.",
        )
        .nullable()
        .filtered(),
        field("at", &[("at", Time)], Kind::Time, "When.")
            .filtered()
            .ordered_by_id()
            .measured()
            .grouped(),
    ],
    links: &[Link {
        name: "account",
        ..owner("The account it was for; null when there is none with that address.")
    }],
    many: &[],
};

impl Shown for login_events::Entity {
    fn noun() -> &'static Noun {
        &LOGIN_EVENT
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
            user: User::of(&in_.account),
            session: Session::of(&in_.session),
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
        nullable(ctx, found.await)
            .flatten()
            .map(|account| User::of(&account))
    }
}

#[derive(Default)]
pub struct AccountMutation;

#[Object]
impl AccountMutation {
    /// Opens an account and logs in.
    async fn sign_up(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The new account.")] input: SignUpInput,
    ) -> Result<Credentials> {
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
    async fn log_in(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Who logs in.")] input: LogInInput,
    ) -> Result<Credentials> {
        Ok(services(ctx)
            .log_in(&input.email, &input.password, &origin(ctx))
            .await?
            .into())
    }

    /// Spends a refresh token for new tokens of the same session.
    async fn refresh_session(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The session to keep.")] input: RefreshSessionInput,
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
        #[graphql(desc = "What to end; this session by default.")] input: Option<LogOutInput>,
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
