//! What containers wrote last, kept while they run and sent when they have ended: the host's side of a connection's log.
//!
//! An engine forgets a log with its container, which is often removed the moment it has ended. So each is read while it
//! is written, and the agent keeps as much of its end as the server takes.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    client::{CallError, Client},
    operations::{REPORT_SERVER_LOG, Taken},
};
use crate::{
    domain::{Clock, Id, id::Container},
    providers::{Docker, Engine as _, Line, Start},
};

/// Most bytes of one log, as `reportServerLog` has it.
const LONGEST: usize = 512 * 1024;
/// Most bytes of it as JSON, whose message has to fit into the server's mebibyte with what else is in it.
const LONGEST_AS_JSON: usize = 900 * 1024;
/// Lines from before the reading began.
const TAIL: u32 = 10_000;
/// Logs that wait to be sent; the oldest give way.
const WAITING: usize = 32;
/// Ends that are remembered, so that one which is told again is not sent again.
const REMEMBERED: usize = 1024;
/// How long the last lines of a container that has ended may take to arrive.
const LAST_LINES: Duration = Duration::from_secs(2);
/// How often a log is sent that is not taken, and the pause after the first time, which grows fivefold: a client may tell
/// of its connection only after the container's end.
const ATTEMPTS: u32 = 4;
const AGAIN: TimeDelta = TimeDelta::seconds(5);

/// A container, and which time it was made.
pub type Which = (Id<Container>, i32);

/// The logs of the containers beside this agent.
#[derive(Default)]
pub struct Logs {
    state: Mutex<State>,
    has_ended: Notify,
}

#[derive(Default)]
struct State {
    followed: HashMap<Id<Container>, Followed>,
    ended: VecDeque<Ended>,
    known: VecDeque<Which>,
}

impl State {
    /// Puts a log beside those that wait to be sent.
    fn end(&mut self, which: Which, log: Followed, now: DateTime<Utc>) {
        self.known.push_back(which);
        if self.known.len() > REMEMBERED {
            self.known.pop_front();
        }
        self.ended.push_back(Ended {
            which,
            log,
            attempts: 0,
            due: now,
        });
        if self.ended.len() > WAITING
            && let Some(oldest) = self.ended.pop_front()
        {
            tracing::warn!(container = %oldest.which.0, "too many logs wait; what it wrote last is not sent");
        }
    }
}

/// A log that is read while it is written.
struct Followed {
    generation: i32,
    written: Arc<Mutex<Written>>,
    /// Cancelled when the engine has no more of it.
    is_over: CancellationToken,
    _reader: AbortOnDropHandle<()>,
}

/// A log that waits to be sent.
struct Ended {
    which: Which,
    log: Followed,
    attempts: u32,
    due: DateTime<Utc>,
}

impl Logs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what a container writes from now on, and what it wrote last; again where the engine was away meanwhile. One
    /// that was made anew has ended before.
    pub fn follow(&self, engine: &Docker, which: Which, now: DateTime<Utc>) {
        let mut state = self.state();
        match state.followed.remove(&which.0) {
            Some(log) if log.generation == which.1 && !log.is_over.is_cancelled() => {
                state.followed.insert(which.0, log);
                return;
            }
            Some(log) if log.generation < which.1 => {
                state.end((which.0, log.generation), log, now);
                self.has_ended.notify_one();
            }
            Some(_) | None => {}
        }
        let log = Followed::begin(engine, which);
        state.followed.insert(which.0, log);
    }

    /// Whether it is read while it is written.
    pub fn follows(&self, which: Which) -> bool {
        let state = self.state();
        let log = state.followed.get(&which.0);
        log.is_some_and(|log| log.generation == which.1)
    }

    /// Has what a container wrote last sent, once.
    pub fn end(&self, engine: &Docker, which: Which, now: DateTime<Utc>) {
        let mut state = self.state();
        if state.known.contains(&which) {
            return;
        }
        let followed = state.followed.remove(&which.0);
        // One that ended while nobody was here is read now, unless it is gone with its log.
        let log = followed
            .filter(|log| log.generation == which.1)
            .unwrap_or_else(|| Followed::begin(engine, which));
        state.end(which, log, now);
        self.has_ended.notify_one();
    }

    /// Sends those of containers that have ended, until the connection is over.
    pub async fn report(&self, client: &Client, clock: &dyn Clock) -> CallError {
        loop {
            let due = self.state().ended.iter().map(|ended| ended.due).min();
            let is_due = async {
                match due {
                    Some(due) => clock.sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.has_ended.notified() => {}
                () = is_due => if let Err(error) = self.send_due(client, clock).await {
                    return error;
                },
            }
        }
    }

    /// Sends the first that is due; `Err` when the connection is over.
    async fn send_due(&self, client: &Client, clock: &dyn Clock) -> Result<(), CallError> {
        let Some((which, written, is_over)) = self.take_turn(clock.now()) else {
            return Ok(());
        };
        tokio::select! {
            () = is_over.cancelled() => {}
            () = clock.sleep(LAST_LINES) => {}
        }
        let text = written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .text();
        if text.is_empty() {
            self.forget(which);
            return Ok(());
        }
        let container = which.0;
        let input = json!({ "container": container.to_string(), "log": text });
        match client.call::<Taken>(REPORT_SERVER_LOG, input).await {
            Ok(_) => tracing::debug!(%container, bytes = text.len(), "its log is sent"),
            Err(error) if error.is_over() => return Err(error),
            Err(error) if error.may_pass() || error.is_missing() => {
                tracing::debug!(%error, %container, "its log is not taken now");
                return Ok(());
            }
            // An older server does not know it.
            Err(error) => tracing::debug!(%error, %container, "its log is not taken"),
        }
        self.forget(which);
        Ok(())
    }

    /// What is to be sent now. Its next turn is set before it has this one, and counts whatever becomes of it: a log that
    /// breaks connections does not do so for ever.
    fn take_turn(
        &self,
        now: DateTime<Utc>,
    ) -> Option<(Which, Arc<Mutex<Written>>, CancellationToken)> {
        let mut state = self.state();
        state
            .ended
            .retain(|ended| ended.due > now || ended.attempts < ATTEMPTS);
        let first = state.ended.iter_mut().find(|ended| ended.due <= now)?;
        first.due = now + AGAIN * 5_i32.pow(first.attempts);
        first.attempts += 1;
        let log = &first.log;
        Some((first.which, Arc::clone(&log.written), log.is_over.clone()))
    }

    fn forget(&self, which: Which) {
        self.state().ended.retain(|ended| ended.which != which);
    }
}

impl Followed {
    fn begin(engine: &Docker, (container, generation): Which) -> Self {
        let written = Arc::new(Mutex::new(Written::default()));
        let is_over = CancellationToken::new();
        let mut lines = engine.follow(container, Start::Last(TAIL));
        let (kept, over) = (Arc::clone(&written), is_over.clone().drop_guard());
        let reader = tokio::spawn(async move {
            let _over = over;
            while let Some(line) = lines.next().await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.add(&line);
            }
        });
        Self {
            generation,
            written,
            is_over,
            _reader: AbortOnDropHandle::new(reader),
        }
    }
}

/// The end of a log.
#[derive(Default)]
struct Written {
    /// Each with its end.
    lines: VecDeque<String>,
    bytes: usize,
    /// The same as JSON.
    as_json: usize,
}

impl Written {
    fn add(&mut self, line: &Line) {
        let text = line.text.replace('\0', "\u{fffd}");
        let line = match line.at {
            Some(at) => format!(
                "{} {text}\n",
                at.to_rfc3339_opts(SecondsFormat::Millis, true)
            ),
            None => format!("{text}\n"),
        };
        self.bytes += line.len();
        self.as_json += json_len(&line);
        self.lines.push_back(line);
        while (self.bytes > LONGEST || self.as_json > LONGEST_AS_JSON)
            && let Some(oldest) = self.lines.pop_front()
        {
            self.bytes -= oldest.len();
            self.as_json -= json_len(&oldest);
        }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        text.extend(self.lines.iter().map(String::as_str));
        text
    }
}

/// The bytes of a text within a JSON string (RFC 8259, 7).
fn json_len(text: &str) -> usize {
    let of = |byte: u8| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    };
    text.bytes().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line {
            mark: 0,
            at: None,
            is_error: false,
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_end_of_a_log_is_kept_and_no_more_than_the_server_takes() {
        for text in [
            "a line of ordinary words",
            "\u{1b}[31mred\u{1b}[0m\"\\",
            "ä→💥",
        ] {
            let mut written = Written::default();
            for number in 0..40_000 {
                written.add(&line(&format!("{number} {text}")));
            }
            let kept = written.text();
            assert!(kept.ends_with(&format!("39999 {text}\n")));
            let as_json = serde_json::to_string(&kept).unwrap();
            assert_eq!(as_json.len() - 2, written.as_json);
            assert!(kept.len() <= LONGEST && as_json.len() < LONGEST_AS_JSON + 2);
            assert!(kept.len() > LONGEST - 100 || as_json.len() > LONGEST_AS_JSON - 200);
        }
    }

    #[test]
    fn a_zero_byte_is_not_sent() {
        let mut written = Written::default();
        written.add(&line("a\0b"));
        assert_eq!(written.text(), "a\u{fffd}b\n");
    }
}
