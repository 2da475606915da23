//! Brings spans out: OTLP over HTTP, in protobuf (the OpenTelemetry protocol, version 1).
//!
//! Nobody waits for it. What ends goes into a bounded queue; what finds it full, and what the receiver does not take in
//! time, is dropped and counted.

use std::{sync::OnceLock, time::Duration};

use bytes::Bytes;
use opentelemetry::{Context, KeyValue, trace::TracerProvider as _};
use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{
        common::tonic::ResourceAttributesWithSchema,
        trace::tonic::group_spans_by_resource_and_scope,
    },
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout_at},
};

use super::{
    build::{self, VERSION},
    flushed,
    post::{Failed, Post},
    process::{self, SpanOutcome},
    trace,
};
use crate::config::Settings;

/// Spans that wait, and those of one message.
const WAITING: usize = 8192;
const BATCH: usize = 512;
/// How long the first of a message waits for others.
const GATHER: Duration = Duration::from_secs(1);
/// Longest wait for the receiver to take a message, and how often it is sent.
const LONGEST: Duration = Duration::from_secs(5);
const TRIES: u32 = 3;

enum Said {
    Span(Box<SpanData>),
    Flush(oneshot::Sender<()>),
}

static QUEUE: OnceLock<mpsc::Sender<Said>> = OnceLock::new();

/// Starts recording and sending, if there is somewhere to send to.
pub(super) fn start(settings: &Settings, role: &'static str) {
    let told = &settings.telemetry;
    let Some(base) = &told.traces_to else {
        return;
    };
    let (sender, queue) = mpsc::channel(WAITING);
    if QUEUE.set(sender.clone()).is_err() {
        return;
    }
    let resource = resource(settings, role);
    let address = format!("{}/v1/traces", base.as_str().trim_end_matches('/'));
    let headers = told
        .trace_headers
        .iter()
        .flatten()
        .map(|(name, value)| (name.as_str(), value.expose()));
    let post = Post::to(&address, "application/x-protobuf", headers);
    let attributes = ResourceAttributesWithSchema::from(&resource);
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            told.trace_sample,
        ))))
        .with_resource(resource)
        .with_span_processor(Outbox(sender))
        .build();
    trace::record_by(provider.tracer("main-webserver"), told.trace_sample);
    tokio::spawn(send(queue, post, attributes));
}

fn resource(settings: &Settings, role: &'static str) -> Resource {
    let build = build::info();
    Resource::builder_empty()
        .with_service_name(settings.telemetry.service.clone())
        .with_attributes([
            KeyValue::new("service.version", VERSION),
            KeyValue::new("service.instance.id", process::instance()),
            KeyValue::new("service.commit", build.commit),
            KeyValue::new("deployment.environment.name", settings.environment.as_str()),
            KeyValue::new("process.pid", i64::from(std::process::id())),
            KeyValue::new("process.command", role),
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
            KeyValue::new("telemetry.sdk.language", "rust"),
        ])
        .build()
}

/// Sends what waits, within a limit.
pub(super) async fn flush(limit: Duration) {
    if !flushed(QUEUE.get(), Said::Flush, limit).await {
        tracing::warn!("some traces were not taken in time, and are lost");
    }
}

/// Takes spans as they end.
#[derive(Debug)]
struct Outbox(mpsc::Sender<Said>);

impl SpanProcessor for Outbox {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(Said::Span(Box::new(span))).is_err() {
            process::meters().spans(SpanOutcome::Dropped, 1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _limit: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl std::fmt::Debug for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Said")
    }
}

async fn send(mut queue: mpsc::Receiver<Said>, post: Post, resource: ResourceAttributesWithSchema) {
    let mut receiver = Receiver {
        post,
        resource,
        is_away: false,
    };
    while let Some(first) = queue.recv().await {
        let mut batch = Vec::new();
        let mut waits = None;
        take(first, &mut batch, &mut waits);
        let until = Instant::now() + GATHER;
        while batch.len() < BATCH && waits.is_none() {
            match timeout_at(until, queue.recv()).await {
                Ok(Some(said)) => take(said, &mut batch, &mut waits),
                Ok(None) | Err(_) => break,
            }
        }
        if !batch.is_empty() {
            receiver.send(batch).await;
        }
        // Whoever waits for the queue's end has put nothing behind it.
        if let Some(done) = waits {
            let _ = done.send(());
        }
    }
}

fn take(said: Said, batch: &mut Vec<SpanData>, waits: &mut Option<oneshot::Sender<()>>) {
    match said {
        Said::Span(span) => batch.push(*span),
        Said::Flush(done) => *waits = Some(done),
    }
}

struct Receiver {
    post: Post,
    resource: ResourceAttributesWithSchema,
    is_away: bool,
}

impl Receiver {
    /// Sends a message; again after a pause when the receiver is away or asks for it.
    async fn send(&mut self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: group_spans_by_resource_and_scope(batch, &self.resource),
        };
        let body = Bytes::from(request.encode_to_vec());
        let mut outcome = SpanOutcome::Refused;
        for attempt in 1..=TRIES {
            match self.post.send(body.clone(), LONGEST).await {
                Ok(()) => {
                    outcome = SpanOutcome::Exported;
                    break;
                }
                Err(Failed::Refused(status)) => {
                    tracing::debug!(status, "traces were refused");
                    break;
                }
                // What hangs is not waited for three times.
                Err(Failed::TimedOut) => break,
                Err(Failed::Later(why, pause)) => {
                    tracing::debug!(why, attempt, "traces were not taken");
                    if attempt < TRIES {
                        let pause = pause.unwrap_or(Duration::from_millis(250) * attempt);
                        super::pause(pause.min(LONGEST)).await;
                    }
                }
            }
        }
        process::meters().spans(outcome, count);
        // Told once an outage, not once a message.
        let is_away = outcome != SpanOutcome::Exported;
        if is_away != std::mem::replace(&mut self.is_away, is_away) {
            if is_away {
                tracing::warn!(
                    "the receiver of traces does not take them; they are dropped until it does"
                );
            } else {
                tracing::info!("the receiver of traces is back");
            }
        }
    }
}
