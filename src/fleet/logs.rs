//! Brings what containers and machines write to those who want to read it, while they do.

use std::{collections::HashMap, time::Duration};

use chrono::TimeDelta;
use futures_util::StreamExt as _;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use uuid::Uuid;

use super::Keeper;
use crate::{
    domain::{Id, id::Identified},
    error::StoreError,
    providers::{Engine, Line, Start},
    store::{
        containers,
        logs::{self, NewLine},
        machines,
    },
    tasks::{create_container, machine},
};

/// Time between two looks at what is wanted.
const TICK: Duration = Duration::from_millis(500);
/// How long a silent worker keeps the bringing to itself.
const LEASE: Duration = Duration::from_secs(10);
/// Lines from before the bringing began.
const TAIL: u32 = 1000;
/// Most lines written at once.
const BATCH: usize = 500;
/// A log that has said nothing for so long has been read to its present end.
const QUIET: Duration = Duration::from_millis(200);
/// Pause before a container that has no log now is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long lines nobody wants stay.
const SILENCE: TimeDelta = TimeDelta::seconds(120);

/// Brings what is wanted and what no other worker brings, until `stop`.
pub async fn run(keeper: Keeper, me: Uuid, stop: CancellationToken) {
    let mut brought: HashMap<Uuid, DropGuard> = HashMap::new();
    let bringing = TaskTracker::new();
    while !stop.is_cancelled() {
        match logs::hold(&keeper.store, me, LEASE).await {
            Ok(held) => {
                brought.retain(|subject, _| held.contains(subject));
                for subject in held {
                    brought.entry(subject).or_insert_with(|| {
                        let stop = stop.child_token();
                        let until = stop.clone();
                        let bring = bring(keeper.clone(), me, subject);
                        bringing.spawn(async move { until.run_until_cancelled(bring).await });
                        stop.drop_guard()
                    });
                }
                if let Err(error) = logs::forget(&keeper.store, SILENCE).await {
                    tracing::debug!(%error, "old lines stay a while longer");
                }
            }
            Err(error) => tracing::debug!(%error, "nobody can be asked what is wanted"),
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = keeper.store.clock.sleep(TICK) => {}
        }
    }
    drop(brought);
    bringing.close();
    bringing.wait().await;
}

/// Brings one subject's lines until it is dropped, whatever becomes of its engine's connection and of the subject.
async fn bring(keeper: Keeper, me: Uuid, subject: Uuid) {
    loop {
        if let Err(error) = bring_once(&keeper, me, subject).await {
            // One that finds another at it stops at the next look, unless that one has gone by then.
            tracing::debug!(%error, %subject, "its log is not brought for now");
        }
        keeper.store.clock.sleep(AGAIN).await;
    }
}

async fn bring_once(keeper: &Keeper, me: Uuid, subject: Uuid) -> Result<(), StoreError> {
    let (store, engines) = (&keeper.store, &keeper.providers);
    if let Some(row) = containers::unscoped_by_id(store.db(), Id::new(subject)).await? {
        let engine = create_container::address_of(&row).and_then(|at| engines.containers.at(&at));
        if let Some(engine) = engine {
            return follow(keeper, me, row.id(), &*engine).await;
        }
    } else if let Some(row) = machines::unscoped_by_id(store.db(), Id::new(subject)).await? {
        let engine = machine::address_of(&row).and_then(|at| engines.machines.at(&at));
        if let Some(engine) = engine {
            return follow(keeper, me, row.id(), &*engine).await;
        }
    }
    logs::caught_up(store, subject, me).await
}

async fn follow<T: Identified + Send + 'static, E: Engine<T> + ?Sized>(
    keeper: &Keeper,
    me: Uuid,
    id: Id<T>,
    engine: &E,
) -> Result<(), StoreError> {
    // The version of the API is agreed on before the log is asked for.
    if engine.ping().await.is_err() {
        return Ok(());
    }
    let (store, subject) = (&keeper.store, id.uuid());
    let newest = logs::newest(store, subject).await?;
    // What is here already has been brought before, by this worker or another.
    let known = newest.as_ref().map(|line| line.mark);
    let start = known.map_or(Start::Last(TAIL), Start::After);
    let mut number = newest.map_or(0, |line| line.line);
    let mut has_caught_up = false;
    let mut lines = engine.follow(id, start).ready_chunks(BATCH);
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = lines.next() => chunk,
            () = store.clock.sleep(QUIET), if !has_caught_up => {
                has_caught_up = true;
                logs::caught_up(store, subject, me).await?;
                continue;
            }
        };
        let Some(chunk) = chunk else {
            if !has_caught_up {
                logs::caught_up(store, subject, me).await?;
            }
            return Ok(());
        };
        let new = |line: &Line| known.is_none_or(|known| line.mark > known);
        let new: Vec<NewLine> = chunk
            .into_iter()
            .filter(new)
            .map(|line| NewLine {
                mark: line.mark,
                at: line.at.unwrap_or_else(|| store.now()),
                is_error: line.is_error,
                message: line.text.replace('\0', "\u{fffd}"),
            })
            .collect();
        if !new.is_empty() {
            number = logs::append(store, subject, number, new).await?;
        }
    }
}
