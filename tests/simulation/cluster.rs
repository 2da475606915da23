//! The nodes of a world: the processes that run the engine, and the one people talk to.

use std::{
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::Duration,
};

use main_webserver::{
    queue::{Dispatcher, Outlook, Sweeper, Worker, WorkerSettings},
    telemetry::Meters,
};
use tokio::task::JoinHandle;

use super::{
    kinds,
    node::Node,
    transport::{SimBus, SimQueue},
    truth::SimStore,
    world::World,
};

pub const LEASE: Duration = Duration::from_secs(3);
const SLOTS: usize = 4;

/// Nobody reads them here.
static METERS: LazyLock<Arc<Meters>> = LazyLock::new(Arc::default);

pub struct Cluster {
    pub world: Arc<World>,
    seed: u64,
    nodes: Arc<Mutex<Vec<Arc<Node>>>>,
    parts: Vec<(usize, JoinHandle<()>)>,
}

impl Cluster {
    pub fn new(world: Arc<World>, seed: u64) -> Self {
        Self {
            world,
            seed,
            nodes: Arc::default(),
            parts: Vec::new(),
        }
    }

    pub fn all(&self) -> Vec<Arc<Node>> {
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The workers that neither have crashed nor are about to stop; the first node is the web's.
    pub fn living(&self) -> Vec<Arc<Node>> {
        let mut nodes = self.all();
        nodes.retain(|node| node.number > 0 && node.is_alive() && !node.stop.is_cancelled());
        nodes
    }

    fn start(&mut self) -> (Arc<Node>, Dispatcher) {
        let number = self.all().len();
        let (node, posted) = Node::new(&self.world, number, self.seed);
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&node));
        let dispatcher = Dispatcher {
            truth: Arc::new(SimStore(Arc::clone(&node))),
            queue: Arc::new(SimQueue(Arc::clone(&node))),
            bus: Arc::new(SimBus {
                node: Arc::clone(&node),
                nodes: Arc::clone(&self.nodes),
            }),
            meters: Arc::clone(&METERS),
        };
        // It goes on until the last of its messages, as `App::stop` has it.
        let sending = dispatcher.clone().run(posted, node.stop.child_token());
        self.parts.push((number, tokio::spawn(sending)));
        (node, dispatcher)
    }

    /// Starts the process people talk to.
    pub fn start_web(&mut self) -> Arc<Node> {
        self.start().0
    }

    /// Starts a process with a worker and a sweeper.
    pub fn start_worker(&mut self) {
        let (node, dispatcher) = self.start();
        let clock = Arc::clone(&node) as Arc<dyn main_webserver::domain::Clock>;
        let outlook = Outlook {
            truth: Arc::clone(&dispatcher.truth),
            queue: Arc::clone(&dispatcher.queue),
            bus: Arc::clone(&dispatcher.bus),
            clock: Arc::clone(&clock),
            entropy: Arc::clone(&node.entropy),
            meters: Arc::clone(&METERS),
            host: "simulated".to_owned(),
        };
        let settings = WorkerSettings {
            concurrency: SLOTS,
            lease: LEASE,
            drain: Duration::from_secs(2),
        };
        let worker = Arc::new(Worker::new(outlook, kinds::registry(&node), settings));
        let sweeper = Sweeper::new(dispatcher, clock, worker.id, None);
        let parts = [
            tokio::spawn(worker.run(node.stop.clone())),
            tokio::spawn(sweeper.run(node.stop.clone())),
        ];
        self.parts.extend(parts.map(|part| (node.number, part)));
    }

    /// Stops everybody who lives; those who do not stop in time are named.
    pub async fn stop(self, patience: Duration) -> Result<(), String> {
        let alive: Vec<usize> = self
            .all()
            .iter()
            .filter(|node| node.is_alive())
            .map(|node| node.number)
            .collect();
        for node in self.all() {
            node.stop.cancel();
        }
        for (number, part) in self.parts {
            if !alive.contains(&number) {
                continue;
            }
            if tokio::time::timeout(patience, part).await.is_err() {
                return Err(format!("node {number} does not stop"));
            }
        }
        Ok(())
    }
}
