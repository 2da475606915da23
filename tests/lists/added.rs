//! Lists that only grow, as streams of what is added.

use std::time::Duration;

use main_webserver::{
    domain::{Clock as _, Id, SystemClock, entropy::earliest, id, policy::Viewer},
    store::audit,
};
use sea_orm::{ActiveValue::Set, EntityTrait as _};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{Person, World, socket::Socket};

async fn record(world: &World, action: &str) {
    let mut tx = world.store().begin().await.unwrap();
    let region = Id::<id::Region>::new(Uuid::nil());
    let recorded = audit::record(&mut tx, Viewer::System, action, region, json!({})).await;
    recorded.unwrap();
    tx.commit().await.unwrap();
}

/// Adds what was made some time ago and is committed only now; nobody is told.
async fn record_late(world: &World, action: &str, ago: Duration) {
    let at = SystemClock.now() - ago;
    let row = audit::ActiveModel {
        id: Set(earliest(at)),
        actor: Set("system".to_owned()),
        actor_id: Set(None),
        action: Set(action.to_owned()),
        object: Set("region".to_owned()),
        object_id: Set(None),
        detail: Set(json!({})),
        at: Set(at),
    };
    let added = audit::Entity::insert(row).exec_without_returning(world.store().db());
    added.await.unwrap();
}

async fn follow(person: &Person, arguments: &str) -> Socket {
    let mut socket = person.socket().await;
    let query = format!("subscription {{ auditEventAdded{arguments} {{ id action at }} }}");
    socket.subscribe(&query).await;
    socket
}

/// The actions of the next `count` events, with the id of the last.
async fn next(socket: &mut Socket, count: usize) -> (Vec<String>, String) {
    let mut events: Vec<Value> = Vec::new();
    while events.len() < count {
        let frame = socket.next().await.unwrap();
        let added = frame["data"]["auditEventAdded"].as_array();
        events.extend_from_slice(added.unwrap_or_else(|| panic!("{frame}")));
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let last = text(&events.last().unwrap()["id"]);
    let actions = events.iter().map(|event| text(&event["action"]));
    (actions.collect(), last)
}

const OURS: &str = "filter: {action: {prefix: \"added.\"}}";

#[tokio::test(flavor = "multi_thread")]
async fn every_event_comes_once_and_one_that_is_late_comes_late() {
    let world = World::start().await;
    let admin = world.admin().await;
    record(&world, "added.before").await;
    let mut socket = follow(&admin, &format!("({OURS})")).await;
    // It is listening once it has answered.
    crate::harness::nap(300).await;
    record(&world, "other.one").await;
    record(&world, "added.one").await;
    assert_eq!(next(&mut socket, 1).await.0, ["added.one"]);
    record_late(&world, "added.late", Duration::from_secs(3)).await;
    record(&world, "added.two").await;
    let (actions, last) = next(&mut socket, 2).await;
    assert_eq!(actions, ["added.late", "added.two"]);

    // Whoever comes back with the last id misses nothing: what may have been late comes again.
    record(&world, "added.three").await;
    let mut back = follow(&admin, &format!("(after: \"{last}\", {OURS})")).await;
    let (mut actions, _) = next(&mut back, 4).await;
    actions.sort();
    assert_eq!(
        actions,
        ["added.before", "added.late", "added.one", "added.three"]
    );
    assert_eq!(next(&mut socket, 1).await.0, ["added.three"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_there_is_can_be_read_from_the_first_id_on() {
    let world = World::start().await;
    let admin = world.admin().await;
    for number in 0..250 {
        let ago = Duration::from_secs(3600 - number);
        record_late(&world, &format!("added.{number:03}"), ago).await;
    }
    let first = format!("event_{:032x}", 0);
    let mut socket = follow(&admin, &format!("(after: \"{first}\", {OURS})")).await;
    let (actions, last) = next(&mut socket, 250).await;
    let expected: Vec<String> = (0..250)
        .map(|number| format!("added.{number:03}"))
        .collect();
    assert_eq!(actions, expected);
    // From further on, only what lies not more than ten seconds before.
    let mut back = follow(&admin, &format!("(after: \"{last}\", {OURS})")).await;
    let (actions, _) = next(&mut back, 9).await;
    assert_eq!(actions, expected[240..249]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_id_of_an_event_is_refused_and_so_is_who_may_not_read_them() {
    let world = World::start().await;
    let (admin, ada) = (world.admin().await, world.person("ada").await);
    for (person, arguments, code) in [
        (&admin, "(after: \"container_00\")", "BAD_USER_INPUT"),
        (&ada, "", "FORBIDDEN"),
        (&world.anonymous(), "", "UNAUTHENTICATED"),
    ] {
        let mut socket = follow(person, arguments).await;
        let frame = socket.next().await.unwrap();
        assert_eq!(frame["errors"][0]["extensions"]["code"], code, "{frame}");
        assert_eq!(socket.next().await, None);
    }
    world.stop().await;
}
