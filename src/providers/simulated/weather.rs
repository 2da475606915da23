//! How slow and how unreliable a simulated engine is, drawn from a seed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::NAME;
use crate::{
    domain::{Clock, Entropy},
    providers::ProviderError,
};

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

/// What becomes of a call that was not lost on its way to the engine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Answered,
    /// The work is done and nobody hears of it.
    AnswerLost,
}

impl Fate {
    /// The answer, unless it is lost.
    pub(super) fn answer<T>(self, value: T) -> Result<T, ProviderError> {
        match self {
            Self::Answered => Ok(value),
            Self::AnswerLost => Err(lost()),
        }
    }
}

/// What every call to an engine goes through.
pub(super) struct Weather {
    pub(super) clock: Arc<dyn Clock>,
    entropy: Arc<Entropy>,
    faults: Faults,
    is_away: AtomicBool,
}

impl Weather {
    pub(super) fn new(clock: Arc<dyn Clock>, entropy: Arc<Entropy>, faults: Faults) -> Self {
        Self {
            clock,
            entropy,
            faults,
            is_away: AtomicBool::new(false),
        }
    }

    pub(super) fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    pub(super) fn answers(&self) -> Result<(), ProviderError> {
        if self.is_away.load(Ordering::SeqCst) {
            return Err(lost());
        }
        Ok(())
    }

    /// Takes a while, and draws this call's fate.
    pub(super) async fn enter(&self) -> Result<Fate, ProviderError> {
        self.clock
            .sleep(self.entropy.jitter(self.faults.delay))
            .await;
        self.answers()?;
        let fate = self.entropy.jitter(Duration::from_millis(1000)).as_millis();
        let before = u128::from(self.faults.lost_calls);
        let after = before + u128::from(self.faults.lost_answers);
        match fate {
            n if n < before => Err(lost()),
            n if n < after => Ok(Fate::AnswerLost),
            _ => Ok(Fate::Answered),
        }
    }

    /// How long a start takes this time.
    pub(super) fn boot(&self) -> Duration {
        self.entropy.jitter(self.faults.boot)
    }
}

pub(super) fn lost() -> ProviderError {
    ProviderError::Unreachable {
        engine: NAME,
        why: "a simulated fault".to_owned(),
    }
}
