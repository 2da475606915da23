//! For load balancers and people: is it alive, can it work. With `?verbose`, what is wrong and for how long it took to
//! find out; what an error says of addresses and names stays in the log.

use std::{sync::Arc, time::Duration};

use poem::{
    Request, Response, handler,
    http::{StatusCode, header},
    web::Data,
};
use sea_orm::DbErr;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Web;
use crate::telemetry::{build, process};

fn is_verbose(request: &Request) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let mut parts = query.split('&').map(|part| part.split('=').next());
    parts.any(|name| name == Some("verbose"))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(format!("{body}\n"))
}

/// The process runs.
#[handler]
pub async fn alive(request: &Request, web: Data<&Arc<Web>>) -> Response {
    if !is_verbose(request) {
        return Response::builder().body("ok\n");
    }
    let started = process::started();
    let body = json!({
        "status": "ok",
        "version": build::VERSION,
        "environment": web.environment.as_str(),
        "started_at": started,
        "uptime_seconds": (web.store.now() - started).num_seconds().max(0),
        "stopping": web.leaving.is_cancelled(),
    });
    answer(StatusCode::OK, &body)
}

/// What was found out about a part.
struct Checked {
    /// What is wrong with it.
    problem: Option<&'static str>,
    took: Duration,
}

impl Checked {
    async fn of<E>(
        check: impl Future<Output = Result<(), E>>,
        say: impl Fn(E) -> &'static str,
    ) -> Self {
        let began = Instant::now();
        let problem = check.await.err().map(say);
        Self {
            problem,
            took: began.elapsed(),
        }
    }

    const fn word(&self) -> &'static str {
        match self.problem {
            None => "ok",
            Some(_) => "away",
        }
    }

    fn details(&self) -> Value {
        json!({
            "state": self.word(),
            "problem": self.problem,
            "milliseconds": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// It can do its work: the database answers, and it is not on its way out. Without the event bus it works too, only later, and says so.
#[handler]
pub async fn ready(request: &Request, web: Data<&Arc<Web>>) -> Response {
    let (database, bus) = tokio::join!(
        Checked::of(web.store.ping(), |error| {
            tracing::warn!(%error, "not ready");
            problem_of(&error)
        }),
        Checked::of(web.bus.ping(), |error| {
            tracing::debug!(%error, "the event bus does not answer");
            "Redis does not answer; tasks go on at the sweeper's pace, news come late"
        }),
    );
    let is_leaving = web.leaving.is_cancelled();
    let status = if database.problem.is_none() && !is_leaving {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut body = if is_verbose(request) {
        let pools = web.store.pools().into_iter().map(|pool| {
            json!({ "name": pool.name, "idle": pool.idle, "busy": pool.busy, "most": pool.most })
        });
        json!({
            "ready": status == StatusCode::OK,
            "database": database.details(),
            "events": bus.details(),
            "connections": pools.collect::<Vec<_>>(),
        })
    } else {
        json!({ "database": database.word(), "events": bus.word() })
    };
    if is_leaving {
        body["process"] = "stopping".into();
    }
    answer(status, &body)
}

fn problem_of(error: &DbErr) -> &'static str {
    match error {
        DbErr::ConnectionAcquire(_) => "no connection was free, or could be made, in time",
        DbErr::Conn(_) => "it cannot be reached",
        DbErr::Custom(_) => "it did not answer in time",
        _ => "it answers with an error",
    }
}
