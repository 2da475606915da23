//! A receiver of traces and reports, which can be well, ill, or silent.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as Any},
};
use poem::{EndpointExt as _, Request, Response, Route, http::StatusCode};
use prost::Message as _;
use sentry_types::protocol::v7::{Envelope, Event};
use tokio_util::task::AbortOnDropHandle;

use super::{servers::serve, until};

/// How it answers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Manner {
    Takes,
    Fails,
    /// Takes the connection and the request, and says nothing.
    Hangs,
}

/// A span as it came.
#[derive(Clone, Debug)]
pub struct Span {
    /// The process it is of.
    pub instance: String,
    pub role: String,
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub name: String,
    /// `SPAN_KIND_…`, by its number.
    pub kind: i32,
    pub began: u64,
    pub ended: u64,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Default)]
struct Taken {
    spans: Vec<Span>,
    envelopes: Vec<(BTreeMap<String, String>, Vec<u8>)>,
}

/// It listens until it is dropped.
pub struct Receiver {
    pub address: SocketAddr,
    taken: Arc<Mutex<Taken>>,
    _server: AbortOnDropHandle<()>,
}

impl Receiver {
    pub async fn start(manner: Manner) -> Self {
        let taken = Arc::new(Mutex::new(Taken::default()));
        let kept = Arc::clone(&taken);
        let take = poem::endpoint::make(move |mut request: Request| {
            let kept = Arc::clone(&kept);
            async move {
                let headers = request.headers().iter();
                let headers = headers.map(|(name, value)| {
                    (
                        name.to_string(),
                        value.to_str().unwrap_or_default().to_owned(),
                    )
                });
                let headers: BTreeMap<String, String> = headers.collect();
                let body = request.take_body().into_vec().await.unwrap();
                match manner {
                    Manner::Hangs => std::future::pending::<()>().await,
                    Manner::Fails => {
                        return Response::builder()
                            .status(StatusCode::INTERNAL_SERVER_ERROR)
                            .finish();
                    }
                    Manner::Takes => {}
                }
                let path = request.uri().path().to_owned();
                let mut kept = kept.lock().unwrap();
                if path == "/v1/traces" {
                    assert_eq!(headers["content-type"], "application/x-protobuf");
                    kept.spans.extend(spans(&body));
                } else {
                    assert_eq!(path, "/api/7/envelope/");
                    kept.envelopes.push((headers, body));
                }
                Response::builder().status(StatusCode::OK).finish()
            }
        });
        let app = Route::new().nest("/", take.map_to_response().boxed());
        let (address, server) = serve(app).await;
        Self {
            address,
            taken,
            _server: server,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn dsn(&self) -> String {
        format!("http://{DSN_KEY}@{}/7", self.address)
    }

    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().unwrap().spans.clone()
    }

    /// The spans of a trace.
    pub fn trace(&self, trace: &str) -> Vec<Span> {
        let mut spans = self.spans();
        spans.retain(|span| span.trace == trace);
        spans.sort_by_key(|span| span.began);
        spans
    }

    /// The reports so far, as their receiver reads them, each with what came around it.
    pub fn reports(&self) -> Vec<(Event<'static>, String)> {
        let taken = self.taken.lock().unwrap();
        let read = taken.envelopes.iter().map(|(headers, body)| {
            assert!(headers["x-sentry-auth"].contains(DSN_KEY), "{headers:?}");
            let envelope = Envelope::from_slice(body).unwrap();
            let text = String::from_utf8(body.clone()).unwrap();
            (envelope.event().unwrap().clone(), text)
        });
        read.collect()
    }

    /// The first report that is as it should be.
    pub async fn report(
        &self,
        what: &str,
        is_it: impl Fn(&Event<'static>) -> bool,
    ) -> (Event<'static>, String) {
        until(what, async || {
            let mut reports = self.reports().into_iter();
            reports.find(|(event, _)| is_it(event))
        })
        .await
    }
}

pub const DSN_KEY: &str = "0123456789abcdef0123456789abcdef";

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

fn text(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let read = attributes.iter().map(|attribute| {
        let value = attribute
            .value
            .as_ref()
            .and_then(|value| value.value.as_ref());
        let value = match value {
            Some(Any::StringValue(text)) => text.clone(),
            Some(Any::IntValue(number)) => number.to_string(),
            Some(Any::BoolValue(is)) => is.to_string(),
            other => format!("{other:?}"),
        };
        (attribute.key.clone(), value)
    });
    read.collect()
}

fn spans(body: &[u8]) -> Vec<Span> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut spans = Vec::new();
    for of_resource in request.resource_spans {
        let resource = text(&of_resource.resource.unwrap().attributes);
        assert_eq!(resource["deployment.environment.name"], "dev");
        for span in of_resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans)
        {
            spans.push(Span {
                instance: resource["service.instance.id"].clone(),
                role: resource["process.command"].clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                kind: span.kind,
                began: span.start_time_unix_nano,
                ended: span.end_time_unix_nano,
                attributes: text(&span.attributes),
            });
        }
    }
    spans
}
