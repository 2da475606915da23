//! Every case of the plan, without an engine and without a database.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::{
    domain::{Id, id::Container},
    fleet::{Action, Kept as _, Kind, Seen, Want, plan},
    providers::{Address, Instance, Status},
    store::containers::{Model, PortMap},
};
use uuid::Uuid;

const HOST: Uuid = Uuid::from_u128(77);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_700_000_000, 0).unwrap()
}

fn row(number: u128, state: &str) -> Model {
    let then = now() - TimeDelta::seconds(60);
    Model {
        id: Uuid::from_u128(number),
        owner_id: None,
        app_id: Uuid::nil(),
        region_id: Uuid::nil(),
        cluster_id: None,
        host_id: None,
        state: state.to_owned(),
        version: 1,
        dpi: 96,
        stun: false,
        release_channel: "stable".to_owned(),
        image: None,
        cpu_millis: 0,
        memory_bytes: 0,
        generation: 1,
        provider: Some("docker".to_owned()),
        endpoint: None,
        node: None,
        handle: Some("h".to_owned()),
        ip: None,
        ports: PortMap::default(),
        failure_code: None,
        failure_reason: None,
        created_at: then,
        updated_at: then,
        running_at: None,
        assigned_at: None,
        last_ping_at: None,
        draining_at: None,
        ended_at: None,
    }
}

fn instance(number: u128) -> Instance {
    Instance {
        id: Id::new(Uuid::from_u128(number)),
        generation: 1,
        deployment: Some("ours".to_owned()),
        node: None,
        handle: "h".to_owned(),
        status: Status::Ready,
        ip: None,
        ports: std::collections::BTreeMap::new(),
    }
}

/// What is planned for one container.
fn planned(rows: &[Model], others: &[Model], instances: &[Instance]) -> Vec<(Kind, Action)> {
    planned_with(rows, others, instances, &HashSet::new(), true)
}

fn planned_with(
    rows: &[Model],
    others: &[Model],
    instances: &[Instance],
    silent: &HashSet<Uuid>,
    is_whole: bool,
) -> Vec<(Kind, Action)> {
    let old: HashMap<Id<Container>, DateTime<Utc>> =
        HashMap::from([(Id::new(Uuid::from_u128(9)), now() - TimeDelta::seconds(90))]);
    let address = Address {
        provider: "docker".to_owned(),
        endpoint: None,
    };
    let wants = |rows: &[Model]| -> Vec<Want<Container>> {
        rows.iter()
            .map(|row| Container::want(row).unwrap())
            .collect()
    };
    let (rows, others) = (wants(rows), wants(others));
    let seen = Seen {
        address: &address,
        deployment: "ours",
        now: now(),
        rows: &rows,
        others: &others,
        instances,
        silent,
        nodes: &HashMap::from([("n".to_owned(), HOST)]),
        orphans: &old,
        grace: TimeDelta::seconds(60),
        settle: TimeDelta::seconds(5),
        is_whole,
    };
    let findings = plan(&seen);
    findings
        .iter()
        .map(|finding| (finding.kind, finding.action))
        .collect()
}

#[test]
fn what_agrees_is_left_alone() {
    for state in [
        "running",
        "draining",
        "creating",
        "requested",
        "stopped",
        "deleting",
    ] {
        assert_eq!(
            planned(&[row(1, state)], &[], &[instance(1)]),
            [],
            "{state}"
        );
    }
    for state in ["requested", "creating", "deleting"] {
        assert_eq!(
            planned(&[row(1, state)], &[], &[]),
            [],
            "{state} has a task of its own"
        );
    }
}

#[test]
fn what_is_missing_is_made_anew_or_let_go() {
    assert_eq!(
        planned(&[row(1, "running")], &[], &[]),
        [(Kind::Vanished, Action::Recreate)]
    );
    assert_eq!(
        planned(&[row(1, "unknown")], &[], &[]),
        [(Kind::Vanished, Action::Recreate)]
    );
    assert_eq!(
        planned(&[row(1, "draining")], &[], &[]),
        [(Kind::Vanished, Action::Delete)]
    );
    assert_eq!(
        planned(&[row(1, "stopped")], &[], &[]),
        [(Kind::Vanished, Action::Delete)]
    );
    // Not when it has just changed, nor on a lost host, nor on an engine others do not see.
    let young = Model {
        updated_at: now(),
        ..row(1, "running")
    };
    assert_eq!(planned(&[young], &[], &[]), []);
    let on_host = Model {
        host_id: Some(HOST),
        ..row(1, "running")
    };
    assert_eq!(
        planned_with(&[on_host], &[], &[], &HashSet::from([HOST]), true),
        []
    );
    assert_eq!(
        planned_with(&[row(1, "running")], &[], &[], &HashSet::new(), false),
        []
    );
}

#[test]
fn what_nobody_knows_waits_its_time_and_another_deployments_is_never_touched() {
    assert_eq!(
        planned(&[], &[], &[instance(1)]),
        [(Kind::Orphan, Action::Wait)]
    );
    assert_eq!(
        planned(&[], &[], &[instance(9)]),
        [(Kind::Orphan, Action::Remove)]
    );
    for deployment in [Some("theirs".to_owned()), None] {
        let stranger = Instance {
            deployment,
            ..instance(9)
        };
        assert_eq!(planned(&[], &[], &[stranger]), []);
    }
}

#[test]
fn what_has_ended_or_lives_elsewhere_is_removed() {
    for state in ["deleted", "failed"] {
        assert_eq!(
            planned(&[], &[row(1, state)], &[instance(1)]),
            [(Kind::Unwanted, Action::Remove)]
        );
        let young = Model {
            updated_at: now(),
            ..row(1, state)
        };
        assert_eq!(
            planned(&[], &[young], &[instance(1)]),
            [(Kind::Unwanted, Action::Wait)]
        );
    }
    for state in ["running", "draining", "unknown", "stopped"] {
        assert_eq!(
            planned(&[], &[row(1, state)], &[instance(1)]),
            [(Kind::Outdated, Action::Remove)]
        );
    }
    for state in ["requested", "creating", "deleting"] {
        assert_eq!(
            planned(&[], &[row(1, state)], &[instance(1)]),
            [],
            "{state} may be on its way here"
        );
    }
}

#[test]
fn what_ended_has_failed_and_what_moved_is_written_down() {
    let ended = Instance {
        status: Status::Exited { code: 1 },
        ..instance(1)
    };
    assert_eq!(
        planned(&[row(1, "running")], &[], std::slice::from_ref(&ended)),
        [(Kind::Ended, Action::Fail)]
    );
    assert_eq!(
        planned(&[row(1, "creating")], &[], std::slice::from_ref(&ended)),
        [],
        "its task sees to it"
    );
    let moved = Instance {
        ports: [(80, 81)].into(),
        ..instance(1)
    };
    assert_eq!(
        planned(&[row(1, "running")], &[], &[moved]),
        [(Kind::Moved, Action::Update)]
    );
    // What is being replaced by a newer one is its task's.
    let newer = Model {
        generation: 2,
        ..row(1, "running")
    };
    assert_eq!(planned(&[newer], &[], &[ended]), []);
}

#[test]
fn what_is_seen_again_runs_unless_its_host_is_lost() {
    let lost = HashSet::from([HOST]);
    assert_eq!(
        planned(&[row(1, "unknown")], &[], &[instance(1)]),
        [(Kind::Seen, Action::Resume)]
    );
    let on_host = Model {
        host_id: Some(HOST),
        ..row(1, "unknown")
    };
    assert_eq!(
        planned_with(
            std::slice::from_ref(&on_host),
            &[],
            &[instance(1)],
            &lost,
            true
        ),
        []
    );
    assert_eq!(
        planned(&[on_host], &[], &[instance(1)]),
        [(Kind::Seen, Action::Resume)]
    );
    // Its engine has put it on another machine.
    let elsewhere = Instance {
        node: Some("n".to_owned()),
        ..instance(1)
    };
    let from = Model {
        host_id: Some(Uuid::from_u128(78)),
        ..row(1, "unknown")
    };
    assert_eq!(
        planned_with(
            &[from],
            &[],
            &[elsewhere],
            &HashSet::from([Uuid::from_u128(78)]),
            true
        ),
        [(Kind::Seen, Action::Resume)]
    );
    let starting = Instance {
        status: Status::Starting,
        ..instance(1)
    };
    assert_eq!(planned(&[row(1, "unknown")], &[], &[starting]), []);
}
