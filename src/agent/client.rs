//! One connection to the server: graphql-transport-ws (the graphql-ws library's PROTOCOL.md) over a WebSocket, with any
//! number of operations at once.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, http::HeaderValue},
};
use tokio_util::task::AbortOnDropHandle;

use super::{address::Address, operations::Operation};
use crate::{config::Secret, domain::Clock};

/// Longest wait for a connection and its acknowledgement.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest wait for the answer to an operation.
const ANSWER: Duration = Duration::from_secs(15);
/// Longest wait for the peer to take a message.
const WRITE: Duration = Duration::from_secs(10);
/// Pause between pings; a peer that is silent for [`SILENCE`] is gone.
const PING: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(25);
/// Most operations that wait to be sent.
const QUEUE: usize = 64;
/// Most answers of a subscription that wait to be read.
const ANSWERS: usize = 16;

/// Why a connection is over.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Ended {
    #[error("the server closed the connection with {code}: {reason}")]
    Closed { code: u16, reason: String },
    #[error("{0}")]
    Broken(String),
    #[error("the server is silent")]
    Silent,
}

/// Why an operation has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CallError {
    #[error("{code}: {message}")]
    Refused { code: String, message: String },
    #[error("no answer in {} s", ANSWER.as_secs())]
    TimedOut,
    #[error(transparent)]
    Ended(#[from] Ended),
    #[error("an answer cannot be read: {0}")]
    Unreadable(String),
}

impl CallError {
    /// Whether what was shown does not count: trying again with the same is of no use.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { code, .. } => ["UNAUTHENTICATED", "FORBIDDEN"].contains(&&**code),
            // graphql-transport-ws: unauthorised, forbidden.
            Self::Ended(Ended::Closed { code, .. }) => [4401, 4403].contains(code),
            Self::TimedOut | Self::Ended(_) | Self::Unreadable(_) => false,
        }
    }

    /// Whether the server has answered, and the same may succeed in a while.
    pub fn may_pass(&self) -> bool {
        let codes = ["UNAVAILABLE", "CONFLICT", "INTERNAL", "RATE_LIMITED"];
        matches!(self, Self::Refused { code, .. } if codes.contains(&&**code))
    }

    /// Whether the server knows nothing of what it is about, or not yet.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "NOT_FOUND")
    }

    /// Whether the connection is of no use any more.
    pub const fn is_over(&self) -> bool {
        match self {
            Self::TimedOut | Self::Ended(_) => true,
            Self::Refused { .. } | Self::Unreadable(_) => false,
        }
    }
}

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A connection that has been acknowledged. It ends with this value.
pub struct Client {
    asks: mpsc::Sender<Ask>,
    ended: watch::Receiver<Option<Ended>>,
    next_id: AtomicU64,
    _driver: AbortOnDropHandle<()>,
}

struct Ask {
    id: String,
    message: String,
    answers: mpsc::Sender<Value>,
}

impl Client {
    /// Connects; as nobody without a credential.
    pub async fn connect(
        address: &Address,
        credential: Option<&Secret>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, Ended> {
        // Boxed, because what makes a connection is much larger than what keeps it.
        let open = tokio::time::timeout(CONNECT, Box::pin(open(address, credential)));
        let stream = open
            .await
            .map_err(|_| Ended::Broken(format!("no connection in {} s", CONNECT.as_secs())))??;
        let (asks, asked) = mpsc::channel(QUEUE);
        let (end, ended) = watch::channel(None);
        let driver = Driver {
            stream,
            asked,
            waiting: HashMap::new(),
            heard_at: clock.now(),
            clock: Arc::clone(clock),
        };
        let driver = tokio::spawn(driver.run(end));
        Ok(Self {
            asks,
            ended,
            next_id: AtomicU64::new(1),
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// Sends a query or a mutation and waits for its answer.
    pub async fn call<T: DeserializeOwned>(
        &self,
        operation: Operation,
        input: Value,
    ) -> Result<T, CallError> {
        let work = async {
            let mut answers = self.begin(operation, input).await?;
            let answer = answers.recv().await.ok_or_else(|| self.why())?;
            read(operation, answer)
        };
        let answer = tokio::time::timeout(ANSWER, work);
        answer.await.map_err(|_| CallError::TimedOut)?
    }

    /// Starts a subscription.
    pub async fn subscribe(&self, operation: Operation) -> Result<Subscription<'_>, CallError> {
        let answers = self.begin(operation, Value::Null).await?;
        Ok(Subscription {
            client: self,
            operation,
            answers,
        })
    }

    async fn begin(
        &self,
        operation: Operation,
        input: Value,
    ) -> Result<mpsc::Receiver<Value>, CallError> {
        let (answers, receiver) = mpsc::channel(ANSWERS);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed).to_string();
        let variables = match input {
            Value::Null => json!({}),
            input => json!({ "input": input }),
        };
        let payload = json!({ "query": operation.text, "variables": variables });
        let message = json!({ "type": "subscribe", "id": id, "payload": payload }).to_string();
        let ask = Ask {
            id,
            message,
            answers,
        };
        self.asks.send(ask).await.map_err(|_| self.why())?;
        Ok(receiver)
    }

    fn why(&self) -> CallError {
        let ended = self.ended.borrow().clone();
        ended
            .unwrap_or_else(|| Ended::Broken("the operation ended without an answer".to_owned()))
            .into()
    }
}

/// A subscription under way. An answer for which there is no room is dropped: it is for those of which the next answer
/// has all that counts.
pub struct Subscription<'a> {
    client: &'a Client,
    operation: Operation,
    answers: mpsc::Receiver<Value>,
}

impl Subscription<'_> {
    /// The next answer.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<T, CallError> {
        let answer = self.answers.recv().await;
        read(self.operation, answer.ok_or_else(|| self.client.why())?)
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    data: Value,
    #[serde(default)]
    errors: Vec<GraphqlError>,
}

#[derive(Deserialize)]
struct GraphqlError {
    message: String,
    #[serde(default)]
    extensions: Extensions,
}

#[derive(Deserialize, Default)]
struct Extensions {
    #[serde(default)]
    code: String,
}

fn read<T: DeserializeOwned>(operation: Operation, answer: Value) -> Result<T, CallError> {
    let unreadable = |error: serde_json::Error| CallError::Unreadable(error.to_string());
    let Answer { mut data, errors } = serde_json::from_value(answer).map_err(unreadable)?;
    if let Some(error) = errors.into_iter().next() {
        return Err(CallError::Refused {
            code: error.extensions.code,
            message: error.message,
        });
    }
    serde_json::from_value(data[operation.field].take()).map_err(unreadable)
}

impl From<tungstenite::Error> for Ended {
    fn from(error: tungstenite::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Makes the connection and introduces the agent.
async fn open(address: &Address, credential: Option<&Secret>) -> Result<Stream, Ended> {
    const NAME: &str = concat!("main-webserver-agent/", env!("CARGO_PKG_VERSION"));
    let mut request = address.as_str().into_client_request()?;
    let headers = request.headers_mut();
    let protocol = HeaderValue::from_static("graphql-transport-ws");
    headers.insert("sec-websocket-protocol", protocol);
    headers.insert("user-agent", HeaderValue::from_static(NAME));
    let (mut stream, _) = connect_async(request).await?;
    let payload = credential.map_or_else(
        || json!({}),
        |credential| json!({ "authorization": format!("Bearer {}", credential.expose()) }),
    );
    let init = json!({ "type": "connection_init", "payload": payload });
    stream.send(Message::text(init.to_string())).await?;
    loop {
        match stream.next().await.transpose()? {
            Some(Message::Text(text)) => {
                let Said { kind, .. } = Said::read(&text)?;
                if kind == "connection_ack" {
                    return Ok(stream);
                }
            }
            Some(Message::Close(frame)) => return Err(closed(frame)),
            Some(_) => {}
            None => return Err(Ended::Broken("the connection ended".to_owned())),
        }
    }
}

fn closed(frame: Option<tungstenite::protocol::CloseFrame>) -> Ended {
    let (code, reason) = frame.map_or((1005, String::new()), |frame| {
        (frame.code.into(), frame.reason.to_string())
    });
    Ended::Closed { code, reason }
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    #[serde(default)]
    payload: Value,
}

impl Said {
    fn read(text: &str) -> Result<Self, Ended> {
        serde_json::from_str(text)
            .map_err(|error| Ended::Broken(format!("the server speaks another protocol: {error}")))
    }
}

/// Owns the socket: writes what is asked, and hands each answer to who waits for it.
struct Driver {
    stream: Stream,
    asked: mpsc::Receiver<Ask>,
    waiting: HashMap<String, mpsc::Sender<Value>>,
    heard_at: DateTime<Utc>,
    clock: Arc<dyn Clock>,
}

impl Driver {
    async fn run(mut self, end: watch::Sender<Option<Ended>>) {
        let Err(ended) = self.talk().await else {
            return;
        };
        // Known before those who wait hear that there will be no answer.
        end.send_replace(Some(ended));
    }

    /// Talks until the connection is over; `Ok` when this side has left.
    async fn talk(&mut self) -> Result<(), Ended> {
        let mut alarm = self.alarm();
        loop {
            tokio::select! {
                message = self.stream.next() => match message.transpose()? {
                    None => return Err(Ended::Broken("the connection ended".to_owned())),
                    Some(Message::Close(frame)) => return Err(closed(frame)),
                    Some(Message::Text(text)) => self.hear(&text).await?,
                    Some(_) => self.heard_at = self.clock.now(),
                },
                ask = self.asked.recv() => {
                    let Some(ask) = ask else {
                        return Ok(());
                    };
                    self.waiting.insert(ask.id, ask.answers);
                    self.write(Message::text(ask.message)).await?;
                }
                () = &mut alarm => {
                    let silence = self.clock.now() - self.heard_at;
                    if silence.to_std().unwrap_or_default() > SILENCE {
                        return Err(Ended::Silent);
                    }
                    self.write(Message::Ping(Vec::new().into())).await?;
                    alarm = self.alarm();
                }
            }
        }
    }

    fn alarm(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let clock = Arc::clone(&self.clock);
        Box::pin(async move { clock.sleep(PING).await })
    }

    async fn write(&mut self, message: Message) -> Result<(), Ended> {
        let sent = tokio::time::timeout(WRITE, self.stream.send(message)).await;
        Ok(sent.map_err(|_| Ended::Silent)??)
    }

    async fn hear(&mut self, text: &str) -> Result<(), Ended> {
        self.heard_at = self.clock.now();
        let Said { kind, id, payload } = Said::read(text)?;
        let id = id.unwrap_or_default();
        match kind.as_str() {
            "next" => {
                if let Some(answers) = self.waiting.get(&id) {
                    // Nobody may wait any more, or not read; what is dropped comes again.
                    let _ = answers.try_send(payload);
                }
            }
            "error" => {
                if let Some(answers) = self.waiting.remove(&id) {
                    let _ = answers.try_send(json!({ "errors": payload }));
                }
            }
            "complete" => {
                self.waiting.remove(&id);
            }
            "ping" => self.write(Message::text(r#"{"type":"pong"}"#)).await?,
            _ => {}
        }
        Ok(())
    }
}
