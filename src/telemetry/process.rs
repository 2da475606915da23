//! What a process counts whatever parts of the service it runs: what its statements and its engines took, what it sent to
//! receivers of traces and reports, and what the machine says of it.

use std::{
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::domain::{Clock as _, Entropy, SystemClock};

/// What became of a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpanOutcome {
    Exported,
    /// There was no room for it.
    Dropped,
    /// The receiver did not take it.
    Refused,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StatementLabels {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    provider: &'static str,
    operation: &'static str,
    outcome: &'static str,
}

type Durations<L> = Family<L, Histogram, fn() -> Histogram>;

/// The meters of the process.
pub struct ProcessMeters {
    spans: Family<OutcomeLabel, Counter>,
    reports: Family<OutcomeLabel, Counter>,
    statements: Durations<StatementLabels>,
    calls: Durations<CallLabels>,
}

static METERS: LazyLock<ProcessMeters> = LazyLock::new(|| {
    let meters = ProcessMeters {
        spans: Family::default(),
        reports: Family::default(),
        statements: Family::new_with_constructor(super::meters::latencies),
        calls: Family::new_with_constructor(super::meters::latencies),
    };
    // An outcome nobody has seen is 0, so that a rate can begin there.
    for outcome in ["exported", "dropped", "refused"] {
        drop(meters.spans.get_or_create(&OutcomeLabel { outcome }));
    }
    for outcome in ["sent", "dropped", "refused"] {
        drop(meters.reports.get_or_create(&OutcomeLabel { outcome }));
    }
    meters
});

/// Those of this process.
pub fn meters() -> &'static ProcessMeters {
    &METERS
}

impl ProcessMeters {
    pub fn spans(&self, outcome: SpanOutcome, count: u64) {
        let outcome = match outcome {
            SpanOutcome::Exported => "exported",
            SpanOutcome::Dropped => "dropped",
            SpanOutcome::Refused => "refused",
        };
        self.spans
            .get_or_create(&OutcomeLabel { outcome })
            .inc_by(count);
    }

    /// A report of a fault was `sent`, `dropped` or `refused`.
    pub fn report(&self, outcome: &'static str) {
        self.reports.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// A statement took so long; `operation` is its first word.
    pub fn statement(&self, operation: &'static str, has_failed: bool, took: Duration) {
        let labels = StatementLabels {
            operation,
            outcome: if has_failed { "error" } else { "ok" },
        };
        self.statements
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// A call of an engine took so long; `outcome` is `ok` or the code of its error.
    pub fn call(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        let labels = CallLabels {
            provider,
            operation,
            outcome,
        };
        self.calls
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "trace_spans",
            "Spans that ended, by what became of them",
            self.spans.clone(),
        );
        registry.register(
            "reports",
            "Reports of faults, by what became of them",
            self.reports.clone(),
        );
        registry.register_with_unit(
            "database_statement",
            "Statements of this process, by their first word",
            Unit::Seconds,
            self.statements.clone(),
        );
        registry.register_with_unit(
            "engine_call",
            "Calls of container and machine engines",
            Unit::Seconds,
            self.calls.clone(),
        );
    }
}

static STARTED: OnceLock<DateTime<Utc>> = OnceLock::new();

/// When this process was started.
pub fn started() -> DateTime<Utc> {
    *STARTED.get_or_init(|| SystemClock.now())
}

/// This process among others: a new id with every start.
pub fn instance() -> String {
    static INSTANCE: OnceLock<String> = OnceLock::new();
    INSTANCE
        .get_or_init(|| Entropy::from_os().uuid(started()).to_string())
        .clone()
}
