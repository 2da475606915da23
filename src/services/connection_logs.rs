//! What clients and hosts report of streaming connections.

use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::{ColumnTrait as _, QueryFilter as _, QuerySelect as _};
use serde_json::json;

use super::{Services, as_host, signed_in};
use crate::{
    domain::{
        Id,
        entropy::secret_bytes,
        id::{ConnectionLog, Container, User, VirtualMachine},
        keyring::hex,
        policy::{Action, Viewer},
    },
    error::AppError,
    objects::{BlobError, Objects},
    store::{
        audit,
        connection_logs::{self, Blob, Entity, Model, New, blob_name},
        containers, keeps_text,
        limits::{self, Rate},
        scoped::Scoped as _,
    },
};

/// Most bytes of one side's log.
pub const LONGEST: u64 = 512 * 1024;
/// How often one owner reports: a few at once, then one every so often.
const REPORTS: Rate = Rate {
    every: Duration::from_secs(6),
    burst: 20,
};
const NO_CONNECTION: AppError = AppError::NotFound {
    what: "connection log",
};

/// Where logs of connections are kept, and for how long.
#[derive(Clone, Debug)]
pub struct Connections {
    pub blobs: Objects,
    pub kept: Duration,
}

/// What was streamed.
#[derive(Clone, Copy, Debug)]
pub enum Streamed {
    Container(Id<Container>),
    Machine(Id<VirtualMachine>),
}

/// Whose log it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    Client,
    Server,
}

/// What a client reports.
pub struct Reported<'a> {
    pub streamed: Streamed,
    pub client_version: &'a str,
    pub bookmarked: bool,
    pub log: Option<&'a str>,
}

impl Services {
    /// Records a connection of somebody's client to what is theirs.
    pub async fn report_connection(
        &self,
        viewer: Viewer,
        reported: Reported<'_>,
    ) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let version = checked_version(reported.client_version)?;
        let log = reported.log.map(checked_log).transpose()?;
        let (owner, container, machine) = match reported.streamed {
            Streamed::Container(id) => {
                let row = self.container(viewer, id).await?;
                (row.owner_id, Some(id), None)
            }
            Streamed::Machine(id) => {
                let row = self.machine(viewer, id).await?;
                (Some(row.owner_id), None, Some(id))
            }
        };
        let owner: Id<User> = owner
            .map(Id::new)
            .ok_or(AppError::NotFound { what: "container" })?;
        self.keep_report_rate(owner).await?;
        let id = self.store.new_id();
        let client = match log {
            Some(log) => Some(self.keep(id, Side::Client, log).await?),
            None => None,
        };
        let mut tx = self.store.begin().await?;
        let new = New {
            id,
            owner,
            container,
            machine,
            client_version: version,
            bookmarked: reported.bookmarked,
            client,
            expires_at: self.expiry(),
        };
        let row = connection_logs::insert(&mut tx, new).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Adds what a host has of the newest connection to a container on it.
    pub async fn report_server_log(
        &self,
        viewer: Viewer,
        container: Id<Container>,
        log: &str,
    ) -> Result<Model, AppError> {
        as_host(viewer)?;
        let log = checked_log(log)?;
        let reached = containers::Entity::visible_to(viewer, Action::Report)
            .filter(containers::Column::Id.eq(container.uuid()));
        let row = reached.one(self.store.db()).await?;
        let owner = row.and_then(|row| row.owner_id);
        let owner = owner.ok_or(AppError::NotFound { what: "container" })?;
        self.keep_report_rate(Id::new(owner)).await?;
        let mut tx = self.store.begin().await?;
        let newest = connection_logs::unscoped_newest_of(&tx, container).await?;
        let row = newest.ok_or(NO_CONNECTION)?;
        let blob = self.keep(row.id(), Side::Server, log).await?;
        let (row, before) = connection_logs::set_server(&mut tx, row, blob).await?;
        tx.commit().await?;
        if let Some(before) = before
            && let Err(error) = self.connections.blobs.remove(&before).await
        {
            tracing::debug!(%error, "the log before it goes with the next repair");
        }
        Ok(row)
    }

    /// Keeps a connection's log from expiry, or lets it expire from now on.
    pub async fn bookmark_connection(
        &self,
        viewer: Viewer,
        id: Id<ConnectionLog>,
        bookmarked: bool,
    ) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let mut tx = self.store.begin().await?;
        let reached = Entity::visible_to(viewer, Action::Operate)
            .filter(connection_logs::Column::Id.eq(id.uuid()))
            .lock_exclusive();
        let row = reached.one(&tx).await?.ok_or(NO_CONNECTION)?;
        let row = connection_logs::set_bookmarked(&mut tx, &row, bookmarked, self.expiry()).await?;
        let detail = json!({ "bookmarked": bookmarked });
        audit::record(&mut tx, viewer, "connection.bookmark", id, detail).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// What one side wrote; `None` when it has reported nothing.
    pub async fn connection_log_text(
        &self,
        viewer: Viewer,
        id: Id<ConnectionLog>,
        side: Side,
    ) -> Result<Option<String>, AppError> {
        signed_in(viewer)?;
        let reached = Entity::visible_to(viewer, Action::Read)
            .filter(connection_logs::Column::Id.eq(id.uuid()));
        let row = reached.one(self.store.db()).await?.ok_or(NO_CONNECTION)?;
        let blob = match side {
            Side::Client => row.client_blob,
            Side::Server => row.server_blob,
        };
        let Some(blob) = blob else { return Ok(None) };
        match self.connections.blobs.text(&blob, LONGEST).await {
            Ok(text) => Ok(Some(text)),
            Err(BlobError::Gone(_)) => Ok(None),
            Err(error) => Err(away(&error)),
        }
    }

    /// Writes a log under a name nothing else has; it is nobody's until a row has the name.
    async fn keep(&self, id: Id<ConnectionLog>, side: Side, log: &str) -> Result<Blob, AppError> {
        let side = match side {
            Side::Client => "client",
            Side::Server => "server",
        };
        let blobs = &self.connections.blobs;
        let place = blobs.identity().await.map_err(|error| away(&error))?;
        let unique = hex(&secret_bytes::<8>());
        let name = blob_name(id.uuid(), side, &place, &unique);
        let put = blobs.put_text(&name, log).await;
        put.map_err(|error| away(&error))?;
        Ok(Blob {
            name,
            bytes: i64::try_from(log.len()).unwrap_or(i64::MAX),
        })
    }

    async fn keep_report_rate(&self, owner: Id<User>) -> Result<(), AppError> {
        let name = format!("connection-log:{}", owner.uuid().simple());
        match limits::admit(&self.store, &name, REPORTS).await? {
            Ok(()) => Ok(()),
            Err(from) => Err(AppError::RateLimited {
                retry_after: (from - self.store.now()).to_std().unwrap_or_default(),
            }),
        }
    }

    fn expiry(&self) -> chrono::DateTime<chrono::Utc> {
        let kept = TimeDelta::from_std(self.connections.kept).unwrap_or(TimeDelta::MAX);
        self.store.now() + kept
    }
}

fn away(error: &BlobError) -> AppError {
    tracing::warn!(%error, "the store of blobs does not do");
    AppError::Unavailable {
        what: "the store of logs",
    }
}

fn checked_version(text: &str) -> Result<String, AppError> {
    let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic());
    if (1..=64).contains(&text.len()) && is_printable {
        Ok(text.to_owned())
    } else {
        Err(AppError::Invalid {
            field: "clientVersion",
            reason: "1 to 64 letters, digits and signs are expected".to_owned(),
        })
    }
}

fn checked_log(text: &str) -> Result<&str, AppError> {
    let refuse = |reason: String| AppError::Invalid {
        field: "log",
        reason,
    };
    if text.is_empty() || text.len() as u64 > LONGEST {
        return Err(refuse(format!("1 to {LONGEST} bytes are expected")));
    }
    if !keeps_text(text) {
        return Err(refuse("a text without a zero byte is expected".to_owned()));
    }
    Ok(text)
}
