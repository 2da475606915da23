//! A Docker Engine with containers of which nothing is real but what it says of them: as much as an agent asks for.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::{Stream, StreamExt as _, stream};
use main_webserver::providers::{GENERATION, LABEL};
use poem::{Body, Endpoint, Request, Response, http::StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::harness::servers::serve;

/// The engine; it stops serving when it is dropped.
pub struct Engine {
    pub address: SocketAddr,
    things: Arc<Things>,
    _server: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Things {
    by_name: Mutex<BTreeMap<String, Thing>>,
    /// Every event there was.
    events: watch::Sender<Vec<String>>,
}

struct Thing {
    label: String,
    has_exited: bool,
    log: watch::Sender<Log>,
}

/// What a container has written, and whether it writes no more.
#[derive(Default, Clone)]
struct Log {
    lines: Vec<String>,
    is_over: bool,
}

impl Things {
    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Thing>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn happened(&self, what: &str, label: &str) {
        let actor = json!({ "ID": label, "Attributes": { LABEL: label } });
        let event = json!({ "Type": "container", "Action": what, "Actor": actor });
        self.events
            .send_modify(|events| events.push(format!("{event}\n")));
    }
}

impl Engine {
    pub async fn start() -> Self {
        let things = Arc::new(Things::default());
        let (address, server) = serve(Served(Arc::clone(&things))).await;
        Self {
            address,
            things,
            _server: server,
        }
    }

    /// A container that runs from now on.
    pub fn run(&self, container: &str) {
        let thing = Thing {
            label: container.to_owned(),
            has_exited: false,
            log: watch::Sender::default(),
        };
        self.things.all().insert(format!("main-{container}"), thing);
        self.things.happened("start", container);
    }

    /// How many read what it writes.
    pub fn readers(&self, container: &str) -> usize {
        let all = self.things.all();
        all[&format!("main-{container}")].log.receiver_count()
    }

    pub fn write(&self, container: &str, line: &str) {
        let all = self.things.all();
        let line = format!("2026-11-28T12:00:00.123456789Z {line}\n");
        all[&format!("main-{container}")]
            .log
            .send_modify(|log| log.lines.push(line));
    }

    /// It ends by itself, and is left as it is.
    pub fn exit(&self, container: &str) {
        if let Some(thing) = self.things.all().get_mut(&format!("main-{container}")) {
            thing.has_exited = true;
            thing.log.send_modify(|log| log.is_over = true);
        }
        self.things.happened("die", container);
    }

    /// It ends and is gone, its log with it, before anybody is told.
    pub fn remove(&self, container: &str) {
        let gone = self.things.all().remove(&format!("main-{container}"));
        gone.unwrap().log.send_modify(|log| log.is_over = true);
        for what in ["die", "destroy"] {
            self.things.happened(what, container);
        }
    }
}

impl Thing {
    fn inspected(&self) -> Value {
        let status = if self.has_exited { "exited" } else { "running" };
        json!({
            "Id": self.label,
            "Config": { "Labels": { LABEL: self.label, GENERATION: "1" } },
            "State": { "Status": status, "ExitCode": 7 },
        })
    }
}

/// All that is in `seen` and comes to it; `of` says what is new after so many, and whether it is all.
fn as_it_comes<T: Send + Sync + 'static>(
    seen: watch::Receiver<T>,
    of: impl Fn(&T, usize) -> (Vec<Vec<u8>>, bool) + Send + 'static,
) -> impl Stream<Item = Result<Vec<u8>, std::io::Error>> + Send {
    let state = (seen, of, 0);
    stream::unfold(state, async |(mut seen, of, from)| {
        loop {
            let (new, is_all) = of(&seen.borrow_and_update(), from);
            if !new.is_empty() {
                let count = from + new.len();
                return Some((Ok(new.concat()), (seen, of, count)));
            }
            if is_all || seen.changed().await.is_err() {
                return None;
            }
        }
    })
    .boxed()
}

/// A piece of standard output, as an engine sends it for a container without a terminal.
fn framed(line: &str) -> Vec<u8> {
    let length = u32::try_from(line.len()).unwrap().to_be_bytes();
    [&[1, 0, 0, 0], &length[..], line.as_bytes()].concat()
}

struct Served(Arc<Things>);

impl Endpoint for Served {
    type Output = Response;

    async fn call(&self, request: Request) -> poem::Result<Response> {
        let path = request.uri().path().to_owned();
        let parts: Vec<&str> = path
            .split('/')
            .filter(|part| !part.is_empty() && !part.starts_with("v1."))
            .collect();
        let missing = || {
            (
                StatusCode::NOT_FOUND,
                json!({ "message": "No such container" }),
            )
        };
        let all = self.0.all();
        let (status, said) = match &parts[..] {
            ["version"] => (
                StatusCode::OK,
                json!({ "Version": "of a test", "ApiVersion": "1.41" }),
            ),
            ["info"] => (StatusCode::OK, json!({})),
            ["events"] => {
                let events = as_it_comes(self.0.events.subscribe(), |events, from| {
                    let new = events[from..].iter();
                    (new.map(|event| event.clone().into_bytes()).collect(), false)
                });
                return Ok(Body::from_bytes_stream(events).into());
            }
            ["containers", "json"] => {
                let labels = all.values().map(|thing| json!({ LABEL: thing.label }));
                let list = labels.map(|labels| json!({ "Id": "x", "Labels": labels }));
                (StatusCode::OK, list.collect())
            }
            ["containers", name, "json"] => all
                .get(*name)
                .map_or_else(missing, |thing| (StatusCode::OK, thing.inspected())),
            ["containers", name, "logs"] => match all.get(*name) {
                None => missing(),
                Some(thing) => {
                    let lines = as_it_comes(thing.log.subscribe(), |log: &Log, from| {
                        let new = log.lines[from..].iter();
                        (new.map(|line| framed(line)).collect(), log.is_over)
                    });
                    return Ok(Body::from_bytes_stream(lines).into());
                }
            },
            _ => (
                StatusCode::NOT_IMPLEMENTED,
                json!({ "message": format!("the test's engine does not know {path}") }),
            ),
        };
        let answer = Response::builder().status(status);
        Ok(answer
            .content_type("application/json")
            .body(said.to_string()))
    }
}
