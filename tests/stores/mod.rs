//! The stores behave the same: one seeded sequence of operations is carried out by the simulation's model, by SQLite
//! and, when there is a server, by PostgreSQL; every answer and all that is kept must be equal after each.

mod operation;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    task::Poll,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::{
    config,
    domain::{Clock, Entropy},
    store::{Posted, Store, connection, kinds, migrate, outbox, schedules, task_logs, tasks},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sea_orm::{ConnectionTrait as _, EntityTrait as _, QueryOrder as _, Statement};
use tokio::sync::mpsc;

use crate::{
    harness::Ground,
    simulation::model::{Database, Tx},
};
use operation::Operation;

struct HandClock(AtomicI64);

#[async_trait]
impl Clock for HandClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0.load(Relaxed)).unwrap_or_default()
    }
    async fn sleep_until(&self, _: DateTime<Utc>) {
        std::future::pending::<()>().await;
    }
}

/// A real store, with the messages it tells.
struct Real {
    name: &'static str,
    store: Store,
    told: mpsc::Receiver<Posted>,
}

impl Real {
    async fn open(name: &'static str, settings: &config::Settings, clock: &Arc<HandClock>) -> Self {
        let connections = connection::open(settings).await.unwrap();
        migrate::migrate(&connections.people).await.unwrap();
        let clock = Arc::clone(clock) as Arc<dyn Clock>;
        let (store, told) = Store::new(connections, clock, Arc::new(Entropy::seeded(0)));
        Self { name, store, told }
    }

    async fn clear(&mut self) {
        for table in [
            "task_step",
            "task_log",
            "task",
            "task_archive",
            "outbox",
            "leadership",
            "rate_limit",
            "task_kind",
            "task_schedule",
        ] {
            let sql = format!("DELETE FROM {table}");
            self.store.db().execute_unprepared(&sql).await.unwrap();
        }
        while self.told.try_recv().is_ok() {}
    }

    /// The hints of the last operation.
    fn hints(&mut self) -> Vec<String> {
        let mut hints = Vec::new();
        while let Ok(posted) = self.told.try_recv() {
            hints.extend(posted.hints.iter().map(told));
        }
        hints.sort();
        hints
    }

    async fn kept(&self, model: &Database) -> Kept {
        let db = self.store.db();
        let tasks = tasks::Entity::find()
            .order_by_asc(tasks::Column::Id)
            .all(db)
            .await
            .unwrap();
        let mut steps = Vec::new();
        for task in model.steps.keys() {
            let of_task = tasks::steps(&self.store, main_webserver::domain::Id::new(*task));
            for step in of_task.await.unwrap() {
                steps.push(format!("{task} {step:?}"));
            }
        }
        let lines = task_logs::Entity::find().all(db).await.unwrap();
        let far = self.store.now() + TimeDelta::days(1);
        let posted = outbox::left_over(&self.store, far, 100_000).await.unwrap();
        let schedules = schedules::Entity::find()
            .order_by_asc(schedules::Column::Id)
            .all(db)
            .await
            .unwrap();
        Kept {
            steps,
            lines: lines
                .into_iter()
                .map(|line| {
                    format!(
                        "{} {} {} {} {}",
                        line.task_id, line.attempt, line.level, line.message, line.at
                    )
                })
                .collect(),
            messages: messages(&posted, model),
            schedules,
            paused: kinds::paused(&self.store)
                .await
                .unwrap()
                .into_iter()
                .collect(),
            tasks,
        }
        .sorted()
    }
}

/// Everything a store keeps of tasks, in one order.
#[derive(PartialEq, Debug)]
struct Kept {
    tasks: Vec<tasks::Model>,
    steps: Vec<String>,
    lines: Vec<String>,
    messages: Vec<String>,
    schedules: Vec<schedules::Model>,
    paused: Vec<String>,
}

impl Kept {
    fn sorted(mut self) -> Self {
        self.steps.sort();
        self.lines.sort();
        self
    }

    fn of(model: &Database) -> Self {
        let mut steps = Vec::new();
        for task in model.steps.keys() {
            for step in model.steps_of(main_webserver::domain::Id::new(*task)) {
                steps.push(format!("{task} {step:?}"));
            }
        }
        let posted = model.left_over(DateTime::<Utc>::MAX_UTC, 100_000);
        Self {
            steps,
            lines: model
                .lines
                .iter()
                .map(|line| {
                    format!(
                        "{} {} {} {} {}",
                        line.task, line.attempt, line.level, line.message, line.at
                    )
                })
                .collect(),
            messages: messages(&posted, model),
            schedules: model.schedules.values().cloned().collect(),
            paused: model.paused.iter().cloned().collect(),
            tasks: model.tasks.values().cloned().collect(),
        }
        .sorted()
    }

    /// Where two differ, in words.
    fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        for (mine, theirs) in self.tasks.iter().zip(&other.tasks) {
            if mine != theirs {
                return Some(format!(
                    "a task\n  is        {theirs:?}\n  should be {mine:?}"
                ));
            }
        }
        Some(format!(
            "is {:?}\nshould be {:?}",
            (
                &other.tasks.len(),
                &other.steps,
                &other.messages,
                &other.schedules,
                &other.paused
            ),
            (
                &self.tasks.len(),
                &self.steps,
                &self.messages,
                &self.schedules,
                &self.paused
            ),
        ))
    }
}

/// The changes in the outbox of tasks that are there. A message may tell of a task that was not added after all,
/// which does no harm.
fn messages(posted: &[Posted], model: &Database) -> Vec<String> {
    let mut changes: Vec<String> = posted
        .iter()
        .flat_map(|posted| &posted.changes)
        .filter(|change| model.tasks.contains_key(&change.id))
        .map(|change| format!("{change:?}"))
        .collect();
    changes.sort();
    changes
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}

const OPERATIONS: u64 = 150;

async fn same_seed(seed: u64, clock: &Arc<HandClock>, reals: &mut [Real]) {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut model = Database::default();
    let mut leases = Vec::new();
    for real in reals.iter_mut() {
        real.clear().await;
    }
    for number in 0..OPERATIONS {
        let pause = if chance.random_range(0..12) == 0 {
            30_000_000
        } else {
            chance.random_range(1_000..1_500_000)
        };
        clock.0.fetch_add(pause, Relaxed);
        let operation = Operation::draw(&mut chance, &model, &leases, clock.now());
        let entropy = || Arc::new(Entropy::seeded(seed * 1_000 + number));
        let mut tx = Tx::at(clock.now(), &entropy());
        let expected = operation.apply_to_model(&mut model, &mut tx, &mut leases);
        let mut hints: Vec<String> = tx.posted.hints.iter().map(told).collect();
        hints.sort();
        let kept = Kept::of(&model);
        for real in reals.iter_mut() {
            real.store.entropy = entropy();
            let answer = operation.apply_to_store(&real.store).await;
            let place = format!(
                "seed {seed}, operation {number}, {}: {operation:?}",
                real.name
            );
            assert_eq!(answer, expected, "the answer of {place}");
            if let Some(difference) = kept.difference(&real.kept(&model).await) {
                panic!("{difference}\nafter {place}");
            }
            assert_eq!(real.hints(), hints, "the hints of {place}");
        }
    }
}

/// A hint as it is compared; the trace goes with it where it is known.
fn told(hint: &tasks::Hint) -> String {
    format!("{:?} {:?} {:?}", hint.task, hint.priority, hint.share)
}

#[tokio::test]
async fn the_stores_and_the_model_agree() {
    let ground = Ground::new().await;
    let clock = Arc::new(HandClock(AtomicI64::new(1_800_000_000_000_000)));
    let settings = ground.load();
    let sqlite = config::Settings {
        database: config::Database::Sqlite("sqlite::memory:".to_owned()),
        ..settings.clone()
    };
    let mut reals = vec![Real::open("SQLite", &sqlite, &clock).await];
    if std::env::var("TEST_DATABASE_URL").is_ok() {
        reals.push(Real::open("PostgreSQL", &settings, &clock).await);
    }
    let first = setting("STORE_SEED", 1);
    for seed in first..first + setting("STORE_SEEDS", 20) {
        same_seed(seed, &clock, &mut reals).await;
    }
    for real in reals {
        real.store.close().await.unwrap();
    }
    ground.clear().await;
}

/// A request is abandoned at any moment: by a client that goes away, by a time-out.
#[tokio::test]
async fn a_transaction_abandoned_while_it_is_opened_is_closed() {
    let ground = Ground::new().await;
    let mut settings = ground.load();
    // One for transactions: whatever is left on it is met by the next statement.
    settings.database_connections = 2;
    let db = connection::open(&settings).await.unwrap().people;
    let watcher = connection::open(&ground.load()).await.unwrap().people;
    let run = async |sql: &str| db.execute_unprepared(sql).await.unwrap();
    run("CREATE TABLE written (round BIGINT NOT NULL)").await;
    for round in 0..60 {
        abandoned(connection::begin(&db), round % 6).await;
        run(&format!("INSERT INTO written VALUES ({round})")).await;
        let sql = "SELECT COUNT(*) AS written FROM written";
        let row = watcher
            .query_one_raw(Statement::from_string(db.get_database_backend(), sql))
            .await;
        let written: i64 = row.unwrap().unwrap().try_get("", "written").unwrap();
        assert_eq!(written, i64::from(round) + 1);
    }
    db.close().await.unwrap();
    watcher.close().await.unwrap();
    ground.clear().await;
}

/// Drops `future` when it has been polled so many times.
async fn abandoned(future: impl Future, polls: i32) {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(|context| {
        if left == 0 || future.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        left -= 1;
        if left == 0 {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}
