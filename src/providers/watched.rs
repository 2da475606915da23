//! An engine that tells of its calls: how long they took, how they ended, and which trace they are a part of.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Console, ConsoleKind, Engine, Guest, Happened, Hypervisor, Image, Instance, Line, Node,
    Prepared, Provider, ProviderError, Spec, Start, Usage,
};
use crate::{
    domain::{
        Id,
        id::{Container, Identified, Snapshot, VirtualMachine},
    },
    telemetry::{
        process,
        trace::{Kind, Span},
    },
};

/// An engine whose calls are told.
pub(super) struct Watched<E: ?Sized>(pub Arc<E>);

/// A call under way.
struct Call {
    provider: &'static str,
    operation: &'static str,
    span: Span,
    began: Instant,
}

impl Call {
    fn begin(provider: &'static str, operation: &'static str, of: Option<String>) -> Self {
        let span = Span::part(Kind::Client, || format!("{provider} {operation}").into());
        span.set("engine.provider", provider);
        span.set("engine.operation", operation);
        if let Some(of) = of {
            span.set("engine.instance", of);
        }
        Self {
            provider,
            operation,
            span,
            began: Instant::now(),
        }
    }

    fn end(&self, error: Option<&ProviderError>) {
        let outcome = error.map_or("ok", ProviderError::code);
        let took = self.began.elapsed();
        process::meters().call(self.provider, self.operation, outcome, took);
        if let Some(error) = error {
            self.span.fail(error.code());
        }
    }

    async fn tell<R>(
        self,
        work: impl Future<Output = Result<R, ProviderError>>,
    ) -> Result<R, ProviderError> {
        let done = self.span.around(work).await;
        self.end(done.as_ref().err());
        done
    }
}

#[async_trait]
impl<T, E> Engine<T> for Watched<E>
where
    T: Identified + Send + 'static,
    E: Engine<T> + ?Sized,
{
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn is_private(&self) -> bool {
        self.0.is_private()
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        let call = Call::begin(self.0.name(), "ping", None);
        call.tell(self.0.ping()).await
    }

    async fn inspect(&self, id: Id<T>) -> Result<Option<Instance<T>>, ProviderError> {
        let call = Call::begin(self.0.name(), "inspect", Some(id.to_string()));
        call.tell(self.0.inspect(id)).await
    }

    async fn remove(&self, id: Id<T>, grace: Duration) -> Result<(), ProviderError> {
        let call = Call::begin(self.0.name(), "remove", Some(id.to_string()));
        call.tell(self.0.remove(id, grace)).await
    }

    async fn list(&self) -> Result<Vec<Instance<T>>, ProviderError> {
        let call = Call::begin(self.0.name(), "list", None);
        call.tell(self.0.list()).await
    }

    async fn logs(&self, id: Id<T>, lines: u32) -> Result<Vec<String>, ProviderError> {
        let call = Call::begin(self.0.name(), "logs", Some(id.to_string()));
        call.tell(self.0.logs(id, lines)).await
    }

    fn follow(&self, id: Id<T>, start: Start) -> BoxStream<'static, Line> {
        self.0.follow(id, start)
    }

    async fn nodes(&self) -> Result<Option<Vec<Node>>, ProviderError> {
        let call = Call::begin(self.0.name(), "nodes", None);
        call.tell(self.0.nodes()).await
    }

    async fn set_in_service(&self, node: &str, is_in_service: bool) -> Result<(), ProviderError> {
        let call = Call::begin(self.0.name(), "set_in_service", None);
        call.tell(self.0.set_in_service(node, is_in_service)).await
    }

    fn events(&self) -> BoxStream<'static, Happened<T>> {
        self.0.events()
    }
}

#[async_trait]
impl Provider for Watched<dyn Provider> {
    fn prepare<'a>(&'a self, image: &'a str) -> BoxStream<'a, Result<Prepared, ProviderError>> {
        let call = Call::begin(self.0.name(), "prepare", None);
        let steps = self.0.prepare(image).inspect(move |step| match step {
            Ok(Prepared::Pulling(_)) => {}
            Ok(Prepared::Present) => call.end(None),
            Err(error) => call.end(Some(error)),
        });
        steps.boxed()
    }

    async fn ensure(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<Instance<Container>, ProviderError> {
        let call = Call::begin(self.0.name(), "ensure", Some(spec.container.to_string()));
        call.tell(self.0.ensure(spec, stop)).await
    }
}

type Machine = Id<VirtualMachine>;

#[async_trait]
impl Hypervisor for Watched<dyn Hypervisor> {
    async fn check(&self, image: &Image) -> Result<u64, ProviderError> {
        let call = Call::begin(self.0.name(), "check", None);
        call.tell(self.0.check(image)).await
    }

    async fn ensure(
        &self,
        guest: &Guest,
        stop: &CancellationToken,
    ) -> Result<Instance<VirtualMachine>, ProviderError> {
        let call = Call::begin(self.0.name(), "ensure", Some(guest.id.to_string()));
        call.tell(self.0.ensure(guest, stop)).await
    }

    async fn power_off(&self, id: Machine) -> Result<(), ProviderError> {
        let call = Call::begin(self.0.name(), "power_off", Some(id.to_string()));
        call.tell(self.0.power_off(id)).await
    }

    async fn kill(&self, id: Machine) -> Result<(), ProviderError> {
        let call = Call::begin(self.0.name(), "kill", Some(id.to_string()));
        call.tell(self.0.kill(id)).await
    }

    async fn snapshot(&self, id: Machine, snapshot: Id<Snapshot>) -> Result<(), ProviderError> {
        let call = Call::begin(self.0.name(), "snapshot", Some(id.to_string()));
        call.tell(self.0.snapshot(id, snapshot)).await
    }

    async fn restore(&self, id: Machine, snapshot: Id<Snapshot>) -> Result<(), ProviderError> {
        let call = Call::begin(self.0.name(), "restore", Some(id.to_string()));
        call.tell(self.0.restore(id, snapshot)).await
    }

    async fn forget(&self, id: Machine, snapshot: Id<Snapshot>) -> Result<(), ProviderError> {
        let call = Call::begin(self.0.name(), "forget", Some(id.to_string()));
        call.tell(self.0.forget(id, snapshot)).await
    }

    async fn usage(&self, id: Machine) -> Result<Option<Usage>, ProviderError> {
        let call = Call::begin(self.0.name(), "usage", Some(id.to_string()));
        call.tell(self.0.usage(id)).await
    }

    async fn console(
        &self,
        id: Machine,
        kind: ConsoleKind,
    ) -> Result<Box<dyn Console>, ProviderError> {
        let call = Call::begin(self.0.name(), "console", Some(id.to_string()));
        call.tell(self.0.console(id, kind)).await
    }
}
