//! Sends bytes to an address: what goes to the receivers of traces and reports.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

/// What is read of an answer, in bytes; it is read so that the connection can be used again.
const ANSWER: usize = 64 * 1024;

/// An address with the headers of what is sent there.
pub struct Post {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    address: String,
    headers: HeaderMap,
}

/// Why something was not taken.
#[derive(Debug)]
pub enum Failed {
    /// The receiver does not take it, now or later: the status.
    Refused(u16),
    /// It is away or asks for a pause; for how long, where it says so.
    Later(String, Option<Duration>),
    TimedOut,
}

impl Post {
    /// Secret headers stay out of what the client says of itself.
    pub fn to<'a>(
        address: &str,
        content_type: &'static str,
        more: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        let agent = concat!("main-webserver/", env!("CARGO_PKG_VERSION"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
        for (name, value) in more {
            if let (Ok(name), Ok(mut value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_str(value))
            {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector()),
            address: address.to_owned(),
            headers,
        }
    }

    /// Sends `body`, once, and waits for its answer within a limit.
    pub async fn send(&self, body: Bytes, limit: Duration) -> Result<(), Failed> {
        let sent = tokio::time::timeout(limit, self.send_now(body)).await;
        sent.map_err(|_| Failed::TimedOut)?
    }

    async fn send_now(&self, body: Bytes) -> Result<(), Failed> {
        let later = |error: &dyn std::fmt::Display| Failed::Later(error.to_string(), None);
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.address)
            .body(Full::new(body))
            .map_err(|error| later(&error))?;
        *request.headers_mut() = self.headers.clone();
        let answer = self.client.request(request).await;
        let answer = answer.map_err(|error| later(&error))?;
        let (status, pause) = (answer.status(), pause(answer.headers()));
        let _ = Limited::new(answer.into_body(), ANSWER).collect().await;
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Err(Failed::Later(status.to_string(), pause)),
            status => Err(Failed::Refused(status.as_u16())),
        }
    }
}

/// `retry-after`, in seconds.
fn pause(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
}

/// Connections by HTTP and HTTPS, trusting whom the machine trusts.
fn connector() -> HttpsConnector<HttpConnector> {
    let provider = ring::default_provider();
    let builder = HttpsConnectorBuilder::new().with_provider_and_native_roots(provider.clone());
    let builder = match builder {
        Ok(builder) => builder,
        Err(error) => {
            tracing::warn!(%error, "this machine trusts nobody; nothing can be sent by HTTPS");
            #[expect(
                clippy::expect_used,
                reason = "the provider has what the default versions need"
            )]
            let trusting_nobody = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .expect("the versions are the provider's own")
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
            HttpsConnectorBuilder::new().with_tls_config(trusting_nobody)
        }
    };
    builder.https_or_http().enable_http1().build()
}
