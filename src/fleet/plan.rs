//! What to do about an engine, from what it has and what the database wants: a pure function, so that every case can be tried.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use super::{Kept, Phase, Want};
use crate::{
    domain::{Id, id::Identified},
    providers::{Address, Instance, Status},
};

/// How long a row is left to whoever changed it last, where the engine was asked for all it has.
pub const SETTLE: TimeDelta = TimeDelta::seconds(5);
/// How long something that has ended is left to its own task.
const LEFT: TimeDelta = TimeDelta::seconds(15);

/// What is different.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Kind {
    /// Somebody wants it and the engine has it no more.
    Vanished,
    /// It bears our name and no row knows it.
    Orphan,
    /// It is there and its row has ended.
    Unwanted,
    /// It is there and its row lives on another engine.
    Outdated,
    /// It should run and has ended by itself.
    Ended,
    /// Its guest's kernel has panicked.
    Panicked,
    /// It should not run and does.
    Running,
    /// It runs elsewhere than its row says.
    Moved,
    /// It is there and its row says that nobody knows.
    Seen,
    /// It is on its way and nothing works on it.
    Stuck,
}

/// What is done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// Make it anew.
    Recreate,
    /// Remove it from the engine.
    Remove,
    /// Record that it has failed.
    Fail,
    /// Record where it is.
    Update,
    /// Record that it is heard of again.
    Resume,
    /// Remove it for good: it was leaving.
    Delete,
    /// Record that it has ended in order.
    Rest,
    /// End it; what it needs to start again is kept.
    End,
    /// Have it worked on.
    Enqueue,
    /// Leave it a while; it may mend itself.
    Wait,
}

/// A difference and what is done about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding<T: Identified> {
    #[serde(rename = "subjectId", serialize_with = "written")]
    pub id: Id<T>,
    pub kind: Kind,
    pub action: Action,
    pub detail: String,
}

fn written<T: Identified, S: serde::Serializer>(id: &Id<T>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

/// What is known at one moment: the rows were read before the engine was asked.
pub struct Seen<'a, T: Identified> {
    pub address: &'a Address,
    pub deployment: &'a str,
    pub now: DateTime<Utc>,
    /// Those that live on this engine.
    pub rows: &'a [Want<T>],
    /// Those of instances that live elsewhere or nowhere.
    pub others: &'a [Want<T>],
    pub instances: &'a [Instance<T>],
    /// Hosts nobody hears of.
    pub silent: &'a HashSet<Uuid>,
    /// Hosts by the engine's own id of them.
    pub nodes: &'a HashMap<String, Uuid>,
    /// When an orphan was first seen, and how long one is left.
    pub orphans: &'a HashMap<Id<T>, DateTime<Utc>>,
    pub grace: TimeDelta,
    /// How long a row is left to whoever changed it last.
    pub settle: TimeDelta,
    /// Whether what is not there is gone; not so on an engine of which others see nothing.
    pub is_whole: bool,
}

/// The differences, with what is to be done about each.
pub fn plan<T: Kept>(seen: &Seen<'_, T>) -> Vec<Finding<T>> {
    let rows: HashMap<Id<T>, &Want<T>> = seen.rows.iter().map(|row| (row.id, row)).collect();
    let others: HashMap<Id<T>, &Want<T>> = seen.others.iter().map(|row| (row.id, row)).collect();
    let mut findings = Vec::new();
    let mut there = HashSet::new();
    for instance in seen.instances {
        let id = instance.id;
        let is_foreign = instance
            .deployment
            .as_deref()
            .is_some_and(|deployment| deployment != seen.deployment);
        if is_foreign {
            continue;
        }
        there.insert(id);
        let found = match (rows.get(&id), others.get(&id)) {
            (Some(row), _) => known(seen, row, instance),
            (None, Some(row)) => elsewhere(seen, row),
            (None, None) => orphan(seen, instance),
        };
        findings.extend(found.map(|(kind, action, detail)| Finding {
            id,
            kind,
            action,
            detail,
        }));
    }
    if seen.is_whole {
        for row in seen.rows.iter().filter(|row| !there.contains(&row.id)) {
            findings.extend(missing(seen, row).map(|(action, detail)| Finding {
                id: row.id,
                kind: Kind::Vanished,
                action,
                detail,
            }));
        }
    }
    findings
}

type Found = Option<(Kind, Action, String)>;

fn orphan<T: Kept>(seen: &Seen<'_, T>, instance: &Instance<T>) -> Found {
    // One without a deployment may be another's.
    instance.deployment.as_ref()?;
    let since = seen.orphans.get(&instance.id).copied();
    let age = seen.now - since.unwrap_or(seen.now);
    let (action, detail) = if age < seen.grace {
        let left = (seen.grace - age).num_seconds();
        (
            Action::Wait,
            format!("no row knows it; it is left for {left} s more"),
        )
    } else {
        (Action::Remove, "no row knows it".to_owned())
    };
    Some((Kind::Orphan, action, detail))
}

/// About an instance whose row lives on another engine, or has ended.
fn elsewhere<T: Kept>(seen: &Seen<'_, T>, row: &Want<T>) -> Found {
    let age = seen.now - row.updated_at;
    match row.phase {
        Phase::Over => {
            let action = if age < LEFT {
                Action::Wait
            } else {
                Action::Remove
            };
            Some((Kind::Unwanted, action, format!("it is {}", row.state)))
        }
        Phase::Running | Phase::Leaving | Phase::Resting | Phase::Lost if age >= seen.settle => {
            let place = row.address.as_ref();
            let place = place.map_or_else(|| "nowhere".to_owned(), ToString::to_string);
            Some((
                Kind::Outdated,
                Action::Remove,
                format!("it lives on {place}"),
            ))
        }
        // It may be on its way here.
        Phase::Underway | Phase::Running | Phase::Leaving | Phase::Resting | Phase::Lost => None,
    }
}

/// About an instance whose row lives on this engine.
fn known<T: Kept>(seen: &Seen<'_, T>, row: &Want<T>, instance: &Instance<T>) -> Found {
    // The task that makes the newer one takes the older one's place; and a row is left to whoever has just changed it.
    if instance.generation < row.generation {
        return None;
    }
    if let Some((kind, action)) = T::when_so(row.phase, instance.status) {
        let is_hasty = action == Action::End && seen.now - row.updated_at < seen.settle;
        let heard = row.phase != Phase::Lost || is_heard(seen, row, instance);
        return (!is_hasty && heard).then(|| (kind, action, described(instance.status)));
    }
    match (row.phase, instance.status) {
        (Phase::Lost, Status::Ready) if is_heard(seen, row, instance) => Some((
            Kind::Seen,
            Action::Resume,
            "it runs, and nobody knew".to_owned(),
        )),
        (Phase::Running | Phase::Leaving, Status::Ready) if has_moved(seen, row, instance) => {
            Some((
                Kind::Moved,
                Action::Update,
                format!("it is reached by {:?}", instance.ports),
            ))
        }
        _ => None,
    }
}

fn described(status: Status) -> String {
    match status {
        Status::Created => "it has not been started".to_owned(),
        Status::Starting | Status::Ready => "it runs".to_owned(),
        Status::Unhealthy => "it is not well".to_owned(),
        Status::Off => "it is off".to_owned(),
        Status::Exited { code } => format!("it ended by itself with code {code}"),
    }
}

/// Whether the host it runs on is heard of.
fn is_heard<T: Kept>(seen: &Seen<'_, T>, row: &Want<T>, instance: &Instance<T>) -> bool {
    let host = match &instance.node {
        Some(node) => seen.nodes.get(node).copied(),
        None => row.host_id,
    };
    host.is_none_or(|host| !seen.silent.contains(&host))
}

fn has_moved<T: Kept>(seen: &Seen<'_, T>, row: &Want<T>, instance: &Instance<T>) -> bool {
    let host = instance.node.as_ref().and_then(|node| seen.nodes.get(node));
    row.ports != instance.ports
        || row.ip != instance.ip
        || row.node != instance.node
        || host.is_some_and(|host| row.host_id != Some(*host))
}

/// About a row the engine has nothing of.
fn missing<T: Kept>(seen: &Seen<'_, T>, row: &Want<T>) -> Option<(Action, String)> {
    let is_settled = seen.now - row.updated_at >= seen.settle;
    let is_silent = row.host_id.is_some_and(|host| seen.silent.contains(&host));
    if !is_settled || is_silent {
        return None;
    }
    let action = T::when_missing(row.phase)?;
    Some((action, "its engine has it no more".to_owned()))
}
