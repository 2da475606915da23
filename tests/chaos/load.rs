//! People who ask for containers and tasks at a steady pace, and who insist: the same key again until there is an answer.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use main_webserver::domain::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::task::AbortOnDropHandle;

use crate::harness::{Person, Reply, nap};

pub const CONTAINERS: usize = 40;
pub const DEMOS: usize = 60;
/// Between two requests of the load, whatever becomes of them.
const PACE_MILLIS: u64 = 50;
/// Between two tries of one request.
const AGAIN_MILLIS: u64 = 100;
/// After this a client stops insisting.
const PATIENT: Duration = Duration::from_secs(60);

/// A signed-in person who follows the web server to wherever it is now.
#[derive(Clone)]
pub struct Client {
    person: Person,
    web: watch::Receiver<SocketAddr>,
    repeated: Arc<AtomicUsize>,
}

/// What a web server has promised.
pub struct Accepted {
    pub task: String,
    pub container: Option<String>,
    pub at: DateTime<Utc>,
}

impl Client {
    pub fn new(person: Person, web: watch::Receiver<SocketAddr>) -> Self {
        Self {
            person,
            web,
            repeated: Arc::default(),
        }
    }

    /// How many tries this client and its clones have repeated.
    pub fn repeated(&self) -> usize {
        self.repeated.load(Ordering::Relaxed)
    }

    /// The data of the answer; `Err` says why there is none and why nothing is tried any more.
    pub async fn insist(&self, query: &str, variables: Value) -> Result<Value, String> {
        let mut newest = String::new();
        let tries = async {
            loop {
                let here = self.person.moved_to(*self.web.borrow());
                match here.try_send(query, variables.clone()).await {
                    Ok(Reply(answer)) if answer.get("errors").is_none() => {
                        return Ok(answer["data"].clone());
                    }
                    // A try whose answer was lost may still be at work; that is told as a conflict.
                    Ok(reply) if ["UNAVAILABLE", "CONFLICT"].contains(&reply.code()) => {
                        newest = reply.0.to_string();
                    }
                    Ok(reply) => return Err(format!("refused for good: {}", reply.0)),
                    Err(error) => newest = error.to_string(),
                }
                self.repeated.fetch_add(1, Ordering::Relaxed);
                nap(AGAIN_MILLIS).await;
            }
        };
        let answer = tokio::time::timeout(PATIENT, tries).await;
        answer.unwrap_or_else(|_| Err(format!("never accepted: {newest}")))
    }

    async fn container(&self, key: &str) -> Result<Accepted, String> {
        const CREATE: &str = "mutation($input: CreateContainerInput!) { createContainer(input: $input) { \
            container { id } task { id } } }";
        let input = json!({ "app": "hello", "region": "us-east-1", "idempotencyKey": key });
        let data = self.insist(CREATE, json!({ "input": input })).await?;
        let created = &data["createContainer"];
        Ok(Accepted {
            task: text(&created["task"]["id"]),
            container: Some(text(&created["container"]["id"])),
            at: SystemClock.now(),
        })
    }

    pub async fn demo(&self, key: &str, steps: u32, step_millis: u32) -> Result<Accepted, String> {
        const START: &str = "mutation($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id } } }";
        let input = json!({ "steps": steps, "stepMillis": step_millis, "idempotencyKey": key });
        let data = self.insist(START, json!({ "input": input })).await?;
        Ok(Accepted {
            task: text(&data["startDemoTask"]["task"]["id"]),
            container: None,
            at: SystemClock.now(),
        })
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The requests under way. Dropping it ends them.
pub struct Load {
    accepted: Arc<AtomicUsize>,
    asking: AbortOnDropHandle<Vec<Result<Accepted, String>>>,
}

impl Load {
    /// Two containers, three demo tasks, and so on.
    pub fn start(client: Client) -> Self {
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        let asking = tokio::spawn(async move {
            let mut requests = JoinSet::new();
            for number in 0..CONTAINERS + DEMOS {
                let (client, count) = (client.clone(), Arc::clone(&count));
                requests.spawn(async move {
                    let key = format!("load-{number}");
                    let answer = if number % 5 < 2 {
                        client.container(&key).await
                    } else {
                        client.demo(&key, 5, 20).await
                    };
                    count.fetch_add(usize::from(answer.is_ok()), Ordering::Relaxed);
                    answer
                });
                nap(PACE_MILLIS).await;
            }
            requests.join_all().await
        });
        Self {
            accepted,
            asking: AbortOnDropHandle::new(asking),
        }
    }

    /// How many requests have been accepted.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// What has come of every request.
    pub async fn done(self) -> Vec<Result<Accepted, String>> {
        self.asking.await.unwrap()
    }
}
