//! Which faults a world has, and how often: each seed draws its own, so that some meet few and some meet all.

use rand::{RngExt as _, rngs::StdRng};

/// Something that happens to the world at a moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    Crash,
    Freeze,
    ClockForward,
    ClockBack,
    Drain,
    QueueAway,
    QueueFlushed,
    DatabaseAway,
    DatabaseCrash,
    LeaderSplit,
}

impl Fault {
    pub const ALL: [Self; 10] = [
        Self::Crash,
        Self::Freeze,
        Self::ClockForward,
        Self::ClockBack,
        Self::Drain,
        Self::QueueAway,
        Self::QueueFlushed,
        Self::DatabaseAway,
        Self::DatabaseCrash,
        Self::LeaderSplit,
    ];
}

/// Rates are of ten thousand.
#[derive(Clone, Debug, Default)]
pub struct Weather {
    pub latency_millis: u64,
    pub spike: u32,
    pub store_refuses: u32,
    pub store_answer_lost: u32,
    /// The database's machine dies right after a claim.
    pub claim_then_crash: u32,
    pub provider_fails: u32,
    pub provider_answer_lost: u32,
    pub hint_lost: u32,
    pub hint_twice: u32,
    pub hint_late: u32,
    pub queue_fails: u32,
    pub bus_lost: u32,
    pub bus_fails: u32,
    pub strokes: Vec<Fault>,
}

impl Weather {
    /// Weather without faults; messages still take their time.
    pub fn clear() -> Self {
        Self {
            latency_millis: 8,
            ..Self::default()
        }
    }

    pub fn is_clear(&self) -> bool {
        self.strokes.is_empty()
    }

    /// One world in twelve has clear weather; in the others each fault is there or not.
    pub fn draw(chance: &mut StdRng) -> Self {
        if chance.random_range(0..12) == 0 {
            return Self::clear();
        }
        let mut maybe = |most: u32| {
            if chance.random_range(0..2) == 0 {
                0
            } else {
                chance.random_range(1..=most)
            }
        };
        let mut weather = Self {
            latency_millis: u64::from(maybe(40)) + 2,
            spike: maybe(60),
            store_refuses: maybe(400),
            store_answer_lost: maybe(400),
            claim_then_crash: maybe(3_000),
            provider_fails: maybe(1_500),
            provider_answer_lost: maybe(1_500),
            hint_lost: maybe(4_000),
            hint_twice: maybe(3_000),
            hint_late: maybe(4_000),
            queue_fails: maybe(500),
            bus_lost: maybe(5_000),
            bus_fails: maybe(1_000),
            strokes: Vec::new(),
        };
        weather.strokes = Fault::ALL
            .into_iter()
            .filter(|_| chance.random_range(0..2) == 0)
            .collect();
        if weather.strokes.is_empty() {
            weather.strokes.push(Fault::Crash);
        }
        weather
    }
}
