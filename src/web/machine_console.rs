//! The console of a virtual machine over a WebSocket: bytes of its engine's socket, both ways.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use poem::{
    FromRequest as _, IntoResponse as _, Request, RequestBody, Response, handler,
    http::{StatusCode, header},
    web::{
        Data,
        websocket::{Message, WebSocket, WebSocketConfig, WebSocketStream},
    },
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Web, login::Login};
use crate::{
    domain::policy::Viewer,
    error::AppError,
    providers::{Address, Console},
};

/// The sub-protocol; the token stands behind it, since it must not stand in the address.
const PROTOCOL: &str = "console";
/// Most bytes of one message, either way.
const MOST: usize = 64 * 1024;
/// Longest wait for a peer to take a message, or for the machine to take what is typed.
const WRITE: Duration = Duration::from_secs(10);
/// Pause between pings.
const PING: Duration = Duration::from_secs(20);

/// Opens the console a token stands for. A token that is not good for one is told of by the close code 4401, a console that
/// cannot be reached by 4503, so that a browser hears of either.
#[handler]
pub async fn open(request: &Request, web: Data<&Arc<Web>>) -> Response {
    let mut no_body = RequestBody::default();
    let Ok(upgrade) = WebSocket::from_request(request, &mut no_body).await else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    let asked = request
        .header(header::SEC_WEBSOCKET_PROTOCOL)
        .unwrap_or_default();
    let mut asked = asked.split(',').map(str::trim);
    let token = asked
        .next()
        .filter(|name| *name == PROTOCOL)
        .and_then(|_| asked.next());
    let (web, token) = (web.clone(), token.unwrap_or_default().to_owned());
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MOST))
        .max_frame_size(Some(MOST));
    upgrade
        .config(limits)
        .protocols([PROTOCOL])
        .on_upgrade(move |stream| serve(stream, web, token))
        .into_response()
}

async fn serve(mut stream: WebSocketStream, web: Arc<Web>, token: String) {
    let (code, reason) = match enter(&web, &token).await {
        Ok((console, viewer)) => talk(&mut stream, &web, console, viewer).await,
        Err(error @ AppError::Unauthenticated(_)) => (4401, error.to_string()),
        Err(error) => (4503, error.to_string()),
    };
    let close = stream.send(Message::close_with(code, reason));
    if tokio::time::timeout(WRITE, close).await.is_err() {
        tracing::debug!("a console's peer has not taken the end of it");
    }
}

/// Spends the token and connects.
async fn enter(web: &Web, token: &str) -> Result<(Box<dyn Console>, Viewer), AppError> {
    const AWAY: AppError = AppError::Unavailable {
        what: "the console",
    };
    let (row, kind, viewer) = web.services.enter_console(token).await?;
    let address = Address {
        provider: row.provider.clone().ok_or(AWAY)?,
        endpoint: row.endpoint.clone(),
    };
    let engine = web.machines.at(&address).ok_or(AWAY)?;
    let console = engine.console(row.id(), kind).await;
    let console = console.inspect_err(|error| {
        tracing::warn!(%error, machine = %row.id(), "its console cannot be opened");
    });
    Ok((console.map_err(|_| AWAY)?, viewer))
}

/// Carries bytes until one side ends, the login does, or the server stops; the close code and reason.
async fn talk(
    stream: &mut WebSocketStream,
    web: &Web,
    mut console: Box<dyn Console>,
    viewer: Viewer,
) -> (u16, String) {
    let end = |code, reason: &str| (code, reason.to_owned());
    let mut login = Login::of(viewer, web);
    let mut over = std::pin::pin!(Login::ended(&mut login, web));
    let mut buffer = vec![0; 16 * 1024];
    loop {
        tokio::select! {
            biased;
            () = web.stop.cancelled() => return end(1001, "the server is restarting, connect again"),
            () = &mut over => return end(4403, "the session is over, log in again"),
            typed = stream.next() => {
                let bytes = match typed {
                    Some(Ok(Message::Binary(bytes))) => bytes,
                    Some(Ok(Message::Text(text))) => text.into_bytes(),
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return end(1000, ""),
                };
                let written = tokio::time::timeout(WRITE, console.write_all(&bytes)).await;
                if !matches!(written, Ok(Ok(()))) {
                    return end(4503, "the machine does not take what is typed");
                }
            }
            said = console.read(&mut buffer) => match said {
                Ok(count @ 1..) => {
                    let message = Message::binary(buffer[..count].to_vec());
                    if !matches!(tokio::time::timeout(WRITE, stream.send(message)).await, Ok(Ok(()))) {
                        return end(1000, "");
                    }
                }
                Ok(0) | Err(_) => return end(1000, "the machine has ended"),
            },
            () = web.store.clock.sleep(PING) => {
                let ping = stream.send(Message::ping(Vec::new()));
                if !matches!(tokio::time::timeout(WRITE, ping).await, Ok(Ok(()))) {
                    return end(1000, "");
                }
            }
        }
    }
}
