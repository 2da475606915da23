//! What clients and hosts report of streaming connections: kept beside the database, read by their owner, gone in time.

use std::{path::Path, time::Duration};

use main_webserver::{
    app::Role,
    domain::{Dial, Id, SystemClock, id},
    objects::Objects,
    queue::{Retention, Upkeep},
    store::connection_logs,
};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};
use serde_json::{Value, json};

use crate::harness::{Ground, Person, QUICK, Reply, World};

const REPORT: &str = "mutation($input: ReportConnectionInput!) { reportConnection(input: $input) { connectionLog { id bookmarked clientBytes serverBytes expiresAt } } }";

async fn report(person: &Person, container: &str, log: Option<&str>) -> Reply {
    let input = json!({ "to": { "container": container }, "clientVersion": "2.1.0", "log": log });
    person.send(REPORT, json!({ "input": input })).await
}

async fn reported(person: &Person, container: &str, log: &str) -> String {
    report(person, container, Some(log))
        .await
        .text("/reportConnection/connectionLog/id")
}

async fn text(person: &Person, id: &str, side: &str) -> Reply {
    let ask = format!("{{ connectionLogText(id: \"{id}\", side: {side}) }}");
    person.ask(&ask).await
}

fn blobs(ground: &Ground) -> Vec<String> {
    let folder = ground.folder().join("blobs/connection-logs");
    crate::backup::names(&folder)
}

const DAYS: Duration = Duration::from_secs(365 * 86_400);
const YEAR: Retention = Retention {
    ended: DAYS,
    failed: DAYS,
    archived: DAYS,
    logs: DAYS,
    logins: DAYS,
    audit: DAYS,
};

/// The upkeep of a world, run by hand.
fn upkeep(world: &World) -> Upkeep {
    let objects = Objects::open(&world.ground.load().blobs).unwrap();
    Upkeep::new(world.store().clone(), Dial::new(YEAR)).with_blobs(objects)
}

async fn set(
    world: &World,
    id: &str,
    column: connection_logs::Column,
    value: chrono::DateTime<chrono::Utc>,
) {
    let id: Id<id::ConnectionLog> = Id::parse(id).unwrap();
    connection_logs::Entity::update_many()
        .col_expr(column, Expr::value(value))
        .filter(connection_logs::Column::Id.eq(id.uuid()))
        .exec(world.store().db())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_keeps_nobody_from_starting() {
    let ground = Ground::new().await;
    let file = ground.folder().join("a-file");
    std::fs::write(&file, "no folder").unwrap();
    let url = format!("file://{}/blobs", file.display());
    let world = World::on(ground.with("BLOB_URL", &url), QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    ada.container_in(&container, "RUNNING").await;
    let refused = report(&ada, &container, Some("a log")).await;
    assert_eq!(refused.code(), "UNAVAILABLE");
    world.stop().await;
}

#[tokio::test]
async fn a_client_reports_a_connection_and_its_owner_reads_it() {
    let world = World::start().await;
    let (ada, eve) = (world.person("ada").await, world.person("eve").await);
    let container = ada.create("hello").await.container;
    let written = "connecting…\nconnected\n".repeat(1000);
    let id = reported(&ada, &container, &written).await;
    assert_eq!(
        text(&ada, &id, "CLIENT").await.ok("/connectionLogText"),
        written.as_str()
    );
    assert_eq!(
        text(&ada, &id, "SERVER").await.ok("/connectionLogText"),
        Value::Null
    );
    let listed = ada.ask(
        "{ connectionLogs(filter: {clientVersion: {prefix: \"2.\"}}, orderBy: [{field: CREATED_AT}]) { totalCount nodes { id clientBytes container { id } owner { email } } } }",
    );
    let listed = listed.await.ok("/connectionLogs");
    assert_eq!(listed["totalCount"], 1);
    assert_eq!(listed["nodes"][0]["clientBytes"], written.len());
    assert_eq!(listed["nodes"][0]["container"]["id"], container.as_str());

    // It is kept packed.
    let names = blobs(&world.ground);
    assert_eq!(names.len(), 1);
    let file = world
        .ground
        .folder()
        .join("blobs/connection-logs")
        .join(&names[0]);
    let packed = std::fs::read(file).unwrap();
    assert!(packed.starts_with(&[0x1f, 0x8b]) && packed.len() < written.len() / 20);

    // To somebody else there is no such thing.
    assert_eq!(text(&eve, &id, "CLIENT").await.code(), "NOT_FOUND");
    assert_eq!(report(&eve, &container, None).await.code(), "NOT_FOUND");
    let others = eve.ask("{ connectionLogs { totalCount } }").await;
    assert_eq!(others.ok("/connectionLogs/totalCount"), 0);
    let admin = world.admin().await;
    assert_eq!(
        text(&admin, &id, "CLIENT").await.ok("/connectionLogText"),
        written.as_str()
    );
    world.stop().await;
}

#[tokio::test]
async fn what_is_too_long_or_no_text_is_refused_and_leaves_nothing() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    for log in [String::new(), "x".repeat(512 * 1024 + 1), "a\0b".to_owned()] {
        let refused = report(&ada, &container, Some(&log)).await;
        assert_eq!(
            (refused.code(), refused.field()),
            ("BAD_USER_INPUT", Some("log"))
        );
    }
    for version in ["", "a b", &"1".repeat(65)] {
        let input = json!({ "to": { "container": container }, "clientVersion": version });
        let refused = ada.send(REPORT, json!({ "input": input })).await;
        assert_eq!(
            (refused.code(), refused.field()),
            ("BAD_USER_INPUT", Some("clientVersion"))
        );
    }
    assert!(blobs(&world.ground).is_empty());
    let most = "x".repeat(512 * 1024);
    let id = reported(&ada, &container, &most).await;
    assert_eq!(
        text(&ada, &id, "CLIENT").await.ok("/connectionLogText"),
        most.as_str()
    );
    world.stop().await;
}

#[tokio::test]
async fn who_reports_too_often_is_told_when_to_come_back() {
    let world = World::start().await;
    let (ada, bob) = (world.person("ada").await, world.person("bob").await);
    let (hers, his) = (
        ada.create("hello").await.container,
        bob.create("hello").await.container,
    );
    let mut refused = None;
    for _ in 0..40 {
        let reply = report(&ada, &hers, None).await;
        if reply.0.get("errors").is_some() {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("a limit");
    assert_eq!(refused.code(), "RATE_LIMITED");
    let seconds = refused.0["errors"][0]["extensions"]["retryAfterSeconds"].as_u64();
    assert!(
        seconds.is_some_and(|seconds| (1..=6).contains(&seconds)),
        "{:?}",
        refused.0
    );
    report(&bob, &his, None).await.ok("/reportConnection");
    world.stop().await;
}

#[tokio::test]
async fn its_host_adds_what_it_wrote_and_another_host_does_not() {
    let world = World::quiet().await;
    let admin = world.admin().await;
    let (_, agent) = crate::harness::fleet::host(&admin, "west", "us-west-2", "machine-1").await;
    let (_, other) = crate::harness::fleet::host(&admin, "east", "us-east-2", "machine-2").await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    ada.container_in(&container, "RUNNING").await;
    let host: Id<id::Host> = Id::parse(&agent.email).unwrap();
    let uuid: Id<id::Container> = Id::parse(&container).unwrap();
    main_webserver::store::containers::Entity::update_many()
        .col_expr(
            main_webserver::store::containers::Column::HostId,
            Expr::value(host.uuid()),
        )
        .filter(main_webserver::store::containers::Column::Id.eq(uuid.uuid()))
        .exec(world.store().db())
        .await
        .unwrap();
    let add = format!(
        "mutation($log: String!) {{ reportServerLog(input: {{container: \"{container}\", log: $log}}) {{ ok }} }}"
    );
    let by = async |who: &Person, log: &str| who.send(&add, json!({ "log": log })).await;
    assert_eq!(
        by(&agent, "early").await.code(),
        "NOT_FOUND",
        "nobody has connected"
    );
    let id = reported(&ada, &container, "client").await;
    assert_eq!(by(&ada, "x").await.code(), "FORBIDDEN");
    assert_eq!(by(&other, "x").await.code(), "NOT_FOUND");
    by(&agent, "first").await.ok("/reportServerLog");
    by(&agent, "second").await.ok("/reportServerLog");
    assert_eq!(
        text(&ada, &id, "SERVER").await.ok("/connectionLogText"),
        "second"
    );
    assert_eq!(
        text(&ada, &id, "CLIENT").await.ok("/connectionLogText"),
        "client"
    );
    assert_eq!(blobs(&world.ground).len(), 2, "what was replaced is gone");
    world.stop().await;
}

#[tokio::test]
async fn what_is_over_goes_with_its_blobs_and_what_is_bookmarked_stays() {
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    let (over, kept) = (
        reported(&ada, &container, "over").await,
        reported(&ada, &container, "kept").await,
    );
    let mark = format!(
        "mutation {{ bookmarkConnection(input: {{id: \"{kept}\"}}) {{ connectionLog {{ bookmarked }} }} }}"
    );
    assert_eq!(
        ada.ask(&mark)
            .await
            .ok("/bookmarkConnection/connectionLog/bookmarked"),
        true
    );
    let past = world.store().now() - chrono::TimeDelta::days(1);
    for id in [&over, &kept] {
        set(&world, id, connection_logs::Column::ExpiresAt, past).await;
    }
    upkeep(&world).look_after_blobs().await.unwrap();
    assert_eq!(text(&ada, &over, "CLIENT").await.code(), "NOT_FOUND");
    assert_eq!(
        text(&ada, &kept, "CLIENT").await.ok("/connectionLogText"),
        "kept"
    );
    assert_eq!(blobs(&world.ground).len(), 1);
    world.stop().await;
}

#[tokio::test]
async fn what_has_lost_its_other_side_is_repaired() {
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    let (whole, lost) = (
        reported(&ada, &container, "whole").await,
        reported(&ada, &container, "lost").await,
    );
    let folder = world.ground.folder().join("blobs/connection-logs");
    let bare = |id: &str| id.trim_start_matches("connection_").to_owned();
    let of = |id: &str| {
        let names = blobs(&world.ground);
        names
            .into_iter()
            .find(|name| name.starts_with(&bare(id)))
            .unwrap()
    };
    std::fs::remove_file(folder.join(of(&lost))).unwrap();
    // One without a row, long ago and just now; one of a row that has another, and something that is none of ours.
    let stranger = "0190b8f0000070008000000000000000";
    let (old, young) = (
        format!("{stranger}-client-aa-aa.gz"),
        format!("{stranger}-client-aa-bb.gz"),
    );
    let replaced = format!("{}-client-aa-cc.gz", bare(&whole));
    for name in [&old, &young, &replaced, &"readme".to_owned()] {
        std::fs::write(folder.join(name), "x").unwrap();
    }
    for name in [&old, &replaced] {
        make_old(&folder.join(name));
    }
    make_old(&folder.join(of(&whole)));
    upkeep(&world).look_after_blobs().await.unwrap();
    let left = blobs(&world.ground);
    let mut expected = vec![young, of(&whole), "readme".to_owned()];
    expected.sort_unstable();
    assert_eq!(left, expected);
    let seen = ada
        .ask(&format!(
            "{{ connectionLog(id: \"{lost}\") {{ clientBytes }} }}"
        ))
        .await;
    assert_eq!(seen.ok("/connectionLog/clientBytes"), Value::Null);
    assert_eq!(
        text(&ada, &whole, "CLIENT").await.ok("/connectionLogText"),
        "whole"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_worker_that_looks_into_another_folder_takes_nothing_for_lost() {
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    let id = reported(&ada, &container, "here").await;
    let elsewhere = main_webserver::config::Place::Folder(world.ground.folder().join("elsewhere"));
    let lost = Upkeep::new(world.store().clone(), Dial::new(YEAR));
    let mut lost = lost.with_blobs(Objects::open(&elsewhere).unwrap());
    lost.look_after_blobs().await.unwrap();
    assert_eq!(
        text(&ada, &id, "CLIENT").await.ok("/connectionLogText"),
        "here"
    );
    let past = world.store().now() - chrono::TimeDelta::days(1);
    set(&world, &id, connection_logs::Column::ExpiresAt, past).await;
    lost.look_after_blobs().await.unwrap();
    assert_eq!(
        text(&ada, &id, "CLIENT").await.ok("/connectionLogText"),
        "here"
    );
    world.stop().await;
}

fn make_old(path: &Path) {
    let now = main_webserver::domain::Clock::now(&SystemClock);
    let old: std::time::SystemTime = (now - chrono::TimeDelta::hours(3)).into();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(old).unwrap();
}

#[tokio::test]
async fn a_list_of_connections_is_live() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    let mut socket = ada.socket().await;
    socket
        .subscribe("subscription { connectionLogs { totalCount nodes { bookmarked } } }")
        .await;
    let mut seen = async || socket.next().await.unwrap()["data"]["connectionLogs"].clone();
    assert_eq!(seen().await["totalCount"], 0);
    let id = reported(&ada, &container, "x").await;
    assert_eq!(seen().await["totalCount"], 1);
    let mark = format!(
        "mutation {{ bookmarkConnection(input: {{id: \"{id}\"}}) {{ connectionLog {{ id }} }} }}"
    );
    ada.ask(&mark).await.ok("/bookmarkConnection");
    assert_eq!(seen().await["nodes"][0]["bookmarked"], true);
    world.stop().await;
}

#[tokio::test]
async fn a_store_of_blobs_that_is_away_is_told_of_and_waited_for() {
    let world = World::on(Ground::new().await, QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let container = ada.create("hello").await.container;
    let id = reported(&ada, &container, "x").await;
    let folder = world.ground.folder().join("blobs");
    let aside = world.ground.folder().join("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::write(&folder, "").unwrap();
    assert_eq!(
        report(&ada, &container, Some("y")).await.code(),
        "UNAVAILABLE"
    );
    assert_eq!(text(&ada, &id, "CLIENT").await.code(), "UNAVAILABLE");
    std::fs::remove_file(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    assert_eq!(
        text(&ada, &id, "CLIENT").await.ok("/connectionLogText"),
        "x"
    );
    world.stop().await;
}

#[tokio::test]
async fn what_was_recorded_long_ago_is_forgotten_and_nothing_else() {
    use main_webserver::store::retention::{Before, forget};
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let store = world.store();
    let count = async |person: &Person, list: &str| {
        person
            .ask(&format!("{{ {list} {{ totalCount }} }}"))
            .await
            .ok(&format!("/{list}/totalCount"))
    };
    let admin = world.admin().await;
    let ended = ada.ask("mutation { logOut { ok } }").await;
    ended.ok("/logOut");
    let events = count(&admin, "auditEvents").await;
    let logins = count(&admin, "sessions").await;
    let year_ago = store.now() - chrono::TimeDelta::days(365);
    let before = |at| Before {
        logs: at,
        logins: at,
        audit: at,
    };
    assert_eq!(forget(store, before(year_ago), 500).await.unwrap(), 0);
    assert_eq!(count(&admin, "auditEvents").await, events);
    let soon = store.now() + chrono::TimeDelta::seconds(5);
    // One at a time, as many as there are.
    assert_eq!(forget(store, before(soon), 1).await.unwrap(), 1);
    while forget(store, before(soon), 2).await.unwrap() > 0 {}
    assert_eq!(count(&admin, "auditEvents").await, 0);
    // The login of who asks goes on, and who has logged out is forgotten.
    assert_eq!(
        count(&admin, "sessions").await,
        logins.as_i64().unwrap() - 1
    );
    world.stop().await;
}
