//! Clients of graphql-transport-ws with small buffers.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use futures_util::{SinkExt as _, StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

use crate::server::Server;

/// Sockets opened at once.
const AT_ONCE: usize = 64;
/// Sockets from one source address; each address has some 28 000 ports.
const FROM_ONE_ADDRESS: usize = 5000;

pub const WATCH: &str =
    "subscription($id: ID!) { taskUpdated(id: $id) { id state version progress progressMessage } }";

/// The same by the id alone, as any row can be watched.
pub const WATCH_NODE: &str = "subscription($id: ID!) { node(id: $id) { ... on Task { id state version progress progressMessage } } }";

pub struct Client(WebSocketStream<TcpStream>);

impl Client {
    pub async fn open(address: SocketAddr, token: &str, number: usize) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        let host = u8::try_from(2 + number / FROM_ONE_ADDRESS).unwrap();
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, host));
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        let stream = socket.connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = format!("ws://{address}/graphql")
            .into_client_request()
            .unwrap();
        request.headers_mut().insert(
            "sec-websocket-protocol",
            "graphql-transport-ws".parse().unwrap(),
        );
        let config = WebSocketConfig::default()
            .read_buffer_size(1024)
            .write_buffer_size(0);
        let (stream, _) = client_async_with_config(request, stream, Some(config))
            .await
            .unwrap();
        let mut client = Self(stream);
        let payload = if token.is_empty() {
            json!({})
        } else {
            json!({ "authorization": format!("Bearer {token}") })
        };
        client
            .say(&json!({ "type": "connection_init", "payload": payload }))
            .await;
        assert_eq!(client.hear().await["type"], "connection_ack");
        client
    }

    pub async fn say(&mut self, message: &Value) {
        self.0
            .send(Message::text(message.to_string()))
            .await
            .unwrap();
    }

    async fn text(&mut self) -> Option<String> {
        loop {
            match self.0.next().await?.ok()? {
                Message::Text(text) => return Some(text.to_string()),
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    pub async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.text().await.expect("an open socket")).unwrap()
    }

    /// The data of a query or a mutation.
    pub async fn ask(&mut self, query: &str, variables: Value) -> Value {
        self.say(&json!({ "type": "subscribe", "id": "ask", "payload": { "query": query, "variables": variables } }))
            .await;
        let answer = self.hear().await;
        assert!(answer["payload"]["errors"].is_null(), "{answer}");
        assert_eq!(self.hear().await["type"], "complete");
        answer["payload"]["data"].clone()
    }
}

/// When an event has reached each socket.
pub struct Delivery {
    pub arrivals: Vec<Instant>,
}

/// Sockets with live operations, and what they have heard.
pub struct Crowd {
    heard: mpsc::Receiver<(usize, Instant)>,
    sender: mpsc::Sender<(usize, Instant)>,
    query: &'static str,
    sockets: usize,
    operations: usize,
}

impl Crowd {
    pub fn new(query: &'static str) -> Self {
        let (sender, heard) = mpsc::channel(64 * 1024);
        Self {
            heard,
            sender,
            query,
            sockets: 0,
            operations: 0,
        }
    }

    /// Opens `sockets` more with `each` operations on one socket, the operations going round the tasks.
    pub async fn grow(
        &mut self,
        server: &Server,
        token: &str,
        tasks: &[String],
        sockets: usize,
        each: usize,
    ) {
        let (address, query) = (server.address, self.query);
        let tasks: Arc<[String]> = tasks.into();
        let opened = stream::iter(self.sockets..self.sockets + sockets).map(|number| {
            let (sender, tasks) = (self.sender.clone(), Arc::clone(&tasks));
            let token = token.to_owned();
            async move {
                let mut client = Client::open(address, &token, number).await;
                for nth in 0..each {
                    let id = &tasks[(number * each + nth) % tasks.len()];
                    client
                        .say(&json!({ "type": "subscribe", "id": nth.to_string(), "payload": { "query": query, "variables": { "id": id } } }))
                        .await;
                }
                for _ in 0..each {
                    assert_eq!(client.hear().await["type"], "next");
                }
                tokio::spawn(async move {
                    while let Some(text) = client.text().await {
                        let now = Instant::now();
                        if let Some(event) = event_in(&text)
                            && sender.send((event, now)).await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        opened.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        self.sockets += sockets;
        self.operations += sockets * each;
    }

    /// Waits until every operation has heard of `event`.
    pub async fn all_have(&mut self, event: usize) -> Delivery {
        let operations = self.operations;
        self.have(event, operations).await
    }

    /// The next event that reaches a socket, and when.
    pub async fn next(&mut self) -> (usize, Instant) {
        self.heard.recv().await.expect("open sockets")
    }

    pub async fn have(&mut self, event: usize, operations: usize) -> Delivery {
        let mut arrivals = Vec::with_capacity(operations);
        while arrivals.len() < operations {
            let (heard, at) = self.next().await;
            if heard == event {
                arrivals.push(at);
            }
        }
        Delivery { arrivals }
    }
}

/// The number between the marks of an event's message.
fn event_in(text: &str) -> Option<usize> {
    text.split('#').nth(1)?.parse().ok()
}
