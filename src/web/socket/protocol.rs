//! What is said on a socket, in both dialects: graphql-transport-ws (the graphql-ws library's PROTOCOL.md) and the older
//! graphql-ws (the subscriptions-transport-ws library's PROTOCOL.md).

use poem::{Request, http::header};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::graphql::follow::Answer;

/// Which of the two protocols is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    /// graphql-transport-ws.
    Transport,
    /// graphql-ws, as it was called before the library of that name.
    Legacy,
}

impl Dialect {
    /// The names in `sec-websocket-protocol`.
    pub const NAMES: [&str; 2] = [Self::Transport.name(), Self::Legacy.name()];

    const fn name(self) -> &'static str {
        match self {
            Self::Transport => "graphql-transport-ws",
            Self::Legacy => "graphql-ws",
        }
    }

    /// The first of the offered protocols that is known.
    pub fn of(request: &Request) -> Option<Self> {
        let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL)?;
        offered.to_str().ok()?.split(',').find_map(|name| {
            let known = [Self::Transport, Self::Legacy];
            known.into_iter().find(|known| known.name() == name.trim())
        })
    }
}

/// What a client says.
pub enum Said<'a> {
    Init(Option<&'a RawValue>),
    Subscribe { id: String, payload: &'a RawValue },
    Complete { id: String },
    Terminate,
    Ping(Option<&'a RawValue>),
    Pong,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: String,
    id: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

impl Dialect {
    /// Reads a message.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn read(self, text: &[u8]) -> Result<Said<'_>, String> {
        let Message { kind, id, payload } = serde_json::from_slice(text)
            .map_err(|error| format!("not a message in JSON: {error}"))?;
        let id = || id.ok_or_else(|| format!("a message of the type {kind} has an id"));
        match (self, kind.as_str()) {
            (_, "connection_init") => Ok(Said::Init(payload)),
            (Self::Transport, "subscribe") | (Self::Legacy, "start") => Ok(Said::Subscribe {
                id: id()?,
                payload: payload.ok_or("the payload is missing")?,
            }),
            (Self::Transport, "complete") | (Self::Legacy, "stop") => {
                Ok(Said::Complete { id: id()? })
            }
            (Self::Transport, "ping") => Ok(Said::Ping(payload)),
            (Self::Transport, "pong") => Ok(Said::Pong),
            (Self::Legacy, "connection_terminate") => Ok(Said::Terminate),
            _ => Err("there is no such type of message".to_owned()),
        }
    }

    /// The answer to `connection_init`.
    pub const ACK: &'static str = r#"{"type":"connection_ack"}"#;

    /// What keeps the connection alive in the eyes of a client that does not see a WebSocket's own pings.
    pub const fn keep_alive(self) -> Option<&'static str> {
        match self {
            Self::Transport => None,
            Self::Legacy => Some(r#"{"type":"ka"}"#),
        }
    }

    /// An answer to the operation `id`.
    pub fn answer(self, id: &str, answer: &Answer) -> String {
        match (self, answer) {
            (Self::Transport, Answer::Response(text)) => message("next", id, text),
            (Self::Transport, Answer::Refused(errors)) => message("error", id, errors),
            (Self::Legacy, Answer::Response(text)) => message("data", id, text),
            (Self::Legacy, Answer::Refused(errors)) => {
                message("data", id, &format!(r#"{{"errors":{errors}}}"#))
            }
        }
    }

    /// Whether nothing follows this answer, not even the word that it is complete.
    pub const fn is_last(self, answer: &Answer) -> bool {
        matches!((self, answer), (Self::Transport, Answer::Refused(_)))
    }
}

/// The authorization in the payload of `connection_init`.
///
/// # Errors
/// What is wrong with the payload, for people.
pub fn authorization(payload: Option<&RawValue>) -> Result<Option<String>, String> {
    let Some(payload) = payload else {
        return Ok(None);
    };
    let payload: Option<serde_json::Map<String, serde_json::Value>> =
        serde_json::from_str(payload.get())
            .map_err(|_| "the payload of connection_init is an object".to_owned())?;
    let payload = payload.unwrap_or_default();
    let authorization = payload
        .get("authorization")
        .or_else(|| payload.get("Authorization"));
    Ok(authorization
        .and_then(serde_json::Value::as_str)
        .map(str::to_owned))
}

/// The operation `id` is over.
pub fn complete(id: &str) -> String {
    format!(r#"{{"type":"complete","id":{}}}"#, quoted(id))
}

pub fn pong(payload: Option<&RawValue>) -> String {
    payload.map_or_else(
        || r#"{"type":"pong"}"#.to_owned(),
        |payload| format!(r#"{{"type":"pong","payload":{}}}"#, payload.get()),
    )
}

fn message(kind: &str, id: &str, payload: &str) -> String {
    let id = quoted(id);
    [
        r#"{"type":""#,
        kind,
        r#"","id":"#,
        &id,
        r#","payload":"#,
        payload,
        "}",
    ]
    .concat()
}

fn quoted(id: &str) -> String {
    serde_json::Value::from(id).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn answer(text: &str) -> Answer {
        Answer::Response(Arc::from(text))
    }

    #[test]
    fn each_dialect_has_its_own_words() {
        let refused = Answer::Refused(Arc::from("[1]"));
        let said = |dialect: Dialect, answer| dialect.answer("a\"b", &answer);
        assert_eq!(
            said(Dialect::Transport, answer("{}")),
            r#"{"type":"next","id":"a\"b","payload":{}}"#
        );
        assert_eq!(
            said(Dialect::Transport, refused.clone()),
            r#"{"type":"error","id":"a\"b","payload":[1]}"#
        );
        assert_eq!(
            said(Dialect::Legacy, refused),
            r#"{"type":"data","id":"a\"b","payload":{"errors":[1]}}"#
        );
        let start = br#"{"type":"start","id":"1","payload":{}}"#;
        assert!(Dialect::Legacy.read(start).is_ok());
        assert!(Dialect::Transport.read(start).is_err());
        let nameless = br#"{"type":"subscribe","payload":{}}"#;
        assert!(Dialect::Transport.read(nameless).is_err());
        assert!(Dialect::Transport.read(b"[]").is_err());
    }
}
