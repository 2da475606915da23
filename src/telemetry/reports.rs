//! Faults, reported to Sentry: whatever is logged as an error, which panics, internal errors and dead letters are.
//!
//! A report says which release and environment, what failed, and the ids of whom and what it was for; not what people have
//! written, and nothing that looks like a secret or an address. It goes out from a bounded queue, not too often.

use std::{
    borrow::Cow,
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use sentry_types::{
    Dsn,
    protocol::v7::{Envelope, Event, Exception, Level, Map, User},
};
use serde_json::Value;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tracing::Subscriber;
use tracing_subscriber::{Layer, layer::Context};

use super::{
    build, flushed,
    logs::Fields,
    post::{Failed, Post},
    process,
    redact::redacted,
    trace, work,
};
use crate::config::{Environment, Settings, Telemetry};

/// Reports that wait.
const WAITING: usize = 100;
/// Reports that may go out at once, and how long it takes until one more may.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_secs(3);
/// Longest wait for the receiver to take a report.
const LONGEST: Duration = Duration::from_secs(5);

enum Said {
    Report(Box<Event<'static>>),
    Flush(oneshot::Sender<()>),
}

static QUEUE: OnceLock<mpsc::Sender<Said>> = OnceLock::new();

/// Starts sending, if there is somewhere to send to.
pub(super) fn start(settings: &Telemetry) {
    let Some(dsn) = &settings.sentry else {
        return;
    };
    let Ok(dsn) = dsn.expose().parse::<Dsn>() else {
        return;
    };
    let (sender, queue) = mpsc::channel(WAITING);
    if QUEUE.set(sender).is_err() {
        return;
    }
    let agent = format!("main-webserver/{}", build::VERSION);
    let auth = dsn.to_auth(Some(&agent)).to_string();
    let post = Post::to(
        dsn.envelope_api_url().as_str(),
        "application/x-sentry-envelope",
        [("x-sentry-auth", auth.as_str())].into_iter(),
    );
    tokio::spawn(send(queue, post));
}

/// Sends what waits, within a limit.
pub(super) async fn flush(limit: Duration) {
    // Those that are not taken by then are in the log.
    let _ = flushed(QUEUE.get(), Said::Flush, limit).await;
}

async fn send(mut queue: mpsc::Receiver<Said>, post: Post) {
    let mut quiet_until: Option<Instant> = None;
    while let Some(said) = queue.recv().await {
        let event = match said {
            Said::Report(event) => event,
            Said::Flush(done) => {
                let _ = done.send(());
                continue;
            }
        };
        if quiet_until.is_some_and(|until| Instant::now() < until) {
            process::meters().report("dropped");
            continue;
        }
        let mut body = Vec::new();
        if Envelope::from(*event).to_writer(&mut body).is_err() {
            process::meters().report("dropped");
            continue;
        }
        let outcome = match post.send(Bytes::from(body), LONGEST).await {
            Ok(()) => "sent",
            Err(Failed::Later(_, pause)) => {
                quiet_until = pause.map(|pause| Instant::now() + pause);
                "refused"
            }
            Err(Failed::Refused(_) | Failed::TimedOut) => "refused",
        };
        process::meters().report(outcome);
    }
}

/// How many reports may go out now: a bucket that fills slowly.
struct Allowance {
    left: u32,
    since: Instant,
}

impl Allowance {
    fn take(&mut self, now: Instant) -> bool {
        let filled = (now - self.since).as_secs() / PAUSE.as_secs();
        if filled > 0 {
            self.left = u32::try_from(filled)
                .unwrap_or(BURST)
                .saturating_add(self.left)
                .min(BURST);
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

/// Takes errors out of the log.
pub(super) struct Reports {
    environment: Environment,
    allowance: Mutex<Allowance>,
}

impl Reports {
    /// Nothing without a receiver.
    pub fn new(settings: &Settings) -> Option<Self> {
        settings.telemetry.sentry.as_ref()?;
        Some(Self {
            environment: settings.environment,
            allowance: Mutex::new(Allowance {
                left: BURST,
                since: Instant::now(),
            }),
        })
    }

    fn event(&self, logged: &tracing::Event<'_>) -> Event<'static> {
        let mut fields = serde_json::Map::new();
        logged.record(&mut Fields(&mut fields));
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        let message = text("message").unwrap_or("error").to_owned();
        let code = text("error.kind").unwrap_or("ERROR").to_owned();
        let mut tags = Map::new();
        let mut tag = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                tags.insert(name.to_owned(), value);
            }
        };
        for name in ["reference", "outcome", "location"] {
            tag(name, text(name).map(str::to_owned));
        }
        tag("code", Some(code.clone()));
        tag(
            "trace_id",
            trace::current().map(|at| format!("{:032x}", at.trace_id)),
        );
        let (mut user, mut transaction) = (None, None);
        work::look(|work| {
            tag("request_id", work.request.as_deref().map(str::to_owned));
            tag("task_id", work.task_id());
            if let Some(task) = &work.task {
                tag("task_kind", Some(task.kind.clone()));
                tag("task_attempt", Some(task.attempt.to_string()));
                transaction = Some(task.kind.clone());
            }
            if let Some(operation) = work.operation() {
                transaction = Some(format!("{} {}", operation.kind, operation.field));
            }
            user = work.user().map(|id| User {
                id: Some(id),
                ..User::default()
            });
        });
        let target = logged.metadata().target().to_owned();
        let place = transaction.clone().unwrap_or_default();
        let fingerprint: Vec<Cow<'static, str>> = vec![
            target.clone().into(),
            message.clone().into(),
            code.clone().into(),
            place.into(),
        ];
        let value = text("error.message").map_or_else(
            || message.clone(),
            |error| format!("{message}: {}", redacted(error)),
        );
        let mut event = Event::new();
        event.level = Level::Error;
        event.logger = Some(target);
        event.transaction = transaction;
        event.release = Some(build::release().into());
        event.environment = Some(self.environment.as_str().into());
        event.user = user;
        event.tags = tags;
        event.fingerprint = fingerprint.into();
        event.exception = vec![Exception {
            ty: code,
            value: Some(value),
            ..Exception::default()
        }]
        .into();
        event
    }
}

impl<S: Subscriber> Layer<S> for Reports {
    fn on_event(&self, logged: &tracing::Event<'_>, _: Context<'_, S>) {
        if *logged.metadata().level() != tracing::Level::ERROR {
            return;
        }
        let Some(queue) = QUEUE.get() else {
            return;
        };
        let may = {
            let mut allowance = self
                .allowance
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            allowance.take(Instant::now())
        };
        let event = may.then(|| Said::Report(Box::new(self.event(logged))));
        if event.is_none_or(|event| queue.try_send(event).is_err()) {
            process::meters().report("dropped");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn reports_go_out_at_a_bounded_rate() {
        let mut allowance = Allowance {
            left: BURST,
            since: Instant::now(),
        };
        let burst = (0..100).filter(|_| allowance.take(Instant::now())).count();
        assert_eq!(burst, BURST as usize);
        tokio::time::advance(PAUSE * 2).await;
        let later = (0..100).filter(|_| allowance.take(Instant::now())).count();
        assert_eq!(later, 2);
        tokio::time::advance(PAUSE * 1000).await;
        let much_later = (0..100).filter(|_| allowance.take(Instant::now())).count();
        assert_eq!(
            much_later, BURST as usize,
            "no more than a burst is saved up"
        );
    }
}
