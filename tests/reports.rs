//! Reports over time, against a plain model and as administrators see them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use main_webserver::{
    domain::{
        Id,
        calendar::{Span, Spans},
        entropy::earliest,
    },
    store::{
        apps, containers, login_events, periods, regions,
        reports::{self, Part, Subject},
    },
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use sea_orm::EntityTrait as _;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{World, until};

/// A world's products and regions, with their names.
struct Names {
    products: Vec<(Uuid, String)>,
    regions: Vec<(Uuid, String)>,
}

async fn names(world: &World) -> Names {
    let db = world.store().db();
    let apps = apps::Entity::find().all(db).await.unwrap();
    let regions = regions::Entity::find().all(db).await.unwrap();
    Names {
        products: apps.into_iter().map(|app| (app.id, app.slug)).collect(),
        regions: regions
            .into_iter()
            .map(|region| (region.id, region.name))
            .collect(),
    }
}

fn start() -> DateTime<Utc> {
    "2026-03-20T00:00:00Z".parse().unwrap()
}

/// Some whole second of the first twelve days; often a full hour, where spans begin.
fn moment(rng: &mut StdRng) -> DateTime<Utc> {
    let seconds = rng.random_range(0..12 * 86_400);
    start()
        + TimeDelta::seconds(if rng.random_range(0..4) == 0 {
            seconds / 3600 * 3600
        } else {
            seconds
        })
}

/// Stretches, spans and zones, daylight saving among them.
fn cuts(rng: &mut StdRng) -> Spans {
    let (a, b) = (moment(rng), moment(rng));
    let every = *[Span::Hour, Span::Day, Span::Week, Span::Month]
        .choose(rng)
        .unwrap();
    let zone = ["UTC", "Europe/Berlin", "Asia/Kolkata"]
        .choose(rng)
        .unwrap();
    Spans::cut(a.min(b), a.max(b) + TimeDelta::seconds(1), every, zone).unwrap()
}

/// The spans as stretches.
fn stretches(spans: &Spans) -> Vec<(DateTime<Utc>, DateTime<Utc>)> {
    let ends = spans.starts[1..].iter().chain([&spans.end]);
    spans.starts.iter().copied().zip(ends.copied()).collect()
}

#[tokio::test]
async fn usage_is_what_a_plain_model_says() {
    let world = World::quiet().await;
    let (names, mut rng) = (names(&world).await, StdRng::seed_from_u64(1));
    let mut rows = Vec::new();
    for _ in 0..300 {
        let (a, b) = (moment(&mut rng), moment(&mut rng));
        let (began_at, ended_at) = (a.min(b), a.max(b) + TimeDelta::seconds(1));
        rows.push(periods::Model {
            id: Uuid::from_u128(rng.random()),
            subject: (*["container", "machine"].choose(&mut rng).unwrap()).to_owned(),
            subject_id: Uuid::from_u128(rng.random()),
            owner_id: None,
            product_id: names.products.choose(&mut rng).unwrap().0,
            region_id: names.regions.choose(&mut rng).unwrap().0,
            cluster_id: None,
            release_channel: Some("stable".to_owned()).filter(|_| rng.random()),
            began_at,
            ended_at: Some(ended_at).filter(|_| rng.random_range(0..5) > 0),
        });
    }
    let active = rows.iter().cloned().map(periods::ActiveModel::from);
    periods::Entity::insert_many(active)
        .exec(world.store().db())
        .await
        .unwrap();
    for _ in 0..40 {
        let spans = cuts(&mut rng);
        for (subject, name) in [
            (Subject::Container, "container"),
            (Subject::Machine, "machine"),
        ] {
            for part in [
                None,
                Some(Part::Product),
                Some(Part::Region),
                Some(Part::Cluster),
                Some(Part::ReleaseChannel),
            ] {
                let found = reports::usage(world.store(), subject, part, &spans)
                    .await
                    .unwrap();
                let label = |row: &periods::Model| match part {
                    None | Some(Part::Cluster) => String::new(),
                    // Its product would be an image.
                    Some(Part::Product) if subject == Subject::Machine => String::new(),
                    Some(Part::Product) => name_of(&names.products, row.product_id),
                    Some(Part::Region) => name_of(&names.regions, row.region_id),
                    Some(Part::ReleaseChannel) => row.release_channel.clone().unwrap_or_default(),
                };
                let mine: Vec<&periods::Model> =
                    rows.iter().filter(|row| row.subject == name).collect();
                check_usage(&found, &mine, &spans, label);
            }
        }
    }
    world.stop().await;
}

fn name_of(names: &[(Uuid, String)], id: Uuid) -> String {
    names
        .iter()
        .find(|(known, _)| *known == id)
        .unwrap()
        .1
        .clone()
}

fn check_usage(
    found: &[reports::Usage],
    rows: &[&periods::Model],
    spans: &Spans,
    label: impl Fn(&periods::Model) -> String,
) {
    let (from, to) = (spans.starts[0], spans.end);
    let end = |row: &periods::Model| row.ended_at.unwrap_or(DateTime::<Utc>::MAX_UTC);
    let seen: Vec<&&periods::Model> = rows
        .iter()
        .filter(|row| row.began_at < to && end(row) > from)
        .collect();
    let parts: BTreeSet<String> = seen.iter().map(|row| label(row)).collect();
    let mut expected = Vec::new();
    for (at, until) in stretches(spans) {
        for part in &parts {
            let mine: Vec<&&&periods::Model> =
                seen.iter().filter(|row| label(row) == *part).collect();
            let seconds: i64 = mine
                .iter()
                .map(|row| {
                    (end(row).min(until) - row.began_at.max(at))
                        .num_seconds()
                        .max(0)
                })
                .sum();
            let instants = mine
                .iter()
                .map(|row| row.began_at)
                .filter(|t| (at..until).contains(t))
                .chain([at]);
            let up = |t: DateTime<Utc>| {
                mine.iter()
                    .filter(|row| row.began_at <= t && end(row) > t)
                    .count()
            };
            expected.push((
                at,
                part.clone(),
                seconds,
                i64::try_from(instants.map(up).max().unwrap()).unwrap(),
                mine.iter()
                    .filter(|row| (at..until).contains(&row.began_at))
                    .count(),
                mine.iter()
                    .filter(|row| (at..until).contains(&end(row)))
                    .count(),
            ));
        }
    }
    assert_eq!(found.len(), expected.len(), "{spans:?}");
    for (found, (at, part, seconds, peak, began, ended)) in found.iter().zip(expected) {
        assert_eq!((found.at, &found.part), (at, &part));
        let hours = f64::from(i32::try_from(seconds).unwrap()) / 3600.0;
        assert!(
            (found.hours - hours).abs() < 0.001,
            "{found:?}: {hours} hours"
        );
        let counts = (
            found.peak,
            usize::try_from(found.began).unwrap(),
            usize::try_from(found.ended).unwrap(),
        );
        assert_eq!(counts, (peak, began, ended), "{found:?} {spans:?}");
    }
}

#[tokio::test]
async fn what_became_of_containers_is_what_a_plain_model_says() {
    let world = World::quiet().await;
    let (names, mut rng) = (names(&world).await, StdRng::seed_from_u64(2));
    let mut rows = Vec::new();
    for _ in 0..300 {
        let created_at = moment(&mut rng);
        let running_at = Some(created_at + TimeDelta::milliseconds(rng.random_range(100..90_000)));
        let is_over = rng.random::<bool>();
        rows.push(containers::Model {
            id: Uuid::from_u128(earliest(created_at).as_u128() | u128::from(rng.random::<u32>())),
            owner_id: None,
            app_id: names.products.choose(&mut rng).unwrap().0,
            region_id: names.regions.choose(&mut rng).unwrap().0,
            cluster_id: None,
            host_id: None,
            state: if is_over {
                *["failed", "deleted"].choose(&mut rng).unwrap()
            } else {
                "stopped"
            }
            .to_owned(),
            version: 1,
            dpi: 96,
            stun: false,
            release_channel: (*["stable", "beta"].choose(&mut rng).unwrap()).to_owned(),
            image: None,
            cpu_millis: 0,
            memory_bytes: 0,
            generation: rng.random_range(1..=2),
            provider: None,
            endpoint: None,
            node: None,
            handle: None,
            ip: None,
            ports: containers::PortMap::default(),
            failure_code: None,
            failure_reason: None,
            created_at,
            updated_at: created_at,
            running_at: running_at.filter(|_| rng.random_range(0..4) > 0),
            assigned_at: None,
            last_ping_at: None,
            draining_at: None,
            ended_at: is_over
                .then(|| created_at + TimeDelta::seconds(rng.random_range(0..200_000))),
        });
    }
    let active = rows.iter().cloned().map(containers::ActiveModel::from);
    containers::Entity::insert_many(active)
        .exec(world.store().db())
        .await
        .unwrap();
    for _ in 0..40 {
        let spans = cuts(&mut rng);
        for part in [None, Some(Part::Product), Some(Part::ReleaseChannel)] {
            let found = reports::made(world.store(), part, &spans).await.unwrap();
            let label = |row: &containers::Model| match part {
                Some(Part::Product) => name_of(&names.products, row.app_id),
                Some(Part::ReleaseChannel) => row.release_channel.clone(),
                _ => String::new(),
            };
            check_made(&found, &rows, &spans, label);
        }
    }
    world.stop().await;
}

fn check_made(
    found: &[reports::Made],
    rows: &[containers::Model],
    spans: &Spans,
    label: impl Fn(&containers::Model) -> String,
) {
    let (from, to) = (spans.starts[0], spans.end);
    let within = |at: DateTime<Utc>| (from..to).contains(&at);
    let parts: BTreeSet<String> = rows
        .iter()
        .filter(|row| within(row.created_at) || row.ended_at.is_some_and(within))
        .map(&label)
        .collect();
    let mut expected = BTreeMap::new();
    for (at, until) in stretches(spans) {
        for part in &parts {
            let here = |t: &DateTime<Utc>| (at..until).contains(t);
            let mine = || rows.iter().filter(|row| label(row) == *part);
            let over = |state: &str| {
                mine()
                    .filter(|row| row.state == state && row.ended_at.as_ref().is_some_and(here))
                    .count()
            };
            let made: Vec<_> = mine().filter(|row| here(&row.created_at)).collect();
            let mut waits: Vec<i64> = made
                .iter()
                .filter(|row| row.generation == 1)
                .filter_map(|row| Some((row.running_at? - row.created_at).num_milliseconds()))
                .collect();
            waits.sort_unstable();
            // The nearest rank.
            let rank = |hundredths: usize| {
                waits
                    .get((waits.len() * hundredths).div_ceil(100).max(1) - 1)
                    .copied()
            };
            let row = (
                made.len(),
                over("failed"),
                over("deleted"),
                rank(50),
                rank(95),
            );
            expected.insert((at, part.clone()), row);
        }
    }
    assert_eq!(found.len(), expected.len(), "{spans:?}");
    for row in found {
        let (created, failed, deleted, p50, p95) = expected[&(row.at, row.part.clone())];
        let counts =
            [row.created, row.failed, row.deleted].map(|count| usize::try_from(count).unwrap());
        assert_eq!(counts, [created, failed, deleted], "{row:?}");
        for (found, expected) in [(row.wait_p50, p50), (row.wait_p95, p95)] {
            assert_eq!(found.is_some(), expected.is_some(), "{row:?}");
            let expected = f64::from(i32::try_from(expected.unwrap_or_default()).unwrap()) / 1000.0;
            assert!(
                (found.unwrap_or_default() - expected).abs() < 0.01,
                "{row:?}: {expected}"
            );
        }
    }
}

#[tokio::test]
async fn logins_are_what_a_plain_model_says() {
    let world = World::quiet().await;
    let mut rng = StdRng::seed_from_u64(4);
    let people: Vec<Uuid> = (1..=7).map(Uuid::from_u128).collect();
    let mut rows = Vec::new();
    for _ in 0..400 {
        rows.push(login_events::Model {
            id: Uuid::from_u128(rng.random()),
            owner_id: people
                .choose(&mut rng)
                .copied()
                .filter(|_| rng.random_range(0..5) > 0),
            outcome: (*["succeeded", "refused", "disabled"]
                .choose(&mut rng)
                .unwrap())
            .to_owned(),
            ip: None,
            user_agent: None,
            at: moment(&mut rng),
        });
    }
    let active = rows.iter().cloned().map(login_events::ActiveModel::from);
    login_events::Entity::insert_many(active)
        .exec(world.store().db())
        .await
        .unwrap();
    for _ in 0..40 {
        let spans = cuts(&mut rng);
        let found = reports::logins(world.store(), &spans).await.unwrap();
        assert_eq!(found.len(), spans.starts.len());
        for (found, (at, until)) in found.iter().zip(stretches(&spans)) {
            let mine: Vec<_> = rows
                .iter()
                .filter(|row| (at..until).contains(&row.at))
                .collect();
            let good = || mine.iter().filter(|row| row.outcome == "succeeded");
            let users: BTreeSet<Uuid> = good().filter_map(|row| row.owner_id).collect();
            let counts = [found.succeeded, found.failed, found.users, found.signed_up]
                .map(|count| usize::try_from(count).unwrap());
            assert_eq!(
                (found.at, counts),
                (
                    at,
                    [good().count(), mine.len() - good().count(), users.len(), 0]
                )
            );
        }
    }
    world.stop().await;
}

async fn report(world: &World, text: &str) -> Value {
    let admin = world.admin().await;
    let reply = admin.ask(&format!("{{ {text} }}")).await;
    let name = text.split('(').next().unwrap();
    reply.ok(&format!("/{name}"))
}

/// The sum of a column.
fn sum(rows: &Value, name: &str) -> f64 {
    rows.as_array()
        .unwrap()
        .iter()
        .map(|row| row[name].as_f64().unwrap())
        .sum()
}

#[tokio::test]
async fn what_people_do_is_in_the_reports() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;
    let refused = ada
        .try_log_in(&ada.email, "a wrong password, certainly")
        .await;
    assert_eq!(refused.code(), "UNAUTHENTICATED");
    assert_eq!(
        ada.try_log_in("nobody@example.com", "a wrong password, certainly")
            .await
            .code(),
        "UNAUTHENTICATED"
    );

    let usage = "usageReport(input: { over: { every: HOUR }, by: PRODUCT }) { at part hours peak began ended }";
    let running = report(&world, usage).await;
    assert_eq!((sum(&running, "began"), sum(&running, "ended")), (1.0, 0.0));
    assert_eq!(running.as_array().unwrap().last().unwrap()["part"], "hello");
    ada.delete(&created.container).await.ok("/deleteContainer");
    ada.container_in(&created.container, "DELETED").await;
    let over = report(&world, usage).await;
    assert_eq!((sum(&over, "began"), sum(&over, "ended")), (1.0, 1.0));
    assert!(sum(&over, "hours") > 0.0);

    let made = report(
        &world,
        "containerReport(input: { over: {} }) { created failed deleted secondsToRunningP50 part }",
    )
    .await;
    assert_eq!(
        (
            sum(&made, "created"),
            sum(&made, "failed"),
            sum(&made, "deleted")
        ),
        (1.0, 0.0, 1.0)
    );
    let last = made.as_array().unwrap().last().unwrap();
    assert!(
        last["secondsToRunningP50"].as_f64().unwrap() > 0.0,
        "{last}"
    );
    let logins = report(&world, "loginReport(input: { every: WEEK, timeZone: \"Europe/Berlin\" }) { logins failures users signUps }").await;
    // The administrator's own logins are among them.
    assert!((sum(&logins, "failures") - 2.0).abs() < 0.5, "{logins}");
    assert!(
        sum(&logins, "logins") >= 1.0 && sum(&logins, "signUps") >= 2.0,
        "{logins}"
    );

    let admin = world.admin().await;
    for input in [
        json!({ "every": "HOUR", "from": "2020-01-01T00:00:00Z" }),
        json!({ "from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z" }),
        json!({ "timeZone": "Mars/Olympus" }),
        json!({ "from": "2999-01-01T00:00:00Z" }),
    ] {
        let text = "query($input: ReportInput!) { loginReport(input: $input) { at } }";
        let reply = admin.send(text, json!({ "input": input })).await;
        assert_eq!(
            (reply.code(), reply.field()),
            ("BAD_USER_INPUT", Some("input")),
            "{input}"
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn one_that_is_given_to_somebody_is_reported_as_theirs_from_then_on() {
    let world = World::start().await;
    let admin = world.admin().await;
    let pool = "mutation { setWarmPool(input: { app: \"hello\", region: \"us-east-1\", size: 1 }) { warmPool { id } } }";
    admin.ask(pool).await.ok("/setWarmPool");
    until("one is warm", async || {
        let warm = admin
            .ask("{ containers(filter: { state: { eq: RUNNING } }) { totalCount } }")
            .await;
        (warm.ok("/containers/totalCount") == 1).then_some(())
    })
    .await;
    let ada = world.person("ada").await;
    let assign = "mutation { assignContainer(input: { app: \"hello\", region: \"us-east-1\" }) { warm container { id } } }";
    let assigned = ada.ask(assign).await;
    assert_eq!(assigned.ok("/assignContainer/warm"), true);
    let id: Id<main_webserver::domain::id::Container> =
        Id::parse(&assigned.text("/assignContainer/container/id")).unwrap();
    let rows = periods::Entity::find()
        .all(world.store().db())
        .await
        .unwrap();
    let mut mine: Vec<_> = rows
        .iter()
        .filter(|row| row.subject_id == id.uuid())
        .collect();
    mine.sort_by_key(|row| row.began_at);
    let [pool, ada] = mine[..] else {
        panic!("{mine:#?}")
    };
    assert_eq!((pool.owner_id, pool.ended_at), (None, Some(ada.began_at)));
    assert!(ada.owner_id.is_some() && ada.ended_at.is_none());
    world.stop().await;
}
