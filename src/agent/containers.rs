//! What becomes of the containers beside the agent: told as it happens, and all of it after every silence.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use super::{
    Agent, LONGEST, SHORTEST,
    client::{CallError, Client},
    logs::Which,
    operations::{REPORT_CONTAINER, Reported},
};
use crate::{
    domain::{Id, id::Container},
    providers::{Engine as _, Instance, ProviderError, Status},
};

/// Lines of what an ended container said last.
const LAST_WORDS: u32 = 5;
/// Reports under way at once when all are told.
const AT_ONCE: usize = 8;
/// Events that wait while others are told.
const EVENTS: usize = 4096;
/// How often a report is sent that the server cannot take for now, and the pause between.
const ATTEMPTS: u32 = 5;
const AGAIN: Duration = Duration::from_secs(1);

/// What the engine was seen to have: a container that is gone does not say any more which time it was made.
#[derive(Default)]
pub(super) struct Known(Mutex<BTreeMap<Id<Container>, i32>>);

impl Known {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Id<Container>, i32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing more can be told for now.
enum Trouble {
    Server(CallError),
    Engine(ProviderError),
}

impl From<CallError> for Trouble {
    fn from(error: CallError) -> Self {
        Self::Server(error)
    }
}

impl From<ProviderError> for Trouble {
    fn from(error: ProviderError) -> Self {
        Self::Engine(error)
    }
}

impl Agent {
    /// Tells everything, and then what happens; everything again when `must_report` asks, and when the engine is back.
    pub(super) async fn watch(&self, client: &Client, must_report: &Notify) -> CallError {
        let mut failures = 0;
        loop {
            match self.attend(client, must_report, &mut failures).await {
                Err(Trouble::Server(error)) => return error,
                Err(Trouble::Engine(error)) => self.engine_is_away(&error),
                Ok(()) => self.engine_is_away(&"its events have ended"),
            }
            let ceiling = SHORTEST * 2_u32.saturating_pow(failures.min(6));
            failures += 1;
            let pause = self.entropy.jitter(ceiling.min(LONGEST));
            self.clock.sleep(pause).await;
        }
    }

    /// The same as long as the engine is there.
    async fn attend(
        &self,
        client: &Client,
        must_report: &Notify,
        failures: &mut u32,
    ) -> Result<(), Trouble> {
        // By the engine's clock, from before the look at all of them: what happens meanwhile is not missed.
        let about = self.engine.about().await?;
        let mut events = self.engine.events_since(about.time.as_deref()).await?;
        let (heard, mut hearing) = mpsc::channel(EVENTS);
        let listen = async {
            while let Some(event) = events.next().await {
                if heard.send(event.id).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = listen => Ok(()),
            end = self.tell_on(client, must_report, &mut hearing, failures) => match end {
                Ok(never) => match never {},
                Err(trouble) => Err(trouble),
            },
        }
    }

    async fn tell_on(
        &self,
        client: &Client,
        must_report: &Notify,
        hearing: &mut mpsc::Receiver<Id<Container>>,
        failures: &mut u32,
    ) -> Result<Infallible, Trouble> {
        self.report_all(client).await?;
        self.engine_is_back();
        *failures = 0;
        loop {
            tokio::select! {
                () = must_report.notified() => self.report_all(client).await?,
                Some(id) = hearing.recv() => {
                    self.report(client, id).await?;
                    self.take_count().await?;
                }
            }
        }
    }

    async fn take_count(&self) -> Result<(), ProviderError> {
        let count = self.engine.count().await?;
        self.count.store(count, Ordering::Relaxed);
        Ok(())
    }

    /// Tells how each is that the engine has, and which of those known it has no more.
    async fn report_all(&self, client: &Client) -> Result<(), Trouble> {
        self.take_count().await?;
        let instances = self.engine.list().await?;
        let there: Vec<Id<Container>> = instances.iter().map(|found| found.id).collect();
        tracing::debug!(containers = there.len(), "all are told");
        stream::iter(&instances)
            .map(|instance| self.tell(client, instance))
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await?;
        let missing: Vec<Id<Container>> = {
            let known = self.known.all();
            known
                .keys()
                .filter(|id| !there.contains(id))
                .copied()
                .collect()
        };
        // The list may leave one out that could not be looked at, so each is looked at by itself.
        for id in missing {
            self.report(client, id).await?;
        }
        Ok(())
    }

    /// Looks at one and tells how it is.
    async fn report(&self, client: &Client, id: Id<Container>) -> Result<(), Trouble> {
        match self.engine.inspect(id).await {
            Ok(Some(instance)) => self.tell(client, &instance).await,
            Ok(None) => {
                let generation = self.known.all().get(&id).copied();
                if let Some(generation) = generation {
                    let input =
                        json!({ "id": id.to_string(), "report": "GONE", "generation": generation });
                    let is_known = self.send(client, id, input).await?;
                    self.end_log((id, generation), is_known);
                    // Not before it is told: else nobody would know any more that it has to be.
                    self.known.all().remove(&id);
                }
                Ok(())
            }
            // Its name is another's.
            Err(ProviderError::Rejected { why, .. }) => {
                tracing::debug!(container = %id, why, "not looked at");
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn tell(&self, client: &Client, instance: &Instance) -> Result<(), Trouble> {
        let id = instance.id;
        let (id_text, generation) = (id.to_string(), instance.generation);
        self.known.all().insert(id, generation);
        match instance.status {
            Status::Ready => {
                let ports = instance.ports.iter();
                let ports: Vec<Value> = ports
                    .map(|(inside, published)| json!({ "inside": inside, "published": published }))
                    .collect();
                let input = json!({ "id": id_text, "report": "READY", "generation": generation, "ip": instance.ip, "ports": ports });
                if self.send(client, id, input).await? {
                    self.logs
                        .follow(&self.engine, (id, generation), self.clock.now());
                }
            }
            Status::Exited { code } => {
                let said = self.engine.logs(id, LAST_WORDS).await.unwrap_or_default();
                let said = (!said.is_empty()).then(|| said.join(" | "));
                let input = json!({ "id": id_text, "report": "EXITED", "generation": generation, "exitCode": code, "message": said });
                let is_known = self.send(client, id, input).await?;
                self.end_log((id, generation), is_known);
            }
            // Neither well nor over; more will happen to it.
            Status::Created | Status::Starting | Status::Unhealthy | Status::Off => {}
        }
        Ok(())
    }

    /// Has the log of one that is over sent, unless it is none of the server's.
    fn end_log(&self, which: Which, is_known: bool) {
        if is_known || self.logs.follows(which) {
            self.logs.end(&self.engine, which, self.clock.now());
        }
    }

    /// Tells how one is; whether the server knows it.
    async fn send(
        &self,
        client: &Client,
        id: Id<Container>,
        input: Value,
    ) -> Result<bool, Trouble> {
        for _ in 0..ATTEMPTS {
            let answer = client
                .call::<Reported>(REPORT_CONTAINER, input.clone())
                .await;
            match answer {
                Ok(reported) => {
                    let state = reported.container.state;
                    tracing::debug!(container = %id, report = %input["report"], state, "told");
                    return Ok(true);
                }
                Err(error) if error.is_over() || error.is_refusal() => return Err(error.into()),
                Err(error) if error.may_pass() => self.clock.sleep(AGAIN).await,
                // Another deployment's on the same engine, for one.
                Err(error) => {
                    tracing::debug!(%error, container = %id, "the server does not know it");
                    return Ok(false);
                }
            }
        }
        tracing::warn!(container = %id, "the server does not take a report; it is told again with all others");
        Ok(false)
    }
}
