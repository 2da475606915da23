//! The door for people: authorise, validate, then one transaction with the row, the task and their messages.

pub mod accounts;
pub mod admission;
pub mod containers;
pub mod queue;
pub mod schedules;
pub mod seed;
pub mod tasks;

use admission::Admission;
use sea_orm::ConnectionTrait;

use crate::{
    auth::Auth,
    domain::{
        Id, Keyring,
        id::User,
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
}

impl Services {
    pub fn new(store: Store, auth: Auth, keyring: Keyring, admission: Admission) -> Self {
        let enqueuer = Enqueuer::new(store.clone());
        Self {
            store,
            auth,
            keyring,
            enqueuer,
            admission,
        }
    }
}

/// The signed-in person, or the error that asks for signing in.
pub fn signed_in(viewer: Viewer) -> Result<Id<User>, AppError> {
    viewer
        .user()
        .ok_or(AppError::Unauthenticated("log in first"))
}

/// Whoever may do `action` with all of `resource`, as the queue and the schedules are steered.
fn may_with_all(viewer: Viewer, action: Action, resource: Resource) -> Result<(), AppError> {
    signed_in(viewer)?;
    match scope(viewer, action, resource) {
        Scope::Everything => Ok(()),
        Scope::OwnedBy(_) | Scope::Nothing => Err(AppError::Forbidden),
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
