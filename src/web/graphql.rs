//! GraphQL over HTTP: POST with JSON, an event stream for subscriptions, and the upgrade to a WebSocket.

use async_graphql::{
    Executor as _, ServerError, http::ALL_WEBSOCKET_PROTOCOLS, parser::types::OperationType,
};
use async_graphql_poem::GraphQLProtocol;
use futures_util::{StreamExt as _, stream};
use poem::{
    Body, FromRequest as _, IntoResponse, Request, RequestBody, Response, handler,
    http::{StatusCode, header},
    web::{
        Data,
        sse::{Event, SSE},
        websocket::{WebSocket, WebSocketConfig},
    },
};

use super::{Web, socket};
use crate::{
    error::AppError,
    graphql::{Requester, error::Coded},
    store::sessions::Origin,
};

/// Largest request body and largest message on a socket, in bytes.
const LARGEST: usize = 1024 * 1024;
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

/// A GraphQL answer without data.
fn refuse(status: StatusCode, error: &AppError) -> Response {
    let response = async_graphql::Response::from_errors(vec![ServerError::from(Coded(error))]);
    json(status, &response)
}

fn json(status: StatusCode, response: &async_graphql::Response) -> Response {
    match serde_json::to_vec(response) {
        Ok(body) => Response::builder()
            .status(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn bad_request(reason: &str) -> Response {
    refuse(
        StatusCode::BAD_REQUEST,
        &AppError::Invalid {
            field: "request",
            reason: reason.to_owned(),
        },
    )
}

/// A query or a mutation; a subscription too, when the client accepts an event stream.
#[handler]
pub async fn post(request: &Request, body: Body, web: Data<&Web>) -> Response {
    // Asking for JSON keeps simple cross-site forms out.
    let content_type = header_text(request, header::CONTENT_TYPE).unwrap_or_default();
    if !content_type
        .split(';')
        .next()
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    {
        let reason = "the content type application/json is expected".to_owned();
        return refuse(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &AppError::Invalid {
                field: "request",
                reason,
            },
        );
    }
    let Ok(bytes) = body.into_bytes_limit(LARGEST).await else {
        let reason = format!("the request is larger than {LARGEST} bytes or was cut off");
        return refuse(
            StatusCode::PAYLOAD_TOO_LARGE,
            &AppError::Invalid {
                field: "request",
                reason,
            },
        );
    };
    // A list would be read as the object's fields in order.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return bad_request("one GraphQL request is expected, a JSON object with a query");
    }
    let asked: async_graphql::Request = match serde_json::from_slice(&bytes) {
        Ok(asked) => asked,
        Err(error) => return bad_request(&format!("not a GraphQL request in JSON: {error}")),
    };
    let viewer = web
        .auth
        .viewer(&web.store, header_text(request, header::AUTHORIZATION))
        .await;
    let mut asked = asked.data(Requester {
        viewer,
        origin: origin(request),
    });
    let accept = header_text(request, header::ACCEPT).unwrap_or_default();
    if wants_stream(accept, &mut asked) {
        events(&web, asked)
    } else {
        json(StatusCode::OK, &web.api.execute(asked).await)
    }
}

/// Whether the answer is an event stream: when nothing else is accepted, or when it is accepted for a subscription.
fn wants_stream(accept: &str, asked: &mut async_graphql::Request) -> bool {
    if !accept.contains("text/event-stream") {
        return false;
    }
    let accepts_json = [
        "application/json",
        "application/graphql-response+json",
        "*/*",
    ];
    !accepts_json.iter().any(|kind| accept.contains(kind)) || is_subscription(asked)
}

fn is_subscription(asked: &mut async_graphql::Request) -> bool {
    let name = asked.operation_name.clone();
    let Ok(document) = asked.parsed_query() else {
        return false;
    };
    let mut operations = document.operations.iter();
    let chosen = operations.find(|(known, _)| {
        name.is_none() || known.map(async_graphql::Name::as_str) == name.as_deref()
    });
    chosen.is_some_and(|(_, operation)| operation.node.ty == OperationType::Subscription)
}

/// The "distinct connections" mode of the GraphQL over Server-Sent Events protocol (the graphql-sse library's document).
fn events(web: &Web, asked: async_graphql::Request) -> Response {
    let answers = web
        .api
        .stream(asked)
        .map(|answer| serde_json::to_string(&answer).unwrap_or_default());
    let answers = answers.map(|text| Event::message(text).event_type("next"));
    let complete = stream::once(std::future::ready(
        Event::message("").event_type("complete"),
    ));
    let events = answers
        .take_until(web.stop.clone().cancelled_owned())
        .chain(complete);
    SSE::new(events).keep_alive(KEEP_ALIVE).into_response()
}

/// The upgrade to a WebSocket; a plain GET is told what to send instead.
#[handler]
pub async fn read(request: &Request, web: Data<&Web>) -> Response {
    let mut no_body = RequestBody::default();
    let Ok(upgrade) = WebSocket::from_request(request, &mut no_body).await else {
        let hint = "send a POST with JSON, or open a WebSocket; the console is at /";
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            &AppError::Invalid {
                field: "request",
                reason: hint.to_owned(),
            },
        );
    };
    let Ok(GraphQLProtocol(protocol)) = GraphQLProtocol::from_request(request, &mut no_body).await
    else {
        return bad_request(
            "the WebSocket protocol graphql-transport-ws or graphql-ws is expected",
        );
    };
    let (web, origin) = (web.clone(), origin(request));
    let open = move |stream| socket::serve(stream, web, protocol, origin);
    let limits = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    upgrade
        .config(limits)
        .protocols(ALL_WEBSOCKET_PROTOCOLS)
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
            refuse(
                status,
                &AppError::Invalid {
                    field: "request",
                    reason,
                },
            )
        }
        status => refuse(
            status,
            &AppError::internal(std::io::Error::other(error.to_string())),
        ),
    }
}
