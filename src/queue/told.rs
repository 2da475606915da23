//! What is told of runs: a line in the log, and spans of the traces their tasks belong to (the semantic conventions for
//! messaging: a task is the message, its kind the destination).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    store::tasks::{Claimed, Outcome},
    telemetry::{
        slow::nanos,
        trace::{self, Attribute, Kind, Span},
        work::{TaskRun, Work},
    },
};

/// What a run is told as: a part of what has asked for it, each attempt one more.
pub(super) fn of_run(task: &Claimed) -> (Span, Arc<Work>) {
    let name = || format!("run {}", task.kind).into();
    let span = Span::first(Kind::Consumer, task.trace(), name);
    if span.is_recorded() {
        span.set("messaging.system", "main-webserver");
        span.set("messaging.operation.type", "process");
        span.set("messaging.operation.name", "run");
        span.set("messaging.destination.name", task.kind.clone());
        span.set("messaging.message.id", task.id().to_string());
        span.set("task.attempt", i64::from(task.attempt));
        span.set("task.failures", i64::from(task.failures));
    }
    let run = TaskRun {
        id: task.id,
        kind: task.kind.clone(),
        attempt: task.attempt,
    };
    (span, Work::task(run, task.owner_id))
}

/// One line for every ended run; what failed for good, and what somebody else has taken, is told to everybody.
pub(super) fn log_end(span: &Span, outcome: &'static str, told: Option<&Outcome>, took: Duration) {
    let duration = nanos(took);
    match told {
        Some(Outcome::Failed { code, message }) => {
            span.fail(code);
            tracing::error!(target: "task", outcome, duration, code, error = message, "a task is a dead letter");
        }
        Some(Outcome::Retry { code, message, .. }) => {
            span.fail(code);
            tracing::warn!(target: "task", outcome, duration, code, error = message, "a run has failed");
        }
        None => {
            span.fail("LEASE_LOST");
            tracing::warn!(target: "task", outcome, duration, "a run was overtaken");
        }
        Some(
            Outcome::Succeeded(_) | Outcome::Park { .. } | Outcome::Cancelled | Outcome::HandBack,
        ) => tracing::info!(target: "task", outcome, duration, "a run has ended"),
    }
    span.set("task.outcome", outcome);
}

/// Tells the traces of claimed tasks that they were.
pub(super) fn tell_claimed(began: Option<SystemTime>, claimed: &[Claimed]) {
    let (Some(began), Some(ended)) = (began, trace::now()) else {
        return;
    };
    let count = i64::try_from(claimed.len()).unwrap_or(i64::MAX);
    for (task, parent) in claimed
        .iter()
        .filter_map(|task| Some((task, task.trace()?)))
    {
        trace::record_of(parent, Kind::Client, (began, ended), None, || {
            let attributes = vec![
                Attribute::new("messaging.system", "main-webserver"),
                Attribute::new("messaging.operation.type", "receive"),
                Attribute::new("messaging.operation.name", "claim"),
                Attribute::new("messaging.destination.name", task.kind.clone()),
                Attribute::new("messaging.message.id", task.id().to_string()),
                Attribute::new("messaging.batch.message_count", count),
            ];
            (format!("claim {}", task.kind).into(), attributes)
        });
    }
}
