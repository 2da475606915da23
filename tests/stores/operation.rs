//! The operations, drawn from a seed, and how model and store carry them out. Answers are words in one order.

use std::{collections::BTreeSet, fmt::Debug, time::Duration};

use chrono::TimeDelta;
use main_webserver::{
    domain::{Id, task::Priority, trace::TraceParent},
    error::StoreError,
    store::{
        Store, archive, kinds, leader, limits, schedules,
        task_logs::Level,
        tasks::{self, CHILDREN, Claimer, Cursor, KnownKind, Lease, NewTask, Outcome, Report},
    },
};
use rand::{RngExt as _, rngs::StdRng};
use serde_json::json;
use uuid::Uuid;

use crate::simulation::model::{Database, Time, Tx};

const KINDS: [&str; 4] = ["bake", "brew", "cook", "fry"];
const TOPICS: [&str; 3] = ["ready", "ripe", CHILDREN];
const LEASE: Duration = Duration::from_secs(3);
const RATE: limits::Rate = limits::Rate {
    every: Duration::from_millis(700),
    burst: 3,
};
/// More than any look finds, so that its order does not decide what is found.
const ALL: u64 = 10_000;

#[derive(Clone, Debug)]
pub enum Operation {
    Insert(Vec<NewTask>),
    Claim(Vec<Id<main_webserver::domain::id::Task>>, Claimer),
    Renew(Vec<Lease>),
    Report(Vec<Report>),
    Settle(Vec<(Lease, Outcome)>),
    Arm(Lease, &'static str),
    RecordStep(Lease, &'static str),
    Undo(Lease, &'static str),
    Spawn(Lease, Vec<NewTask>),
    Children(Uuid),
    Reserve(&'static str),
    Due(Claimer),
    Wake(&'static str),
    WakeDue,
    TakeExpired,
    Reannounce,
    NextDue,
    Cancel(Uuid),
    Revive(Vec<Uuid>),
    Reprioritise(Uuid, Priority),
    Pause(&'static str, bool),
    Schedule(schedules::NewSchedule),
    Fire,
    Lead(Uuid),
    Resign(Uuid),
    Archive(archive::Cut),
    DropStranded(BTreeSet<String>),
    LiveOf(Uuid),
}

fn pick<T: Clone>(chance: &mut StdRng, from: &[T]) -> T {
    from[chance.random_range(0..from.len())].clone()
}

fn new_task(chance: &mut StdRng, now: Time) -> NewTask {
    let rarely = chance.random_range(0..8);
    NewTask {
        kind: pick(chance, &KINDS).into(),
        input_version: if rarely == 0 { 2 } else { 1 },
        input: json!({ "n": chance.random_range(0..9), "of": [null, "ü"] }),
        owner: (rarely < 6).then(|| Id::new(Uuid::from_u128(chance.random_range(1..4)))),
        subject: (rarely == 2).then(|| Uuid::from_u128(9)),
        parent: None,
        priority: pick(chance, &Priority::ALL),
        max_attempts: chance.random_range(1..4),
        run_at: (rarely == 1)
            .then(|| now + TimeDelta::milliseconds(chance.random_range(-900..5_000))),
        deadline: Duration::from_secs(chance.random_range(1..90)),
        idempotency_key: (rarely > 4).then(|| format!("key {}", chance.random_range(0..12))),
        unique_key: (rarely == 3 || rarely == 6)
            .then(|| format!("unique {}", chance.random_range(0..4))),
        trace: (rarely == 2).then_some(TraceParent {
            trace_id: 7,
            span_id: 8,
            is_sampled: true,
        }),
    }
}

fn outcome(chance: &mut StdRng, now: Time) -> Outcome {
    let later = now + TimeDelta::milliseconds(chance.random_range(-500..4_000));
    match chance.random_range(0..8) {
        0 => Outcome::Succeeded(json!({ "done": true })),
        1 => Outcome::Succeeded(serde_json::Value::Null),
        2 => Outcome::Retry {
            at: later,
            failures: chance.random_range(0..3),
            code: "OOPS",
            message: "it's \"not\" this time".to_owned(),
        },
        3 | 4 => Outcome::Park {
            until: later,
            wake_on: (chance.random_range(0..5) > 0).then(|| pick(chance, &TOPICS).to_owned()),
        },
        5 => Outcome::Failed {
            code: "NEVER",
            message: "for good".to_owned(),
        },
        6 => Outcome::Cancelled,
        _ => Outcome::HandBack,
    }
}

fn claimer(chance: &mut StdRng) -> Claimer {
    let known = match chance.random_range(0..6) {
        0 => &KINDS[..1],
        1 => &KINDS[2..],
        2 => &["sing"],
        _ => &KINDS[..],
    };
    let version = 1 + i32::from(chance.random_range(0..3) == 0);
    let kinds = known.iter().map(|kind| KnownKind {
        kind: (*kind).to_owned(),
        version,
    });
    Claimer {
        worker: Uuid::from_u128(chance.random_range(100..103)),
        kinds: kinds.collect(),
        lease: LEASE,
    }
}

/// Some leases: mostly the newest of their task, some old, some nobody ever had.
fn some_leases(chance: &mut StdRng, model: &Database, leases: &[Lease]) -> Vec<Lease> {
    let mut some = BTreeSet::new();
    for row in model.tasks.values().filter(|row| row.state == "running") {
        if chance.random_range(0..3) == 0
            && let Some(worker) = row.worker_id
        {
            let (task, attempt) = (row.id(), row.attempt);
            some.insert(Lease {
                task,
                attempt,
                worker,
            });
        }
    }
    if !leases.is_empty() {
        some.insert(pick(chance, leases));
        let mut strange = pick(chance, leases);
        strange.worker = Uuid::from_u128(chance.random_range(100..104));
        some.insert(strange);
    }
    some.into_iter().collect()
}

impl Operation {
    pub fn draw(chance: &mut StdRng, model: &Database, leases: &[Lease], now: Time) -> Self {
        let ids: Vec<Uuid> = model.tasks.keys().copied().collect();
        let count = chance.random_range(1..4);
        if ids.is_empty() {
            return Self::Insert((0..count).map(|_| new_task(chance, now)).collect());
        }
        let some = some_leases(chance, model, leases);
        let one = some.first().copied();
        let lease = one.unwrap_or(Lease {
            task: Id::new(ids[0]),
            attempt: 1,
            worker: Uuid::nil(),
        });
        let holder = Uuid::from_u128(chance.random_range(200..203));
        match chance.random_range(0..44) {
            0..=5 => Self::Insert((0..count).map(|_| new_task(chance, now)).collect()),
            6..=11 => {
                let wanted = ids.iter().filter(|_| chance.random_range(0..2) == 0);
                let wanted: Vec<_> = wanted.map(|id| Id::new(*id)).collect();
                Self::Claim(wanted, claimer(chance))
            }
            12 => Self::Renew(some),
            13 | 14 => Self::Report(
                some.into_iter()
                    .map(|lease| Report {
                        lease,
                        percent: (chance.random_range(0..3) > 0)
                            .then(|| chance.random_range(0..120)),
                        level: Level::Info,
                        message: "so far, so 'good'".to_owned(),
                    })
                    .collect(),
            ),
            15..=19 => {
                // One process' runs: of one attempt it has one.
                let mut some = some;
                some.dedup_by_key(|lease| (lease.task, lease.attempt));
                let settled = some.into_iter().map(|lease| (lease, outcome(chance, now)));
                Self::Settle(settled.collect())
            }
            20 | 21 => Self::Arm(lease, pick(chance, &TOPICS)),
            22 => Self::RecordStep(lease, pick(chance, &["one", "two", "three"])),
            23 => Self::Undo(lease, pick(chance, &["one", "two", "three"])),
            24 => {
                let children = (0..count).map(|number| NewTask {
                    parent: Some(lease.task),
                    idempotency_key: Some(format!("child:{}:{number}", lease.task)),
                    ..new_task(chance, now)
                });
                Self::Spawn(lease, children.collect())
            }
            25 => Self::Children(lease.task.uuid()),
            26 => Self::Reserve("engine"),
            27 => Self::Due(claimer(chance)),
            28 | 29 => Self::Wake(pick(chance, &TOPICS[..2])),
            30 => Self::WakeDue,
            31 | 32 => Self::TakeExpired,
            33 => Self::Reannounce,
            34 => Self::NextDue,
            35 | 36 => Self::Cancel(pick(chance, &ids)),
            37 => Self::revival(chance, model),
            38 => Self::Reprioritise(pick(chance, &ids), pick(chance, &Priority::ALL)),
            39 => Self::Pause(pick(chance, &KINDS), chance.random_range(0..3) == 0),
            40 if chance.random_range(0..3) == 0 => Self::Schedule(schedules::NewSchedule {
                name: format!("every {}", chance.random_range(0..3)),
                template: new_task(chance, now).into(),
                cron: pick(chance, &["*/5 * * * * *", "*/20 * * * * *"]).to_owned(),
                time_zone: "Europe/Berlin".to_owned(),
                enabled: chance.random_range(0..4) > 0,
                next_at: now + TimeDelta::seconds(chance.random_range(1..10)),
            }),
            40 => Self::Fire,
            41 if chance.random_range(0..3) == 0 => Self::Resign(holder),
            41 => Self::Lead(holder),
            42 if chance.random_range(0..2) == 0 => Self::Archive(archive::Cut {
                ended_before: now - TimeDelta::seconds(30),
                failed_before: now - TimeDelta::seconds(90),
                archived_before: now,
            }),
            42 => Self::DropStranded(KINDS[..3].iter().map(|kind| (*kind).to_owned()).collect()),
            _ => Self::LiveOf(Uuid::from_u128(chance.random_range(0..4))),
        }
    }

    fn revival(chance: &mut StdRng, model: &Database) -> Self {
        let ended = model.tasks.values().filter(|row| row.finished_at.is_some());
        let mut ended: Vec<Uuid> = ended.map(|row| row.id).collect();
        ended.retain(|_| chance.random_range(0..3) == 0);
        Self::Revive(ended)
    }

    pub fn apply_to_model(
        &self,
        db: &mut Database,
        tx: &mut Tx,
        leases: &mut Vec<Lease>,
    ) -> Vec<String> {
        match self {
            Self::Insert(tasks) => words(db.insert_batch(tx, tasks.clone())),
            Self::Claim(ids, by) => {
                let claimed = db.claim(tx, ids, by);
                leases.extend(claimed.iter().map(tasks::Claimed::lease));
                words(claimed)
            }
            Self::Renew(leases) => words(db.renew(tx, leases, LEASE)),
            Self::Report(reports) => words(db.report(tx, reports)),
            Self::Settle(outcomes) => words(db.settle(tx, outcomes)),
            Self::Arm(lease, topic) => answer(db.arm(tx, *lease, topic)),
            Self::RecordStep(lease, name) => answer(db.record_step(tx, *lease, name, json!(name))),
            Self::Undo(lease, name) => answer(db.mark_compensated(tx, *lease, name)),
            Self::Spawn(lease, children) => answer(db.spawn(tx, *lease, children.clone())),
            Self::Children(parent) => words(db.children(Id::new(*parent))),
            Self::Reserve(name) => words([db.reserve(tx.now, name, RATE)]),
            Self::Due(by) => words(db.due(tx.now, by, ALL)),
            Self::Wake(topic) => words([db.wake(tx, topic)]),
            Self::WakeDue => words([db.wake_due(tx, ALL)]),
            Self::TakeExpired => words([db.take_expired(tx, ALL)]),
            Self::Reannounce => told(&db.reannounce(tx, ALL)),
            Self::NextDue => words([db.next_due()]),
            Self::Cancel(task) => words([db.request_cancel(tx, *task)]),
            Self::Revive(tasks) => answer(db.revive(tx, tasks)),
            Self::Reprioritise(task, priority) => words([db.reprioritise(tx, *task, *priority)]),
            Self::Pause(kind, is_paused) => {
                db.paused.remove(*kind);
                if *is_paused {
                    db.paused.insert((*kind).to_owned());
                }
                Vec::new()
            }
            Self::Schedule(schedule) => {
                db.put_schedule(tx, schedule.clone());
                Vec::new()
            }
            Self::Fire => {
                let told = db.fire_schedules(tx);
                let hints = told.iter().flat_map(|posted| posted.hints.clone());
                tx.posted.hints.extend(hints);
                words([told.len()])
            }
            Self::Lead(holder) => words([db.lead(tx.now, "sweep", *holder, LEASE)]),
            Self::Resign(holder) => words([db.resign("sweep", *holder)]),
            Self::Archive(cut) => words([db.move_ended(*cut)]),
            Self::DropStranded(known) => words([db.drop_stranded(tx, known)]),
            Self::LiveOf(share) => words([db.live_of_share(*share)]),
        }
    }

    pub async fn apply_to_store(&self, store: &Store) -> Vec<String> {
        match self {
            Self::Insert(new) => {
                let inserted = tasks::insert_batch(store, new.clone()).await.unwrap();
                words(inserted.into_iter().map(|one| (one.task, one.is_new)))
            }
            Self::Claim(ids, by) => words(tasks::claim(store, ids, by).await.unwrap()),
            Self::Renew(leases) => words(tasks::renew(store, leases, LEASE).await.unwrap()),
            Self::Report(reports) => words(tasks::report(store, reports).await.unwrap()),
            Self::Settle(outcomes) => words(tasks::settle(store, outcomes).await.unwrap()),
            Self::Arm(lease, topic) => answer(tasks::arm(store, *lease, topic).await),
            Self::RecordStep(lease, name) => {
                answer(tasks::record_step(store, *lease, name, json!(name)).await)
            }
            Self::Undo(lease, name) => answer(tasks::mark_compensated(store, *lease, name).await),
            Self::Spawn(lease, children) => {
                answer(tasks::spawn(store, *lease, children.clone()).await)
            }
            Self::Children(parent) => {
                words(tasks::children(store, Id::new(*parent)).await.unwrap())
            }
            Self::Reserve(name) => words([limits::reserve(store, name, RATE).await.unwrap()]),
            Self::Due(by) => words(
                tasks::due(store, by, &mut Cursor::default(), ALL)
                    .await
                    .unwrap(),
            ),
            Self::Wake(topic) => words([tasks::wake(store, topic).await.unwrap()]),
            Self::WakeDue => words([tasks::wake_due(store, ALL).await.unwrap()]),
            Self::TakeExpired => words([tasks::take_expired(store, ALL).await.unwrap()]),
            Self::Reannounce => {
                let mut cursor = Cursor::default();
                told(&tasks::reannounce(store, &mut cursor, ALL).await.unwrap())
            }
            Self::NextDue => words([tasks::next_due(store).await.unwrap()]),
            Self::Cancel(task) => words([change(store, *task, None).await]),
            Self::Reprioritise(task, priority) => {
                words([change(store, *task, Some(*priority)).await])
            }
            Self::Revive(ids) => answer(revive(store, ids).await),
            Self::Pause(kind, is_paused) => {
                kinds::set_paused(store, kind, *is_paused).await.unwrap();
                Vec::new()
            }
            Self::Schedule(schedule) => {
                let mut tx = store.begin().await.unwrap();
                schedules::put(&mut tx, schedule.clone()).await.unwrap();
                tx.commit().await.unwrap();
                Vec::new()
            }
            Self::Fire => words([schedules::fire_due(store, ALL).await.unwrap()]),
            Self::Lead(holder) => {
                words([leader::lead(store, "sweep", *holder, LEASE).await.unwrap()])
            }
            Self::Resign(holder) => words([leader::resign(store, "sweep", *holder).await.unwrap()]),
            Self::Archive(cut) => words([archive::move_ended(store, *cut, ALL).await.unwrap()]),
            Self::DropStranded(known) => {
                words([tasks::drop_stranded(store, known, ALL).await.unwrap()])
            }
            Self::LiveOf(share) => words([tasks::live_of_share(store, *share, ALL).await.unwrap()]),
        }
    }
}

async fn change(store: &Store, task: Uuid, priority: Option<Priority>) {
    let mut tx = store.begin().await.unwrap();
    let row = tasks::unscoped_by_id(&tx, Id::new(task))
        .await
        .unwrap()
        .unwrap();
    match priority {
        Some(priority) => tasks::reprioritise(&mut tx, &row, priority).await.unwrap(),
        None => tasks::request_cancel(&mut tx, &row).await.unwrap(),
    };
    tx.commit().await.unwrap();
}

async fn revive(store: &Store, ids: &[Uuid]) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let mut rows = Vec::new();
    for id in ids {
        rows.extend(tasks::unscoped_by_id(&tx, Id::new(*id)).await?);
    }
    tasks::revive(&mut tx, &rows).await?;
    tx.commit().await
}

/// Hints as they are compared.
fn told(hints: &[tasks::Hint]) -> Vec<String> {
    let mut told: Vec<String> = hints.iter().map(super::told).collect();
    told.sort();
    told
}

fn words<T: Debug>(items: impl IntoIterator<Item = T>) -> Vec<String> {
    let mut words: Vec<String> = items.into_iter().map(|item| format!("{item:?}")).collect();
    words.sort();
    words
}

/// An answer that may be a refusal; a database's own words for it do not matter.
fn answer<T: Debug>(result: Result<T, StoreError>) -> Vec<String> {
    match result {
        Ok(value) => words([value]),
        Err(StoreError::Database(_)) => vec!["refused".to_owned()],
        Err(error) => vec![error.to_string()],
    }
}
