//! Streams that many follow: one run a key, the newest for everybody, and nothing left when they have gone.

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicUsize, Ordering::SeqCst},
};

use futures_util::{FutureExt as _, StreamExt, future::join_all, stream::BoxStream};
use main_webserver::{
    app::Role,
    domain::{Change, ChangeKind, Table},
    error::AppError,
    live::{self, EventBus as _, Freshness, MemoryBus, Seen, Shared},
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::harness::{HTTP, Person, QUICK, World, socket::Socket, until};

const ROW: Uuid = Uuid::from_u128(7);
const LAST: i64 = 20;

/// A row whose content is its version, and the streams that show it.
#[derive(Clone, Default)]
struct Row {
    bus: MemoryBus,
    version: Arc<AtomicI64>,
    reads: Arc<AtomicUsize>,
    shared: Shared<&'static str, Result<i64, String>>,
}

impl Row {
    fn commit(&self, version: i64) {
        self.version.store(version, SeqCst);
    }

    async fn tell(&self, version: i64) {
        let change = Change {
            table: Table::Task,
            id: ROW,
            version,
            owner: None,
            kind: ChangeKind::Updated,
        };
        self.bus.publish(&[change]).await.unwrap();
    }

    async fn change(&self, version: i64) {
        self.commit(version);
        self.tell(version).await;
    }

    fn follow(&self) -> BoxStream<'static, Result<i64, String>> {
        let row = self.clone();
        self.shared.join("the row", |freshness| row.run(freshness))
    }

    /// The row until its last version; one of a negative version is out of reach.
    fn run(self, freshness: Freshness) -> BoxStream<'static, Result<i64, String>> {
        let read = {
            let (version, reads) = (self.version, self.reads);
            move || {
                reads.fetch_add(1, SeqCst);
                let version = version.load(SeqCst);
                async move {
                    tokio::task::yield_now().await;
                    if version < 0 {
                        return Err(AppError::NotFound { what: "row" });
                    }
                    Ok(Seen {
                        row: version,
                        version,
                        is_last: version == LAST,
                    })
                }
            }
        };
        let text = |item: Result<i64, AppError>| item.map_err(|error| error.to_string());
        let bus = self.bus;
        async move {
            match live::watch(&bus, &freshness, (Table::Task, ROW), read).await {
                Ok(rows) => rows.map(text).boxed(),
                Err(error) => futures_util::stream::iter([text(Err(error))]).boxed(),
            }
        }
        .flatten_stream()
        .boxed()
    }
}

#[tokio::test]
async fn a_change_is_read_once_however_many_follow() {
    let row = Row::default();
    row.commit(1);
    let mut followers: Vec<_> = (0..200).map(|_| row.follow()).collect();
    for first in join_all(followers.iter_mut().map(StreamExt::next)).await {
        assert_eq!(first, Some(Ok(1)));
    }
    assert_eq!(row.shared.running(), 1);
    let joining = row.reads.load(SeqCst);
    assert!(
        joining <= 3,
        "{joining} reads for two hundred who came at once"
    );
    for version in 2..10 {
        row.change(version).await;
        for newest in join_all(followers.iter_mut().map(StreamExt::next)).await {
            assert_eq!(newest, Some(Ok(version)));
        }
    }
    assert_eq!(row.reads.load(SeqCst) - joining, 8);
}

#[tokio::test]
async fn a_newcomer_sees_what_was_committed_before_they_came_though_nobody_was_told() {
    let row = Row::default();
    row.commit(1);
    let mut early = row.follow();
    assert_eq!(early.next().await, Some(Ok(1)));
    row.commit(2);
    let mut late = row.follow();
    assert_eq!(late.next().await, Some(Ok(2)));
    assert_eq!(early.next().await, Some(Ok(2)), "it is nobody's secret");
    // The word of it comes after all, and shows nobody anything again.
    row.tell(2).await;
    row.change(3).await;
    assert_eq!(late.next().await, Some(Ok(3)));
    assert_eq!(early.next().await, Some(Ok(3)));
}

#[tokio::test]
async fn a_slow_follower_misses_what_is_overtaken_and_gets_the_newest() {
    let row = Row::default();
    row.commit(1);
    let (mut slow, mut quick) = (row.follow(), row.follow());
    assert_eq!(slow.next().await, Some(Ok(1)));
    assert_eq!(quick.next().await, Some(Ok(1)));
    for version in (2..=1000).filter(|version| *version != LAST) {
        row.change(version).await;
        assert_eq!(quick.next().await, Some(Ok(version)));
    }
    assert_eq!(slow.next().await, Some(Ok(1000)));
    assert_eq!(slow.next().now_or_never(), None, "nothing was kept for it");
}

#[tokio::test]
async fn everybody_gets_the_last_item_and_the_end() {
    for last in [LAST, -1] {
        let row = Row::default();
        row.commit(1);
        let mut followers: Vec<_> = (0..50).map(|_| row.follow()).collect();
        join_all(followers.iter_mut().map(StreamExt::next)).await;
        row.commit(last);
        row.tell(LAST).await;
        let end = if last == LAST {
            Ok(LAST)
        } else {
            Err("no such row".to_owned())
        };
        for rest in join_all(followers.into_iter().map(StreamExt::collect::<Vec<_>>)).await {
            assert_eq!(rest, std::slice::from_ref(&end));
        }
        assert_eq!(row.shared.running(), 0);
        // It begins anew for who comes now.
        assert_eq!(row.follow().collect::<Vec<_>>().await, [end]);
    }
}

#[tokio::test]
async fn nothing_runs_when_the_last_has_left() {
    let row = Row::default();
    row.commit(1);
    let held = Arc::strong_count(&row.reads);
    for _ in 0..50 {
        let mut followers: Vec<_> = (0..20).map(|_| row.follow()).collect();
        followers[3].next().await;
        assert_eq!(row.shared.running(), 1);
        drop(followers);
        assert_eq!(row.shared.running(), 0);
    }
    until("the runs let go of what they read with", async || {
        (Arc::strong_count(&row.reads) == held).then_some(())
    })
    .await;
    let reads = row.reads.load(SeqCst);
    row.change(2).await;
    tokio::task::yield_now().await;
    assert_eq!(row.reads.load(SeqCst), reads);
}

/// People come and go at every moment of a row's life, the last included.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_missed_and_nothing_goes_back_whenever_somebody_comes() {
    for round in 0..200 {
        let row = Row::default();
        row.commit(1);
        let writer = tokio::spawn({
            let row = row.clone();
            async move {
                for version in 2..=LAST {
                    row.change(version).await;
                    if version % 3 == round % 3 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        let watchers = (0..12).map(|number| {
            let row = row.clone();
            tokio::spawn(async move {
                for _ in 0..number {
                    tokio::task::yield_now().await;
                }
                let committed = row.version.load(SeqCst);
                if number % 4 == 3 {
                    // Leaves again.
                    row.follow().next().await;
                }
                let seen: Vec<i64> = row.follow().map(Result::unwrap).collect().await;
                assert!(seen[0] >= committed, "{seen:?} after {committed}");
                assert!(seen.is_sorted_by(|a, b| a < b), "{seen:?}");
                assert_eq!(seen.last(), Some(&LAST));
            })
        });
        for watcher in join_all(watchers).await {
            watcher.unwrap();
        }
        writer.await.unwrap();
        assert_eq!(row.shared.running(), 0);
    }
}

/// The value of a meter.
async fn meter(person: &Person, name: &str) -> i64 {
    let url = format!("http://{}/metrics", person.address);
    let text = HTTP.get(url).send().await.unwrap().text().await.unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("main_webserver_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
        .parse()
        .unwrap()
}

async fn meter_is(person: &Person, name: &str, value: i64) {
    let what = format!("{name} is {value}");
    until(&what, async || {
        (meter(person, name).await == value).then_some(())
    })
    .await;
}

fn watching(task: &str) -> String {
    format!("subscription {{ taskUpdated(id: \"{task}\") {{ state version }} }}")
}

#[tokio::test]
async fn sockets_share_a_run_with_whom_may_see_the_same_and_nobody_else() {
    let world = World::start().await;
    let (ada, eve, admin) = (
        world.person("ada").await,
        world.person("eve").await,
        world.admin().await,
    );
    // The same person logged in twice has two sessions and one reach.
    let again = ada
        .log_in(&ada.email, crate::harness::client::PASSWORD)
        .await;
    let task = ada.demo(1, 60_000).await;
    let mut sockets = Vec::new();
    for person in [&ada, &ada, &again, &again] {
        let mut socket = person.socket().await;
        socket.subscribe(&watching(&task)).await;
        socket.next().await.unwrap();
        sockets.push(socket);
    }
    meter_is(&ada, "sockets", 4).await;
    meter_is(&ada, "shared_runs", 1).await;
    let mut other = eve.socket().await;
    other.subscribe(&watching(&task)).await;
    let refused = other.next().await.unwrap();
    assert_eq!(refused["errors"][0]["extensions"]["code"], "NOT_FOUND");
    assert!(other.next().await.is_none());
    let mut nobody = Socket::open(ada.address, None).await;
    nobody.subscribe(&watching(&task)).await;
    let refused = nobody.next().await.unwrap();
    assert_eq!(
        refused["errors"][0]["extensions"]["code"],
        "UNAUTHENTICATED"
    );
    let mut above = admin.socket().await;
    above.subscribe(&watching(&task)).await;
    above.next().await.unwrap();
    meter_is(&ada, "shared_runs", 2).await;
    ada.cancel(&task).await;
    sockets.push(above);
    let rests = join_all(sockets.iter_mut().map(|socket| socket.rest("/taskUpdated"))).await;
    for rest in rests {
        assert_eq!(rest.last().unwrap()["state"], "CANCELLED");
    }
    meter_is(&ada, "shared_runs", 0).await;
    drop((sockets, other, nobody));
    meter_is(&ada, "sockets", 0).await;
    world.stop().await;
}

#[tokio::test]
async fn a_run_ends_with_the_last_socket_that_left_without_a_word() {
    let world = World::with(QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let task = ada.demo(1, 60_000).await;
    let mut sockets = Vec::new();
    for _ in 0..5 {
        let mut socket = ada.socket().await;
        socket.subscribe(&watching(&task)).await;
        socket.next().await.unwrap();
        sockets.push(socket);
    }
    let mut polite = sockets.pop().unwrap();
    polite.say(json!({ "type": "complete", "id": "1" })).await;
    drop(sockets);
    meter_is(&ada, "shared_runs", 0).await;
    // The polite one is still there, and may ask again.
    polite.subscribe(&watching(&task)).await;
    assert!(polite.next().await.unwrap()["data"].is_object());
    meter_is(&ada, "shared_runs", 1).await;
    world.stop().await;
}

#[tokio::test]
async fn a_list_and_a_node_are_shared_like_a_row() {
    let world = World::start().await;
    let (ada, eve) = (world.person("ada").await, world.person("eve").await);
    let task = ada.demo(1, 60_000).await;
    let list = "subscription { tasks { nodes { id state } } }".to_owned();
    let node = format!("subscription {{ node(id: \"{task}\") {{ ... on Task {{ state }} }} }}");
    for (query, state) in [
        (list, "/data/tasks/nodes/0/state"),
        (node, "/data/node/state"),
    ] {
        let mut sockets = Vec::new();
        for _ in 0..4 {
            let mut socket = ada.socket().await;
            socket.subscribe(&query).await;
            let first = socket.next().await.unwrap();
            assert!(first.pointer(state).is_some(), "{first}");
            sockets.push(socket);
        }
        meter_is(&ada, "shared_runs", 1).await;
        let mut other = eve.socket().await;
        other.subscribe(&query).await;
        let theirs = other.next().await.unwrap();
        assert!(theirs.pointer(state).is_none(), "{theirs}");
        if query.contains("tasks") {
            // What has been committed is in the first answer of who comes after.
            let second = ada.demo(1, 60_000).await;
            let mut late = ada.socket().await;
            late.subscribe(&query).await;
            let first = late.next().await.unwrap().to_string();
            assert!(first.contains(&second), "{first}");
            for socket in &mut sockets {
                while !socket.next().await.unwrap().to_string().contains(&second) {}
            }
        }
        drop((sockets, other));
        meter_is(&ada, "shared_runs", 0).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn an_event_stream_shares_the_run_of_the_sockets() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(1, 60_000).await;
    let mut socket = ada.socket().await;
    socket.subscribe(&watching(&task)).await;
    socket.next().await.unwrap();
    let stream = HTTP
        .post(format!("http://{}/graphql", ada.address))
        .header("accept", "text/event-stream")
        .bearer_auth(ada.token.as_ref().unwrap())
        .json(&json!({ "query": watching(&task) }));
    let mut stream = stream.send().await.unwrap();
    let first = stream.chunk().await.unwrap().unwrap();
    assert!(first.starts_with(b"event: next"), "{first:?}");
    assert_eq!(meter(&ada, "shared_runs").await, 1);
    ada.cancel(&task).await;
    let mut rest = Vec::new();
    while let Some(chunk) = stream.chunk().await.unwrap() {
        rest.extend_from_slice(&chunk);
    }
    let rest = String::from_utf8(rest).unwrap();
    assert!(
        rest.contains("CANCELLED") && rest.contains("event: complete"),
        "{rest}"
    );
    world.stop().await;
}

async fn closed(mut socket: Socket) -> u16 {
    loop {
        if let Err((code, _)) = socket.hear().await {
            return code;
        }
    }
}

#[tokio::test]
async fn the_close_codes_are_those_of_the_protocol() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(1, 60_000).await;
    let after = async |messages: Vec<Value>| {
        let mut socket = ada.socket().await;
        for message in messages {
            socket.say(message).await;
        }
        closed(socket).await
    };
    let silent = Socket::connect(ada.address, "graphql-transport-ws").await;
    assert_eq!(after(vec![json!({ "type": "nonsense" })]).await, 4400);
    assert_eq!(
        after(vec![json!({ "type": "subscribe", "id": "1" })]).await,
        4400
    );
    assert_eq!(
        after(vec![json!({ "type": "connection_init" })]).await,
        4429
    );
    let subscribe = json!({ "type": "subscribe", "id": "ä".repeat(200), "payload": { "query": watching(&task) } });
    assert_eq!(
        after(vec![subscribe.clone(), subscribe.clone()]).await,
        4409
    );
    let mut hasty = Socket::connect(ada.address, "graphql-transport-ws").await;
    hasty.say(subscribe).await;
    assert_eq!(closed(hasty).await, 4401);
    let mut legacy = Socket::connect(ada.address, "graphql-ws").await;
    legacy.say(json!({ "type": "connection_init" })).await;
    legacy.say(json!({ "type": "connection_terminate" })).await;
    assert_eq!(closed(legacy).await, 1000);
    assert_eq!(closed(silent).await, 4408);
    world.stop().await;
}

#[tokio::test]
async fn what_cannot_be_executed_is_an_error_and_what_is_too_much_is_one_too() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(1, 60_000).await;
    let mut socket = ada.socket().await;
    for query in ["subscription { nothing }", "subscription {"] {
        socket.subscribe(query).await;
        let refused: Value = socket.hear().await.unwrap();
        assert_eq!(
            (&refused["type"], &refused["id"]),
            (&json!("error"), &json!("1"))
        );
        assert_eq!(
            refused["payload"][0]["extensions"]["code"],
            "BAD_USER_INPUT"
        );
    }
    socket
        .say(json!({ "type": "ping", "payload": { "a": [1] } }))
        .await;
    let pong = socket.hear().await.unwrap();
    assert_eq!(pong, json!({ "type": "pong", "payload": { "a": [1] } }));
    for id in 0..101 {
        socket
            .say(json!({ "type": "subscribe", "id": format!("{id}"), "payload": { "query": watching(&task) } }))
            .await;
    }
    let refused = loop {
        let message = socket.hear().await.unwrap();
        if message["type"] == "error" {
            break message;
        }
    };
    assert_eq!(refused["id"], "100");
    assert_eq!(
        refused["payload"][0]["extensions"]["code"],
        "QUOTA_EXCEEDED"
    );
    assert_eq!(meter(&ada, "shared_runs").await, 1);
    world.stop().await;
}
