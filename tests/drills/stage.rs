//! Two web servers behind a balancer, two workers, PostgreSQL and Redis, all of which may be killed, restarted and replaced.

use std::{ffi::OsString, net::SocketAddr};

use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::domain::{Clock as _, SystemClock};

use super::{
    balancer::Balancer,
    people::People,
    watchers::{LINE_MILLIS, LINES, Watcher},
};
use crate::{
    chaos::engine::{Engine, Manner},
    harness::{
        Ground,
        process::{Process, command_of, own_binary},
        required,
        servers::{Postgres, Redis, free_port},
        until,
    },
};

const WATCHERS: usize = 3;
/// What has to be under way before anything happens to it.
const WELL_UNDER_WAY: usize = 15;

/// When something was done to a part, and by when it was done.
#[derive(Clone, Copy)]
pub struct Action {
    pub began: DateTime<Utc>,
    pub ended: DateTime<Utc>,
}

pub struct Stage {
    pub webs: [Option<Process>; 2],
    pub workers: [Option<Process>; 2],
    pub redis: Option<Redis>,
    pub postgres: Postgres,
    pub balancer: Balancer,
    pub engine: Engine,
    pub people: People,
    pub watchers: Vec<Watcher>,
    pub ada: crate::harness::Person,
    pub ground: Ground,
    web_ports: [u16; 2],
    redis_port: u16,
}

/// The binary of another version, when there is one: `TEST_OTHER_BINARY`.
pub fn other_binary() -> OsString {
    std::env::var_os("TEST_OTHER_BINARY").unwrap_or_else(own_binary)
}

impl Stage {
    /// Everything, running `binary`, under load.
    pub async fn open(binary: &OsString) -> Self {
        required("TEST_POSTGRES_BIN");
        let postgres = Postgres::create().await;
        postgres.start().await;
        let redis_port = free_port();
        let redis = Redis::start(redis_port);
        let engine = Engine::start(Manner {
            call_millis: 20,
            loses_first_answers: false,
        })
        .await;
        let ground = Ground::new()
            .await
            .with("DATABASE_URL", &postgres.url())
            .with("REDIS_URL", &Redis::url(redis_port))
            .with("PROVIDER", "docker")
            .with("DOCKER_HOST", &format!("tcp://{}", engine.address))
            .with("CONTAINERS_PER_OWNER", "10000")
            // Long enough that a busy machine is not taken for a dead worker.
            .with("LEASE_SECONDS", "5")
            .with("SHUTDOWN_DELAY_SECONDS", "1");
        let web_ports = [free_port(), free_port()];
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let balancer = Balancer::before(web_ports.map(here)).await;
        let mut stage = [None, None];
        for (web, port) in stage.iter_mut().zip(web_ports) {
            *web = Some(start_web(&ground, binary, port).await);
        }
        let workers = [
            Some(start_worker(&ground, binary).await),
            Some(start_worker(&ground, binary).await),
        ];
        ready(&balancer, 2).await;
        let ada = crate::harness::Person::at(balancer.address)
            .sign_up("ada")
            .await;
        let people = People::start(&ada);
        let mut watchers = Vec::new();
        for _ in 0..WATCHERS {
            let task = ada.demo(LINES, LINE_MILLIS).await;
            people.ledger.accept(task.clone(), None);
            watchers.push(Watcher::of(&ada, &task));
        }
        let under_way = async || (people.ledger.accepted() >= WELL_UNDER_WAY).then_some(());
        until("the load is well under way", under_way).await;
        Self {
            webs: stage,
            workers,
            redis: Some(redis),
            postgres,
            balancer,
            engine,
            people,
            watchers,
            ada,
            ground,
            web_ports,
            redis_port,
        }
    }

    pub async fn start_web(&mut self, number: usize, binary: &OsString) {
        let web = start_web(&self.ground, binary, self.web_ports[number]).await;
        self.webs[number] = Some(web);
    }

    /// The same, and the balancer has seen it.
    pub async fn bring_web(&mut self, number: usize, binary: &OsString) {
        self.start_web(number, binary).await;
        ready(&self.balancer, 2).await;
    }

    pub async fn start_worker(&mut self, number: usize, binary: &OsString) {
        self.workers[number] = Some(start_worker(&self.ground, binary).await);
    }

    /// An orderly end.
    pub async fn end_web(&mut self, number: usize) {
        let status = self.webs[number].take().unwrap().end("-TERM").await;
        assert_eq!(status.code(), Some(0));
    }

    pub async fn end_worker(&mut self, number: usize) {
        let status = self.workers[number].take().unwrap().end("-TERM").await;
        assert_eq!(status.code(), Some(0));
    }

    pub fn start_redis(&mut self) {
        self.redis = Some(Redis::start(self.redis_port));
    }

    /// Does something to the stage and says when.
    pub async fn act(&mut self, action: impl AsyncFnOnce(&mut Self)) -> Action {
        let began = SystemClock.now();
        action(self).await;
        Action {
            began,
            ended: SystemClock.now(),
        }
    }
}

impl Action {
    /// What may fail: nothing, or what is asked for from its beginning until so long after it or its end.
    pub fn window(&self, allowed: Allowed) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let until = match allowed {
            Allowed::Nothing => return None,
            Allowed::FromBeginning(millis) => self.began + TimeDelta::milliseconds(millis),
            Allowed::FromEnd(millis) => self.ended + TimeDelta::milliseconds(millis),
        };
        Some((self.began, until))
    }
}

/// When a request may fail.
#[derive(Clone, Copy)]
pub enum Allowed {
    Nothing,
    /// For so many milliseconds from the beginning of the action.
    FromBeginning(i64),
    /// From its beginning until so many milliseconds after its end.
    FromEnd(i64),
}

async fn ready(balancer: &Balancer, servers: usize) {
    let are_ready = async || (balancer.ready() == servers).then_some(());
    until("the balancer sees the servers", are_ready).await;
}

async fn start_web(ground: &Ground, binary: &OsString, port: u16) -> Process {
    let mut command = command_of(binary, ground, &["web"]);
    command.env("PORT", port.to_string());
    Process::until_it_says(command, "queue").await
}

async fn start_worker(ground: &Ground, binary: &OsString) -> Process {
    Process::until_it_says(command_of(binary, ground, &["worker"]), "engine").await
}
