//! HTTP: the GraphQL endpoint with its sockets, the console, and the health checks.

mod console;
mod graphql;
mod health;
mod login;
mod machine_console;
mod metrics;
mod observe;
mod socket;
mod version;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use console::IS_EMBEDDED as IS_CONSOLE_EMBEDDED;
use observe::Observe;
pub use observe::Sample;
use poem::{
    Endpoint as _, EndpointExt as _, Response, Route, Server, get,
    http::{HeaderValue, StatusCode, header},
    listener::{Acceptor as _, Listener as _, TcpAcceptor, TcpListener},
    middleware::{Compression, Cors, SetHeader},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Auth,
    config::Environment,
    graphql::Api,
    live::EventBus,
    providers::{Engines, Hypervisor},
    services::{Services, machines::CONSOLE_PATH},
    store::Store,
    telemetry::Meters,
};

/// How long open requests may take after a stop.
const CLOSING: Duration = Duration::from_secs(10);

/// What the routes work with.
#[derive(Clone)]
pub struct Web {
    pub api: Api,
    pub auth: Auth,
    pub store: Store,
    pub bus: Arc<dyn EventBus>,
    pub services: Services,
    /// The engines whose consoles are opened.
    pub machines: Engines<dyn Hypervisor>,
    pub meters: Arc<Meters>,
    /// Whether the console is served.
    pub console: bool,
    /// Which deployment this is.
    pub environment: Environment,
    /// Of the ordinary requests, those that get a line in the log.
    pub log_sample: Arc<Sample>,
    /// Whether balancers are told to look elsewhere, before the stop.
    pub leaving: CancellationToken,
    /// Ends sockets and streams, with a reason, when the server stops.
    pub stop: CancellationToken,
}

/// A bound port that nobody serves yet.
pub struct Bound {
    acceptor: TcpAcceptor,
    pub address: SocketAddr,
}

/// Takes the port.
pub async fn bind(address: SocketAddr) -> std::io::Result<Bound> {
    let acceptor = TcpListener::bind(address).into_acceptor().await?;
    let local = acceptor
        .local_addr()
        .first()
        .and_then(|address| address.as_socket_addr().copied());
    Ok(Bound {
        acceptor,
        address: local.unwrap_or(address),
    })
}

impl Web {
    /// Serves until the stop, then lets open requests finish.
    pub async fn serve(self, bound: Bound) -> std::io::Result<()> {
        let (leaving, stop) = (self.leaving.clone(), self.stop.clone());
        // Every request gets it, and it is many pointers.
        let web = Arc::new(self);
        let mut app = Route::new()
            .at(
                "/graphql",
                get(graphql::get)
                    .post(graphql::post)
                    .options(graphql::preflight),
            )
            .at(
                "/api/rest/:name",
                get(graphql::rest)
                    .post(graphql::rest)
                    .options(graphql::preflight),
            )
            .at(CONSOLE_PATH, get(machine_console::open))
            .at("/healthz", get(health::alive))
            .at("/readyz", get(health::ready))
            .at("/metrics", get(metrics::text))
            .at("/version", get(version::show));
        if web.console {
            app = app
                .at("/", get(console::page))
                .at("/assets/*path", get(console::asset));
        }
        let app = app
            .with(Compression::new())
            .with(Cors::new())
            .with(
                SetHeader::new()
                    .overriding("x-content-type-options", "nosniff")
                    .overriding("x-frame-options", "DENY")
                    .overriding("referrer-policy", "no-referrer"),
            )
            .data(Arc::clone(&web))
            .catch_all_error(graphql::failed)
            .with(Observe(web))
            .map_to_response()
            .around(move |endpoint, request| {
                let leaving = leaving.clone();
                async move { Ok(closing(endpoint.call(request).await?, &leaving)) }
            });
        Server::new_with_acceptor(bound.acceptor)
            .run_with_graceful_shutdown(app, stop.cancelled_owned(), Some(CLOSING))
            .await
    }

    /// Serves what a worker alone has to show, until the stop.
    pub async fn serve_meters(self, bound: Bound) -> std::io::Result<()> {
        let stop = self.stop.clone();
        let web = Arc::new(self);
        let app = Route::new()
            .at("/healthz", get(health::alive))
            .at("/readyz", get(health::ready))
            .at("/metrics", get(metrics::text))
            .at("/version", get(version::show))
            .data(Arc::clone(&web))
            .catch_all_error(graphql::failed)
            .with(Observe(web));
        Server::new_with_acceptor(bound.acceptor)
            .run_with_graceful_shutdown(app, stop.cancelled_owned(), Some(CLOSING))
            .await
    }
}

/// A server that is on its way out asks clients to come back by another connection, which the balancer leads elsewhere.
fn closing(mut response: Response, leaving: &CancellationToken) -> Response {
    if leaving.is_cancelled() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
