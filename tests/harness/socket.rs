//! A graphql-transport-ws client.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::PATIENCE;

/// One socket with at most one operation.
pub struct Socket {
    inner: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// Everything that arrived, to be shown when a wait fails.
    seen: Vec<String>,
}

impl Socket {
    /// Connects and waits for the acknowledgement.
    pub async fn open(address: SocketAddr, token: Option<&str>) -> Self {
        let mut socket = Self::connect(address, "graphql-transport-ws").await;
        let payload = token.map_or_else(
            || json!({}),
            |token| json!({ "authorization": format!("Bearer {token}") }),
        );
        socket
            .say(json!({ "type": "connection_init", "payload": payload }))
            .await;
        assert_eq!(socket.hear().await.unwrap()["type"], "connection_ack");
        socket
    }

    pub async fn connect(address: SocketAddr, protocol: &str) -> Self {
        let mut request = format!("ws://{address}/graphql")
            .into_client_request()
            .unwrap();
        request
            .headers_mut()
            .insert("sec-websocket-protocol", protocol.parse().unwrap());
        let (inner, answer) = connect_async(request).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], protocol);
        Self {
            inner,
            seen: Vec::new(),
        }
    }

    pub async fn say(&mut self, message: Value) {
        self.inner
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    pub async fn subscribe(&mut self, query: &str) {
        self.say(json!({ "type": "subscribe", "id": "1", "payload": { "query": query } }))
            .await;
    }

    /// The next protocol message; `Err` with code and reason when the server closes.
    pub async fn hear(&mut self) -> Result<Value, (u16, String)> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.inner.next()).await;
            let message = message.unwrap_or_else(|_| panic!("silence after {:#?}", self.seen));
            match message {
                Some(Ok(Message::Text(text))) => {
                    self.seen.push(text.to_string());
                    return Ok(serde_json::from_str(&text).unwrap());
                }
                Some(Ok(Message::Close(frame))) => {
                    return Err(frame
                        .map(|frame| (frame.code.into(), frame.reason.to_string()))
                        .unwrap_or_default());
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err((1006, error.to_string())),
                None => return Err((1006, "the connection ended".to_owned())),
            }
        }
    }

    /// Closes as a client should; what the server answers.
    pub async fn close(mut self) -> (u16, String) {
        let frame = CloseFrame {
            code: CloseCode::Normal,
            reason: "done".into(),
        };
        self.inner.close(Some(frame)).await.unwrap();
        self.hear().await.expect_err("an answer to the close")
    }

    /// The next frame of the subscription; `None` when it is complete.
    pub async fn next(&mut self) -> Option<Value> {
        let message = self.hear().await.unwrap();
        match message["type"].as_str() {
            Some("next") => Some(message["payload"].clone()),
            Some("complete") => None,
            other => panic!("unexpected {other:?} in {message}"),
        }
    }

    /// Every frame's value at `pointer` until the subscription is complete.
    pub async fn rest(&mut self, pointer: &str) -> Vec<Value> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(
                frame["data"]
                    .pointer(pointer)
                    .unwrap_or_else(|| panic!("no {pointer} in {frame}"))
                    .clone(),
            );
        }
        frames
    }
}
