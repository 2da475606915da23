//! HTTP: the GraphQL endpoint with its sockets, the console, and the health checks.

mod console;
mod graphql;
mod health;
mod login;
mod machine_console;
mod metrics;
mod socket;

use std::{net::SocketAddr, sync::Arc, time::Duration};

pub use console::IS_EMBEDDED as IS_CONSOLE_EMBEDDED;
use poem::{
    EndpointExt as _, Route, Server, get,
    listener::{Acceptor as _, Listener as _, TcpAcceptor, TcpListener},
    middleware::{Compression, Cors, SetHeader},
};
use tokio_util::sync::CancellationToken;

use crate::{
    auth::Auth,
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
        let stop = self.stop.clone();
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
            .at("/metrics", get(metrics::text));
        if self.console {
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
            .data(self)
            .catch_all_error(graphql::failed);
        Server::new_with_acceptor(bound.acceptor)
            .run_with_graceful_shutdown(app, stop.cancelled_owned(), Some(CLOSING))
            .await
    }

    /// Serves what a worker alone has to show, until the stop.
    pub async fn serve_meters(self, bound: Bound) -> std::io::Result<()> {
        let stop = self.stop.clone();
        let app = Route::new()
            .at("/healthz", get(health::alive))
            .at("/readyz", get(health::ready))
            .at("/metrics", get(metrics::text))
            .data(self)
            .catch_all_error(graphql::failed);
        Server::new_with_acceptor(bound.acceptor)
            .run_with_graceful_shutdown(app, stop.cancelled_owned(), Some(CLOSING))
            .await
    }
}
