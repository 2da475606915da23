//! The only source of time, so that tests can own it.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, Utc};

/// Tells the time and sleeps. Everything that ages (leases, tokens, back-off) asks this and nothing else.
#[async_trait]
pub trait Clock: Send + Sync {
    /// The time in whole microseconds, the precision both databases keep.
    fn now(&self) -> DateTime<Utc>;
    /// Returns when [`Clock::now`] has reached `at`.
    async fn sleep_until(&self, at: DateTime<Utc>);

    /// Returns after `duration` of this clock's time.
    async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that sleeps on the machine's clock"
    )]
    async fn sleep_until(&self, at: DateTime<Utc>) {
        tokio::time::sleep((at - self.now()).to_std().unwrap_or_default()).await;
    }
}
