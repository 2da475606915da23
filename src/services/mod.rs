//! The door for people: authorise, validate, then one transaction with the row, the task and their messages.

pub mod accounts;
pub mod admission;
pub mod backups;
pub mod catalogue;
pub mod clusters;
pub mod connection_logs;
pub mod containers;
mod endpoints;
pub mod hosts;
pub mod images;
mod logging;
pub mod logs;
pub mod machines;
pub mod queue;
pub mod reporting;
pub mod reports;
pub mod schedules;
pub mod seed;
pub mod settings;
pub mod snapshots;
pub mod tasks;

use std::{sync::Arc, time::Duration};

use admission::Admission;
use connection_logs::Connections;
use sea_orm::ConnectionTrait;

use crate::{
    auth::Auth,
    backup::Backups,
    config::Configuration,
    domain::{
        Dial, Id, Keyring,
        id::{Host, User},
        policy::{Action, Resource, Scope, Viewer, scope},
        value::IdempotencyKey,
    },
    error::{AppError, InField as _},
    store::{
        Store,
        tasks::{Enqueuer, Model},
    },
};

/// What every service works with.
#[derive(Clone)]
pub struct Services {
    pub store: Store,
    pub auth: Auth,
    pub keyring: Keyring,
    pub enqueuer: Enqueuer,
    pub admission: Admission,
    pub fleet: Dial<Fleet>,
    /// This process' settings.
    pub configuration: Arc<Configuration>,
    /// `None` where there is no place for backups.
    pub backups: Option<Arc<Backups>>,
    pub connections: Connections,
}

/// What is allowed of the fleet, and expected of it.
#[derive(Clone, Copy, Debug)]
pub struct Fleet {
    /// Most containers one owner has at once.
    pub containers_per_owner: u64,
    /// Most virtual machines one owner has at once.
    pub machines_per_owner: u64,
    /// How long a client may stay in a container that is drained.
    pub patience: Duration,
    /// Time between two heartbeats of a host.
    pub heartbeat: Duration,
}

/// The signed-in person, or the error that asks for signing in.
pub fn signed_in(viewer: Viewer) -> Result<Id<User>, AppError> {
    match viewer {
        Viewer::User { id, .. } | Viewer::Admin { id, .. } => Ok(id),
        Viewer::Host { .. } => Err(AppError::Forbidden),
        Viewer::Anonymous | Viewer::System => Err(AppError::Unauthenticated("log in first")),
    }
}

/// The host whose agent asks, or the error that tells who it is that asks.
fn as_host(viewer: Viewer) -> Result<Id<Host>, AppError> {
    match viewer {
        Viewer::Host { id } => Ok(id),
        Viewer::User { .. } | Viewer::Admin { .. } => Err(AppError::Forbidden),
        Viewer::Anonymous | Viewer::System => Err(AppError::Unauthenticated(
            "the host's credential is expected",
        )),
    }
}

/// Whoever may do `action` with all of `resource`, as the queue and the schedules are steered.
fn may_with_all(viewer: Viewer, action: Action, resource: Resource) -> Result<(), AppError> {
    signed_in(viewer)?;
    match scope(viewer, action, resource) {
        Scope::Everything => Ok(()),
        Scope::OwnedBy(_) | Scope::OnHost(_) | Scope::Nothing => Err(AppError::Forbidden),
    }
}

fn idempotency_key(key: Option<&str>) -> Result<Option<IdempotencyKey>, AppError> {
    key.map(IdempotencyKey::parse)
        .transpose()
        .in_field("idempotencyKey")
}

/// The task an earlier request with the same key enqueued.
///
/// # Errors
/// A conflict when that request asked for another kind of thing.
async fn replayed(
    db: &impl ConnectionTrait,
    owner: Id<User>,
    key: Option<&IdempotencyKey>,
    kind: &'static str,
) -> Result<Option<Model>, AppError> {
    let Some(key) = key else { return Ok(None) };
    match crate::store::tasks::by_idempotency_key(db, owner, key).await? {
        Some(task) if task.kind != kind => Err(REUSED),
        earlier => Ok(earlier),
    }
}

/// The same key at the same time.
const BEING_USED: AppError =
    AppError::Conflict("the same idempotency key is being used by another request, try again");

const REUSED: AppError =
    AppError::Conflict("this idempotency key was used for a different request");
