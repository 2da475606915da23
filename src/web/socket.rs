//! One WebSocket. What is said on it is `protocol`'s; this is when.

pub mod protocol;

use std::{
    borrow::Cow,
    convert::Infallible,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_graphql::Response;
use chrono::{DateTime, Utc};
use futures_util::{
    SinkExt as _, Stream, StreamExt as _, future,
    stream::{self, BoxStream},
};
use poem::web::websocket::{Message, WebSocketStream};
use protocol::{Dialect, Said};
use serde_json::value::RawValue;
use tokio_stream::StreamMap;
use uuid::Uuid;

use super::{Web, graphql::read, login::Login};
use crate::{
    domain::{Clock, Id},
    error::AppError,
    graphql::{
        Requester,
        error::refusal,
        follow::{Answer, Session},
    },
    store::sessions::Origin,
    telemetry::work::Work,
};

/// Pause between pings; a peer that is silent for [`SILENCE`] is gone.
const PING: Duration = Duration::from_secs(20);
const SILENCE: Duration = Duration::from_secs(65);
/// Longest wait for a peer to take a message: a slow one is cut off, and reads its state again when it returns.
const WRITE: Duration = Duration::from_secs(10);
/// Longest wait for `connection_init`; graphql-transport-ws calls it the connection initialisation wait time-out.
const INIT: Duration = Duration::from_secs(10);
/// Most operations under way on a socket.
const OPERATIONS: usize = 100;
/// Most answers written at once.
const BATCH: usize = 16;
/// Most bytes of the reason in a close frame (RFC 6455, section 5.5: a control frame has 125, the code takes 2).
const REASON: usize = 123;

/// Why a socket ends from this side: the close codes of graphql-transport-ws, and those of RFC 6455.
enum End {
    /// The peer has left, or nobody can tell.
    Gone,
    Close(u16, Cow<'static, str>),
}

impl End {
    const RESTART: Self = Self::says(1001, "the server is restarting, connect again");
    const NO_INIT: Self = Self::says(4408, "Connection initialisation timeout");
    const NOT_ACKNOWLEDGED: Self = Self::says(4401, "Unauthorized");
    const TWO_INITS: Self = Self::says(4429, "Too many initialisation requests");
    /// Clients take it for a token that has to be renewed.
    const EXPIRED: Self = Self::says(
        4403,
        "the access token has expired, connect again with a new one",
    );

    const LOGGED_OUT: Self = Self::says(4403, "the session is over, log in again");

    const fn says(code: u16, reason: &'static str) -> Self {
        Self::Close(code, Cow::Borrowed(reason))
    }

    fn bad_message(mut reason: String) -> Self {
        reason.truncate(reason.floor_char_boundary(REASON));
        Self::Close(4400, reason.into())
    }

    fn taken(id: &str) -> Self {
        let mut reason = format!("Subscriber for {id} already exists");
        reason.truncate(reason.floor_char_boundary(REASON));
        Self::Close(4409, reason.into())
    }
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        tracing::debug!(%error, "a socket has broken");
        Self::Gone
    }
}

/// Talks until the peer leaves, falls silent, or the server stops.
pub fn serve(
    stream: WebSocketStream,
    web: Arc<Web>,
    dialect: Dialect,
    origin: Origin,
    request: Option<Arc<str>>,
) -> impl Future<Output = ()> + Send {
    let mut socket = Socket::new(stream, web, dialect, origin, request);
    // What an `async fn` is given it would keep twice, once as it came.
    async move {
        socket.web.meters.sockets.inc();
        if let End::Close(code, reason) = socket.talk().await {
            Box::pin(socket.close(code, reason)).await;
        }
        socket.web.meters.sockets.dec();
    }
}

struct Socket {
    stream: WebSocketStream,
    dialect: Dialect,
    web: Arc<Web>,
    origin: Origin,
    /// Who talks; there after `connection_init`.
    session: Option<Session>,
    /// The id of the request it was opened by, and who talks, for the log.
    request: Option<Arc<str>>,
    user: Option<Uuid>,
    operations: StreamMap<Arc<str>, Operation>,
    alarm: Alarm,
    opened_at: DateTime<Utc>,
    heard_at: DateTime<Utc>,
    ping_at: DateTime<Utc>,
    /// When what the peer has shown of itself ends.
    expires: Option<DateTime<Utc>>,
    /// Hears of what becomes of the session the peer is in.
    login: Option<Login>,
}

impl Socket {
    fn new(
        stream: WebSocketStream,
        web: Arc<Web>,
        dialect: Dialect,
        origin: Origin,
        request: Option<Arc<str>>,
    ) -> Self {
        let now = web.store.clock.now();
        Self {
            stream,
            dialect,
            origin,
            session: None,
            request,
            user: None,
            operations: StreamMap::new(),
            alarm: Alarm::at(&web.store.clock, now + INIT),
            opened_at: now,
            heard_at: now,
            ping_at: now + PING,
            expires: None,
            login: None,
            web,
        }
    }

    /// Says why it ends.
    async fn close(&mut self, code: u16, reason: Cow<'static, str>) {
        // Whatever it watched ends before the peer has taken the word.
        self.operations.clear();
        let close = Message::close_with(code, reason.into_owned());
        if within(self.stream.send(close)).await.is_err() {
            tracing::debug!("a socket has broken while it was closed");
        }
    }

    async fn talk(&mut self) -> End {
        match self.talk_on().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn talk_on(&mut self) -> Result<Infallible, End> {
        let stop = self.web.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut answers = Vec::new();
        loop {
            tokio::select! {
                message = self.stream.next() => match message.transpose()? {
                    None => return Err(End::Gone),
                    // The answer to a close is a close; without it the peer takes this for a broken connection.
                    Some(Message::Close(_)) => {
                        within(self.stream.close()).await?;
                        return Err(End::Gone);
                    }
                    Some(Message::Text(text)) => self.hear(text.as_bytes()).await?,
                    Some(Message::Binary(bytes)) => self.hear(&bytes).await?,
                    Some(Message::Ping(_) | Message::Pong(_)) => self.heard_at = self.now(),
                },
                _ = self.operations.next_many(&mut answers, BATCH), if !self.operations.is_empty() => {
                    let messages = answers.drain(..).map(|(id, answer)| match answer {
                        Some(answer) => self.dialect.answer(&id, &answer),
                        None => protocol::complete(&id),
                    });
                    within(feed(&mut self.stream, messages)).await?;
                }
                () = &mut self.alarm.rings => self.look_at_the_clock().await?,
                () = Login::ended(&mut self.login, &self.web) => return Err(End::LOGGED_OUT),
                () = &mut stopped => return Err(End::RESTART),
            }
        }
    }

    fn now(&self) -> DateTime<Utc> {
        self.web.store.clock.now()
    }

    async fn say(&mut self, text: impl Into<String>) -> io::Result<()> {
        within(self.stream.send(Message::text(text))).await
    }

    async fn hear(&mut self, text: &[u8]) -> Result<(), End> {
        self.heard_at = self.now();
        match self.dialect.read(text).map_err(End::bad_message)? {
            Said::Init(payload) => {
                if self.session.is_some() {
                    return Err(End::TWO_INITS);
                }
                let authorization = protocol::authorization(payload).map_err(End::bad_message)?;
                // What is needed once does not make every socket larger.
                Box::pin(self.init(authorization)).await;
                self.say(Dialect::ACK).await?;
                if let Some(sign) = self.dialect.keep_alive() {
                    self.say(sign).await?;
                }
            }
            Said::Subscribe { id, payload } => self.subscribe(id, payload)?,
            Said::Complete { id } => {
                let known = self.operations.remove(id.as_str());
                if known.is_some() && self.dialect == Dialect::Legacy {
                    self.say(protocol::complete(&id)).await?;
                }
            }
            Said::Ping(payload) => self.say(protocol::pong(payload)).await?,
            Said::Pong => {}
            Said::Terminate => return Err(End::says(1000, "")),
        }
        Ok(())
    }

    /// Finds out who talks. One who is refused is refused field by field, so that logging in stays possible.
    async fn init(&mut self, authorization: Option<String>) {
        let found = self
            .web
            .auth
            .viewer_until(&self.web.store, authorization.as_deref());
        let viewer = match Box::pin(found).await {
            Ok((viewer, until)) => {
                self.expires = until;
                self.login = Login::of(viewer, &self.web);
                self.user = viewer.user().map(Id::uuid);
                Ok(viewer)
            }
            Err(error) => Err(error),
        };
        let origin = std::mem::take(&mut self.origin);
        self.session = Some(Session::of(Requester { viewer, origin }));
        self.set_alarm();
    }

    fn subscribe(&mut self, id: String, payload: &RawValue) -> Result<(), End> {
        let session = self.session.as_ref().ok_or(End::NOT_ACKNOWLEDGED)?;
        if self.dialect == Dialect::Legacy {
            // The newer operation takes the place of the older.
            self.operations.remove(id.as_str());
        } else if self.operations.contains_key(id.as_str()) {
            return Err(End::taken(&id));
        }
        let request = read::one(payload.get().as_bytes()).map_err(End::bad_message)?;
        let answers = if self.operations.len() >= OPERATIONS {
            let error = AppError::QuotaExceeded {
                what: "operations on a socket",
                limit: OPERATIONS as u64,
            };
            only(&refusal(&error))
        } else {
            match self.web.api.prepare(request) {
                Ok(prepared) => {
                    let work = Work::on_socket(self.request.clone(), self.user);
                    work.enter(|| self.web.api.follow(prepared, session))
                }
                Err(refused) => only(&refused),
            }
        };
        let operation = Operation {
            answers,
            dialect: self.dialect,
            is_over: false,
        };
        self.operations.insert(id.into(), operation);
        Ok(())
    }

    /// Does what is due, and sets the alarm for what is due next.
    async fn look_at_the_clock(&mut self) -> Result<(), End> {
        let now = self.now();
        if self.session.is_none() && now >= self.opened_at + INIT {
            return Err(End::NO_INIT);
        }
        if self.expires.is_some_and(|expires| now >= expires) {
            return Err(End::EXPIRED);
        }
        if now >= self.ping_at {
            if (now - self.heard_at).to_std().unwrap_or_default() > SILENCE {
                return Err(End::Gone);
            }
            within(self.stream.send(Message::ping(Vec::new()))).await?;
            if let Some(sign) = self.dialect.keep_alive() {
                self.say(sign).await?;
            }
            self.ping_at = now + PING;
        }
        self.set_alarm();
        Ok(())
    }

    fn set_alarm(&mut self) {
        let init_by = self.session.is_none().then(|| self.opened_at + INIT);
        let others = [init_by, self.expires].into_iter().flatten();
        let at = others.fold(self.ping_at, Ord::min);
        self.alarm = Alarm::at(&self.web.store.clock, at);
    }
}

/// The one timer of a socket. It is set for the first of what is due, and not again for every message.
struct Alarm {
    rings: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Alarm {
    fn at(clock: &Arc<dyn Clock>, at: DateTime<Utc>) -> Self {
        let clock = Arc::clone(clock);
        Self {
            rings: Box::pin(async move { clock.sleep_until(at).await }),
        }
    }
}

/// An operation under way: its answers, then `None` for the word that it is complete, where there is one.
struct Operation {
    answers: BoxStream<'static, Answer>,
    dialect: Dialect,
    is_over: bool,
}

impl Stream for Operation {
    type Item = Option<Answer>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let answer = ready!(self.answers.as_mut().poll_next(cx));
        self.is_over = answer
            .as_ref()
            .is_none_or(|answer| self.dialect.is_last(answer));
        Poll::Ready(Some(answer))
    }
}

/// The answers to a refused operation.
fn only(refused: &Response) -> BoxStream<'static, Answer> {
    let refused = Answer::from(refused);
    stream::once(future::ready(refused)).boxed()
}

/// Waits for `at`; for ever without one.
pub(super) async fn until(clock: &dyn Clock, at: Option<DateTime<Utc>>) {
    match at {
        Some(at) => clock.sleep_until(at).await,
        None => future::pending().await,
    }
}

/// Writes messages together.
async fn feed(
    stream: &mut WebSocketStream,
    messages: impl Iterator<Item = String>,
) -> io::Result<()> {
    for message in messages {
        stream.feed(Message::text(message)).await?;
    }
    stream.flush().await
}

async fn within(write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let in_time = tokio::time::timeout(WRITE, write).await;
    in_time.map_err(|_| io::Error::other("the peer does not read"))?
}
