//! A Docker Swarm: many engines behind one manager's API. A container is a service of one task.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio_util::sync::CancellationToken;

use super::{Happened, Instance, Line, Prepared, Provider, ProviderError, Spec};
use crate::domain::{Id, id::Container};

pub(super) const NAME: &str = "swarm";

/// A swarm, by one of its managers.
pub struct Swarm {
    host: String,
}

impl Swarm {
    pub fn at(host: &str) -> Self {
        Self {
            host: host.to_owned(),
        }
    }

    fn missing(&self) -> ProviderError {
        ProviderError::Unreachable {
            engine: NAME,
            why: self.host.clone(),
        }
    }
}

#[async_trait]
impl Provider for Swarm {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        Err(self.missing())
    }

    fn prepare<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<Prepared, ProviderError>> {
        stream::empty().boxed()
    }

    async fn ensure(&self, _: &Spec, _: &CancellationToken) -> Result<Instance, ProviderError> {
        Err(self.missing())
    }

    async fn inspect(&self, _: Id<Container>) -> Result<Option<Instance>, ProviderError> {
        Err(self.missing())
    }

    async fn remove(&self, _: Id<Container>, _: Duration) -> Result<(), ProviderError> {
        Err(self.missing())
    }

    async fn list(&self) -> Result<Vec<Instance>, ProviderError> {
        Err(self.missing())
    }

    async fn logs(&self, _: Id<Container>, _: u32) -> Result<Vec<String>, ProviderError> {
        Err(self.missing())
    }

    fn follow(&self, _: Id<Container>, _: u32) -> BoxStream<'static, Line> {
        stream::empty().boxed()
    }

    fn events(&self) -> BoxStream<'static, Happened> {
        stream::empty().boxed()
    }
}
