//! The engine on a database of its own, with a clock in the test's hand and kinds that do as they are told.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use main_webserver::{
    domain::{Clock, Entropy, Id, SystemClock, id},
    live::{EventBus, MemoryBus},
    queue::{
        Dispatcher, GiveUp, MemoryQueue, Outlook, Registry, Run, Sweeper, TaskError, TaskKind,
        TaskQueue, Worker, WorkerSettings,
    },
    store::{
        Posted, Store, Tx, connection, migrate,
        tasks::{self, Claimer, Model, NewTask, TaskInput},
    },
    telemetry::Meters,
};
use sea_orm::DbBackend;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::harness::{Ground, until};

/// A clock that moves when the test says so.
pub struct ManualClock(watch::Sender<DateTime<Utc>>);

impl ManualClock {
    pub fn set(&self, at: DateTime<Utc>) {
        self.0.send_replace(at);
    }

    pub fn advance(&self, by: Duration) {
        self.0.send_modify(|now| *now += by);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.borrow()
    }
    async fn sleep_until(&self, at: DateTime<Utc>) {
        let _ = self.0.subscribe().wait_for(|now| *now >= at).await;
    }
}

/// What a run of a [`Scripted`] task does.
#[derive(Clone, Serialize, Deserialize)]
pub enum Script {
    Succeed,
    /// Fails so many times, then succeeds.
    FailTimes(u32),
    FailForGood,
    Panic,
    /// Waits for the topic once, then succeeds.
    WaitFor(String),
    /// Runs until it is asked to stop.
    UntilStopped,
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Input(pub Script);

impl TaskInput for Input {
    const KIND: &'static str = "scripted";
    const MAX_ATTEMPTS: i32 = 3;
    const DEADLINE: Duration = Duration::from_secs(10_000);
}

#[derive(Clone, Default)]
pub struct Scripted {
    pub runs: Arc<AtomicUsize>,
    pub given_up: Arc<Mutex<Vec<GiveUp>>>,
}

#[async_trait]
impl TaskKind for Scripted {
    type Input = Input;
    type Output = usize;

    async fn run(&self, Input(script): Input, run: &Run) -> Result<usize, TaskError> {
        let nth = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        let oops = || TaskError::Retryable {
            code: "OOPS",
            message: format!("run {nth}"),
        };
        match script {
            Script::FailTimes(times) if nth <= times as usize => Err(oops()),
            Script::FailForGood => Err(TaskError::Permanent {
                code: "NEVER",
                message: "for good".to_owned(),
            }),
            Script::Panic => panic!("a planned panic"),
            Script::WaitFor(topic) if run.task.attempt == 1 => Err(TaskError::Wait {
                until: run.now() + Duration::from_secs(3600),
                wake_on: Some(topic),
            }),
            Script::Succeed | Script::FailTimes(_) | Script::WaitFor(_) => Ok(nth),
            Script::UntilStopped => {
                run.stop.token().cancelled().await;
                Err(TaskError::Stopped)
            }
        }
    }

    async fn give_up(&self, _: Input, _: &Run, why: &GiveUp) -> Result<(), TaskError> {
        self.given_up.lock().unwrap().push(why.clone());
        Ok(())
    }
}

/// The engine on a database of its own, with a clock in the test's hand.
pub struct Bench {
    ground: Ground,
    pub store: Store,
    pub clock: Arc<ManualClock>,
    pub queue: Arc<dyn TaskQueue>,
    pub bus: Arc<dyn EventBus>,
    pub kind: Scripted,
    /// What its workers know.
    pub registry: Registry,
    pub stop: CancellationToken,
    pub parts: Vec<JoinHandle<()>>,
}

pub const LEASE: Duration = Duration::from_secs(30);

impl Bench {
    /// Nothing runs yet, and messages stay in the outbox.
    pub async fn quiet() -> Self {
        let ground = Ground::new().await;
        let settings = ground.load();
        let db = connection::open(&settings).await.unwrap();
        migrate::migrate(&db.people).await.unwrap();
        let clock = Arc::new(ManualClock(watch::Sender::new(SystemClock.now())));
        let (store, _) = Store::new(db, clock.clone(), Arc::new(Entropy::seeded(1)));
        let (queue, bus, kind, stop) = (
            Arc::new(MemoryQueue::default()),
            Arc::new(MemoryBus::default()),
            Scripted::default(),
            CancellationToken::new(),
        );
        Self {
            ground,
            store,
            clock,
            queue,
            bus,
            registry: Registry::default().with(kind.clone()),
            kind,
            stop,
            parts: Vec::new(),
        }
    }

    pub fn is_postgres(&self) -> bool {
        self.store.db().get_database_backend() == DbBackend::Postgres
    }

    /// The same database by another store, and what its commits have to tell.
    pub async fn another_store(&self) -> (Store, mpsc::Receiver<Posted>) {
        let connections = connection::open(&self.ground.load()).await.unwrap();
        Store::new(
            connections,
            self.clock.clone(),
            Arc::new(Entropy::seeded(2)),
        )
    }

    pub fn dispatcher(&self) -> Dispatcher {
        Dispatcher {
            truth: Arc::new(self.store.clone()),
            queue: Arc::clone(&self.queue),
            bus: Arc::clone(&self.bus),
            meters: Arc::default(),
        }
    }

    pub fn sweeper(&self) -> Sweeper {
        Sweeper::new(
            self.dispatcher(),
            self.clock.clone(),
            Uuid::from_u128(1),
            None,
        )
    }

    pub fn claimer(&self, worker: u128) -> Claimer {
        Claimer {
            worker: Uuid::from_u128(worker),
            kinds: self.registry.known(),
            lease: LEASE,
        }
    }

    /// A worker and a sweeper run; the sweeper is also what sends the messages.
    pub async fn working() -> Self {
        let mut bench = Self::quiet().await;
        bench.add_worker(Duration::from_secs(5));
        let sweeper = bench.sweeper().run(bench.stop.clone());
        bench.parts.push(tokio::spawn(sweeper));
        bench
    }

    pub fn outlook(&self) -> Outlook {
        Outlook {
            truth: Arc::new(self.store.clone()),
            queue: Arc::clone(&self.queue),
            bus: Arc::clone(&self.bus),
            clock: self.clock.clone(),
            entropy: Arc::clone(&self.store.entropy),
            meters: Arc::new(Meters::default()),
            host: "test".to_owned(),
        }
    }

    pub fn add_worker(&mut self, drain: Duration) -> CancellationToken {
        let settings = WorkerSettings {
            concurrency: 8,
            lease: LEASE,
            drain,
        };
        let worker = Worker::new(self.outlook(), self.registry.clone(), settings);
        let stop = self.stop.child_token();
        self.parts
            .push(tokio::spawn(Arc::new(worker).run(stop.clone())));
        stop
    }

    pub async fn enqueue(&self, script: Script) -> Id<id::Task> {
        enqueue(self, Input(script)).await
    }

    pub async fn insert(&self, task: NewTask) -> Model {
        let mut tx = self.store.begin().await.unwrap();
        let enqueued = tasks::insert(&mut tx, task).await.unwrap();
        tx.commit().await.unwrap();
        enqueued.task
    }

    pub async fn row(&self, id: Id<id::Task>) -> Model {
        tasks::unscoped_by_id(self.store.db(), id)
            .await
            .unwrap()
            .unwrap()
    }

    /// The row as an open transaction sees it.
    pub async fn row_in(&self, tx: &Tx<'_>, id: Id<id::Task>) -> Model {
        tasks::unscoped_by_id(tx, id).await.unwrap().unwrap()
    }

    pub async fn in_state(&self, id: Id<id::Task>, state: &str) -> Model {
        until(&format!("the task is {state}"), async || {
            Some(self.row(id).await).filter(|row| row.state == state)
        })
        .await
    }

    /// Moves the clock in steps until the task is in `state`.
    pub async fn in_state_later(&self, id: Id<id::Task>, state: &str) -> Model {
        until(&format!("the task is {state} some time"), async || {
            self.clock.advance(Duration::from_millis(500));
            Some(self.row(id).await).filter(|row| row.state == state)
        })
        .await
    }

    pub async fn end(self) {
        self.stop.cancel();
        for part in self.parts {
            // Whoever sleeps on the test's clock gets its time.
            while !part.is_finished() {
                self.clock.advance(Duration::from_secs(1));
                crate::harness::nap(5).await;
            }
            part.await.unwrap();
        }
        self.store.close().await.unwrap();
        self.ground.clear().await;
    }
}

/// Adds a task with this input.
pub async fn enqueue(bench: &Bench, input: impl TaskInput) -> Id<id::Task> {
    let task = bench.insert(input.into_task(None, None).unwrap()).await;
    bench.queue.announce(&[task.hint()]).await.unwrap();
    task.id()
}
