//! One web server, two workers and an engine, with everything a fault can be worked on in the test's hands.

use std::net::SocketAddr;

use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::domain::{Clock as _, SystemClock};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::{
    engine::{Engine, Manner},
    load::{Accepted, Client, Load},
    proxy::Proxy,
};
use crate::harness::{
    Ground, nap,
    process::Process,
    required,
    servers::{Postgres, Redis, free_port},
    until,
};

/// An engine slow enough that a kill finds creations in the middle.
const ENGINE: Manner = Manner {
    call_millis: 60,
    loses_first_answers: false,
};
/// What must have been accepted before a fault comes.
const WELL_UNDER_WAY: usize = 20;

/// The probe: a task enqueued when the fault ends, and how long it took to succeed.
pub type Probe = Result<(Accepted, TimeDelta), String>;

/// The end of the fault, from which recovery is counted.
pub struct Ended {
    pub at: DateTime<Utc>,
    pub probe: AbortOnDropHandle<Probe>,
}

/// Everything is ended when this is dropped, the processes first.
pub struct Stage {
    pub web: Option<Process>,
    pub workers: Vec<Option<Process>>,
    pub redis: Option<Redis>,
    pub postgres: Option<Postgres>,
    pub database: Proxy,
    pub cache: Proxy,
    /// Between the clients and the first web server.
    pub door: Proxy,
    pub engine: Engine,
    pub client: Client,
    pub load: Load,
    pub ended: Option<Ended>,
    pub ground: Ground,
    redis_port: u16,
    addresses: watch::Sender<SocketAddr>,
}

/// What differs between the stages.
#[derive(Default)]
pub struct Wanted {
    /// A PostgreSQL that may be stopped, instead of a database on the run's server.
    pub own_postgres: bool,
    pub loses_first_answers: bool,
    /// No proxy before the servers: one that is down refuses connections, where a proxy resets them.
    pub is_direct: bool,
}

impl Stage {
    /// Starts all of it, and the load.
    pub async fn open(wanted: Wanted) -> Self {
        required("TEST_DATABASE_URL");
        let ground = Ground::new().await;
        let postgres = if wanted.own_postgres {
            let postgres = Postgres::create().await;
            postgres.start().await;
            Some(postgres)
        } else {
            None
        };
        let mut url: Url = match &postgres {
            Some(postgres) => postgres.url().parse().unwrap(),
            None => ground.setting("DATABASE_URL").parse().unwrap(),
        };
        let host = url.host_str().unwrap();
        let database = Proxy::to(&format!("{host}:{}", url.port().unwrap_or(5432))).await;
        if !wanted.is_direct {
            url.set_host(Some("127.0.0.1")).unwrap();
            url.set_port(Some(database.port)).unwrap();
        }
        let redis_port = free_port();
        let redis = Redis::start(redis_port);
        let cache = Proxy::to(&format!("127.0.0.1:{redis_port}")).await;
        let engine = Engine::start(Manner {
            loses_first_answers: wanted.loses_first_answers,
            ..ENGINE
        })
        .await;
        let ground = ground
            .with("DATABASE_URL", url.as_str())
            .with(
                "REDIS_URL",
                &Redis::url(if wanted.is_direct {
                    redis_port
                } else {
                    cache.port
                }),
            )
            .with("PROVIDER", "docker")
            .with("DOCKER_HOST", &format!("tcp://{}", engine.address));
        let web = Process::start(&ground, "web").await;
        // One after the other: the first one leads the sweeps, so a fault of it is the worse one.
        let workers = vec![
            Some(Process::start(&ground, "worker").await),
            Some(Process::start(&ground, "worker").await),
        ];
        let door = Proxy::to(&web.address.unwrap().to_string()).await;
        let (addresses, seen) = watch::channel(([127, 0, 0, 1], door.port).into());
        let person = web.person().sign_up("ada").await;
        let client = Client::new(person, seen);
        let load = Load::start(client.clone());
        Self {
            web: Some(web),
            workers,
            redis: Some(redis),
            postgres,
            database,
            cache,
            door,
            engine,
            client,
            load,
            ended: None,
            ground,
            redis_port,
            addresses,
        }
    }

    /// Waits until there is something to interrupt: requests, runs, and a creation in the middle.
    pub async fn under_load(&self) {
        let check = async || {
            (self.load.accepted() >= WELL_UNDER_WAY && self.engine.creating() > 0).then_some(())
        };
        until("the load is well under way", check).await;
    }

    /// Recovery is counted from now.
    pub fn fault_ends(&mut self) {
        let at = SystemClock.now();
        let client = self.client.clone();
        let probe = AbortOnDropHandle::new(tokio::spawn(probe(client, at)));
        self.ended = Some(Ended { at, probe });
    }

    /// `kill -9`.
    pub async fn kill_worker(&mut self, number: usize) {
        self.workers[number].take().unwrap().kill().await;
    }

    pub async fn start_worker(&mut self, number: usize) {
        self.workers[number] = Some(Process::start(&self.ground, "worker").await);
    }

    pub fn worker(&self, number: usize) -> &Process {
        self.workers[number].as_ref().unwrap()
    }

    /// `kill -9`.
    pub async fn kill_web(&mut self) {
        self.web.take().unwrap().kill().await;
    }

    /// Starts the web server again, at another address, and tells the clients.
    pub async fn start_web(&mut self) {
        let web = Process::start(&self.ground, "web").await;
        self.addresses.send_replace(web.address.unwrap());
        self.web = Some(web);
    }

    pub async fn kill_redis(&mut self) {
        self.redis.take().unwrap().kill().await;
    }

    /// Starts Redis again, empty.
    pub fn start_redis(&mut self) {
        self.redis = Some(Redis::start(self.redis_port));
    }
}

/// Enqueues one short task and follows it to its end.
async fn probe(client: Client, from: DateTime<Utc>) -> Probe {
    const STATE: &str = "query($id: ID!) { task(id: $id) { state } }";
    let probe = client.demo("probe", 1, 1).await?;
    loop {
        let data = client.insist(STATE, json!({ "id": probe.task })).await?;
        match data["task"]["state"].as_str() {
            Some("SUCCEEDED") => return Ok((probe, SystemClock.now() - from)),
            Some("QUEUED" | "RUNNING" | "WAITING") => nap(50).await,
            other => return Err(format!("the probe has ended as {other:?}")),
        }
    }
}
