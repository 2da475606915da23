//! An engine in memory, with delays and faults drawn from a seed. Its published ports are real and answer HTTP.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use futures_util::{StreamExt as _, stream, stream::BoxStream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::{broadcast, watch},
};
use tokio_stream::wrappers::BroadcastStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Engine, Happened, Instance, Line, Prepared, Provider, ProviderError, Spec, Start, Status,
    instance_name,
};
use crate::domain::{Clock, Entropy, Id, id::Container};

pub(super) const NAME: &str = "simulated";
/// An image whose name begins so is not to be had.
const MISSING_IMAGE: &str = "missing/";
/// An image whose name begins so ends at once with code 1.
const EXITING_IMAGE: &str = "exiting/";

/// How slow and how unreliable the engine is.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// Longest time of one call; the time itself is drawn evenly up to it.
    pub delay: Duration,
    /// From the start to the passing of the health check, at most.
    pub boot: Duration,
    /// Calls in a thousand that fail before they do anything.
    pub lost_calls: u32,
    /// Calls in a thousand that do their work and then fail.
    pub lost_answers: u32,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            delay: Duration::from_millis(120),
            boot: Duration::from_millis(300),
            lost_calls: 0,
            lost_answers: 0,
        }
    }
}

struct Simulation {
    instance: Instance,
    /// What it has written; those who follow it end with it.
    written: watch::Sender<Vec<Line>>,
    /// The sockets of its ports, closed with it.
    _servers: Vec<AbortOnDropHandle<()>>,
}

impl Simulation {
    fn write(&self, at: DateTime<Utc>, line: &str) {
        self.written.send_modify(|lines| {
            let last = lines.last().map_or(0, |line| line.mark);
            let time = at.timestamp_nanos_opt().unwrap_or_default();
            lines.push(Line {
                mark: time.max(last + 1),
                at: Some(at),
                is_error: false,
                text: line.to_owned(),
            });
        });
    }
}

/// The engine; everything in it ends with the process.
pub struct Simulated {
    clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    faults: Faults,
    instances: Arc<Mutex<BTreeMap<Id<Container>, Simulation>>>,
    happened: broadcast::Sender<Happened>,
    is_away: AtomicBool,
}

/// What becomes of a call that was not lost on its way to the engine.
#[derive(PartialEq, Eq)]
enum Fate {
    Answered,
    /// The work is done and nobody hears of it.
    AnswerLost,
}

impl Simulated {
    pub fn new(clock: Arc<dyn Clock>, entropy: Arc<Entropy>, faults: Faults) -> Self {
        Self {
            clock,
            entropy,
            faults,
            instances: Arc::default(),
            happened: broadcast::Sender::new(256),
            is_away: AtomicBool::new(false),
        }
    }

    /// Stops answering, or answers again. What runs goes on.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
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
            simulation.write(self.clock.now(), line);
        }
    }

    fn instances(&self) -> std::sync::MutexGuard<'_, BTreeMap<Id<Container>, Simulation>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a while, and draws this call's fate.
    async fn enter(&self) -> Result<Fate, ProviderError> {
        self.clock
            .sleep(self.entropy.jitter(self.faults.delay))
            .await;
        if self.is_away.load(Ordering::SeqCst) {
            return Err(lost());
        }
        let fate = self.entropy.jitter(Duration::from_millis(1000)).as_millis();
        let before = u128::from(self.faults.lost_calls);
        let after = before + u128::from(self.faults.lost_answers);
        match fate {
            n if n < before => Err(lost()),
            n if n < after => Ok(Fate::AnswerLost),
            _ => Ok(Fate::Answered),
        }
    }

    async fn start(&self, spec: &Spec) -> Result<Simulation, ProviderError> {
        let mut ports = BTreeMap::new();
        let mut servers = Vec::new();
        for inside in &spec.ports {
            let listener = TcpListener::bind((spec.publish_address, 0))
                .await
                .map_err(|error| no_port(&error))?;
            ports.insert(
                *inside,
                listener
                    .local_addr()
                    .map_err(|error| no_port(&error))?
                    .port(),
            );
            servers.push(AbortOnDropHandle::new(tokio::spawn(serve(
                listener,
                greeting(spec),
            ))));
        }
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
            written: watch::Sender::default(),
            _servers: if exits { Vec::new() } else { servers },
        };
        started.write(self.clock.now(), line);
        Ok(started)
    }

    /// Lets the health check pass after a while.
    fn boot(&self, id: Id<Container>) {
        let (clock, instances, happened) = (
            Arc::clone(&self.clock),
            Arc::clone(&self.instances),
            self.happened.clone(),
        );
        let boot = self.entropy.jitter(self.faults.boot);
        // Owned by nobody on purpose: it ends after one sleep and touches only what it finds then.
        tokio::spawn(async move {
            clock.sleep(boot).await;
            let mut instances = instances.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(simulation) = instances.get_mut(&id)
                && simulation.instance.status == Status::Starting
            {
                simulation.instance.status = Status::Ready;
                simulation.write(clock.now(), "ready");
                let _ = happened.send(Happened { id });
            }
        });
    }
}

fn lost() -> ProviderError {
    ProviderError::Unreachable {
        engine: NAME,
        why: "a simulated fault".to_owned(),
    }
}

fn no_port(error: &std::io::Error) -> ProviderError {
    ProviderError::Quota {
        engine: NAME,
        why: format!("no port could be opened: {error}"),
    }
}

fn greeting(spec: &Spec) -> String {
    format!(
        "{} simulates {}\n",
        instance_name(spec.container),
        spec.image
    )
}

async fn serve(listener: TcpListener, greeting: String) {
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{greeting}",
        greeting.len()
    );
    while let Ok((mut socket, _)) = listener.accept().await {
        let exchange = async {
            let mut request = [0; 1024];
            let _ = socket.read(&mut request).await;
            let _ = socket.write_all(answer.as_bytes()).await;
        };
        // One at a time is enough for a greeting; a silent caller is cut off.
        let _ = tokio::time::timeout(Duration::from_secs(1), exchange).await;
    }
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
        if self.is_away.load(Ordering::SeqCst) {
            return Err(lost());
        }
        Ok("simulated engine in this process".to_owned())
    }

    async fn inspect(&self, id: Id<Container>) -> Result<Option<Instance>, ProviderError> {
        self.enter().await?;
        Ok(self
            .instances()
            .get(&id)
            .map(|simulation| simulation.instance.clone()))
    }

    async fn remove(&self, id: Id<Container>, _grace: Duration) -> Result<(), ProviderError> {
        let fate = self.enter().await?;
        if self.instances().remove(&id).is_some() {
            let _ = self.happened.send(Happened { id });
        }
        match fate {
            Fate::AnswerLost => Err(lost()),
            Fate::Answered => Ok(()),
        }
    }

    async fn list(&self) -> Result<Vec<Instance>, ProviderError> {
        self.enter().await?;
        Ok(self
            .instances()
            .values()
            .map(|simulation| simulation.instance.clone())
            .collect())
    }

    async fn logs(&self, id: Id<Container>, lines: u32) -> Result<Vec<String>, ProviderError> {
        self.enter().await?;
        let instances = self.instances();
        let Some(simulation) = instances.get(&id) else {
            return Ok(Vec::new());
        };
        let all = simulation.written.borrow();
        let last = &all[all.len().saturating_sub(lines as usize)..];
        Ok(last.iter().map(|line| line.text.clone()).collect())
    }

    fn follow(&self, id: Id<Container>, start: Start) -> BoxStream<'static, Line> {
        let instances = self.instances();
        let Some(simulation) = instances.get(&id) else {
            return stream::empty().boxed();
        };
        let written = simulation.written.subscribe();
        let from = {
            let all = written.borrow();
            match start {
                Start::Last(lines) => all.len().saturating_sub(lines as usize),
                Start::After(mark) => all.partition_point(|line| line.mark <= mark),
            }
        };
        let portions = stream::unfold((written, from), async |(mut written, from)| {
            loop {
                let new = written.borrow_and_update()[from..].to_vec();
                if !new.is_empty() {
                    let read = from + new.len();
                    return Some((stream::iter(new), (written, read)));
                }
                written.changed().await.ok()?;
            }
        });
        portions.flatten().boxed()
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
                self.enter().await?;
                Ok(step)
            })
            .boxed()
    }

    async fn ensure(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<Instance, ProviderError> {
        let fate = self.enter().await?;
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
        if fate == Fate::AnswerLost {
            return Err(lost());
        }
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
