//! Chance: seeded where a run has to be replayed, the operating system's where it guards a secret.

use std::{sync::Mutex, time::Duration};

use chrono::{DateTime, Utc};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use uuid::{Builder, Uuid};

use super::Id;

/// Makes ids and jitter from one seeded generator.
#[derive(Debug)]
pub struct Entropy(Mutex<Generator>);

#[derive(Debug)]
struct Generator {
    rng: StdRng,
    /// Time and counter of the newest id.
    newest: (u64, u16),
}

impl Entropy {
    /// A generator that replays: the same seed gives the same ids and the same jitter.
    pub fn seeded(seed: u64) -> Self {
        Self::over(StdRng::seed_from_u64(seed))
    }

    /// A generator seeded by the operating system.
    pub fn from_os() -> Self {
        Self::over(StdRng::from_seed(secret_bytes()))
    }

    const fn over(rng: StdRng) -> Self {
        Self(Mutex::new(Generator {
            rng,
            newest: (0, 0),
        }))
    }

    /// A new UUIDv7 for a thing made at `now`, greater than every earlier one of this generator.
    ///
    /// The twelve bits after the time are a counter within the millisecond (RFC 9562, section 6.2, method 1).
    pub fn uuid(&self, now: DateTime<Utc>) -> Uuid {
        const LAST: u16 = 0x0fff;
        let mut generator = self.lock();
        let mut random = [0; 10];
        generator.rng.fill_bytes(&mut random);
        let millis = u64::try_from(now.timestamp_millis()).unwrap_or_default();
        generator.newest = match generator.newest {
            (newest, _) if newest < millis => (millis, 0),
            (newest, LAST) => (newest + 1, 0),
            (newest, count) => (newest, count + 1),
        };
        let (millis, count) = generator.newest;
        random[..2].copy_from_slice(&count.to_be_bytes());
        Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }

    /// A new typed id for a thing made at `now`.
    pub fn id<T>(&self, now: DateTime<Utc>) -> Id<T> {
        Id::new(self.uuid(now))
    }

    /// A duration between nothing and `ceiling`, evenly spread.
    pub fn jitter(&self, ceiling: Duration) -> Duration {
        ceiling.mul_f64(self.lock().rng.random::<f64>())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Generator> {
        // A panic while the lock is held cannot leave the generator half-way.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// The smallest id of a thing made at `at`.
pub fn earliest(at: DateTime<Utc>) -> Uuid {
    let millis = u64::try_from(at.timestamp_millis()).unwrap_or_default();
    Builder::from_unix_timestamp_millis(millis, &[0; 10]).into_uuid()
}

/// Bytes nobody can guess, from the operating system; what secrets and tokens are made of.
pub fn secret_bytes<const N: usize>() -> [u8; N] {
    #[expect(
        clippy::disallowed_methods,
        reason = "secrets come from the operating system's generator, never from a seed"
    )]
    rand::random()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_replays_and_ids_follow_time() {
        let (one, two) = (Entropy::seeded(1), Entropy::seeded(1));
        let early = DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default();
        assert_eq!(one.uuid(early), two.uuid(early));
        assert!(one.uuid(early) < one.uuid(early + Duration::from_millis(1)));
    }

    #[test]
    fn ids_grow_within_a_millisecond_and_when_the_clock_goes_back() {
        let entropy = Entropy::seeded(2);
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default();
        let ids: Vec<Uuid> = (0..10_000)
            .map(|n| entropy.uuid(now - Duration::from_millis(n % 3)))
            .collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
    }
}
