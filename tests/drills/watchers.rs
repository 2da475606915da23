//! People who watch a long task line by line over a WebSocket, and come back to where they were when it breaks.

use std::{net::SocketAddr, time::Duration};

use chrono::{DateTime, Utc};
use futures_util::{SinkExt as _, StreamExt as _};
use main_webserver::domain::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Person, nap};

/// One line a step; no more than there are percents, by which a second attempt knows where the first one was.
pub const LINES: u32 = 100;
/// Between two lines.
pub const LINE_MILLIS: u32 = 150;
/// Between two tries to get back.
const AGAIN_MILLIS: u64 = 50;
/// A socket that says nothing for so long, not even that it lives, is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// What one watcher saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub lines: Vec<u32>,
    /// The longest time without a line.
    pub stall_millis: i64,
    /// How often the socket broke or was closed.
    pub breaks: usize,
}

impl Seen {
    /// Lines that never came, and those that came twice or out of turn.
    pub fn gaps(&self) -> usize {
        let missing = (1..=LINES)
            .filter(|line| !self.lines.contains(line))
            .count();
        let out_of_turn = self.lines.windows(2).filter(|two| two[1] <= two[0]).count();
        missing + out_of_turn
    }
}

pub struct Watcher(AbortOnDropHandle<Seen>);

impl Watcher {
    pub fn of(ada: &Person, task: &str) -> Self {
        let watch = watch(ada.address, ada.token.clone().unwrap(), task.to_owned());
        Self(AbortOnDropHandle::new(tokio::spawn(watch)))
    }

    /// What it saw, once the task has ended; `None` when that is too far away.
    pub async fn done(self, limit: Duration) -> Option<Seen> {
        tokio::time::timeout(limit, self.0).await.ok()?.ok()
    }
}

async fn watch(address: SocketAddr, token: String, task: String) -> Seen {
    let (mut seen, mut place) = (Seen::default(), Place::default());
    while !follow(address, &token, &task, &mut seen, &mut place).await {
        seen.breaks += 1;
        nap(AGAIN_MILLIS).await;
    }
    seen
}

#[derive(Default)]
struct Place {
    cursor: Option<String>,
    at: Option<DateTime<Utc>>,
}

/// Whether the subscription has come to its end, as opposed to having broken.
async fn follow(
    address: SocketAddr,
    token: &str,
    task: &str,
    seen: &mut Seen,
    place: &mut Place,
) -> bool {
    let mut request = format!("ws://{address}/graphql")
        .into_client_request()
        .unwrap();
    let protocol = "graphql-transport-ws".parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    let Ok(Ok((mut socket, _))) = tokio::time::timeout(SILENCE, connect_async(request)).await
    else {
        return false;
    };
    let init = json!({ "type": "connection_init", "payload": { "authorization": format!("Bearer {token}") } });
    let query = "subscription($id: ID!, $after: String) { taskLogAdded(id: $id, after: $after) { cursor message } }";
    let payload = json!({ "query": query, "variables": { "id": task, "after": place.cursor } });
    let subscribe = json!({ "type": "subscribe", "id": "1", "payload": payload });
    if socket.send(Message::text(init.to_string())).await.is_err() {
        return false;
    }
    loop {
        let message = match tokio::time::timeout(SILENCE, socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => text,
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => continue,
            _ => return false,
        };
        let message: Value = serde_json::from_str(&message).unwrap();
        match message["type"].as_str() {
            Some("connection_ack") => {
                if socket
                    .send(Message::text(subscribe.to_string()))
                    .await
                    .is_err()
                {
                    return false;
                }
            }
            Some("next") => {
                // Such as that the database is away: one who watches asks again.
                let Some(lines) = message["payload"]["data"]["taskLogAdded"].as_array() else {
                    return false;
                };
                for line in lines {
                    note(line, seen, place);
                }
            }
            Some("complete") => return true,
            Some("ping") => {
                let pong = json!({ "type": "pong" }).to_string();
                if socket.send(Message::text(pong)).await.is_err() {
                    return false;
                }
            }
            _ => return false,
        }
    }
}

fn note(line: &Value, seen: &mut Seen, place: &mut Place) {
    place.cursor = line["cursor"].as_str().map(str::to_owned);
    let step = line["message"].as_str().and_then(|message| {
        let (number, _) = message.strip_prefix("step ")?.split_once(' ')?;
        number.parse().ok()
    });
    let Some(step) = step else {
        return;
    };
    let now = SystemClock.now();
    if let Some(before) = place.at.replace(now) {
        seen.stall_millis = seen.stall_millis.max((now - before).num_milliseconds());
    }
    seen.lines.push(step);
}
