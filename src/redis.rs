//! How this service talks to Redis: it reconnects for ever and no call waits long.

mod certificate;

use std::time::Duration;

use fred::{
    clients::{Client, Pool, SubscriberClient, WithOptions},
    interfaces::ClientLike as _,
    types::{
        Builder,
        config::{Config, Options, ReconnectPolicy},
    },
};

use crate::{
    config::{ANY_CERTIFICATE, Secret},
    error::TransportError,
};

/// Longest wait for an answer to a command that does not block.
const COMMAND: Duration = Duration::from_secs(2);

impl From<fred::error::Error> for TransportError {
    fn from(error: fred::error::Error) -> Self {
        Self(format!("Redis: {error}"))
    }
}

/// How long a start waits for its first connection.
const FIRST: Duration = Duration::from_secs(1);

fn builder(url: &Secret) -> Result<Builder, TransportError> {
    // The ending is ours and not the library's.
    let (plain, takes_any) = match url.expose().strip_suffix(ANY_CERTIFICATE) {
        Some(plain) => (plain, true),
        None => (url.expose(), false),
    };
    let mut config = Config::from_url(plain)?;
    if takes_any && config.tls.is_some() {
        config.tls = Some(certificate::any()?.into());
    }
    // A Redis that is away at the start is a slower start, not a failed one.
    config.fail_fast = false;
    let mut builder = Builder::from_config(config);
    builder
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 2_000, 2))
        .with_connection_config(|connection| {
            connection.connection_timeout = Duration::from_secs(3);
            connection.internal_command_timeout = Duration::from_secs(3);
            connection.max_command_attempts = 1;
            connection.tcp.nodelay = Some(true);
        })
        .with_performance_config(|performance| performance.default_command_timeout = COMMAND);
    Ok(builder)
}

/// Clients for ordinary commands. A Redis that answers is connected on return; one that is away, later.
pub async fn pool(url: &Secret, size: usize) -> Result<Pool, TransportError> {
    let pool = builder(url)?.build_pool(size)?;
    pool.connect_pool();
    let _ = tokio::time::timeout(FIRST, pool.wait_for_connect()).await;
    Ok(pool)
}

/// A client for blocking commands, which would hold up the others.
pub async fn blocking(url: &Secret) -> Result<Client, TransportError> {
    let client = builder(url)?
        .with_performance_config(|p| p.default_command_timeout = Duration::ZERO)
        .build()?;
    client.connect();
    let _ = tokio::time::timeout(FIRST, client.wait_for_connect()).await;
    Ok(client)
}

/// A client that listens; the caller connects it once it hears its reconnects.
pub fn subscriber(url: &Secret) -> Result<SubscriberClient, TransportError> {
    Ok(builder(url)?.build_subscriber_client()?)
}

/// `client` with commands that fail at once while there is no connection. Waiting ones would pile up, and be carried
/// out later for nobody.
pub fn now_or_never(client: &Client) -> WithOptions<Client> {
    client.with_options(&Options {
        fail_fast: true,
        max_attempts: Some(1),
        ..Options::default()
    })
}

/// Connects once; for `doctor`, to which it counts why that fails. Clients that try for ever do not tell.
pub async fn reach(url: &Secret) -> Result<(), TransportError> {
    let client = builder(url)?
        .with_config(|config| config.fail_fast = true)
        .build()?;
    let reached = tokio::time::timeout(COMMAND, client.init()).await;
    let reached = reached.map_err(|_| TransportError("Redis: no answer in 2 s".to_owned()))?;
    let driver = reached?;
    let answer = client.ping::<String>(None).await;
    driver.abort();
    Ok(answer.map(|_| ())?)
}

/// Asks the server for an answer now; for the readiness check.
pub async fn ping(pool: &Pool) -> Result<(), TransportError> {
    let answer =
        tokio::time::timeout(COMMAND, now_or_never(pool.next()).ping::<String>(None)).await;
    answer.map_err(|_| TransportError("Redis: no answer in 2 s".to_owned()))??;
    Ok(())
}
