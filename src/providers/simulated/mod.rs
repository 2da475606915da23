//! An engine in memory, with delays and faults drawn from a seed. Its published ports are real and answer HTTP.

mod machines;
mod ports;
mod weather;
mod written;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream, stream::BoxStream};
pub use machines::{Given, SimulatedMachines};
use ports::Servers;
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::sync::CancellationToken;
pub use weather::Faults;
use weather::Weather;
use written::Written;

use super::{
    Engine, Happened, Instance, Line, Prepared, Provider, ProviderError, Spec, Start, Status,
    instance_name,
};
use crate::domain::{Clock, Entropy, Id, id::Container};

pub(super) const NAME: &str = "simulated";
/// The name of the engine of virtual machines.
pub(super) const MACHINES: &str = "simulated-machines";
/// An image whose name begins so is not to be had.
const MISSING_IMAGE: &str = "missing/";
/// An image whose name begins so ends at once with code 1.
const EXITING_IMAGE: &str = "exiting/";

struct Simulation {
    instance: Instance,
    written: Written,
    _servers: Servers,
}

/// The engine; everything in it ends with the process.
pub struct Simulated {
    weather: Weather,
    instances: Arc<Mutex<BTreeMap<Id<Container>, Simulation>>>,
    happened: broadcast::Sender<Happened>,
}

impl Simulated {
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<Entropy>, faults: Faults) -> Self {
        Self {
            weather: Weather::new(clock, entropy, faults),
            instances: Arc::default(),
            happened: broadcast::Sender::new(256),
        }
    }

    /// Stops answering, or answers again. What runs goes on.
    pub fn set_away(&self, is_away: bool) {
        self.weather.set_away(is_away);
    }

    /// Loses an instance behind everybody's back, without a word.
    pub fn lose(&self, id: Id<Container>) {
        self.instances().remove(&id);
    }

    /// Ends an instance as if it had ended by itself, without a word.
    pub fn end(&self, id: Id<Container>, code: i64) {
        if let Some(simulation) = self.instances().get_mut(&id) {
            simulation.instance.status = Status::Exited { code };
        }
    }

    /// Writes a line into an instance's log.
    pub fn write(&self, id: Id<Container>, line: &str) {
        if let Some(simulation) = self.instances().get(&id) {
            simulation.written.write(self.weather.clock.now(), line);
        }
    }

    fn instances(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id<Container>, Simulation>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn start(&self, spec: &Spec) -> Result<Simulation, ProviderError> {
        let (ports, servers) =
            ports::open(&spec.ports, spec.publish_address, &greeting(spec)).await?;
        let exits = spec.image.starts_with(EXITING_IMAGE);
        let (status, line) = if exits {
            (Status::Exited { code: 1 }, "exiting as its name says")
        } else {
            (Status::Starting, "up")
        };
        let instance = Instance {
            id: spec.container,
            generation: spec.generation,
            deployment: Some(spec.deployment.clone()),
            node: None,
            handle: format!("simulated-{}", spec.container.uuid().simple()),
            status,
            ip: Some(IpAddr::from([127, 0, 0, 1]).to_string()),
            ports,
        };
        let started = Simulation {
            instance,
            written: Written::default(),
            _servers: if exits { Servers::default() } else { servers },
        };
        started.written.write(self.weather.clock.now(), line);
        Ok(started)
    }

    /// Lets the health check pass after a while.
    fn boot(&self, id: Id<Container>) {
        let (clock, instances, happened) = (
            Arc::clone(&self.weather.clock),
            Arc::clone(&self.instances),
            self.happened.clone(),
        );
        let boot = self.weather.boot();
        // Owned by nobody on purpose: it ends after one sleep and touches only what it finds then.
        tokio::spawn(async move {
            clock.sleep(boot).await;
            let mut instances = instances.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(simulation) = instances.get_mut(&id)
                && simulation.instance.status == Status::Starting
            {
                simulation.instance.status = Status::Ready;
                simulation.written.write(clock.now(), "ready");
                let _ = happened.send(Happened { id });
            }
        });
    }
}

fn greeting(spec: &Spec) -> String {
    format!(
        "{} simulates {}\n",
        instance_name(spec.container),
        spec.image
    )
}

#[async_trait]
impl Engine<Container> for Simulated {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_private(&self) -> bool {
        true
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        self.weather.answers()?;
        Ok("simulated engine in this process".to_owned())
    }

    async fn inspect(&self, id: Id<Container>) -> Result<Option<Instance>, ProviderError> {
        self.weather.enter().await?;
        Ok(self
            .instances()
            .get(&id)
            .map(|simulation| simulation.instance.clone()))
    }

    async fn remove(&self, id: Id<Container>, _grace: Duration) -> Result<(), ProviderError> {
        let fate = self.weather.enter().await?;
        if self.instances().remove(&id).is_some() {
            let _ = self.happened.send(Happened { id });
        }
        fate.answer(())
    }

    async fn list(&self) -> Result<Vec<Instance>, ProviderError> {
        self.weather.enter().await?;
        Ok(self
            .instances()
            .values()
            .map(|simulation| simulation.instance.clone())
            .collect())
    }

    async fn logs(&self, id: Id<Container>, lines: u32) -> Result<Vec<String>, ProviderError> {
        self.weather.enter().await?;
        let instances = self.instances();
        let found = instances.get(&id);
        Ok(found.map_or_else(Vec::new, |simulation| simulation.written.last(lines)))
    }

    fn follow(&self, id: Id<Container>, start: Start) -> BoxStream<'static, Line> {
        let instances = self.instances();
        let found = instances.get(&id);
        found.map_or_else(
            || stream::empty().boxed(),
            |simulation| simulation.written.follow(start),
        )
    }

    fn events(&self) -> BoxStream<'static, Happened> {
        BroadcastStream::new(self.happened.subscribe())
            .filter_map(async |event| event.ok())
            .boxed()
    }
}

#[async_trait]
impl Provider for Simulated {
    fn prepare<'a>(&'a self, image: &'a str) -> BoxStream<'a, Result<Prepared, ProviderError>> {
        if image.starts_with(MISSING_IMAGE) {
            let error = ProviderError::NoSuchImage {
                image: image.to_owned(),
                why: "its name says so".to_owned(),
            };
            return stream::once(std::future::ready(Err(error))).boxed();
        }
        stream::iter([Prepared::Pulling(50), Prepared::Present])
            .then(async |step| {
                self.weather.enter().await?;
                Ok(step)
            })
            .boxed()
    }

    async fn ensure(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<Instance, ProviderError> {
        let fate = self.weather.enter().await?;
        if stop.is_cancelled() {
            return Err(ProviderError::Stopped);
        }
        if spec.image.starts_with(MISSING_IMAGE) {
            return Err(ProviderError::NoSuchImage {
                image: spec.image.clone(),
                why: "its name says so".to_owned(),
            });
        }
        let is_known = {
            let mut instances = self.instances();
            let known = instances.get(&spec.container);
            let known = known.map(|simulation| simulation.instance.generation);
            if known.is_some_and(|generation| generation < spec.generation) {
                instances.remove(&spec.container);
            }
            instances.contains_key(&spec.container)
        };
        if !is_known {
            let started = self.start(spec).await?;
            // Whoever was quicker has won.
            self.instances().entry(spec.container).or_insert(started);
            self.boot(spec.container);
            let _ = self.happened.send(Happened { id: spec.container });
        }
        fate.answer(())?;
        let found = self
            .instances()
            .get(&spec.container)
            .map(|simulation| simulation.instance.clone());
        found.ok_or_else(|| ProviderError::Failed {
            engine: NAME,
            why: "it vanished after it was made".to_owned(),
        })
    }
}
