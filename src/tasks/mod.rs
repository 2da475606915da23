//! What can be done: one file a kind, with its input and its run. No GraphQL here, and no services.
//!
//! To add one: its file and its line in [`registry`].

pub mod create_container;
pub mod delete_container;
pub mod demo;
pub mod engines;

use crate::{
    domain::Keyring,
    providers::{ProviderError, Providers},
    queue::{Registry, TaskError},
};

/// What every kind can use of the outside.
#[derive(Clone)]
pub struct Outside {
    pub providers: Providers,
    pub keyring: Keyring,
    /// Where containers' ports are published.
    pub publish_address: std::net::IpAddr,
}

/// Every kind this version knows.
pub fn registry(outside: &Outside) -> Registry {
    Registry::default()
        .with(create_container::CreateContainer(outside.clone()))
        .with(delete_container::DeleteContainer(outside.clone()))
        .with(demo::Demo)
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
