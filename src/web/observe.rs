//! What is told of requests: an id, a span, a meter, and a line in the log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use poem::{
    Endpoint, IntoResponse, Middleware, Request, Response, Result,
    http::{HeaderValue, Method},
};
use tokio::time::Instant;

use super::Web;
use crate::{
    domain::trace::TraceParent,
    services::machines::CONSOLE_PATH,
    telemetry::{
        slow::{self, nanos},
        trace::{self, Kind, Span},
        work::{self, Work},
    },
};

const REQUEST_ID: &str = "x-request-id";
/// Longest id of a request that is taken over, in bytes.
const LONGEST: usize = 128;

/// Picks a part of many, evenly.
#[derive(Debug, Default)]
pub struct Sample {
    part: f64,
    seen: AtomicU64,
}

impl Sample {
    /// `part` lies between 0, none, and 1, all.
    pub fn of(part: f64) -> Arc<Self> {
        Arc::new(Self {
            part,
            seen: AtomicU64::new(0),
        })
    }

    /// Whether the next one belongs to it.
    fn takes(&self) -> bool {
        if self.part <= 0.0 {
            return false;
        }
        #[expect(clippy::cast_precision_loss, reason = "evenly enough")]
        let seen = self.seen.fetch_add(1, Ordering::Relaxed) as f64;
        (seen * self.part).floor() < ((seen + 1.0) * self.part).floor()
    }
}

/// Tells of every request.
pub struct Observe(pub Arc<Web>);

impl<E: Endpoint> Middleware<E> for Observe {
    type Output = Observed<E>;

    fn transform(&self, inner: E) -> Self::Output {
        Observed {
            inner,
            web: Arc::clone(&self.0),
        }
    }
}

pub struct Observed<E> {
    inner: E,
    web: Arc<Web>,
}

impl<E: Endpoint> Endpoint for Observed<E> {
    type Output = Response;

    async fn call(&self, request: Request) -> Result<Response> {
        let began = Instant::now();
        let id = request_id(&request).unwrap_or_else(|| {
            let id = self.web.store.entropy.uuid(self.web.store.now());
            id.simple().to_string()
        });
        let asked = Asked::of(&request);
        let span = Span::first(Kind::Server, parent(&request), || {
            format!("{} {}", asked.method, asked.route).into()
        });
        let header = HeaderValue::from_str(&id);
        let work = Work::request(id);
        let answer = async {
            let answer = self.inner.call(request).await;
            let mut answer = match answer {
                Ok(answer) => answer.into_response(),
                Err(error) => error.into_response(),
            };
            if let Ok(id) = header {
                answer.headers_mut().insert(REQUEST_ID, id);
            }
            self.told(&span, &asked, &answer, began.elapsed());
            answer
        };
        Ok(work.around(&span, answer).await)
    }
}

impl<E> Observed<E> {
    fn told(&self, span: &Span, asked: &Asked, answer: &Response, took: Duration) {
        let status = answer.status().as_u16();
        let meters = &self.web.meters;
        meters.requested(asked.route, asked.method, status, took);
        if span.is_recorded() {
            span.set("http.request.method", asked.method);
            span.set("http.route", asked.route);
            span.set("url.path", asked.path.clone());
            span.set("http.response.status_code", i64::from(status));
            if status >= 500 {
                span.fail("HTTP_5XX");
            }
        }
        let failure = work::look(Work::failure).flatten();
        let has_failed = status >= 500 || matches!(failure, Some("INTERNAL" | "UNAVAILABLE"));
        // Named by what may be seen by everybody: never the query string, which may have variables.
        macro_rules! tell {
            ($level:ident) => {
                tracing::$level!(
                    target: "access",
                    duration = nanos(took),
                    "http.method" = asked.method,
                    "http.url_details.path" = asked.path,
                    "http.status_code" = status,
                    code = failure,
                    "request"
                )
            };
        }
        if has_failed || slow::is_slow(took) || self.web.log_sample.takes() {
            tell!(info);
        } else {
            tell!(debug);
        }
    }
}

/// What may be told of a request.
struct Asked {
    method: &'static str,
    route: &'static str,
    path: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let path = request.uri().path();
        Self {
            method: method(request.method()),
            route: route(path),
            path: path.chars().take(LONGEST).collect(),
        }
    }
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

/// The route of a path, of those there are: what names a meter may not be what anybody likes.
fn route(path: &str) -> &'static str {
    const EXACT: [&str; 7] = [
        "/graphql",
        "/healthz",
        "/readyz",
        "/metrics",
        "/version",
        "/",
        CONSOLE_PATH,
    ];
    if let Some(known) = EXACT.into_iter().find(|known| *known == path) {
        known
    } else if path.starts_with("/api/rest/") {
        "/api/rest/:name"
    } else if path.starts_with("/assets/") {
        "/assets/*"
    } else {
        "other"
    }
}

/// The id a request brings, when it is one that can stand in a log and a header.
fn request_id(request: &Request) -> Option<String> {
    let id = request.headers().get(REQUEST_ID)?.to_str().ok()?;
    let is_sane = |c: u8| c.is_ascii_alphanumeric() || b"-_.:+/=@".contains(&c);
    ((1..=LONGEST).contains(&id.len()) && id.bytes().all(is_sane)).then(|| id.to_owned())
}

/// The trace a request is a part of (W3C *Trace Context*): that of its one `traceparent`, when there is a good one.
///
/// A client may say that nothing is recorded of it. That it is, is for this service to say: by its share of all traces.
fn parent(request: &Request) -> Option<TraceParent> {
    if !trace::is_on() {
        return None;
    }
    let mut given = request.headers().get_all("traceparent").iter();
    let (only, None) = (given.next()?, given.next()) else {
        return None;
    };
    let parent = TraceParent::parse(only.to_str().ok()?)?;
    Some(TraceParent {
        is_sampled: parent.is_sampled && trace::is_in_sample(parent.trace_id),
        ..parent
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_as_large_as_it_is_said_to_be() {
        for (part, expected) in [(0.0, 0), (0.01, 10), (0.3, 300), (1.0, 1000)] {
            let sample = Sample::of(part);
            let taken = (0..1000).filter(|_| sample.takes()).count();
            assert_eq!(taken, expected, "{part}");
        }
    }

    #[test]
    fn only_a_sane_id_is_taken_over() {
        let with = |id: &str| request_id(&Request::builder().header(REQUEST_ID, id).finish());
        assert_eq!(with("a1-b2.c:3/4").as_deref(), Some("a1-b2.c:3/4"));
        for bad in ["", "a b", "\"}", "a\tb", &"x".repeat(129)] {
            assert_eq!(with(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_route_is_one_of_few() {
        assert_eq!(route("/api/rest/whatever"), "/api/rest/:name");
        assert_eq!(route("/graphql"), "/graphql");
        assert_eq!(route("/etc/passwd"), "other");
    }
}
