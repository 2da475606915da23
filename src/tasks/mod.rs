//! What can be done: one file a kind, with its input and its run. No GraphQL here, and no services.
//!
//! To add one: its file and its line in [`registry`].

pub mod create_container;
pub mod delete_container;
pub mod demo;
pub mod engines;
pub mod noop;
pub mod open;

use crate::{
    domain::Keyring,
    providers::{ProviderError, Providers},
    queue::{Registry, Run, TaskError},
    store::{Store, limits::Rate},
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
    pub engine_rate: Option<Rate>,
}

impl Outside {
    /// Waits for this task's turn at the engine `name`.
    async fn keep_rate(&self, name: &str, run: &Run) -> Result<(), TaskError> {
        match self.engine_rate {
            Some(rate) => run.keep_rate(&format!("engine:{name}"), rate).await,
            None => Ok(()),
        }
    }
}

/// Every kind this version knows.
pub fn registry(outside: &Outside) -> Registry {
    Registry::default()
        .with(create_container::CreateContainer(outside.clone()))
        .with(delete_container::DeleteContainer(outside.clone()))
        .with(demo::Demo)
        .with(noop::Noop)
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
