//! A Docker Engine that runs nothing and remembers everything: what was really made and removed, container by container.
//!
//! It speaks as much of the API (1.41) as `providers::docker` uses. An engine finishes a call whose caller is gone, and
//! takes a name when a creation begins, not when it ends; so does this one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::stream;
use main_webserver::providers::LABEL;
use poem::{
    Body, Endpoint, Request, Response,
    http::{Method, StatusCode},
};
use serde_json::{Value, json};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::harness::{nap, servers::serve};

/// How an engine behaves.
#[derive(Clone, Copy)]
pub struct Manner {
    /// What every call takes, half of it before and half of it after its effect.
    pub call_millis: u64,
    /// Whether the first creation of every name takes effect and is then not answered.
    pub loses_first_answers: bool,
}

/// What has become of one label's containers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Account {
    pub created: u32,
    pub removed: u32,
    /// The most that were there at one time.
    pub most_at_once: u32,
    pub is_running: bool,
}

impl Account {
    pub const fn alive(&self) -> u32 {
        self.created - self.removed
    }
}

/// The engine; it stops serving when it is dropped.
pub struct Engine {
    pub address: SocketAddr,
    api: Arc<Api>,
    _server: AbortOnDropHandle<()>,
}

impl Engine {
    pub async fn start(manner: Manner) -> Self {
        let api = Arc::new(Api {
            manner,
            things: Mutex::default(),
            creating: AtomicUsize::new(0),
            calls: TaskTracker::new(),
        });
        let (address, server) = serve(Served(Arc::clone(&api))).await;
        Self {
            address,
            api,
            _server: server,
        }
    }

    /// How many creations are under way.
    pub fn creating(&self) -> usize {
        self.api.creating.load(Ordering::Relaxed)
    }

    /// Every container there ever was, by its label, once no call is under way.
    pub async fn accounts(&self) -> BTreeMap<String, Account> {
        self.api.calls.close();
        self.api.calls.wait().await;
        self.api.things().accounts.clone()
    }
}

struct Api {
    manner: Manner,
    things: Mutex<Things>,
    creating: AtomicUsize,
    /// The calls, which outlive the connections they came by.
    calls: TaskTracker,
}

#[derive(Default)]
struct Things {
    by_name: BTreeMap<String, Thing>,
    accounts: BTreeMap<String, Account>,
    unanswered: BTreeSet<String>,
    made: u16,
}

struct Thing {
    handle: String,
    /// The value of our label.
    label: String,
    port: u16,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Its name is taken; nobody can see it yet.
    Reserved,
    Created,
    Running,
    Exited,
}

/// What is said to a call.
type Answer = (StatusCode, Value);

fn missing(what: &str) -> Answer {
    let message = format!("No such container: {what}");
    (StatusCode::NOT_FOUND, json!({ "message": message }))
}

const DONE: Answer = (StatusCode::NO_CONTENT, Value::Null);

impl Things {
    /// The container of this name or handle.
    fn find(&mut self, name: &str) -> Option<&mut Thing> {
        self.by_name
            .iter_mut()
            .find(|(known, thing)| *known == name || thing.handle == name)
            .map(|(_, thing)| thing)
            .filter(|thing| thing.stage != Stage::Reserved)
    }

    /// Moves a container on, and its account with it.
    fn step(&mut self, name: &str, stage: Stage) -> Answer {
        let Some(thing) = self.find(name) else {
            return missing(name);
        };
        thing.stage = stage;
        let label = thing.label.clone();
        self.accounts.entry(label).or_default().is_running = stage == Stage::Running;
        DONE
    }

    fn remove(&mut self, name: &str) -> Answer {
        let Some(handle) = self.find(name).map(|thing| thing.handle.clone()) else {
            return missing(name);
        };
        for (_, gone) in self
            .by_name
            .extract_if(.., |_, thing| thing.handle == handle)
        {
            let account = self.accounts.entry(gone.label).or_default();
            account.removed += 1;
            account.is_running = false;
        }
        DONE
    }

    /// Lets a container whose name was taken come into being.
    fn make(&mut self, name: &str) -> Answer {
        let thing = self.by_name.get_mut(name).expect("its name was taken");
        thing.stage = Stage::Created;
        let answer = json!({ "Id": thing.handle, "Warnings": [] });
        let account = self.accounts.entry(thing.label.clone()).or_default();
        account.created += 1;
        account.most_at_once = account.most_at_once.max(account.alive());
        (StatusCode::CREATED, answer)
    }
}

impl Thing {
    fn inspected(&self) -> Value {
        let status = match self.stage {
            Stage::Reserved | Stage::Created => "created",
            Stage::Running => "running",
            Stage::Exited => "exited",
        };
        let binding = json!([{ "HostIp": "127.0.0.1", "HostPort": self.port.to_string() }]);
        json!({
            "Id": self.handle,
            "Config": { "Labels": { LABEL: self.label } },
            "State": { "Status": status, "ExitCode": 0 },
            "NetworkSettings": {
                "Ports": { "8080/tcp": binding },
                "Networks": { "bridge": { "IPAddress": "172.17.0.2" } },
            },
        })
    }
}

impl Api {
    fn things(&self) -> MutexGuard<'_, Things> {
        self.things.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes half of a call's time.
    async fn half(&self) {
        nap(self.manner.call_millis / 2).await;
    }

    /// `None` is an answer that is lost.
    async fn create(&self, name: &str, body: &Value) -> Option<Answer> {
        let label = body["Labels"][LABEL].as_str().unwrap().to_owned();
        {
            let mut things = self.things();
            if things.by_name.contains_key(name) {
                let message = format!("Conflict. The container name \"/{name}\" is already in use");
                return Some((StatusCode::CONFLICT, json!({ "message": message })));
            }
            things.made += 1;
            let thing = Thing {
                handle: format!("{:064x}", things.made),
                label,
                port: 20_000 + things.made,
                stage: Stage::Reserved,
            };
            things.by_name.insert(name.to_owned(), thing);
        }
        self.creating.fetch_add(1, Ordering::Relaxed);
        self.half().await;
        let answer = {
            let mut things = self.things();
            let is_lost = self.manner.loses_first_answers && things.unanswered.insert(name.into());
            let answer = things.make(name);
            (!is_lost).then_some(answer)
        };
        self.half().await;
        self.creating.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    /// One call; `path` without the version in front.
    async fn call(
        &self,
        method: Method,
        path: &str,
        name: Option<String>,
        body: Value,
    ) -> Option<Answer> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if let (&Method::POST, ["containers", "create"], Some(name)) = (&method, &parts[..], name) {
            return self.create(&name, &body).await;
        }
        self.half().await;
        let answer = self.effect(&method, &parts);
        self.half().await;
        Some(answer)
    }

    fn effect(&self, method: &Method, parts: &[&str]) -> Answer {
        let mut things = self.things();
        match (method.as_str(), parts) {
            ("GET", ["version"]) => {
                let version = json!({ "Version": "of a test", "ApiVersion": "1.41" });
                (StatusCode::OK, version)
            }
            ("GET", ["images", .., "json"]) => (StatusCode::OK, json!({ "Id": "sha256:present" })),
            ("GET", ["containers", "json"]) => {
                let seen = things.by_name.values();
                let seen = seen.filter(|thing| thing.stage != Stage::Reserved);
                let list = seen
                    .map(|thing| json!({ "Id": thing.handle, "Labels": { LABEL: thing.label } }));
                (StatusCode::OK, list.collect())
            }
            ("GET", ["containers", name, "json"]) => match things.find(name) {
                Some(thing) => (StatusCode::OK, thing.inspected()),
                None => missing(name),
            },
            ("GET", ["containers", _, "logs"]) => (StatusCode::OK, Value::Null),
            ("POST", ["containers", name, "start"]) => things.step(name, Stage::Running),
            ("POST", ["containers", name, "stop"]) => things.step(name, Stage::Exited),
            ("DELETE", ["containers", name]) => things.remove(name),
            _ => {
                let message = format!("the test's engine does not know {method} {parts:?}");
                (StatusCode::NOT_IMPLEMENTED, json!({ "message": message }))
            }
        }
    }
}

struct Served(Arc<Api>);

impl Endpoint for Served {
    type Output = Response;

    async fn call(&self, mut request: Request) -> poem::Result<Response> {
        let path = request.uri().path().to_owned();
        // A version in front is taken off, whichever it is.
        let path = match path.trim_start_matches('/').split_once('/') {
            Some((version, rest)) if version.starts_with("v1.") => rest.to_owned(),
            _ => path,
        };
        if path == "events" {
            // Open for ever and without news: what is started here is ready at once.
            let silence = stream::pending::<Result<Vec<u8>, std::io::Error>>();
            return Ok(Body::from_bytes_stream(silence).into());
        }
        let name = request.uri().query().and_then(|query| {
            url::form_urlencoded::parse(query.as_bytes())
                .find(|(key, _)| key == "name")
                .map(|(_, name)| name.into_owned())
        });
        let bytes = request.take_body().into_vec().await?;
        let body = serde_json::from_slice(&bytes).unwrap_or_default();
        let (api, method) = (Arc::clone(&self.0), request.method().clone());
        let work = async move { api.call(method, &path, name, body).await };
        // A task of its own, which goes on when the caller is killed.
        let Some((status, said)) = self.0.calls.spawn(work).await.unwrap() else {
            // Unwinding ends the connection's task, and with it the connection, in the middle of the call.
            std::panic::resume_unwind(Box::new("the answer is lost"));
        };
        let answer = Response::builder().status(status);
        Ok(if said.is_null() {
            answer.finish()
        } else {
            answer
                .content_type("application/json")
                .body(said.to_string())
        })
    }
}
