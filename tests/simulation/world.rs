//! The world nodes live in: one database, one queue, one engine of containers, the weather, and stopped time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use main_webserver::queue::FairQueue;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use super::{model::Database, oracle::Oracle, provider::Provider, trace::Trace, weather::Weather};

/// Everything that is shared, behind one lock that is never held across an await.
pub struct State {
    pub db: Database,
    pub queue: FairQueue,
    /// The hints that wait, as (priority, task); what the oracle checks the queue against.
    pub waiting: BTreeSet<(i16, Uuid)>,
    pub provider: Provider,
    pub oracle: Oracle,
    pub weather: Weather,
    pub trace: Trace,
    pub fired: BTreeSet<String>,
    pub queue_away_until: Duration,
    pub database_away_until: Duration,
    pub split_until: Duration,
    /// How often each fault has struck and each kind has come to each end.
    pub counts: BTreeMap<String, u64>,
    chance: StdRng,
}

impl State {
    pub fn count(&mut self, what: &str) {
        match self.counts.get_mut(what) {
            Some(count) => *count += 1,
            None => drop(self.counts.insert(what.to_owned(), 1)),
        }
    }

    /// True so many times in ten thousand.
    pub fn strikes(&mut self, rate: u32) -> bool {
        rate > 0 && self.below(10_000) < u64::from(rate)
    }

    /// An even number from nothing to `end`, without it.
    pub fn below(&mut self, end: u64) -> u64 {
        self.chance.random_range(0..end.max(1))
    }

    pub fn among<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).unwrap_or_default()]
    }

    /// How long a message takes on its way.
    pub fn latency(&mut self) -> Duration {
        if self.strikes(self.weather.spike) {
            self.count("fault latency spike");
            return Duration::from_millis(2_000 + self.below(5_000));
        }
        let most = self.weather.latency_millis;
        // The timer knows milliseconds; nothing at all is the other half.
        if self.below(2) == 0 {
            Duration::ZERO
        } else {
            Duration::from_millis(self.below(most + 1))
        }
    }
}

pub struct World {
    state: Mutex<State>,
    pub arrived: Notify,
    epoch: Instant,
}

impl World {
    pub fn new(seed: u64, is_traced: bool) -> Self {
        let mut chance = StdRng::seed_from_u64(seed);
        let weather = Weather::draw(&mut chance);
        let state = State {
            db: Database::default(),
            queue: FairQueue::default(),
            waiting: BTreeSet::new(),
            provider: Provider::default(),
            oracle: Oracle::new(weather.is_clear()),
            weather,
            trace: Trace::new(is_traced),
            fired: BTreeSet::new(),
            queue_away_until: Duration::ZERO,
            database_away_until: Duration::ZERO,
            split_until: Duration::ZERO,
            counts: BTreeMap::new(),
            chance,
        };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
            epoch: Instant::now(),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time that has passed in this world.
    pub fn elapsed(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// What a clock shows that goes right.
    pub fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap_or_default() + self.elapsed()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where this world's stopped time is slept on"
    )]
    pub async fn nap(&self, duration: Duration) {
        if !duration.is_zero() {
            tokio::time::sleep(duration).await;
        }
    }

    pub fn is_broken(&self) -> bool {
        self.state().oracle.violation.is_some()
    }

    /// Notes what happens, as part of the trace two runs of one seed have in common.
    pub fn note(&self, node: usize, what: &str, words: impl FnOnce() -> String) {
        let at = self.elapsed();
        self.state().trace.note(at, node, what, words);
    }
}
