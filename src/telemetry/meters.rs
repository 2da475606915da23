//! What this process has counted, as OpenMetrics text (the OpenMetrics specification, version 1.0).

use std::time::Duration;

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

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

type Histograms = Family<KindLabel, Histogram, fn() -> Histogram>;

/// One process' meters.
#[derive(Debug)]
pub struct Meters {
    registry: Registry,
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
}

fn latencies() -> Histogram {
    // From a quarter of a millisecond to a little over two minutes.
    Histogram::new(exponential_buckets(0.000_25, 2.0, 20))
}

impl Default for Meters {
    fn default() -> Self {
        let mut meters = Self {
            registry: Registry::with_prefix("main_webserver"),
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
        };
        let registry = &mut meters.registry;
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
        registry.register("sockets", "Open WebSockets", meters.sockets.clone());
        registry.register(
            "shared_runs",
            "Subscriptions that run for their followers together",
            meters.shared_runs.clone(),
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
        meters
    }
}

impl Meters {
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
        encode(&mut text, &self.registry)?;
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
        let text = meters.text().unwrap();
        for line in [
            r#"main_webserver_tasks_claimed_total{kind="demo"} 1"#,
            r#"main_webserver_tasks_settled_total{kind="demo",outcome="succeeded"} 1"#,
            r#"main_webserver_task_wait_seconds_count{kind="demo"} 1"#,
            "main_webserver_tasks_running 0",
            "# EOF",
        ] {
            assert!(text.contains(line), "no {line} in\n{text}");
        }
    }
}
