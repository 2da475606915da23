//! What clients and hosts report of streaming connections.

use async_graphql::{Context, Enum, ID, InputObject, Object, OneofObject, Result, SimpleObject};

use super::{
    account::owner,
    id,
    list::{
        cell::Storage::{Big, Bool, Text, Time},
        noun::{self, Kind, Noun, created_at, field, link, updated_at, version},
        row::{Row, Shown},
    },
    services, viewer,
};
use crate::{
    domain::policy::Resource,
    services::connection_logs::{Reported, Side, Streamed},
    store::{connection_logs, containers, machines},
};

/// What a client and a host have reported of a streaming connection.
pub type ConnectionLog = Row<connection_logs::Entity>;

static CONNECTION_LOG: Noun = Noun {
    name: "ConnectionLog",
    doc: "What a client and a host have reported of a streaming connection.",
    table: "connection_log",
    resource: Resource::ConnectionLog,
    owner: Some("owner_id"),
    host: None,
    listed: None,
    fields: &[
        noun::id("connection"),
        field(
            "clientVersion",
            &[("client_version", Text)],
            Kind::Text,
            "The client's version.",
        )
        .filtered()
        .ordered(),
        field(
            "bookmarked",
            &[("bookmarked", Bool)],
            Kind::Bool,
            "Whether it is kept from expiry.",
        )
        .filtered(),
        field(
            "clientBytes",
            &[("client_bytes", Big)],
            Kind::Int,
            "Bytes of the client's log; null when there is none.",
        )
        .nullable()
        .filtered(),
        field(
            "serverBytes",
            &[("server_bytes", Big)],
            Kind::Int,
            "Bytes of the host's log; null when there is none.",
        )
        .nullable()
        .filtered(),
        version(),
        created_at("When it was reported."),
        updated_at(),
        field(
            "expiresAt",
            &[("expires_at", Time)],
            Kind::Time,
            "From when it is removed, unless it is bookmarked.",
        )
        .filtered()
        .ordered(),
    ],
    links: &[
        link::<containers::Entity>(
            "container",
            "container_id",
            "The container that was streamed; null for a virtual machine.",
        )
        .filtered(),
        link::<machines::Entity>(
            "virtualMachine",
            "machine_id",
            "The virtual machine that was streamed; null for a container.",
        )
        .filtered(),
        owner("Whose it is."),
    ],
    many: &[],
};

impl Shown for connection_logs::Entity {
    fn noun() -> &'static Noun {
        &CONNECTION_LOG
    }
}

/// Whose log of a connection.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionSide {
    /// What the client wrote.
    Client,
    /// What the host wrote.
    Server,
}

/// What was streamed.
#[derive(OneofObject)]
pub enum Connected {
    /// A container.
    Container(ID),
    /// A virtual machine.
    VirtualMachine(ID),
}

/// A connection a client tells of.
#[derive(InputObject)]
pub struct ReportConnectionInput {
    /// What was streamed.
    to: Connected,
    /// The client's version: 1 to 64 letters, digits and signs.
    client_version: String,
    /// Whether it is kept from expiry.
    #[graphql(default = false)]
    bookmarked: bool,
    /// What the client wrote, 512 KiB at most.
    log: Option<String>,
}

/// The connection is recorded.
#[derive(SimpleObject)]
pub struct ReportConnectionPayload {
    /// What is recorded.
    connection_log: ConnectionLog,
}

/// A log a host tells of.
#[derive(InputObject)]
pub struct ReportServerLogInput {
    /// The container on it that was streamed.
    container: ID,
    /// What the host wrote, 512 KiB at most.
    log: String,
}

/// The log is kept.
#[derive(SimpleObject)]
pub struct ReportServerLogPayload {
    /// Whether it is.
    ok: bool,
}

/// A connection to keep.
#[derive(InputObject)]
pub struct BookmarkConnectionInput {
    /// The connection.
    id: ID,
    /// Whether it is kept from expiry.
    #[graphql(default = true)]
    bookmarked: bool,
}

/// The connection as it is now.
#[derive(SimpleObject)]
pub struct BookmarkConnectionPayload {
    /// What is recorded.
    connection_log: ConnectionLog,
}

#[derive(Default)]
pub struct ConnectionLogQuery;

#[Object]
impl ConnectionLogQuery {
    /// What one side of a connection wrote, 512 KiB at most; null when it has reported nothing.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `UNAVAILABLE`.
    async fn connection_log_text(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The connection.")] id: ID,
        #[graphql(desc = "Which side.")] side: ConnectionSide,
    ) -> Result<Option<String>> {
        let side = match side {
            ConnectionSide::Client => Side::Client,
            ConnectionSide::Server => Side::Server,
        };
        let text = services(ctx).connection_log_text(viewer(ctx)?, super::id(&id)?, side);
        Ok(text.await?)
    }
}

#[derive(Default)]
pub struct ConnectionLogMutation;

#[Object]
impl ConnectionLogMutation {
    /// Records a connection to one's own container or virtual machine, with what the client wrote.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`, `BAD_USER_INPUT`, `RATE_LIMITED` after 20 at once and 10 a minute of one owner,
    /// `UNAVAILABLE`.
    async fn report_connection(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The connection.")] input: ReportConnectionInput,
    ) -> Result<ReportConnectionPayload> {
        let reported = Reported {
            streamed: match &input.to {
                Connected::Container(container) => Streamed::Container(id(container)?),
                Connected::VirtualMachine(machine) => Streamed::Machine(id(machine)?),
            },
            client_version: &input.client_version,
            bookmarked: input.bookmarked,
            log: input.log.as_deref(),
        };
        let row = services(ctx)
            .report_connection(viewer(ctx)?, reported)
            .await?;
        Ok(ReportConnectionPayload {
            connection_log: ConnectionLog::of(&row),
        })
    }

    /// Keeps a connection's logs from expiry, or lets them expire.
    ///
    /// Errors: `UNAUTHENTICATED`, `NOT_FOUND`.
    async fn bookmark_connection(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "Which, and whether.")] input: BookmarkConnectionInput,
    ) -> Result<BookmarkConnectionPayload> {
        let row = services(ctx)
            .bookmark_connection(viewer(ctx)?, id(&input.id)?, input.bookmarked)
            .await?;
        Ok(BookmarkConnectionPayload {
            connection_log: ConnectionLog::of(&row),
        })
    }

    /// Adds what a host wrote of the newest connection to a container on it. For hosts.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN` for anybody but a host, `NOT_FOUND` for a container that is not on it or has no
    /// connection, `BAD_USER_INPUT`, `RATE_LIMITED`, `UNAVAILABLE`.
    async fn report_server_log(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The log.")] input: ReportServerLogInput,
    ) -> Result<ReportServerLogPayload> {
        services(ctx)
            .report_server_log(viewer(ctx)?, id(&input.container)?, &input.log)
            .await?;
        Ok(ReportServerLogPayload { ok: true })
    }
}
