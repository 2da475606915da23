//! A line of the log as JSON, by the attribute names of Datadog's *standard attributes*, which others read as well.
//!
//! What belongs to a request or a task has its ids on every line; traces are named in both ways: `dd.trace_id` in decimal
//! for Datadog, `trace_id` in hexadecimal for everybody else.

use std::fmt;

use chrono::SecondsFormat;
use serde_json::{Map, Value, json};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::{trace, work};
use crate::{
    config::Settings,
    domain::{Clock as _, SystemClock},
};

/// Writes events as JSON, one a line.
pub(super) struct Json {
    service: String,
    environment: &'static str,
}

impl Json {
    pub fn new(settings: &Settings) -> Self {
        Self {
            service: settings.telemetry.service.clone(),
            environment: settings.environment.as_str(),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Map::new();
        let mut put = |key: &str, value: Value| {
            line.insert(key.to_owned(), value);
        };
        let now = SystemClock.now();
        put(
            "timestamp",
            json!(now.to_rfc3339_opts(SecondsFormat::Micros, true)),
        );
        put("status", json!(status(*event.metadata().level())));
        put("logger.name", json!(event.metadata().target()));
        put("service", json!(self.service));
        put("env", json!(self.environment));
        put("version", json!(super::build::VERSION));
        ids(&mut line);
        event.record(&mut Fields(&mut line));
        let text = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

/// The level, by Datadog's names.
fn status(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

/// What the line belongs to.
fn ids(line: &mut Map<String, Value>) {
    let mut put = |key: &str, value: Value| {
        line.insert(key.to_owned(), value);
    };
    if let Some(parent) = trace::current() {
        let low = parent.trace_id & u128::from(u64::MAX);
        put("dd.trace_id", json!(low.to_string()));
        put("dd.span_id", json!(parent.span_id.to_string()));
        put("trace_id", json!(format!("{:032x}", parent.trace_id)));
        put("span_id", json!(format!("{:016x}", parent.span_id)));
    }
    work::look(|work| {
        if let Some(request) = &work.request {
            put("http.request_id", json!(**request));
        }
        if let Some(user) = work.user() {
            put("usr.id", json!(user));
        }
        if let Some(operation) = work.operation() {
            put("graphql.operation.type", json!(operation.kind));
            put("graphql.operation.name", json!(operation.name));
        }
        if let (Some(task), Some(id)) = (&work.task, work.task_id()) {
            put("task.id", json!(id));
            put("task.kind", json!(task.kind));
            put("task.attempt", json!(task.attempt));
        }
    });
}

/// Our names of some fields, and Datadog's.
fn name_of(field: &str) -> &str {
    match field {
        "error" | "problem" => "error.message",
        "code" => "error.kind",
        other => other,
    }
}

/// Collects the fields of an event.
pub(super) struct Fields<'a>(pub &'a mut Map<String, Value>);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(name_of(field.name()).to_owned(), value);
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, json!(value));
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, json!(value));
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, json!(value));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, json!(value));
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, json!(format!("{value:?}")));
    }
}
