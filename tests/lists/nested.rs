//! Lists below the rows of lists: what the model says, by either way, with one statement a level.

use rand::RngExt as _;
use serde_json::{Value, json};

use super::{
    model::{Filter, Key, Row, sort},
    property::{ROUNDS, alone, id, random, world},
};
use crate::harness::{HTTP, Person, World};

const PAGE: &str = "page: users(first: 10)";
const QUERY: &str = "query($f: ContainerFilter, $o: [ContainerOrder!], $n: Int, $a: String, $l: Int, $b: String) {
    page: users(first: 10) { nodes { name
        containers(filter: $f, orderBy: $o, first: $n, after: $a, last: $l, before: $b) {
            __typename totalCount pageInfo { hasNextPage hasPreviousPage startCursor endCursor }
            edges { cursor node { id ...parts } } }
        count: containers(filter: $f) { totalCount }
        last: containers(last: 1) { nodes { id owner { name few: containers(first: 1) { nodes { id } } } } }
    } } }
    fragment parts on Container { state
        app { slug containers(first: 2, orderBy: [{field: UPDATED_AT}]) { totalCount nodes { id owner { email } } } } }";

/// The same twice under one key, which is not compiled; `first` is the first field of its rows.
fn by_resolvers(query: &str, first: &str) -> String {
    query.replacen(PAGE, &format!("{PAGE} {{ nodes {{ {first} }} }} {PAGE}"), 1)
}

/// Asks both ways; the rows.
async fn both_ways(viewer: &Person, asked: Value, told: &str) -> Vec<Value> {
    let compiled = viewer.send(QUERY, asked.clone()).await;
    let resolved = viewer.send(&by_resolvers(QUERY, "name"), asked).await;
    let page = compiled.ok("/page");
    let resolved = resolved.ok("/page");
    let difference = difference(&page, &resolved, "");
    assert_eq!(difference, None, "{told}");
    page["nodes"].as_array().unwrap().clone()
}

/// Where two answers differ.
fn difference(a: &Value, b: &Value, at: &str) -> Option<String> {
    let parts = |value: &Value| match value {
        Value::Object(object) => object.clone(),
        Value::Array(items) => (0..)
            .zip(items)
            .map(|(at, item): (usize, _)| (at.to_string(), item.clone()))
            .collect(),
        _ => serde_json::Map::new(),
    };
    let (left, right) = (parts(a), parts(b));
    let below = left.keys().chain(right.keys()).find_map(|key| {
        difference(
            left.get(key).unwrap_or(&Value::Null),
            right.get(key).unwrap_or(&Value::Null),
            &format!("{at}/{key}"),
        )
    });
    below.or_else(|| {
        (left.is_empty() && right.is_empty() && a != b).then(|| format!("{at}: {a} and {b}"))
    })
}

fn ids(list: &Value) -> Vec<&str> {
    let edges = list["edges"].as_array().unwrap().iter();
    edges
        .map(|edge| edge["node"]["id"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_below_rows_is_what_the_model_says_by_either_way() {
    let (seed, mut rng) = random();
    let node = alone().await;
    let (rows, mut people) = world(&node, &mut rng).await;
    people.push(node.admin().await);
    let mut pages = 0;
    for round in 0..ROUNDS / 4 {
        let filter = Filter::random(&mut rng, &rows, 3);
        let keys: Vec<Key> = (0..rng.random_range(0..=3))
            .map(|_| Key::random(&mut rng))
            .collect();
        let viewer = rng.random_range(0..people.len());
        let told = format!("LIST_SEED={seed}, round {round}: {filter:?} {keys:?}");
        let size = rng.random_range(0..12);
        let order: Vec<Value> = keys.iter().map(|key| key.json()).collect();
        let asked = json!({"f": filter.json(), "o": order, "n": size});
        let people_seen = both_ways(&people[viewer], asked.clone(), &told).await;
        for (owner, name) in ["ada", "bob"].into_iter().enumerate() {
            let person = people_seen.iter().find(|person| person["name"] == name);
            assert_eq!(person.is_some(), viewer == 2 || viewer == owner, "{told}");
            let Some(person) = person else { continue };
            let fits = |row: &&Row| row.owner == owner && filter.fits(row);
            let mut expected: Vec<&Row> = rows.iter().filter(fits).collect();
            sort(&mut expected, &keys);
            let expected: Vec<String> = expected.into_iter().map(id).collect();
            let list = &person["containers"];
            assert_eq!(ids(list), expected[..size.min(expected.len())], "{told}");
            assert_eq!(list["totalCount"], expected.len(), "{told}");
            assert_eq!(person["count"]["totalCount"], expected.len(), "{told}");
            assert_eq!(
                list["pageInfo"]["hasNextPage"],
                expected.len() > size,
                "{told}"
            );
            // From one person's place on, below everybody.
            if size > 0 && !expected.is_empty() {
                pages += 1;
                let at = rng.random_range(0..size.min(expected.len()));
                let cursor = &list["edges"][at]["cursor"];
                let mut asked = asked.clone();
                let is_backward: bool = rng.random();
                let right = if is_backward {
                    asked["n"] = Value::Null;
                    (asked["l"], asked["b"]) = (json!(size), cursor.clone());
                    &expected[at.saturating_sub(size)..at]
                } else {
                    asked["a"] = cursor.clone();
                    &expected[at + 1..(at + 1 + size).min(expected.len())]
                };
                let there = both_ways(&people[viewer], asked, &told).await;
                let there = there.iter().find(|person| person["name"] == name).unwrap();
                assert_eq!(ids(&there["containers"]), right, "{told}");
                assert_eq!(there["containers"]["totalCount"], expected.len(), "{told}");
            }
        }
    }
    assert!(pages > ROUNDS / 16, "few had a second page: {pages}");
    node.stop().await;
}

const LEVELS: [&str; 4] = [
    "{ page: users(first: 10) { nodes { id } } }",
    "{ page: users(first: 10) { nodes { id containers(first: 4) { nodes { id } } } } }",
    "{ page: users(first: 10) { nodes { id containers(first: 4) { totalCount nodes { id app { slug containers(first: 3) { totalCount } } } } } } }",
    "{ page: users(first: 10) { nodes { id containers(first: 4) { totalCount nodes { id app { slug containers(first: 3) { nodes { id region { name containers(first: 2) { nodes { id } } } } } } } } } } }",
];

/// Statements that have read anything.
async fn statements(world: &World) -> u64 {
    let url = format!("http://{}/metrics", world.address());
    let text = HTTP.get(url).send().await.unwrap().text().await.unwrap();
    let counts = text.lines().filter_map(|line| {
        let (name, count) = line.split_once(' ')?;
        let is_read = name.contains("_count{") && name.contains("operation=\"SELECT\"");
        is_read.then(|| count.parse::<u64>().unwrap())
    });
    counts.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_level_is_one_statement_more_in_every_way() {
    let (_, mut rng) = random();
    let node = alone().await;
    world(&node, &mut rng).await;
    let admin = node.admin().await;
    let mut fewest = Vec::new();
    for query in LEVELS {
        let resolved = admin.ask(&by_resolvers(query, "id")).await.ok("/page");
        let mut counts = Vec::new();
        // What the service reads by itself meanwhile is not in the least of them. The first has the document checked, the
        // others are answered without the executor, where they cost so little that they may.
        for _ in 0..30 {
            let before = statements(&node).await;
            assert_eq!(admin.ask(query).await.ok("/page"), resolved, "{query}");
            counts.push(statements(&node).await - before);
        }
        fewest.push(*counts.iter().min().unwrap());
    }
    let more: Vec<u64> = fewest.iter().map(|count| count - fewest[0]).collect();
    assert_eq!(more, [0, 1, 2, 3], "{fewest:?}");
    node.stop().await;
}

const PARTS: &str = "{ tasks(first: 100) { nodes { id steps { name output } logs(first: 2) { cursor message } \
    more: logs(first: 3) { message } } } }";

#[tokio::test(flavor = "multi_thread")]
async fn the_steps_and_the_lines_of_many_tasks_are_read_together() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let created = ada.create("hello").await;
    ada.task_in(&created.task, "SUCCEEDED").await;
    for _ in 0..12 {
        let task = ada.demo(4, 1).await;
        ada.task_in(&task, "SUCCEEDED").await;
    }
    let (mut counts, mut rows) = (Vec::new(), Vec::new());
    for _ in 0..30 {
        let before = statements(&world).await;
        let reply = ada.ask(PARTS).await;
        counts.push(statements(&world).await - before);
        rows = reply.ok("/tasks/nodes").as_array().unwrap().clone();
    }
    // The list, the steps, and the lines with either length; who asks is looked up, too. Not three of each task.
    let fewest = *counts.iter().min().unwrap();
    assert!((4..=10).contains(&fewest), "{fewest} statements");
    let mut lines = 0;
    for row in &rows {
        let alone = format!(
            "{{ task(id: {}) {{ steps {{ name output }} logs {{ cursor message }} }} }}",
            row["id"]
        );
        let alone = ada.ask(&alone).await.ok("/task");
        assert_eq!(row["steps"], alone["steps"]);
        let all = alone["logs"].as_array().unwrap();
        lines += all.len();
        assert_eq!(row["logs"], json!(all[..all.len().min(2)]));
        assert_eq!(row["more"].as_array().unwrap().len(), all.len().min(3));
        if let Some(first) = all.first() {
            let rest = format!(
                "{{ tasks {{ nodes {{ id logs(after: {}) {{ cursor message }} }} }} }}",
                first["cursor"]
            );
            let rest = ada.ask(&rest).await.ok("/tasks/nodes");
            let rest = rest
                .as_array()
                .unwrap()
                .iter()
                .find(|other| other["id"] == row["id"]);
            assert_eq!(rest.unwrap()["logs"], json!(all[1..]));
        }
    }
    assert!(
        rows.len() == 13 && lines > 13,
        "{lines} lines of {} tasks",
        rows.len()
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_below_a_row_is_refused_at_its_place() {
    let world = World::start().await;
    let (ada, nobody) = (world.person("ada").await, world.anonymous());
    for (arguments, code) in [
        ("first: 101", "BAD_USER_INPUT"),
        ("first: 1, last: 1", "BAD_USER_INPUT"),
        ("after: \"x\"", "BAD_USER_INPUT"),
        ("filter: {node: {isNull: true}}", "FORBIDDEN"),
    ] {
        let query =
            format!("{{ users {{ nodes {{ containers({arguments}) {{ totalCount }} }} }} }}");
        // The second time the document is known.
        for _ in 0..2 {
            let reply = ada.ask(&query).await;
            assert_eq!(reply.code(), code, "{query}: {}", reply.0);
            let path = reply.0["errors"][0]["path"].to_string();
            assert!(path.starts_with("[\"users\",\"nodes\",0"), "{}", reply.0);
        }
    }
    // Whoever reaches none of them is shown none.
    let apps = nobody
        .ask("{ apps { nodes { containers { totalCount nodes { id } } } } }")
        .await;
    let apps = apps.ok("/apps/nodes");
    assert!(!apps.as_array().unwrap().is_empty());
    for app in apps.as_array().unwrap() {
        assert_eq!(app["containers"], json!({ "totalCount": 0, "nodes": [] }));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_below_a_watched_row_is_watched_at_any_depth() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let me = ada.ask("{ viewer { id } }").await.text("/viewer/id");
    let below = "name containers(filter: {app: {slug: {eq: \"hello\"}}}) { totalCount nodes { state tasks(first: 5) { nodes { state } } } }";
    for (field, at, operation) in [
        (
            "users",
            "/data/users/nodes/0",
            format!("subscription {{ users {{ nodes {{ {below} }} }} }}"),
        ),
        (
            "node",
            "/data/node",
            format!("subscription {{ node(id: \"{me}\") {{ ... on User {{ {below} }} }} }}"),
        ),
    ] {
        let mut socket = ada.socket().await;
        socket.subscribe(&operation).await;
        let first = socket.next().await.unwrap();
        let before = first.pointer(at).unwrap()["containers"]["totalCount"]
            .as_u64()
            .unwrap();
        let own = ada.create("hello").await;
        loop {
            let frame = socket.next().await.unwrap();
            let list = &frame.pointer(at).unwrap()["containers"];
            let newest = &list["nodes"][0];
            // The task ends after the container runs, and is two lists below what is watched.
            if newest["state"] == "RUNNING" && newest["tasks"]["nodes"][0]["state"] == "SUCCEEDED" {
                assert_eq!(list["totalCount"], before + 1, "{field}");
                break;
            }
        }
        ada.container_in(&own.container, "RUNNING").await;
    }
    world.stop().await;
}
