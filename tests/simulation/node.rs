//! A process: it can crash, freeze and have a clock that goes wrong; every call of its goes through [`Node::call`].

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use main_webserver::{
    domain::{Clock, Entropy},
    error::StoreError,
    live::MemoryBus,
    store::Posted,
};
use sea_orm::{DbErr, RuntimeErr};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use super::{
    model::Tx,
    oracle::Effect,
    world::{State, World},
};

pub struct Node {
    pub world: Arc<World>,
    pub number: usize,
    pub entropy: Arc<Entropy>,
    pub bus: MemoryBus,
    pub stop: CancellationToken,
    relay: mpsc::Sender<Posted>,
    is_alive: AtomicBool,
    is_frozen: AtomicBool,
    thawed: Notify,
    skew_micros: AtomicI64,
}

pub fn outage() -> StoreError {
    StoreError::Database(DbErr::Conn(RuntimeErr::Internal("it is away".to_owned())))
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Refused,
    AnswerLost,
}

impl Node {
    pub fn new(
        world: &Arc<World>,
        number: usize,
        seed: u64,
    ) -> (Arc<Self>, mpsc::Receiver<Posted>) {
        let (relay, posted) = mpsc::channel(64);
        let node = Self {
            world: Arc::clone(world),
            number,
            entropy: Arc::new(Entropy::seeded(
                seed.wrapping_mul(1_000).wrapping_add(number as u64),
            )),
            bus: MemoryBus::default(),
            stop: CancellationToken::new(),
            relay,
            is_alive: AtomicBool::new(true),
            is_frozen: AtomicBool::new(false),
            thawed: Notify::new(),
            skew_micros: AtomicI64::new(0),
        };
        (Arc::new(node), posted)
    }

    pub fn is_alive(&self) -> bool {
        self.is_alive.load(Relaxed)
    }

    pub fn crash(&self) {
        self.is_alive.store(false, Relaxed);
    }

    pub fn freeze(&self) {
        self.is_frozen.store(true, Relaxed);
    }

    pub fn thaw(&self) {
        self.is_frozen.store(false, Relaxed);
        self.thawed.notify_waiters();
    }

    pub fn set_skew(&self, micros: i64) {
        self.skew_micros.store(micros, Relaxed);
    }

    /// Goes on when this process does: not while it is frozen, never once it has crashed.
    pub async fn gate(&self) {
        loop {
            if !self.is_alive() {
                std::future::pending::<()>().await;
            }
            if !self.is_frozen.load(Relaxed) {
                return;
            }
            self.thawed.notified().await;
        }
    }

    /// Sends a request to the database and brings its answer.
    ///
    /// The request counts its time from when it was sent, and arrives even if its sender is gone by then.
    pub async fn call<T>(
        &self,
        what: &'static str,
        apply: impl FnOnce(&mut State, &mut Tx) -> Result<(T, Effect), StoreError>,
    ) -> Result<T, StoreError> {
        self.gate().await;
        let mut tx = Tx::at(self.now(), &self.entropy);
        let (there, back, fate) = {
            let mut state = self.world.state();
            let (refuses, loses) = (state.weather.store_refuses, state.weather.store_answer_lost);
            let fate = if state.strikes(refuses) {
                state.count("fault store refuses");
                Fate::Refused
            } else if state.strikes(loses) {
                state.count("fault store answer lost");
                Fate::AnswerLost
            } else {
                Fate::Answered
            };
            (state.latency(), state.latency(), fate)
        };
        self.world.nap(there).await;
        let answer = self.apply(what, fate, &mut tx, apply);
        self.world.nap(back).await;
        self.gate().await;
        if fate == Fate::AnswerLost {
            return Err(outage());
        }
        let answer = answer?;
        self.tell(tx.posted);
        Ok(answer)
    }

    fn apply<T>(
        &self,
        what: &'static str,
        fate: Fate,
        tx: &mut Tx,
        apply: impl FnOnce(&mut State, &mut Tx) -> Result<(T, Effect), StoreError>,
    ) -> Result<T, StoreError> {
        let at = self.world.elapsed();
        let mut state = self.world.state();
        let state = &mut *state;
        if fate == Fate::Refused || state.database_away_until > at {
            state
                .trace
                .note(at, self.number, what, || "away".to_owned());
            return Err(outage());
        }
        let (answer, effect) = match apply(state, tx) {
            Ok(applied) => applied,
            Err(error) => {
                state
                    .trace
                    .note(at, self.number, what, || error.to_string());
                return Err(error);
            }
        };
        state.trace.note(at, self.number, what, || {
            format!(
                "{effect:?}{}",
                if fate == Fate::AnswerLost {
                    " (answer lost)"
                } else {
                    ""
                }
            )
        });
        super::oracle::check(state, self.number, tx.now, effect);
        Ok(answer)
    }

    /// Hands messages of a commit to this process' dispatcher.
    pub fn tell(&self, posted: Posted) {
        if !posted.is_empty() {
            let _ = self.relay.try_send(posted);
        }
    }
}

#[async_trait]
impl Clock for Node {
    fn now(&self) -> DateTime<Utc> {
        let skew = TimeDelta::microseconds(self.skew_micros.load(Relaxed));
        (self.world.now() + skew).trunc_subsecs(6)
    }

    /// Like a machine's: its sleep does not follow when the clock is put forward or back.
    async fn sleep_until(&self, at: DateTime<Utc>) {
        self.gate().await;
        let pause = (at - self.now()).to_std().unwrap_or_default();
        self.world.nap(pause.max(Duration::from_millis(1))).await;
        self.gate().await;
    }
}
