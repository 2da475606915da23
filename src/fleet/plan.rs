//! What to do about an engine, from what it has and what the database wants: a pure function, so that every case can be tried.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    domain::{Id, container::ContainerState, id::Container},
    error::StoreError,
    providers::{Address, Instance, Status},
    store::containers::Model,
    tasks::create_container::address_of,
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
    /// Have it worked on.
    Enqueue,
    /// Leave it a while; it may mend itself.
    Wait,
}

/// A difference and what is done about it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    #[serde(serialize_with = "written")]
    pub container_id: Id<Container>,
    pub kind: Kind,
    pub action: Action,
    pub detail: String,
}

fn written<S: serde::Serializer>(id: &Id<Container>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(id)
}

/// What is known at one moment: the rows were read before the engine was asked.
pub struct Seen<'a> {
    pub address: &'a Address,
    pub deployment: &'a str,
    pub now: DateTime<Utc>,
    /// Those that live on this engine.
    pub rows: &'a [Model],
    /// Those of instances that live elsewhere or nowhere.
    pub others: &'a [Model],
    pub instances: &'a [Instance],
    /// Hosts nobody hears of.
    pub silent: &'a HashSet<Uuid>,
    /// Hosts by the engine's own id of them.
    pub nodes: &'a HashMap<String, Uuid>,
    /// When an orphan was first seen, and how long one is left.
    pub orphans: &'a HashMap<Id<Container>, DateTime<Utc>>,
    pub grace: TimeDelta,
    /// How long a row is left to whoever changed it last.
    pub settle: TimeDelta,
    /// Whether what is not there is gone; not so on an engine of which others see nothing.
    pub is_whole: bool,
}

/// The differences, with what is to be done about each.
pub fn plan(seen: &Seen<'_>) -> Result<Vec<Finding>, StoreError> {
    let rows: HashMap<Uuid, &Model> = seen.rows.iter().map(|row| (row.id, row)).collect();
    let others: HashMap<Uuid, &Model> = seen.others.iter().map(|row| (row.id, row)).collect();
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
        there.insert(id.uuid());
        let found = match (rows.get(&id.uuid()), others.get(&id.uuid())) {
            (Some(row), _) => known(seen, row, instance)?,
            (None, Some(row)) => elsewhere(seen, row)?,
            (None, None) => orphan(seen, instance),
        };
        findings.extend(found.map(|(kind, action, detail)| Finding {
            container_id: id,
            kind,
            action,
            detail,
        }));
    }
    if seen.is_whole {
        for row in seen.rows.iter().filter(|row| !there.contains(&row.id)) {
            findings.extend(missing(seen, row)?.map(|(action, detail)| Finding {
                container_id: row.id(),
                kind: Kind::Vanished,
                action,
                detail,
            }));
        }
    }
    Ok(findings)
}

type Found = Option<(Kind, Action, String)>;

fn orphan(seen: &Seen<'_>, instance: &Instance) -> Found {
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
fn elsewhere(seen: &Seen<'_>, row: &Model) -> Result<Found, StoreError> {
    use ContainerState as S;
    let age = seen.now - row.updated_at;
    Ok(match row.state()? {
        S::Deleted | S::Failed => Some(if age < LEFT {
            (Kind::Unwanted, Action::Wait, format!("it is {}", row.state))
        } else {
            (
                Kind::Unwanted,
                Action::Remove,
                format!("it is {}", row.state),
            )
        }),
        S::Running | S::Draining | S::Stopped | S::Unknown if age >= seen.settle => {
            let place = address_of(row).map_or_else(|| "nowhere".to_owned(), |at| at.to_string());
            Some((
                Kind::Outdated,
                Action::Remove,
                format!("it lives on {place}"),
            ))
        }
        // It may be on its way here.
        S::Requested
        | S::Creating
        | S::Deleting
        | S::Running
        | S::Draining
        | S::Stopped
        | S::Unknown => None,
    })
}

/// About an instance whose row lives on this engine.
fn known(seen: &Seen<'_>, row: &Model, instance: &Instance) -> Result<Found, StoreError> {
    use ContainerState as S;
    // The task that makes the newer one takes the older one's place.
    if instance.generation < row.generation {
        return Ok(None);
    }
    let state = row.state()?;
    Ok(match (state, instance.status) {
        (S::Running | S::Draining, Status::Exited { code }) => Some((
            Kind::Ended,
            Action::Fail,
            format!("it ended by itself with code {code}"),
        )),
        (S::Unknown, Status::Ready) if is_heard(seen, row, instance) => Some((
            Kind::Seen,
            Action::Resume,
            "it runs, and nobody knew".to_owned(),
        )),
        (S::Running | S::Draining, Status::Ready) if has_moved(seen, row, instance) => Some((
            Kind::Moved,
            Action::Update,
            format!("it is reached by {:?}", instance.ports),
        )),
        (
            S::Requested
            | S::Creating
            | S::Running
            | S::Draining
            | S::Stopped
            | S::Deleting
            | S::Deleted
            | S::Failed
            | S::Unknown,
            Status::Created
            | Status::Starting
            | Status::Ready
            | Status::Unhealthy
            | Status::Off
            | Status::Exited { .. },
        ) => None,
    })
}

/// Whether the host it runs on is heard of.
fn is_heard(seen: &Seen<'_>, row: &Model, instance: &Instance) -> bool {
    let host = match &instance.node {
        Some(node) => seen.nodes.get(node).copied(),
        None => row.host_id,
    };
    host.is_none_or(|host| !seen.silent.contains(&host))
}

fn has_moved(seen: &Seen<'_>, row: &Model, instance: &Instance) -> bool {
    let host = instance.node.as_ref().and_then(|node| seen.nodes.get(node));
    row.ports.0 != instance.ports
        || row.ip != instance.ip
        || row.node != instance.node
        || host.is_some_and(|host| row.host_id != Some(*host))
}

/// About a row the engine has nothing of.
fn missing(seen: &Seen<'_>, row: &Model) -> Result<Option<(Action, String)>, StoreError> {
    use ContainerState as S;
    let is_settled = seen.now - row.updated_at >= seen.settle;
    let is_silent = row.host_id.is_some_and(|host| seen.silent.contains(&host));
    if !is_settled || is_silent {
        return Ok(None);
    }
    let detail = "its engine has it no more".to_owned();
    Ok(match row.state()? {
        S::Running | S::Unknown => Some((Action::Recreate, detail)),
        S::Draining | S::Stopped => Some((Action::Delete, detail)),
        // These have a task of their own.
        S::Requested | S::Creating | S::Deleting | S::Deleted | S::Failed => None,
    })
}
