//! Our queue: the library enqueues, two real worker processes complete.

use std::{collections::BTreeMap, sync::Arc};

use main_webserver::{
    app::Role,
    config::{Configuration, Given, Secret, Sources},
    domain::{Clock as _, Entropy, Id, SystemClock, id::User, task::Priority},
    live::{EventBus, RedisBus},
    queue::{Dispatcher, RedisQueue, TaskQueue},
    store::{
        Store, connection, kinds,
        tasks::{self, Claimer, Enqueuer, KnownKind, NewTask, Outcome, TaskInput as _},
    },
    tasks::{demo, noop},
};
use sea_orm::{ConnectionTrait as _, Statement};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Spread, nap,
    processes::{Process, cpu_micros, tree_micros},
};

/// Rows of one insertion.
const BATCH: usize = 500;

/// The service's library on the run's own servers.
pub struct Bench {
    pub store: Store,
    pub settings: BTreeMap<String, String>,
    pub redis_url: String,
    database_pid: u32,
    stop: CancellationToken,
    enqueuer: Enqueuer,
}

/// A measured rate, and the CPU time it took.
pub struct Measured {
    pub rate: f64,
    /// µs a task, by part.
    pub cpu: Vec<(&'static str, f64)>,
}

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set; see tests/load/tasks/run.sh"))
}

impl Bench {
    pub async fn open() -> Self {
        let redis_url = variable("REDIS_URL");
        let settings: BTreeMap<String, String> = [
            ("DATABASE_URL", variable("DATABASE_URL")),
            ("REDIS_URL", redis_url.clone()),
            ("SECRET_KEY", "k".repeat(32)),
            ("ADMIN_PASSWORD", "a password for measuring".to_owned()),
            ("PROVIDER", "simulated".to_owned()),
            ("PORT", "0".to_owned()),
            ("WORKER_CONCURRENCY", "1000".to_owned()),
            ("DATABASE_CONNECTIONS", "12".to_owned()),
            ("TASKS_PER_OWNER", "10000000".to_owned()),
            ("TASKS_TOTAL", "100000000".to_owned()),
            ("LOG", "warn".to_owned()),
        ]
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect();
        let pairs: Vec<(&str, &str)> = settings
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let given = Given::Pairs(Sources::from_pairs(&pairs));
        let configuration = Configuration::open(given).await.unwrap();
        let loaded = configuration.settings();
        // What a start does once: tables and first rows.
        let first = main_webserver::app::App::start(
            &configuration,
            main_webserver::app::Seams::default(),
            Role::Web,
        );
        Box::pin(first).await.unwrap().stop().await;
        let connections = connection::open(&loaded).await.unwrap();
        let (store, posted) = Store::new(
            connections,
            Arc::new(SystemClock),
            Arc::new(Entropy::from_os()),
        );
        let url = Secret::new(redis_url.clone());
        let prefix = &loaded.redis_prefix;
        let pool = main_webserver::redis::pool(&url, 2).await.unwrap();
        let queue: Arc<dyn TaskQueue> =
            Arc::new(RedisQueue::new(&url, prefix, pool.clone()).await.unwrap());
        let bus: Arc<dyn EventBus> = Arc::new(RedisBus::new(&url, prefix, pool, &[]).unwrap());
        let dispatcher = Dispatcher {
            truth: Arc::new(store.clone()),
            queue,
            bus,
            meters: Arc::default(),
        };
        let stop = CancellationToken::new();
        tokio::spawn(dispatcher.run(posted, stop.clone()));
        Self {
            enqueuer: Enqueuer::new(store.clone()),
            store,
            settings,
            redis_url,
            database_pid: variable("DATABASE_PID").parse().unwrap(),
            stop,
        }
    }

    pub async fn close(self) {
        self.stop.cancel();
        self.store.close().await.unwrap();
    }

    pub async fn worker(&self) -> Process {
        Process::start("worker", &self.settings).await
    }

    pub async fn sql(&self, sql: &str) -> Vec<sea_orm::QueryResult> {
        let db = self.store.db();
        let statement = Statement::from_string(db.get_database_backend(), sql.to_owned());
        db.query_all_raw(statement).await.unwrap()
    }

    fn noop(owner: u128) -> NewTask {
        let owner = Id::<User>::new(Uuid::from_u128(owner));
        noop::Input {}.into_task(Some(owner), None).unwrap()
    }

    pub async fn warm_up(&self) {
        self.enqueue(4000).await;
        self.finish().await;
    }

    async fn enqueue(&self, count: usize) {
        // Two callers: one commits while the other's rows are being made.
        let caller = |owner: u128| async move {
            for _ in 0..count / BATCH / 2 {
                let batch = (0..BATCH).map(|_| Self::noop(owner)).collect();
                tasks::insert_batch(&self.store, batch).await.unwrap();
            }
        };
        tokio::join!(caller(1), caller(2));
    }

    /// Waits until no no-op task is unfinished.
    async fn finish(&self) {
        // Each state by its own index.
        const LEFT: &str = "SELECT 1 WHERE EXISTS (SELECT 1 FROM task WHERE state = 'queued' AND kind = 'noop') \
            OR EXISTS (SELECT 1 FROM task WHERE state = 'running' AND kind = 'noop')";
        while !self.sql(LEFT).await.is_empty() {
            nap(10).await;
        }
    }

    /// The rate from the first enqueuing to the last completion, by the rows' own times.
    pub async fn enqueue_and_complete(&self, count: usize, workers: &[Process]) -> Measured {
        self.sql("VACUUM ANALYZE task").await;
        let pids: Vec<u32> = workers.iter().map(Process::pid).collect();
        let parts = || {
            [
                ("PostgreSQL", tree_micros(self.database_pid)),
                ("two workers", pids.iter().map(|pid| cpu_micros(*pid)).sum()),
                ("enqueuing process", cpu_micros(std::process::id())),
            ]
        };
        let (before, began) = (parts(), SystemClock.now());
        self.enqueue(count).await;
        self.finish().await;
        let after = parts();
        let ended = self
            .sql(&format!(
                "SELECT COUNT(*) AS count, MAX(finished_at) AS at FROM task WHERE state = 'succeeded' AND kind = 'noop' \
                 AND created_at >= '{}'",
                began.to_rfc3339()
            ))
            .await;
        let done: i64 = ended[0].try_get("", "count").unwrap();
        assert_eq!(
            usize::try_from(done).unwrap(),
            count / BATCH / 2 * BATCH * 2
        );
        let at: chrono::DateTime<chrono::Utc> = ended[0].try_get("", "at").unwrap();
        let seconds = (at - began).as_seconds_f64();
        let cpu = before
            .iter()
            .zip(after)
            .map(|((part, before), (_, after))| (*part, (after - before) / done as f64))
            .collect();
        Measured {
            rate: done as f64 / seconds,
            cpu,
        }
    }

    /// The same from so many callers at once, each enqueuing one task after the other.
    pub async fn concurrent_single(&self, count: usize, callers: usize) -> f64 {
        let began = SystemClock.now();
        let each = (0..callers).map(|caller| {
            let enqueuer = self.enqueuer.clone();
            tokio::spawn(async move {
                for _ in 0..count / callers {
                    enqueuer.enqueue(Self::noop(caller as u128)).await.unwrap();
                }
            })
        });
        for caller in each.collect::<Vec<_>>() {
            caller.await.unwrap();
        }
        self.finish().await;
        let seconds = (SystemClock.now() - began).as_seconds_f64();
        (count / callers * callers) as f64 / seconds
    }

    /// From just before the enqueuing to the run, which has ended when its outcome is about to be written.
    pub async fn idle_starts(&self, count: usize) -> Spread {
        let mut began = BTreeMap::new();
        for _ in 0..count + 20 {
            nap(10).await;
            let before = SystemClock.now();
            let task = self.enqueuer.enqueue(Self::noop(7)).await.unwrap().task;
            began.insert(task.id, before);
        }
        self.finish().await;
        let oldest = began.values().min().unwrap().to_rfc3339();
        let rows = self
            .sql(&format!(
                "SELECT id, finished_at FROM task WHERE state = 'succeeded' AND created_at >= '{oldest}'"
            ))
            .await;
        let mut millis: Vec<(Uuid, f64)> = rows
            .iter()
            .filter_map(|row| {
                let (id, at): (Uuid, chrono::DateTime<chrono::Utc>) = (
                    row.try_get("", "id").unwrap(),
                    row.try_get("", "finished_at").unwrap(),
                );
                let before = began.get(&id)?;
                Some((id, (at - *before).as_seconds_f64() * 1000.0))
            })
            .collect();
        millis.sort_unstable_by_key(|(id, _)| *id);
        Spread::of(
            millis
                .into_iter()
                .skip(20)
                .map(|(_, millis)| millis)
                .collect(),
        )
    }

    /// How long a claim of a hundred tasks takes.
    pub async fn claim_time(&self, count: usize) -> Spread {
        let by = Claimer {
            worker: Uuid::from_u128(1),
            kinds: vec![KnownKind {
                kind: "noop".to_owned(),
                version: 1,
            }],
            lease: std::time::Duration::from_secs(60),
        };
        // Nobody else is to take them.
        kinds::set_paused(&self.store, "noop", true).await.unwrap();
        let mut ids = Vec::new();
        for _ in 0..count {
            let batch = (0..100).map(|_| Self::noop(9)).collect();
            let enqueued = tasks::insert_batch(&self.store, batch).await.unwrap();
            ids.push(enqueued.iter().map(|e| e.task.id()).collect::<Vec<_>>());
        }
        nap(1500).await;
        kinds::set_paused(&self.store, "noop", false).await.unwrap();
        let mut millis = Vec::new();
        for batch in ids {
            let before = SystemClock.now();
            let claimed = tasks::claim(&self.store, &batch, &by).await.unwrap();
            millis.push((SystemClock.now() - before).as_seconds_f64() * 1000.0);
            let done: Vec<_> = claimed
                .iter()
                .map(|task| (task.lease(), Outcome::Succeeded(0.into())))
                .collect();
            tasks::settle(&self.store, &done).await.unwrap();
        }
        self.finish().await;
        Spread::of(millis)
    }

    /// Rows of another kind that are due and wait: somebody has paused it.
    pub async fn build_backlog(&self, count: usize) {
        kinds::set_paused(&self.store, "demo", true).await.unwrap();
        for owner in 0..count / 5000 {
            let owner = Id::<User>::new(Uuid::from_u128(1000 + (owner % 100) as u128));
            let input = || demo::Input {
                steps: 1,
                step_millis: 0,
            };
            let batch = (0..5000)
                .map(|_| NewTask {
                    priority: Priority::Background,
                    ..input().into_task(Some(owner), None).unwrap()
                })
                .collect();
            tasks::insert_batch(&self.store, batch).await.unwrap();
        }
        self.sql("VACUUM ANALYZE task").await;
        // The workers drain the hints, which lead to nothing while the kind is paused.
        nap(3000).await;
    }

    pub async fn drop_backlog(&self) {
        self.sql("DELETE FROM task WHERE kind = 'demo'").await;
        self.sql("VACUUM ANALYZE task").await;
    }
}
