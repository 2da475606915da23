//! Spans (the OpenTelemetry specification): a request, a run of a task, and what they are made of.
//!
//! Whoever continues something elsewhere hands on a [`TraceParent`]. Without a receiver of traces nothing is recorded, and
//! of what is not sampled nothing but that.

use std::{
    borrow::Cow,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use futures_util::{Stream, future::Either};
use opentelemetry::{
    Context, KeyValue, Value,
    context::FutureExt as _,
    trace::{
        Span as _, SpanBuilder, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags,
        TraceId, TraceState,
    },
};
pub use opentelemetry::{KeyValue as Attribute, trace::SpanKind as Kind};
use opentelemetry_sdk::trace::SdkTracer;

use crate::domain::trace::TraceParent;

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Which part of all traces is recorded, by the greatest of their ids that are.
static GREATEST: AtomicU64 = AtomicU64::new(0);

/// From now on spans are recorded by `tracer`, and of the traces this part.
pub(super) fn record_by(tracer: SdkTracer, part: f64) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a part of the ids, as the library's own sampler has it"
    )]
    let greatest = (part.clamp(0.0, 1.0) * (1_u64 << 63) as f64) as u64;
    GREATEST.store(greatest, Ordering::Relaxed);
    // A second start in the same process changes nothing.
    let _ = TRACER.set(tracer);
}

/// Whether spans are recorded at all.
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Whether a trace belongs to the part that is recorded (the OpenTelemetry specification, `TraceIdRatioBased`).
pub fn is_in_sample(trace_id: u128) -> bool {
    let bytes = trace_id.to_be_bytes();
    let low = bytes[8..]
        .iter()
        .fold(0, |low, byte| low << 8 | u64::from(*byte));
    low >> 1 < GREATEST.load(Ordering::Relaxed)
}

/// The time for a span told of afterwards; `None` when nothing is recorded.
pub fn now() -> Option<SystemTime> {
    is_on().then(opentelemetry::time::now)
}

/// Something under way; it ends when this is dropped.
#[must_use]
pub struct Span(Option<Context>);

impl Drop for Span {
    fn drop(&mut self) {
        // What it was around may live a little longer.
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

impl Span {
    /// The first span here of a trace: of `parent`'s, or of a new one.
    ///
    /// What belongs to a parent is recorded when the parent is.
    pub fn first(
        kind: Kind,
        parent: Option<TraceParent>,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Self {
        let Some(tracer) = TRACER.get() else {
            return Self(None);
        };
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(remote(parent)),
            None => Context::new(),
        };
        let span = SpanBuilder::from_name(name()).with_kind(kind);
        let span = span.start_with_context(tracer, &context);
        // What it is for, as it stands here, stays with it.
        Self(Some(Context::current().with_span(span)))
    }

    /// A part of what is under way here.
    pub fn part(kind: Kind, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        let Some((tracer, context)) = traced() else {
            return Self(None);
        };
        let span = SpanBuilder::from_name(name()).with_kind(kind);
        let span = span.start_with_context(tracer, &context);
        Self(Some(context.with_span(span)))
    }

    /// A part of what is under way here, else something of its own.
    pub fn part_or_first(kind: Kind, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        match current() {
            None => Self::first(kind, None, name),
            Some(_) => Self::part(kind, name),
        }
    }

    /// Whether it is recorded, so that it is worth while to tell it something.
    pub fn is_recorded(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|context| context.span().is_recording())
    }

    /// Tells something of it, by the names of the semantic conventions.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(key, value));
        }
    }

    /// Gives it a name that was not known before.
    pub fn rename(&self, name: String) {
        if let Some(context) = &self.0 {
            context.span().update_name(name);
        }
    }

    /// It has failed, by a code of ours. The words stay in the log: they may name people.
    pub fn fail(&self, code: &'static str) {
        if let Some(context) = &self.0 {
            let span = context.span();
            span.set_attribute(KeyValue::new("error.type", code));
            span.set_status(Status::error(code));
        }
    }

    /// Points at another span it has to do with.
    pub fn link(&self, other: TraceParent) {
        if let Some(context) = &self.0 {
            context.span().add_link(remote(other), Vec::new());
        }
    }

    /// What continues it elsewhere.
    pub fn parent(&self) -> Option<TraceParent> {
        self.0.as_ref().and_then(parent_in)
    }

    /// Does `work` as a part of it.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        // Not an async function, which would keep `work` twice.
        match &self.0 {
            Some(context) => Either::Left(work.with_context(context.clone())),
            None => Either::Right(work),
        }
    }

    /// The items of a stream as they are made by parts of it, or else of what is under way here.
    pub fn over<S: Stream>(&self, items: S) -> impl Stream<Item = S::Item> + use<S> {
        let context = self.0.clone().unwrap_or_else(Context::current);
        items.with_context(context)
    }

    pub(super) fn context(&self) -> Context {
        self.0.clone().unwrap_or_default()
    }
}

/// What continues elsewhere what is under way here.
pub fn current() -> Option<TraceParent> {
    if is_on() {
        Context::map_current(parent_in)
    } else {
        None
    }
}

/// Tells of a part of what is under way that has already ended.
pub fn record(
    kind: Kind,
    (began, ended): (SystemTime, SystemTime),
    told: impl FnOnce() -> (Cow<'static, str>, Vec<Attribute>),
) -> Option<TraceParent> {
    let (tracer, context) = traced()?;
    Some(record_in(
        tracer,
        &context,
        (kind, began, ended, None),
        told,
    ))
}

/// The same of a trace that came from elsewhere, when it is recorded; `failed` is the code of a failure.
pub fn record_of(
    parent: TraceParent,
    kind: Kind,
    (began, ended): (SystemTime, SystemTime),
    failed: Option<&'static str>,
    told: impl FnOnce() -> (Cow<'static, str>, Vec<Attribute>),
) -> Option<TraceParent> {
    let tracer = TRACER.get().filter(|_| parent.is_sampled)?;
    let context = Context::new().with_remote_span_context(remote(parent));
    let when = (kind, began, ended, failed);
    Some(record_in(tracer, &context, when, told))
}

fn record_in(
    tracer: &SdkTracer,
    context: &Context,
    (kind, began, ended, failed): (Kind, SystemTime, SystemTime, Option<&'static str>),
    told: impl FnOnce() -> (Cow<'static, str>, Vec<Attribute>),
) -> TraceParent {
    let (name, attributes) = told();
    let span = SpanBuilder::from_name(name)
        .with_kind(kind)
        .with_start_time(began)
        .with_attributes(attributes);
    let mut span = span.start_with_context(tracer, context);
    if let Some(code) = failed {
        span.set_status(Status::error(code));
    }
    span.end_with_timestamp(ended);
    written(span.span_context())
}

/// The tracer and the context, where what is under way is recorded.
fn traced() -> Option<(&'static SdkTracer, Context)> {
    let tracer = TRACER.get()?;
    let context =
        Context::map_current(|now| now.span().span_context().is_sampled().then(|| now.clone()))?;
    Some((tracer, context))
}

fn parent_in(context: &Context) -> Option<TraceParent> {
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| written(span))
}

fn written(span: &SpanContext) -> TraceParent {
    TraceParent {
        trace_id: u128::from_be_bytes(span.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(span.span_id().to_bytes()),
        is_sampled: span.is_sampled(),
    }
}

fn remote(parent: TraceParent) -> SpanContext {
    SpanContext::new(
        TraceId::from_bytes(parent.trace_id.to_be_bytes()),
        SpanId::from_bytes(parent.span_id.to_be_bytes()),
        TraceFlags::default().with_sampled(parent.is_sampled),
        true,
        TraceState::NONE,
    )
}
