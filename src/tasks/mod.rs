//! What can be done: one file a kind, with its input and its run. No GraphQL here, and no services.
//!
//! To add one: its file and its line in [`registry`].

pub mod assign_container;
pub mod backup;
pub mod clusters;
pub mod create_container;
pub mod delete_container;
pub mod delete_machine;
pub mod demo;
pub mod drain_container;
pub mod drain_host;
pub mod machine;
pub mod noop;
pub mod open;
mod place;
pub mod reconcile;
pub mod refill_pool;
pub mod run_machine;
pub mod snapshot_machine;
pub mod stop_machine;

use std::sync::Arc;

use crate::{
    backup::Backups,
    domain::{Dial, Id, Keyring, id::Container},
    error::{AppError, StoreError},
    providers::{ProviderError, Providers},
    queue::{Registry, Run, TaskError},
    store::{Store, Tx, containers, limits::Rate, tasks},
};

/// What every kind can use of the outside.
#[derive(Clone)]
pub struct Outside {
    pub providers: Providers,
    pub store: Store,
    pub keyring: Keyring,
    /// Where containers' ports are published.
    pub publish_address: std::net::IpAddr,
    /// How often an engine may be asked to make or remove something; `None` is as often as there is need.
    pub engine_rate: Dial<Option<Rate>>,
    /// `None` where there is no place for backups.
    pub backups: Option<Arc<Backups>>,
}

impl Outside {
    /// Waits for this task's turn at the engine `name`.
    async fn keep_rate(&self, name: &str, run: &Run) -> Result<(), TaskError> {
        match self.engine_rate.get() {
            Some(rate) => run.keep_rate(&format!("engine:{name}"), rate).await,
            None => Ok(()),
        }
    }
}

/// Every kind this version knows.
pub fn registry(outside: &Outside) -> Registry {
    Registry::default()
        .with(assign_container::AssignContainer(outside.clone()))
        .with(backup::Backup(outside.clone()))
        .with(clusters::ClusterCommand(outside.clone()))
        .with(clusters::CreateCluster(outside.clone()))
        .with(clusters::DeleteCluster(outside.clone()))
        .with(clusters::DrainCluster(outside.clone()))
        .with(create_container::CreateContainer(outside.clone()))
        .with(delete_container::DeleteContainer(outside.clone()))
        .with(delete_machine::DeleteMachine(outside.clone()))
        .with(drain_container::DrainContainer(outside.clone()))
        .with(drain_host::DrainHost(outside.clone()))
        .with(refill_pool::RefillPool(outside.clone()))
        .with(run_machine::RunMachine(outside.clone()))
        .with(snapshot_machine::SnapshotMachine(outside.clone()))
        .with(stop_machine::StopMachine(outside.clone()))
        .with(demo::Demo)
        .with(noop::Noop)
}

/// A container and its tasks that have not ended, all locked by this transaction: the tasks first, as a run's own writes
/// lock them, so that nobody waits in a circle.
pub async fn locked(
    tx: &Tx<'_>,
    id: Id<Container>,
) -> Result<Option<(Vec<tasks::Model>, containers::Model)>, StoreError> {
    let live = tasks::lock_live_of(tx, id.uuid()).await?;
    let row = containers::lock(tx, id).await?;
    Ok(row.map(|row| (live, row)))
}

impl From<AppError> for TaskError {
    fn from(error: AppError) -> Self {
        if let AppError::Internal(source) = &error {
            tracing::warn!(%source, "a task met a fault of ours");
        }
        Self::Retryable {
            code: error.code(),
            message: error.to_string(),
        }
    }
}

impl From<ProviderError> for TaskError {
    fn from(error: ProviderError) -> Self {
        let (code, message) = (error.code(), error.to_string());
        match error {
            ProviderError::Stopped => Self::Stopped,
            error if error.is_retryable() => Self::Retryable { code, message },
            _ => Self::Permanent { code, message },
        }
    }
}
