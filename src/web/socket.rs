//! One WebSocket: graphql-transport-ws, or the legacy graphql-ws.

use std::{
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_graphql::{
    Data,
    http::{WebSocket, WebSocketProtocols, WsMessage},
};
use chrono::{DateTime, Utc};
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use poem::web::websocket::{CloseCode, Message, WebSocketStream};
use tokio_stream::wrappers::ReceiverStream;

use super::Web;
use crate::{domain::Clock, graphql::Requester, store::sessions::Origin};

/// Pause between pings; a peer that is silent for [`SILENCE`] is gone.
const PING: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(65);
/// Longest wait for a peer to take a message: a slow one is cut off, and reads its state again when it returns.
const WRITE: Duration = Duration::from_secs(10);
/// Longest wait for the first message; graphql-transport-ws calls it the connection initialisation wait time-out.
const INIT: Duration = Duration::from_secs(10);
/// The close code clients of graphql-transport-ws take for a token that has to be renewed.
const FORBIDDEN: u16 = 4403;
/// Messages read ahead.
const AHEAD: usize = 16;

/// Talks until the peer leaves, falls silent, or the server stops.
pub async fn serve(
    stream: WebSocketStream,
    web: Web,
    protocol: WebSocketProtocols,
    origin: Origin,
) {
    let (sink, source) = stream.split();
    if let Err(error) = talk(sink, source, web, protocol, origin).await {
        tracing::debug!(%error, "a socket has ended");
    }
}

async fn talk(
    mut sink: impl Sink<Message, Error = io::Error> + Unpin,
    mut source: impl Stream<Item = io::Result<Message>> + Unpin,
    web: Web,
    protocol: WebSocketProtocols,
    origin: Origin,
) -> io::Result<()> {
    let (incoming, received) = tokio::sync::mpsc::channel::<Vec<u8>>(AHEAD);
    let stop = web.stop.clone();
    let clock = web.store.clock.clone();
    // When what the peer has shown of itself ends.
    let expires = Arc::new(OnceLock::new());
    let known = Arc::clone(&expires);
    let init = async move |payload: serde_json::Value| {
        let authorization = payload
            .get("authorization")
            .or_else(|| payload.get("Authorization"));
        let authorization = authorization.and_then(serde_json::Value::as_str);
        let viewer = web.auth.viewer_until(&web.store, authorization).await;
        let viewer = viewer.map(|(viewer, until)| {
            until.map(|until| known.set(until));
            viewer
        });
        let mut data = Data::default();
        data.insert(Requester { viewer, origin });
        Ok(data)
    };
    let messages =
        WebSocket::new(web.api, ReceiverStream::new(received), protocol).on_connection_init(init);
    let mut messages = std::pin::pin!(messages);
    let opened_at = clock.now();
    let (mut heard_at, mut has_begun) = (opened_at, false);
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(WsMessage::Text(text)) => send(&mut sink, Message::text(text)).await?,
                Some(WsMessage::Close(code, reason)) => return send(&mut sink, Message::close_with(code, reason)).await,
                None => return send(&mut sink, Message::close()).await,
            },
            message = source.next() => {
                heard_at = clock.now();
                has_begun = true;
                match message.transpose()? {
                    None => return Ok(()),
                    // The answer to a close is a close; without it the peer takes this for a broken connection.
                    Some(Message::Close(_)) => return within(sink.close()).await,
                    Some(Message::Text(text)) => hand_in(&incoming, text.into_bytes())?,
                    Some(Message::Binary(bytes)) => hand_in(&incoming, bytes)?,
                    Some(Message::Ping(_) | Message::Pong(_)) => {}
                }
            }
            () = clock.sleep_until(opened_at + INIT), if !has_begun => {
                let reason = "Connection initialisation timeout";
                return send(&mut sink, Message::close_with(4408, reason)).await;
            }
            () = until(&*clock, expires.get().copied()) => {
                let reason = "the access token has expired, connect again with a new one";
                return send(&mut sink, Message::close_with(FORBIDDEN, reason)).await;
            }
            () = clock.sleep(PING) => {
                if (clock.now() - heard_at).to_std().unwrap_or_default() > SILENCE {
                    return Ok(());
                }
                send(&mut sink, Message::ping(Vec::new())).await?;
            }
            () = stop.cancelled() => {
                let reason = "the server is restarting, connect again";
                return send(&mut sink, Message::close_with(CloseCode::Away, reason)).await;
            }
        }
    }
}

/// Waits for `at`; for ever without one.
pub(super) async fn until(clock: &dyn Clock, at: Option<DateTime<Utc>>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Gives a message to the protocol; one that does not keep up with its own peer ends the socket.
fn hand_in(incoming: &tokio::sync::mpsc::Sender<Vec<u8>>, message: Vec<u8>) -> io::Result<()> {
    incoming
        .try_send(message)
        .map_err(|_| io::Error::other("too many messages at once"))
}

async fn send(
    sink: &mut (impl Sink<Message, Error = io::Error> + Unpin),
    message: Message,
) -> io::Result<()> {
    within(sink.send(message)).await
}

async fn within(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let in_time = tokio::time::timeout(WRITE, write).await;
    in_time.map_err(|_| io::Error::other("the peer does not read"))?
}
