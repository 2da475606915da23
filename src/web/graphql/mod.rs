//! GraphQL over HTTP: queries by GET, everything by POST, subscriptions as event streams, and the upgrade to a WebSocket.

mod answer;
pub(super) mod read;

use std::sync::Arc;

use answer::{Accepted, Form};
use async_graphql::{BatchRequest, parser::types::OperationType};
use futures_util::{StreamExt as _, future, stream};
use poem::{
    Body, FromRequest as _, IntoResponse, Request, RequestBody, Response, handler,
    http::{Method, StatusCode, header},
    web::{
        Data, Path,
        sse::{Event, SSE},
        websocket::{WebSocket, WebSocketConfig},
    },
};

use super::{
    Web,
    login::Login,
    socket::{self, protocol::Dialect},
};
use crate::{
    domain::Id,
    error::AppError,
    graphql::{
        Answer, Prepared, Requester,
        follow::{self, Session},
        limits,
    },
    store::sessions::Origin,
    telemetry::work,
};

/// Largest request body and largest message on a socket, in bytes.
const LARGEST: usize = 1024 * 1024;
/// What a socket reads at once, and what it gathers before it writes. They are there for every socket, at rest too, and
/// what is larger takes a few more calls.
const READ_BUFFER: usize = 2 * 1024;
const WRITE_BUFFER: usize = 4 * 1024;
/// Pause between the signs of life on an event stream.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(15);

fn header_text(request: &Request, name: header::HeaderName) -> Option<&str> {
    request.headers().get(name)?.to_str().ok()
}

/// Where a request comes from.
pub(super) fn origin(request: &Request) -> Origin {
    Origin {
        ip: request
            .remote_addr()
            .as_socket_addr()
            .map(|address| address.ip().to_string()),
        user_agent: header_text(request, header::USER_AGENT).map(str::to_owned),
    }
}

fn refuse(request: &Request, status: StatusCode, reason: impl Into<String>) -> Response {
    let error = AppError::Invalid {
        field: "request",
        reason: reason.into(),
    };
    answer::refuse(Accepted::of(request).of_refusal(), status, &error)
}

fn bad_request(request: &Request, reason: impl Into<String>) -> Response {
    refuse(request, StatusCode::BAD_REQUEST, reason)
}

/// The whole body, or the answer to one that is not JSON or too large.
async fn json_body(request: &Request, body: Body) -> Result<Vec<u8>, Response> {
    // Asking for JSON keeps simple cross-site forms out.
    let content_type = header_text(request, header::CONTENT_TYPE).unwrap_or_default();
    let is_json = content_type
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
    if !is_json {
        let reason = "the content type application/json is expected";
        return Err(refuse(request, StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    body.into_bytes_limit(LARGEST)
        .await
        .map(Into::into)
        .map_err(|_| {
            let reason = format!("the request is larger than {LARGEST} bytes or was cut off");
            refuse(request, StatusCode::PAYLOAD_TOO_LARGE, reason)
        })
}

/// Any operation, or a batch of queries and mutations; a subscription's answer is an event stream.
#[handler]
pub async fn post(request: &Request, body: Body, web: Data<&Arc<Web>>) -> Response {
    let bytes = match json_body(request, body).await {
        Ok(bytes) => bytes,
        Err(refused) => return refused,
    };
    match read::body(&bytes) {
        Ok(BatchRequest::Single(asked)) => one(request, &web, asked, &Method::POST).await,
        Ok(BatchRequest::Batch(batch)) => many(request, &web, batch).await,
        Err(reason) => bad_request(request, reason),
    }
}

/// A query in the query string, or the upgrade to a WebSocket.
#[handler]
pub async fn get(request: &Request, web: Data<&Arc<Web>>) -> Response {
    if request.headers().contains_key(header::UPGRADE) {
        return upgrade(request, &web).await;
    }
    match read::query_string(request.uri().query().unwrap_or_default()) {
        Ok(asked) => one(request, &web, asked, &Method::GET).await,
        Err(reason) => bad_request(request, reason),
    }
}

/// A persisted operation by its name.
#[handler]
pub async fn rest(
    request: &Request,
    body: Body,
    Path(name): Path<String>,
    web: Data<&Arc<Web>>,
) -> Response {
    let Some(text) = web.api.operation(&name) else {
        return refuse(request, StatusCode::NOT_FOUND, "there is no such operation");
    };
    let variables = if request.method() == Method::GET {
        let document = web.api.operation_document(&name);
        let operation = document
            .as_ref()
            .and_then(|known| limits::chosen(&known.document, None));
        let Some(operation) = operation else {
            // It is refused with the reason, as anywhere.
            let asked = async_graphql::Request::new(text);
            return one(request, &web, asked, request.method()).await;
        };
        if operation.ty == OperationType::Mutation {
            return not_by_get(request);
        }
        read::variables_of(operation, request.uri().query().unwrap_or_default())
    } else {
        match json_body(request, body).await {
            Ok(bytes) => read::variables_in(&bytes),
            Err(refused) => return refused,
        }
    };
    match variables {
        Ok(variables) => {
            let asked = async_graphql::Request::new(text).variables(variables);
            one(request, &web, asked, request.method()).await
        }
        Err(reason) => bad_request(request, reason),
    }
}

/// The answer to a mutation sent by GET.
fn not_by_get(request: &Request) -> Response {
    let reason = "a mutation is sent by POST";
    let mut refused = refuse(request, StatusCode::METHOD_NOT_ALLOWED, reason);
    refused
        .headers_mut()
        .insert(header::ALLOW, header::HeaderValue::from_static("POST"));
    refused
}

/// Executes one request in the form the client accepts.
async fn one(
    request: &Request,
    web: &Web,
    asked: async_graphql::Request,
    method: &Method,
) -> Response {
    let accepted = Accepted::of(request);
    let prepared = match web.api.prepare(asked) {
        Ok(prepared) => prepared,
        Err(refused) => return answer::write(accepted.of_refusal(), &refused),
    };
    if *method == Method::GET && prepared.kind == Some(OperationType::Mutation) {
        return not_by_get(request);
    }
    let Some(form) = accepted.of_answer(prepared.kind == Some(OperationType::Subscription)) else {
        let reason = "the answer is JSON, or an event stream for a subscription";
        return refuse(request, StatusCode::NOT_ACCEPTABLE, reason);
    };
    let viewer = web
        .auth
        .viewer_until(&web.store, header_text(request, header::AUTHORIZATION))
        .await;
    let (viewer, until) = match viewer {
        Ok((viewer, until)) => (Ok(viewer), until),
        Err(error) => (Err(error), None),
    };
    work::is_for(
        viewer
            .as_ref()
            .ok()
            .and_then(|viewer| viewer.user())
            .map(Id::uuid),
    );
    let requester = Requester {
        viewer,
        origin: origin(request),
    };
    if form == Form::Events {
        events(web, prepared, requester, until)
    } else {
        match web.api.answer(prepared.by(requester)).await {
            Answer::Text(text) => answer::write_ready(form, text),
            Answer::Response(answer) => answer::write(form, &answer),
        }
    }
}

/// Executes a batch, its requests side by side.
async fn many(request: &Request, web: &Web, batch: Vec<async_graphql::Request>) -> Response {
    let Some(form) = Accepted::of(request).of_answer(false) else {
        let reason = "the answer to a batch is JSON";
        return refuse(request, StatusCode::NOT_ACCEPTABLE, reason);
    };
    let authorization = header_text(request, header::AUTHORIZATION);
    let each = batch.into_iter().map(|asked| async {
        let viewer = web.auth.viewer(&web.store, authorization).await;
        work::is_for(
            viewer
                .as_ref()
                .ok()
                .and_then(|viewer| viewer.user())
                .map(Id::uuid),
        );
        let origin = origin(request);
        match web.api.prepare(asked) {
            Ok(prepared) => web.api.run(prepared.by(Requester { viewer, origin })).await,
            Err(refused) => *refused,
        }
    });
    answer::write_all(form, &future::join_all(each).await)
}

/// The "distinct connections" mode of the GraphQL over Server-Sent Events protocol (the graphql-sse library's document).
fn events(
    web: &Web,
    prepared: Prepared,
    requester: Requester,
    until: Option<chrono::DateTime<chrono::Utc>>,
) -> Response {
    let mut login = requester
        .viewer
        .as_ref()
        .ok()
        .and_then(|viewer| Login::of(*viewer, web));
    let answers = web.api.follow(prepared, &Session::of(requester));
    let answers = answers.map(|answer| {
        let text = match answer {
            follow::Answer::Response(text) => text.to_string(),
            follow::Answer::Refused(errors) => format!(r#"{{"errors":{errors}}}"#),
        };
        Event::message(text).event_type("next")
    });
    // A stream the server ends by itself just ends, so that the client knows there was more and comes back for it.
    let complete = stream::once(future::ready(Event::message("").event_type("complete")));
    let web = web.clone();
    let end = async move {
        tokio::select! {
            () = web.stop.cancelled() => {}
            () = socket::until(&*web.store.clock, until) => {}
            () = Login::ended(&mut login, &web) => {}
        }
    };
    let events = answers.chain(complete).take_until(Box::pin(end));
    SSE::new(events).keep_alive(KEEP_ALIVE).into_response()
}

/// The upgrade to a WebSocket.
async fn upgrade(request: &Request, web: &Arc<Web>) -> Response {
    let mut no_body = RequestBody::default();
    let Ok(upgrade) = WebSocket::from_request(request, &mut no_body).await else {
        return bad_request(request, "this is no upgrade to a WebSocket");
    };
    let Some(dialect) = Dialect::of(request) else {
        return bad_request(
            request,
            "the WebSocket protocol graphql-transport-ws or graphql-ws is expected",
        );
    };
    let (web, origin) = (Arc::clone(web), origin(request));
    let request = work::request();
    let open = move |stream| {
        // A task of its own: that of the upgrade holds what it needed for it until its end.
        tokio::spawn(socket::serve(stream, web, dialect, origin, request));
        future::ready(())
    };
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    upgrade
        .config(limits)
        .protocols(Dialect::NAMES)
        .on_upgrade(open)
        .into_response()
}

/// What a browser asks before it posts from another page; the CORS headers are added outside.
#[handler]
pub fn preflight() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// Turns what the server refuses by itself into the same form.
pub async fn failed(error: poem::Error) -> Response {
    match error.status() {
        status if status.is_client_error() => {
            let reason = status
                .canonical_reason()
                .unwrap_or("refused")
                .to_lowercase();
            let error = AppError::Invalid {
                field: "request",
                reason,
            };
            answer::refuse(Form::Json, status, &error)
        }
        status => answer::refuse(
            Form::Json,
            status,
            &AppError::internal(std::io::Error::other(error.to_string())),
        ),
    }
}
