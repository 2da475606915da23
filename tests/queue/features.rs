//! Each feature of the engine by an example: keys, rates, schedules,
//! versions, pauses, the archive.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use main_webserver::{
    domain::{Dial, Id, task::Priority},
    queue::{
        Registry, Retention, Run, TaskError, TaskKind, TaskStore, Upkeep, Worker, WorkerSettings,
    },
    store::{
        archive, kinds,
        limits::{self, Rate},
        schedules::{self, NewSchedule},
        statistics, task_logs,
        tasks::{self, NewTask, Outcome, TaskInput},
        workers,
    },
    tasks::open,
};
use sea_orm::JsonValue;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::bench::{Bench, Input, LEASE, Script, enqueue};
use crate::harness::until;

#[tokio::test]
async fn keys_lead_to_the_task_that_has_them() {
    let bench = Bench::quiet().await;
    let task = |idempotency: Option<&str>, unique: Option<&str>| NewTask {
        idempotency_key: idempotency.map(str::to_owned),
        unique_key: unique.map(str::to_owned),
        ..Input(Script::Succeed).into_task(None, None).unwrap()
    };
    // Within one batch and between batches.
    let batch = vec![
        task(Some("a"), None),
        task(Some("a"), None),
        task(None, Some("u")),
        task(None, None),
    ];
    let first = tasks::insert_batch(&bench.store, batch).await.unwrap();
    let is_new: Vec<bool> = first.iter().map(|enqueued| enqueued.is_new).collect();
    assert_eq!(is_new, [true, false, true, true]);
    assert_eq!(first[0].task.id, first[1].task.id);
    let again = bench.insert(task(Some("a"), None)).await;
    assert_eq!(again.id, first[0].task.id);
    let live = bench.insert(task(None, Some("u"))).await;
    assert_eq!(live.id, first[2].task.id);
    // An idempotency key stands for ever, a unique one while its task lives.
    let by = bench.claimer(1);
    let ids = [first[0].task.id(), first[2].task.id()];
    let held = tasks::claim(&bench.store, &ids, &by).await.unwrap();
    let done: Vec<_> = held
        .iter()
        .map(|task| (task.lease(), Outcome::Succeeded(json!(null))))
        .collect();
    assert_eq!(tasks::settle(&bench.store, &done).await.unwrap().len(), 2);
    assert_eq!(
        bench.insert(task(Some("a"), None)).await.id,
        first[0].task.id
    );
    assert_ne!(
        bench.insert(task(None, Some("u"))).await.id,
        first[2].task.id
    );
    bench.end().await;
}

#[tokio::test]
async fn a_rate_gives_everybody_a_turn_of_their_own() {
    let bench = Bench::quiet().await;
    let rate = Rate::per_second(2).unwrap();
    let began = main_webserver::domain::Clock::now(&*bench.clock);
    let mut turns = Vec::new();
    for _ in 0..6 {
        let turn = limits::reserve(&bench.store, "engine", rate).await.unwrap();
        turns.push((turn - began).num_milliseconds());
    }
    assert_eq!(
        turns,
        [0, 0, 500, 1000, 1500, 2000],
        "a burst of two, then the pace"
    );
    bench.clock.advance(Duration::from_secs(60));
    let later = limits::reserve(&bench.store, "engine", rate).await.unwrap();
    assert_eq!((later - began).num_seconds(), 60);
    // Eight at once get eight turns.
    let eight = (0..8).map(|_| {
        let store = bench.store.clone();
        tokio::spawn(async move { limits::reserve(&store, "other", rate).await.unwrap() })
    });
    let mut turns = Vec::new();
    for turn in futures_util::future::join_all(eight).await {
        turns.push((turn.unwrap() - began).num_milliseconds() - 60_000);
    }
    turns.sort_unstable();
    assert_eq!(turns, [0, 0, 500, 1000, 1500, 2000, 2500, 3000]);
    bench.end().await;
}

#[tokio::test]
async fn a_schedule_makes_one_task_a_time_however_many_look_and_one_for_all_it_missed() {
    let bench = Bench::quiet().await;
    let next_at = main_webserver::domain::Clock::now(&*bench.clock);
    let schedule = NewSchedule {
        name: "every-minute".to_owned(),
        template: open::task("noop", json!({})).unwrap().into(),
        cron: "* * * * *".to_owned(),
        time_zone: "UTC".to_owned(),
        enabled: true,
        next_at,
    };
    let mut tx = bench.store.begin().await.unwrap();
    let schedule = schedules::put(&mut tx, schedule).await.unwrap();
    tx.commit().await.unwrap();
    let look = async || {
        let looks = (0..4).map(|_| {
            let store = bench.store.clone();
            tokio::spawn(async move { schedules::fire_due(&store, 10).await.unwrap() })
        });
        let mut fired = 0;
        for look in futures_util::future::join_all(looks).await {
            fired += look.unwrap();
        }
        fired
    };
    assert_eq!(look().await, 1);
    assert_eq!(look().await, 0);
    assert!(bench.store.next_due().await.unwrap().is_some());
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(look().await, 1);
    bench.clock.advance(Duration::from_secs(3600));
    assert_eq!(look().await, 1, "sixty were missed");
    assert_eq!(look().await, 0);
    let made = statistics::refresh(&bench.store).await.unwrap();
    assert_eq!(
        made.depths.iter().map(|depth| depth.count).sum::<i64>(),
        3,
        "{made:?}"
    );
    let mut tx = bench.store.begin().await.unwrap();
    assert!(schedules::remove(&mut tx, schedule.id()).await.unwrap());
    tx.commit().await.unwrap();
    bench.clock.advance(Duration::from_secs(3600));
    assert_eq!(look().await, 0);
    bench.end().await;
}

/// Version 2 of an input whose first version counted in another unit.
#[derive(Clone, Serialize, Deserialize)]
struct Renamed {
    seconds: u64,
}

impl TaskInput for Renamed {
    const KIND: &'static str = "renamed";
    const VERSION: i32 = 2;
    const DEADLINE: Duration = Duration::from_secs(10_000);

    fn upgrade(version: i32, input: JsonValue) -> Result<JsonValue, String> {
        match (version, input["minutes"].as_u64()) {
            (1, Some(minutes)) => Ok(json!({ "seconds": minutes * 60 })),
            _ => Err(format!("version {version} is not known")),
        }
    }
}

struct Teller;

#[async_trait]
impl TaskKind for Teller {
    type Input = Renamed;
    type Output = u64;

    async fn run(&self, input: Renamed, _: &Run) -> Result<u64, TaskError> {
        Ok(input.seconds)
    }
}

#[tokio::test]
async fn an_old_input_is_read_and_a_newer_one_left_to_a_newer_worker() {
    let mut bench = Bench::quiet().await;
    bench.registry = Registry::default().with(Teller);
    bench.add_worker(Duration::from_secs(5));
    let sweeper = bench.sweeper().run(bench.stop.clone());
    bench.parts.push(tokio::spawn(sweeper));
    let queue = async |input_version, input| {
        let task = NewTask {
            input_version,
            input,
            ..Renamed { seconds: 0 }.into_task(None, None).unwrap()
        };
        bench.insert(task).await.id()
    };
    let old = queue(1, json!({ "minutes": 2 })).await;
    let unreadable = queue(0, json!({})).await;
    let newer = queue(3, json!({ "fortnights": 1 })).await;
    assert_eq!(
        bench.in_state_later(old, "succeeded").await.result,
        Some(120.into())
    );
    let row = bench.in_state_later(unreadable, "failed").await;
    assert_eq!(row.error_code.as_deref(), Some("BAD_INPUT"));
    let row = bench.row(newer).await;
    assert_eq!((row.state.as_str(), row.attempt), ("queued", 0));
    bench.end().await;
}

#[tokio::test]
async fn a_paused_kind_keeps_its_tasks_until_it_is_resumed() {
    let bench = Bench::quiet().await;
    let id = bench.enqueue(Script::Succeed).await;
    kinds::set_paused(&bench.store, "scripted", true)
        .await
        .unwrap();
    let by = bench.claimer(1);
    assert!(
        tasks::claim(&bench.store, &[id], &by)
            .await
            .unwrap()
            .is_empty()
    );
    bench.clock.advance(Duration::from_secs(60));
    let mut cursor = tasks::Cursor::default();
    let heard = tasks::reannounce(&bench.store, &mut cursor, 10)
        .await
        .unwrap();
    assert!(heard.is_empty(), "it is not announced either");
    kinds::set_paused(&bench.store, "scripted", false)
        .await
        .unwrap();
    let heard = tasks::reannounce(&bench.store, &mut cursor, 10)
        .await
        .unwrap();
    assert_eq!(heard.len(), 1);
    assert_eq!(
        tasks::claim(&bench.store, &[id], &by).await.unwrap().len(),
        1
    );
    bench.end().await;
}

#[tokio::test]
async fn while_the_queue_is_away_every_share_gets_its_turn() {
    let bench = Bench::quiet().await;
    let owned = |owner: u128| {
        let owner = Id::new(uuid::Uuid::from_u128(owner));
        Input(Script::Succeed).into_task(Some(owner), None).unwrap()
    };
    let many = (0..500).map(|_| owned(1)).collect();
    tasks::insert_batch(&bench.store, many).await.unwrap();
    let one = bench.insert(owned(2)).await;
    let mut cursor = tasks::Cursor::default();
    let due = tasks::due(&bench.store, &bench.claimer(1), &mut cursor, 20)
        .await
        .unwrap();
    assert!(
        due.contains(&one.id()),
        "one of twenty is the small owner's"
    );
    assert!(due.len() > 10);
    let urgent = NewTask {
        priority: Priority::Interactive,
        ..owned(3)
    };
    let urgent = bench.insert(urgent).await;
    let due = tasks::due(&bench.store, &bench.claimer(1), &mut cursor, 20)
        .await
        .unwrap();
    assert_eq!(due[0], urgent.id());
    bench.end().await;
}

#[tokio::test]
async fn ended_tasks_go_to_the_archive_with_their_log_and_then_for_good() {
    let bench = Bench::working().await;
    let done = bench.enqueue(Script::Succeed).await;
    let dead = bench.enqueue(Script::FailForGood).await;
    bench.in_state(done, "succeeded").await;
    bench.in_state(dead, "failed").await;
    let days = |days: u64| Duration::from_secs(days * 86_400);
    let retention = Retention {
        ended: days(1),
        failed: days(10),
        archived: days(100),
        logs: days(1000),
        logins: days(1000),
        audit: days(1000),
    };
    let upkeep = Upkeep::new(bench.store.clone(), Dial::new(retention));
    upkeep.clear().await.unwrap();
    assert_eq!(bench.row(done).await.state, "succeeded", "it is too early");
    bench.clock.advance(days(2));
    upkeep.clear().await.unwrap();
    let gone = async |id| {
        tasks::unscoped_by_id(bench.store.db(), id)
            .await
            .unwrap()
            .is_none()
    };
    assert!(
        gone(done).await && !gone(dead).await,
        "dead letters stay longer"
    );
    bench.clock.advance(days(10));
    upkeep.clear().await.unwrap();
    assert!(gone(dead).await);
    let kept = archive::unscoped_by_id(&bench.store, dead)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kept.document["errorCode"], "NEVER");
    assert_eq!(kept.document["log"][0]["level"], "error");
    assert!(
        task_logs::page(&bench.store, dead, None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    bench.clock.advance(days(101));
    upkeep.clear().await.unwrap();
    assert!(
        archive::unscoped_by_id(&bench.store, dead)
            .await
            .unwrap()
            .is_none()
    );
    bench.end().await;
}

#[tokio::test]
async fn a_cancelled_task_of_a_kind_nobody_knows_ends_all_the_same() {
    let bench = Bench::quiet().await;
    let id = bench.enqueue(Script::Succeed).await;
    let mut tx = bench.store.begin().await.unwrap();
    let row = bench.row_in(&tx, id).await;
    tasks::request_cancel(&mut tx, &row).await.unwrap();
    tx.commit().await.unwrap();
    let known = ["scripted".to_owned()].into();
    assert_eq!(
        tasks::drop_stranded(&bench.store, &known, 10)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        tasks::drop_stranded(&bench.store, &std::collections::BTreeSet::new(), 10)
            .await
            .unwrap(),
        1
    );
    assert_eq!(bench.row(id).await.state, "cancelled");
    bench.end().await;
}

#[tokio::test]
async fn a_living_worker_shows_itself_and_a_dead_one_is_forgotten() {
    let mut bench = Bench::quiet().await;
    let settings = WorkerSettings {
        concurrency: 3,
        lease: LEASE,
        drain: LEASE,
    };
    let worker = Worker::new(bench.outlook(), bench.registry.clone(), settings);
    let (me, stop) = (worker.id, CancellationToken::new());
    let run = tokio::spawn(Arc::new(worker).run(stop.clone()));
    let shown = until("it has shown itself", async || {
        let all = workers::all(&bench.store).await.unwrap();
        all.into_iter().find(|worker| worker.id == me)
    })
    .await;
    assert_eq!(
        (shown.concurrency, shown.known()),
        (3, bench.registry.known())
    );
    let silence = Duration::from_secs(120);
    bench.clock.advance(Duration::from_secs(60));
    workers::forget_silent(&bench.store, silence).await.unwrap();
    assert_eq!(workers::all(&bench.store).await.unwrap().len(), 1);
    stop.cancel();
    run.await.unwrap();
    assert!(
        workers::all(&bench.store).await.unwrap().is_empty(),
        "it has left"
    );
    bench.parts.clear();
    bench.end().await;
}

#[tokio::test]
async fn a_result_the_database_does_not_take_fails_its_task_and_no_other() {
    let mut bench = Bench::quiet().await;
    bench.registry = Registry::default().with(bench.kind.clone()).with(Odd);
    bench.add_worker(Duration::from_secs(5));
    let odd = enqueue(&bench, OddInput {}).await;
    let fine = bench.enqueue(Script::Succeed).await;
    bench.in_state(fine, "succeeded").await;
    let row = until("it has ended", async || {
        Some(bench.row(odd).await).filter(|row| row.finished_at.is_some())
    })
    .await;
    // PostgreSQL's JSON has no place for the character, SQLite's has.
    let is_postgres = std::env::var_os("TEST_DATABASE_URL").is_some();
    let expected = if is_postgres {
        Some("BAD_OUTPUT")
    } else {
        None
    };
    assert_eq!(row.error_code.as_deref(), expected, "{row:?}");
    bench.end().await;
}

#[derive(Clone, Serialize, Deserialize)]
struct OddInput {}

impl TaskInput for OddInput {
    const KIND: &'static str = "odd";
}

struct Odd;

#[async_trait]
impl TaskKind for Odd {
    type Input = OddInput;
    type Output = String;

    async fn run(&self, _: OddInput, run: &Run) -> Result<String, TaskError> {
        run.progress(10, "a \0 in the middle").await?;
        Ok("nothing \0 ends here".to_owned())
    }
}
