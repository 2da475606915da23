//! A day of schedules, with a clock that is put forward, leaders that are cut off, and hours in which nobody looks.

use std::{collections::BTreeSet, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::{
    domain::{Clock as _, cadence::Cadence},
    queue::Sweeper,
    store::{
        schedules::{self, NewSchedule},
        tasks,
    },
    tasks::open,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sea_orm::EntityTrait as _;
use serde_json::json;
use uuid::Uuid;

use super::bench::Bench;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// The times from the day's beginning to its end that `is_due` says a schedule has.
fn times(is_due: impl Fn(DateTime<Utc>) -> bool) -> BTreeSet<DateTime<Utc>> {
    let minutes =
        (0..24 * 60).map(|minute| at("2027-03-27T12:00:00Z") + TimeDelta::minutes(minute + 1));
    minutes.filter(|at| is_due(*at)).collect()
}

#[tokio::test]
async fn every_time_of_a_day_makes_one_task_and_hours_without_a_leader_make_one_in_all() {
    let bench = Bench::quiet().await;
    bench.clock.set(at("2027-03-27T12:00:00Z"));
    let minute = |at: DateTime<Utc>| at.timestamp() / 60 % 60;
    let hour = |at: DateTime<Utc>| at.timestamp() / 3600 % 24;
    // In Berlin the clock goes from 02:00 to 03:00 at 01:00 UTC of the 28th, a Sunday.
    let days: [(&str, &str, &str, BTreeSet<_>); 7] = [
        (
            "fours",
            "*/4 * * * *",
            "UTC",
            times(|at| minute(at) % 4 == 0),
        ),
        (
            "fives",
            "*/5 * * * *",
            "Asia/Kolkata",
            times(|at| minute(at) % 5 == 0),
        ),
        (
            "hourly",
            "30 * * * *",
            "Asia/Kolkata",
            times(|at| minute(at) == 0),
        ),
        (
            "nightly",
            "0 2 * * *",
            "America/New_York",
            times(|at| (hour(at), minute(at)) == (6, 0)),
        ),
        (
            "in-the-gap",
            "30 2 * * *",
            "Europe/Berlin",
            times(|at| (hour(at), minute(at)) == (1, 0)),
        ),
        (
            "midnight",
            "0 0 * * *",
            "Europe/Berlin",
            times(|at| (hour(at), minute(at)) == (23, 0)),
        ),
        ("workdays", "15 9 * * MON-FRI", "UTC", times(|_| false)),
    ];
    let mut ids = Vec::new();
    for (name, cron, zone, _) in &days {
        let next_at = Cadence::parse(cron, zone)
            .unwrap()
            .next(bench.clock.now())
            .unwrap();
        let schedule = NewSchedule {
            name: (*name).to_owned(),
            template: open::task("noop", json!({})).unwrap().into(),
            cron: (*cron).to_owned(),
            time_zone: (*zone).to_owned(),
            enabled: true,
            next_at,
        };
        let mut tx = bench.store.begin().await.unwrap();
        ids.push(schedules::put(&mut tx, schedule).await.unwrap().id);
        tx.commit().await.unwrap();
    }

    let (away, back) = (at("2027-03-28T07:00:30Z"), at("2027-03-28T10:00:30Z"));
    pass_a_day(&bench, away, back).await;

    let made = tasks::Entity::find().all(bench.store.db()).await.unwrap();
    let mut count = 0;
    for ((name, _, _, expected), id) in days.iter().zip(ids) {
        let prefix = format!("schedule:{}:", id.simple());
        let keys = made
            .iter()
            .filter_map(|task| task.idempotency_key.as_deref()?.strip_prefix(&prefix));
        let found: Vec<DateTime<Utc>> = keys
            .map(|micros| DateTime::from_timestamp_micros(micros.parse().unwrap()).unwrap())
            .collect();
        // Of the hours in which nobody looked, the first time alone.
        let missed = expected.range(away..back).skip(1);
        let missed: BTreeSet<_> = missed.copied().collect();
        let expected: BTreeSet<_> = expected.difference(&missed).copied().collect();
        assert_eq!(found.len(), expected.len(), "{name}");
        assert_eq!(
            found.into_iter().collect::<BTreeSet<_>>(),
            expected,
            "{name}"
        );
        count += expected.len();
    }
    assert_eq!(made.len(), count);
    bench.end().await;
}

/// Lets the day go by: somebody sweeps every few minutes but for those from `away` to `back`.
async fn pass_a_day(bench: &Bench, away: DateTime<Utc>, back: DateTime<Utc>) {
    let mut rng = StdRng::seed_from_u64(28);
    let mut sweepers: Vec<Sweeper> = (1..=2)
        .map(|me| {
            Sweeper::new(
                bench.dispatcher(),
                bench.clock.clone(),
                Uuid::from_u128(me),
                None,
            )
        })
        .collect();
    while bench.clock.now() < at("2027-03-28T12:00:01Z") {
        bench
            .clock
            .advance(Duration::from_secs(rng.random_range(60..=230)));
        if (away..back).contains(&bench.clock.now()) {
            // The last who looks does so right before, the first right after.
            bench.clock.set(away);
            sweepers[0].once().await.unwrap();
            bench.clock.set(back);
        }
        let [one, other] = &mut sweepers[..] else {
            unreachable!()
        };
        match rng.random_range(0..4) {
            // Both believe to lead.
            0 => {
                let (first, second) = tokio::join!(one.once(), other.once());
                first.unwrap();
                second.unwrap();
            }
            // One dies in the middle, wherever it is; the other looks later.
            1 => {
                let limit = Duration::from_micros(rng.random_range(0..6000));
                let _ = tokio::time::timeout(limit, one.once()).await;
                other.once().await.unwrap();
            }
            _ => drop(other.once().await.unwrap()),
        }
    }
}
