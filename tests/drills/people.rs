//! People at work: they read, ask for containers and tasks, log in and refresh. Each try is one request, counted as it ends.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use main_webserver::domain::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    chaos::load::Accepted,
    harness::{Person, client::PASSWORD, http, nap},
};

/// Between two requests of one who reads, and of one who asks for things.
const READS_MILLIS: u64 = 10;
const ASKS_MILLIS: u64 = 120;
const LOGS_IN_MILLIS: u64 = 700;
/// Between two tries of what has to be done.
const AGAIN_MILLIS: u64 = 100;
/// The longest a client waits for one answer.
const PATIENT: Duration = Duration::from_secs(15);
const READERS: usize = 3;

/// A request that was not answered as it should have been.
#[derive(Debug, Clone)]
pub struct Failure {
    pub at: DateTime<Utc>,
    pub why: String,
}

/// What has become of every request until now.
#[derive(Default)]
pub struct Ledger {
    requests: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    accepted: Mutex<Vec<Accepted>>,
}

impl Ledger {
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }

    pub fn accept(&self, task: String, container: Option<String>) {
        let at = SystemClock.now();
        self.accepted.lock().unwrap().push(Accepted {
            task,
            container,
            at,
        });
    }
}

/// The load. It goes on until it is ended.
pub struct People {
    pub ledger: Arc<Ledger>,
    stop: CancellationToken,
    working: TaskTracker,
}

impl People {
    /// `ada` is somebody with an account, who talks to the balancer.
    pub fn start(ada: &Person) -> Self {
        let people = Self {
            ledger: Arc::default(),
            stop: CancellationToken::new(),
            working: TaskTracker::new(),
        };
        let client = || Client {
            http: http().timeout(PATIENT).build().unwrap(),
            person: ada.clone(),
            ledger: Arc::clone(&people.ledger),
        };
        for _ in 0..READERS {
            people.working.spawn(client().reads(people.stop.clone()));
        }
        for what in [What::Container, What::Demo] {
            let asks = client().asks_for(what, people.stop.clone());
            people.working.spawn(asks);
        }
        people.working.spawn(client().logs_in(people.stop.clone()));
        people
    }

    /// Ends the load, what is begun first; what became of it.
    pub async fn end(self) -> (usize, Vec<Failure>, Vec<Accepted>) {
        self.stop.cancel();
        self.working.close();
        self.working.wait().await;
        let failures = std::mem::take(&mut *self.ledger.failures.lock().unwrap());
        let accepted = std::mem::take(&mut *self.ledger.accepted.lock().unwrap());
        (self.ledger.requests(), failures, accepted)
    }
}

#[derive(Clone, Copy)]
enum What {
    Container,
    Demo,
}

struct Client {
    http: reqwest::Client,
    person: Person,
    ledger: Arc<Ledger>,
}

impl Client {
    /// One request; its data, or nothing when it failed, which is then written down.
    async fn try_once(&self, query: &str, variables: Value) -> Option<Value> {
        self.ledger.requests.fetch_add(1, Ordering::Relaxed);
        let url = format!("http://{}/graphql", self.person.address);
        let request = self
            .http
            .post(url)
            .bearer_auth(self.person.token.as_ref().unwrap())
            .json(&json!({ "query": query, "variables": variables }));
        let answer = async { request.send().await?.json::<Value>().await };
        let why = match answer.await {
            Ok(answer) if answer.get("errors").is_none() => return Some(answer["data"].clone()),
            Ok(answer) => answer.to_string(),
            Err(error) => format!("{error:?}"),
        };
        let at = SystemClock.now();
        self.ledger
            .failures
            .lock()
            .unwrap()
            .push(Failure { at, why });
        None
    }

    /// The same until there is an answer.
    async fn insist(&self, query: &str, variables: Value) -> Value {
        loop {
            if let Some(data) = self.try_once(query, variables.clone()).await {
                return data;
            }
            nap(AGAIN_MILLIS).await;
        }
    }

    async fn reads(self, stop: CancellationToken) {
        const READ: &str =
            "{ viewer { name } containers(first: 5) { nodes { id state app { name } } } }";
        while !stop.is_cancelled() {
            if let Some(data) = self.try_once(READ, json!({})).await {
                assert_eq!(data["viewer"]["name"], "ada");
            }
            nap(READS_MILLIS).await;
        }
    }

    async fn asks_for(self, what: What, stop: CancellationToken) {
        const CREATE: &str = "mutation($input: CreateContainerInput!) { createContainer(input: $input) { \
            container { id } task { id } } }";
        const START: &str = "mutation($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id } } }";
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for number in 0.. {
            if stop.is_cancelled() {
                return;
            }
            match what {
                What::Container => {
                    let key = format!("container-{number}");
                    let input =
                        json!({ "app": "hello", "region": "us-east-1", "idempotencyKey": key });
                    let data = self.insist(CREATE, json!({ "input": input })).await;
                    let made = &data["createContainer"];
                    let container = Some(text(&made["container"]["id"]));
                    self.ledger.accept(text(&made["task"]["id"]), container);
                }
                What::Demo => {
                    let key = format!("demo-{number}");
                    let input = json!({ "steps": 5, "stepMillis": 20, "idempotencyKey": key });
                    let data = self.insist(START, json!({ "input": input })).await;
                    self.ledger
                        .accept(text(&data["startDemoTask"]["task"]["id"]), None);
                }
            }
            nap(ASKS_MILLIS).await;
        }
    }

    async fn logs_in(self, stop: CancellationToken) {
        const LOG_IN: &str =
            "mutation($input: LogInInput!) { logIn(input: $input) { refreshToken } }";
        const REFRESH: &str = "mutation($input: RefreshSessionInput!) { refreshSession(input: $input) { refreshToken } }";
        while !stop.is_cancelled() {
            let input = json!({ "email": self.person.email, "password": PASSWORD });
            if let Some(data) = self.try_once(LOG_IN, json!({ "input": input })).await {
                // Once only: a token whose answer was lost is spent, and who shows it again is taken for a thief.
                let input = json!({ "refreshToken": data["logIn"]["refreshToken"] });
                self.try_once(REFRESH, json!({ "input": input })).await;
            }
            nap(LOGS_IN_MILLIS).await;
        }
    }
}
