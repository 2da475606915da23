//! Looks at the engines one after the other, each in its time, and mends what differs from what is wanted.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    Action, Finding, Keeper, Kept, Kind, Mode, Seen, Want,
    act::{ActError, act, change},
    hosts::known_hosts,
    plan,
    plan::SETTLE,
};
use crate::{
    domain::{
        Id,
        id::{Container, VirtualMachine},
        task::backoff_ceiling,
    },
    error::StoreError,
    providers::{Address, Engine, Instance},
    queue::{Run, TaskError, TaskKind},
    store::{
        engines::{self, EngineState, Look},
        workers,
    },
    tasks::reconcile::Input,
};

/// Most that is done about one engine in one look; what is left is done in the next.
const MOST: usize = 50;
/// Findings shown of one engine.
const SHOWN: usize = 200;
/// Longest pause before the next look at an engine that does not answer.
const LONGEST: Duration = Duration::from_secs(300);
/// A worker not heard of for so long has ended.
const HEARD: Duration = Duration::from_secs(30);
/// How long something may be on its way without a task.
const STUCK: TimeDelta = TimeDelta::seconds(30);

/// The leader's memory of its looks at the engines of one sort.
pub struct Reconciler<T: Kept> {
    keeper: Keeper,
    next: HashMap<Address, DateTime<Utc>>,
    failures: HashMap<Address, u32>,
    orphans: HashMap<Id<T>, DateTime<Utc>>,
    look_for_stuck_at: DateTime<Utc>,
}

/// What a look at an engine found.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    pub engine: String,
    pub problem: Option<String>,
    pub instances: usize,
    pub findings: Vec<serde_json::Value>,
    /// How much of it was done something about.
    pub mended: usize,
}

impl<T: Kept> Reconciler<T> {
    pub fn new(keeper: Keeper) -> Self {
        let now = keeper.store.now();
        Self {
            keeper,
            next: HashMap::new(),
            failures: HashMap::new(),
            orphans: HashMap::new(),
            look_for_stuck_at: now,
        }
    }

    /// Looks at the engines whose time has come.
    pub async fn due(&mut self, stop: &CancellationToken) -> Result<(), StoreError> {
        if self.keeper.care.get().mode == Mode::Off {
            return Ok(());
        }
        let store = self.keeper.store.clone();
        let there = T::addresses(&store, &self.keeper.providers).await?;
        self.next.retain(|address, _| there.contains(address));
        for address in there {
            if stop.is_cancelled() {
                return Ok(());
            }
            if self.next.get(&address).is_some_and(|at| *at > store.now()) {
                continue;
            }
            let mends = self.keeper.mends();
            let looked = self.look(&address, mends).await?;
            let pause = self.pause_after(&address, looked.problem.is_some());
            self.next.insert(address, store.now() + pause);
        }
        if self.keeper.mends() && self.look_for_stuck_at <= store.now() {
            self.look_for_stuck_at = store.now() + self.keeper.care.get().pause;
            self.free_stuck().await?;
        }
        Ok(())
    }

    /// The pause before the next look: longer each time an engine does not answer.
    fn pause_after(&mut self, address: &Address, has_failed: bool) -> Duration {
        let pause = self.keeper.care.get().pause;
        if !has_failed {
            self.failures.remove(address);
            return pause;
        }
        let failures = self.failures.entry(address.clone()).or_default();
        *failures += 1;
        let longer = backoff_ceiling(*failures).min(LONGEST).min(pause * 20);
        self.keeper.store.entropy.jitter(longer) + Duration::from_secs(1)
    }

    /// Looks at one engine, and mends what it finds if it may.
    pub async fn look(&mut self, address: &Address, mends: bool) -> Result<Looked, StoreError> {
        let Some(engine) = T::engine(&self.keeper.providers, address) else {
            return Ok(failed(address, "this worker has no such engine".to_owned()));
        };
        let store = self.keeper.store.clone();
        let (provider, endpoint) = (&*address.provider, address.endpoint.as_deref());
        // The rows first: what is made between the two looks is on the engine, and what is removed is not missed.
        let rows = T::live_on(&store, address).await?;
        let answer = match engine.ping().await {
            Ok(version) => engine.list().await.map(|there| (version, there)),
            Err(error) => Err(error),
        };
        let (version, instances) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                // Nothing is concluded from what an engine does not say.
                let problem = error.to_string();
                let look = Look {
                    state: EngineState::Down,
                    version: None,
                    problem: Some(problem.clone()),
                    instances: 0,
                    findings: serde_json::Value::Null,
                };
                let row = engines::record(&store, provider, endpoint, look).await?;
                if row.failures == 1 {
                    tracing::warn!(engine = %address, problem, "an engine does not answer; nothing is done about what it has until it does");
                }
                return Ok(failed(address, problem));
            }
        };
        let (findings, nodes) = self.compare(address, &*engine, &rows, &instances).await?;
        T::measure(&self.keeper, address, &rows).await?;
        let written = |finding| serde_json::to_value(finding).unwrap_or_default();
        let shown: Vec<_> = findings.iter().take(SHOWN).map(written).collect();
        let look = Look {
            state: EngineState::Up,
            version: Some(version),
            problem: None,
            instances: instances.len(),
            findings: shown.clone().into(),
        };
        engines::record(&store, provider, endpoint, look).await?;
        let mut mended = 0;
        let doable = findings
            .iter()
            .filter(|finding| finding.action != Action::Wait);
        for finding in doable.take(if mends { MOST } else { 0 }) {
            let instance = instances.iter().find(|instance| instance.id == finding.id);
            match act(&self.keeper, address, &*engine, finding, instance, &nodes).await {
                Ok(done) => mended += usize::from(done),
                Err(ActError::Store(error)) if error.is_outage() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, subject = %finding.id, kind = ?finding.kind, "not mended; the next look tries again");
                }
            }
        }
        Ok(Looked {
            engine: address.to_string(),
            problem: None,
            instances: instances.len(),
            findings: shown,
            mended,
        })
    }

    async fn compare(
        &mut self,
        address: &Address,
        engine: &dyn Engine<T>,
        rows: &[T::Row],
        instances: &[Instance<T>],
    ) -> Result<(Vec<Finding<T>>, HashMap<String, Uuid>), StoreError> {
        let store = &self.keeper.store;
        let wants = |rows: &[T::Row]| rows.iter().map(T::want).collect::<Result<Vec<_>, _>>();
        let rows: Vec<Want<T>> = wants(rows)?;
        let here: HashSet<Id<T>> = rows.iter().map(|row| row.id).collect();
        let rest = instances
            .iter()
            .map(|instance| instance.id)
            .filter(|id| !here.contains(id))
            .map(Id::uuid);
        let others = wants(&T::by_ids(store, rest.collect()).await?)?;
        let (silent, nodes) = known_hosts(store).await?;
        let now = store.now();
        let seen = Seen {
            address,
            deployment: &self.keeper.deployment,
            now,
            rows: &rows,
            others: &others,
            instances,
            silent: &silent,
            nodes: &nodes,
            orphans: &self.orphans,
            grace: T::grace(&self.keeper.care.get()),
            settle: SETTLE,
            is_whole: !engine.is_private() || workers::count(store, HEARD).await? <= 1,
        };
        let findings = plan(&seen);
        let orphans: HashSet<Id<T>> = findings
            .iter()
            .filter(|finding| finding.kind == Kind::Orphan)
            .map(|finding| finding.id)
            .collect();
        // Those of other engines stay as they are.
        let of_here: HashSet<Id<T>> = instances.iter().map(|instance| instance.id).collect();
        self.orphans
            .retain(|id, _| orphans.contains(id) || !of_here.contains(id));
        for id in orphans {
            self.orphans.entry(id).or_insert(now);
        }
        Ok((findings, nodes))
    }

    /// Has those worked on that are on their way and that no task works on: those of a restored database, for one.
    async fn free_stuck(&self) -> Result<(), StoreError> {
        let store = &self.keeper.store;
        let before = store.now() - STUCK;
        for row in T::underway(store, before).await? {
            let Want { id, state, .. } = T::want(&row)?;
            let live = crate::store::tasks::unscoped_live_of(store.db(), id.uuid()).await?;
            if !live.is_empty() {
                continue;
            }
            let finding = Finding::<T> {
                id,
                kind: Kind::Stuck,
                action: Action::Enqueue,
                detail: format!("it is {state} and nothing works on it"),
            };
            let enqueued = change(&self.keeper, &finding, async |tx, row, live| {
                T::enqueue(tx, row, live).await
            });
            if let Err(error) = enqueued.await {
                tracing::warn!(%error, subject = %id, "it stays stuck; the next look tries again");
            }
        }
        Ok(())
    }
}

fn failed(address: &Address, problem: String) -> Looked {
    Looked {
        engine: address.to_string(),
        problem: Some(problem),
        instances: 0,
        findings: Vec::new(),
        mended: 0,
    }
}

/// A look at every engine, asked for by somebody.
pub struct Reconcile(pub Keeper);

/// What it found.
#[derive(Serialize)]
pub struct Output {
    engines: Vec<Looked>,
}

#[async_trait]
impl TaskKind for Reconcile {
    type Input = Input;
    type Output = Output;

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let mut looked = looked_at::<Container>(&self.0, !input.dry_run, run).await?;
        looked.extend(looked_at::<VirtualMachine>(&self.0, !input.dry_run, run).await?);
        Ok(Output { engines: looked })
    }
}

async fn looked_at<T: Kept>(
    keeper: &Keeper,
    mends: bool,
    run: &Run,
) -> Result<Vec<Looked>, TaskError> {
    let mut reconciler = Reconciler::<T>::new(keeper.clone());
    let mut looked = Vec::new();
    for address in T::addresses(&keeper.store, &keeper.providers).await? {
        run.check_stop()?;
        looked.push(reconciler.look(&address, mends).await?);
    }
    Ok(looked)
}
