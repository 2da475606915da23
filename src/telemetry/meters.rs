//! What this process has counted, as OpenMetrics text (the OpenMetrics specification, version 1.0).

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::{
        EncodeLabelSet,
        text::{encode_eof, encode_registry},
    },
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use super::work::OperationLabel;

/// The media type of [`Meters::text`].
pub const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    pub kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutcomeLabels {
    pub kind: String,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DepthLabels {
    pub kind: String,
    pub state: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OperationLabels {
    r#type: &'static str,
    operation: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerLabels {
    r#type: &'static str,
    operation: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ConnectionLabels {
    pool: &'static str,
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
    commit: &'static str,
}

type Histograms = Family<KindLabel, Histogram, fn() -> Histogram>;

/// One process' meters.
#[derive(Debug)]
pub struct Meters {
    registry: Registry,
    requests: Family<RouteLabels, Histogram, fn() -> Histogram>,
    operations: Family<OperationLabels, Histogram, fn() -> Histogram>,
    answers: Family<AnswerLabels, Counter>,
    connections: Family<ConnectionLabels, Gauge>,
    /// Whether Redis answers, set when somebody asks; without Redis it is 1.
    pub transport_up: Gauge,
    /// Whether the database answers, set when somebody asks.
    pub database_up: Gauge,
    /// Tasks this process' worker has taken.
    pub claimed: Family<KindLabel, Counter>,
    /// Runs it has ended, by how.
    pub settled: Family<OutcomeLabels, Counter>,
    wait: Histograms,
    run: Histograms,
    /// Writes that were refused because another run had begun.
    pub stale_writes: Counter,
    /// Runs told to stop because their lease was gone.
    pub leases_lost: Counter,
    /// Tasks taken from workers that had been silent.
    pub leases_expired: Counter,
    /// Hints sent by the sweeper, because nobody had followed the first ones.
    pub reannounced: Counter,
    /// Tasks made by schedules.
    pub scheduled: Counter,
    /// Failed calls of the queue or the event bus.
    pub transport_errors: Counter,
    /// Tasks in this process' hands.
    pub running: Gauge,
    /// Open WebSockets of this process.
    pub sockets: Gauge,
    /// Subscriptions that run for any number of followers, set when somebody asks.
    pub shared_runs: Gauge,
    /// Tasks of the whole service, set when somebody asks.
    pub depth: Family<DepthLabels, Gauge>,
    /// Living workers of the whole service, set when somebody asks.
    pub workers: Gauge,
    /// The newest backup this process knows of.
    backup_ended: Gauge,
    backup_size: Gauge,
    backup_took: Gauge<f64, AtomicU64>,
    /// Backups of this process that were not made, or not found good.
    pub backups_failed: Counter,
}

pub(super) fn latencies() -> Histogram {
    // From a quarter of a millisecond to a little over two minutes.
    Histogram::new(exponential_buckets(0.000_25, 2.0, 20))
}

impl Default for Meters {
    fn default() -> Self {
        let mut meters = Self::unregistered();
        let mut registry = Registry::with_prefix("main_webserver");
        meters.register_requests(&mut registry);
        meters.register_tasks(&mut registry);
        meters.register_backups(&mut registry);
        super::process::meters().register(&mut registry);
        let build = Family::<BuildLabels, Gauge>::default();
        let info = super::build::info();
        let labels = BuildLabels {
            version: info.version,
            commit: info.commit,
        };
        build.get_or_create(&labels).set(1);
        registry.register("build", "This build, always 1", build);
        meters.registry = registry;
        meters
    }
}

impl Meters {
    fn unregistered() -> Self {
        Self {
            registry: Registry::default(),
            requests: Family::new_with_constructor(latencies),
            operations: Family::new_with_constructor(latencies),
            answers: Family::default(),
            connections: Family::default(),
            transport_up: Gauge::default(),
            database_up: Gauge::default(),
            claimed: Family::default(),
            settled: Family::default(),
            wait: Family::new_with_constructor(latencies),
            run: Family::new_with_constructor(latencies),
            stale_writes: Counter::default(),
            leases_lost: Counter::default(),
            leases_expired: Counter::default(),
            reannounced: Counter::default(),
            scheduled: Counter::default(),
            transport_errors: Counter::default(),
            running: Gauge::default(),
            sockets: Gauge::default(),
            shared_runs: Gauge::default(),
            depth: Family::default(),
            workers: Gauge::default(),
            backup_ended: Gauge::default(),
            backup_size: Gauge::default(),
            backup_took: Gauge::default(),
            backups_failed: Counter::default(),
        }
    }

    fn register_requests(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "http_request",
            "Requests, until their answer begins",
            Unit::Seconds,
            self.requests.clone(),
        );
        registry.register_with_unit(
            "graphql_operation",
            "Operations by their first field; a subscription's until its first answer",
            Unit::Seconds,
            self.operations.clone(),
        );
        registry.register(
            "graphql_answers",
            "Answers to operations, by the code of their first error",
            self.answers.clone(),
        );
        registry.register(
            "database_connections",
            "Connections of this process",
            self.connections.clone(),
        );
        registry.register(
            "database_up",
            "Whether the database answers",
            self.database_up.clone(),
        );
        registry.register(
            "transport_up",
            "Whether queue and event bus answer",
            self.transport_up.clone(),
        );
        registry.register("sockets", "Open WebSockets", self.sockets.clone());
        registry.register(
            "shared_runs",
            "Subscriptions that run for their followers together",
            self.shared_runs.clone(),
        );
    }

    fn register_tasks(&self, registry: &mut Registry) {
        let meters = self;
        let seconds = || Unit::Seconds;
        registry.register(
            "tasks_claimed",
            "Tasks taken by this worker",
            meters.claimed.clone(),
        );
        registry.register(
            "tasks_settled",
            "Runs ended by this worker, by outcome",
            meters.settled.clone(),
        );
        registry.register_with_unit(
            "task_wait",
            "From due to taken",
            seconds(),
            meters.wait.clone(),
        );
        registry.register_with_unit(
            "task_run",
            "From taken to ended, one attempt",
            seconds(),
            meters.run.clone(),
        );
        registry.register(
            "stale_writes",
            "Writes refused by the fence",
            meters.stale_writes.clone(),
        );
        registry.register(
            "leases_lost",
            "Runs stopped because their lease was gone",
            meters.leases_lost.clone(),
        );
        registry.register(
            "leases_expired",
            "Tasks taken from silent workers",
            meters.leases_expired.clone(),
        );
        registry.register(
            "tasks_reannounced",
            "Hints repeated by the sweeper",
            meters.reannounced.clone(),
        );
        registry.register(
            "tasks_scheduled",
            "Tasks made by schedules",
            meters.scheduled.clone(),
        );
        registry.register(
            "transport_errors",
            "Failed calls of queue or event bus",
            meters.transport_errors.clone(),
        );
        registry.register(
            "tasks_running",
            "Tasks in this worker's hands",
            meters.running.clone(),
        );
        registry.register(
            "queue_depth",
            "Unfinished and failed tasks of the service",
            meters.depth.clone(),
        );
        registry.register(
            "workers",
            "Living workers of the service",
            meters.workers.clone(),
        );
    }

    /// A request has been answered; `route` is one of the server's own.
    pub fn requested(
        &self,
        route: &'static str,
        method: &'static str,
        status: u16,
        took: Duration,
    ) {
        let labels = RouteLabels {
            route,
            method,
            status,
        };
        self.requests
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
    }

    /// An operation has been answered; `code` is `OK` or that of its first error.
    pub fn answered(&self, operation: &OperationLabel, code: &'static str, took: Duration) {
        let labels = OperationLabels {
            r#type: operation.kind,
            operation: operation.field,
        };
        self.operations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        self.answers
            .get_or_create(&AnswerLabels {
                r#type: labels.r#type,
                operation: labels.operation,
                code,
            })
            .inc();
    }

    /// A pool has so many connections in a state.
    pub fn connected(&self, pool: &'static str, state: &'static str, count: usize) {
        self.connections
            .get_or_create(&ConnectionLabels { pool, state })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn register_backups(&self, registry: &mut Registry) {
        registry.register_with_unit(
            "backup_last_success_timestamp",
            "When the newest backup was there, in seconds since 1970",
            Unit::Seconds,
            self.backup_ended.clone(),
        );
        registry.register_with_unit(
            "backup_size",
            "Size of the newest backup",
            Unit::Bytes,
            self.backup_size.clone(),
        );
        registry.register_with_unit(
            "backup_duration",
            "How long the newest backup took",
            Unit::Seconds,
            self.backup_took.clone(),
        );
        registry.register(
            "backups_failed",
            "Backups that were not made, or not found good",
            self.backups_failed.clone(),
        );
    }

    /// There is a backup of so many bytes since `ended`, in seconds since 1970.
    pub fn backed_up(&self, ended: i64, bytes: i64, took: Duration) {
        self.backup_ended.set(ended);
        self.backup_size.set(bytes);
        self.backup_took.set(took.as_secs_f64());
    }

    /// A task has been taken so long after it was due.
    pub fn taken(&self, kind: &str, wait: Duration) {
        let label = KindLabel {
            kind: kind.to_owned(),
        };
        self.claimed.get_or_create(&label).inc();
        self.wait.get_or_create(&label).observe(wait.as_secs_f64());
        self.running.inc();
    }

    /// A run has ended after so long.
    pub fn ended(&self, kind: &str, outcome: &'static str, run: Duration) {
        let labels = OutcomeLabels {
            kind: kind.to_owned(),
            outcome,
        };
        self.settled.get_or_create(&labels).inc();
        let label = KindLabel { kind: labels.kind };
        self.run.get_or_create(&label).observe(run.as_secs_f64());
        self.running.dec();
    }

    /// Everything, as text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode_registry(&mut text, &self.registry)?;
        super::resources::write(&mut text)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_stands_in_the_text() {
        let meters = Meters::default();
        meters.taken("demo", Duration::from_millis(3));
        meters.ended("demo", "succeeded", Duration::from_millis(40));
        meters.backed_up(1_790_000_000, 4096, Duration::from_millis(1500));
        let text = meters.text().unwrap();
        for line in [
            r#"main_webserver_tasks_claimed_total{kind="demo"} 1"#,
            r#"main_webserver_tasks_settled_total{kind="demo",outcome="succeeded"} 1"#,
            r#"main_webserver_task_wait_seconds_count{kind="demo"} 1"#,
            "main_webserver_tasks_running 0",
            "main_webserver_backup_last_success_timestamp_seconds 1790000000",
            "main_webserver_backup_size_bytes 4096",
            "main_webserver_backup_duration_seconds 1.5",
            "main_webserver_backups_failed_total 0",
            "# EOF",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
