//! One trace from a client's request through web, Redis and worker to the engine.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::json;

use super::{ask_with, ground};
use crate::harness::{
    process::Process,
    receiver::{Manner, Receiver, Span},
    until,
};

const CLIENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

const CREATE: &str = "mutation Start($input: CreateContainerInput!) { createContainer(input: $input) { container { id } task { id } } }";

/// Server, client, producer and consumer, as the protocol numbers them.
const SERVER: i32 = 2;
const CLIENT_SIDE: i32 = 3;
const PRODUCER: i32 = 4;
const CONSUMER: i32 = 5;

#[tokio::test]
async fn one_trace_goes_from_the_request_through_redis_to_the_engine() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = ground()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url())
        .with("OTEL_SERVICE_NAME", "main");
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let ada = web.person().sign_up("ada").await;
    let input = json!({ "input": { "app": "hello", "region": "us-east-1" } });
    let headers = [("traceparent", CLIENT), ("x-request-id", "mine-1")];
    let (created, answered) = ask_with(&ada, &headers, CREATE, input).await;
    assert_eq!(answered["x-request-id"], "mine-1");
    let container = created.text("/createContainer/container/id");
    let task = created.text("/createContainer/task/id");
    ada.container_in(&container, "RUNNING").await;
    // What has not been sent is sent at the end.
    assert_eq!(web.end("-INT").await.code(), Some(0));
    assert_eq!(worker.end("-INT").await.code(), Some(0));

    let spans = receiver.trace(TRACE);
    eprintln!("{}", tree(&spans));
    let one = |name: &str| only(&spans, name);
    let request = one("POST /graphql");
    assert_eq!((request.kind, &*request.role), (SERVER, "web"));
    assert_eq!(request.parent, "00f067aa0ba902b7", "the client's span");
    assert_eq!(request.attributes["http.response.status_code"], "200");
    assert_eq!(request.attributes["http.route"], "/graphql");
    let operation = one("mutation Start");
    assert_eq!(operation.parent, request.id);
    assert_eq!(operation.attributes["graphql.operation.name"], "Start");
    assert_eq!(operation.attributes["graphql.field"], "createContainer");
    let insert = spans.iter().find(|span| {
        let text = span.attributes.get("db.query.text");
        text.is_some_and(|text| text.starts_with("INSERT INTO task "))
    });
    let insert = insert.expect("the statement that adds the task is traced");
    assert_eq!((insert.kind, &*insert.role), (CLIENT_SIDE, "web"));
    let transaction = spans.iter().find(|span| span.id == insert.parent);
    let transaction = transaction.expect("the statement is a part of a transaction");
    assert_eq!(transaction.name, "transaction");
    assert_eq!(transaction.parent, operation.id);
    let committed = &transaction.attributes["db.transaction.committed"];
    assert_eq!(committed, "true");

    let create = one("create create_container");
    assert_eq!((create.kind, &*create.role), (PRODUCER, "web"));
    assert!(is_below(&spans, create, operation));
    let announce = spans.iter().find(|span| span.name == "announce");
    let announce = announce.expect("the first hint is traced");
    assert_eq!((announce.kind, &*announce.role), (PRODUCER, "web"));
    assert_eq!(announce.parent, create.id);
    assert_eq!(announce.attributes["messaging.system"], "redis");
    assert_eq!(announce.attributes["messaging.message.id"], task);

    let runs: Vec<&Span> = spans
        .iter()
        .filter(|span| span.name == "run create_container")
        .collect();
    // It waits for its health check without a worker, and is claimed again.
    assert!(runs.len() >= 2, "{}", runs.len());
    let claims = spans
        .iter()
        .filter(|span| span.name == "claim create_container");
    assert_eq!(claims.count(), runs.len());
    for (run, attempt) in runs.iter().zip(1..) {
        assert_eq!((run.kind, &*run.role), (CONSUMER, "worker"));
        assert_eq!(run.parent, create.id);
        assert_eq!(run.attributes["messaging.message.id"], task);
        assert_eq!(run.attributes["task.attempt"], attempt.to_string());
    }
    let ensure = spans.iter().find(|span| span.name == "simulated ensure");
    let ensure = ensure.expect("the engine's call is traced");
    assert_eq!((ensure.kind, &*ensure.role), (CLIENT_SIDE, "worker"));
    assert_eq!(ensure.attributes["engine.instance"], container);
    assert!(runs.iter().any(|run| is_below(&spans, ensure, run)));

    let instances: BTreeSet<&str> = spans.iter().map(|span| &*span.instance).collect();
    assert_eq!(instances.len(), 2, "web and worker: {instances:?}");
    let known: BTreeSet<&str> = spans.iter().map(|span| &*span.id).collect();
    for span in &spans {
        let has_parent = known.contains(&*span.parent) || span.id == request.id;
        assert!(has_parent, "{span:#?} is a part of nothing");
        assert!(span.began <= span.ended, "{span:#?}");
        for value in span.attributes.values() {
            assert!(!value.contains("ada@example.com"), "{span:#?}");
        }
    }
    ground.clear().await;
}

#[tokio::test]
async fn what_a_client_says_of_its_trace_is_taken_as_the_recommendation_has_it() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = ground()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url())
        .with("TRACE_SAMPLE", "0.5");
    let web = Process::start(&ground, "web").await;
    let nobody = web.person();
    let ask = async |parents: &[&str]| {
        let headers: Vec<_> = parents
            .iter()
            .map(|parent| ("traceparent", *parent))
            .collect();
        ask_with(&nobody, &headers, "{ viewer { id } }", json!({})).await;
    };
    // By the last 63 bits of its id, the first half of all traces is recorded.
    let within = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".replace("a3ce", "03ce");
    let without = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".replace("a3ce", "f3ce");
    let unwanted = "00-6bf92f3577b34da603ce929d0e0e4736-00f067aa0ba902b7-00";
    let twice = "00-7bf92f3577b34da603ce929d0e0e4736-00f067aa0ba902b7-01";
    let bad = "00-8bf92f3577b34da603ce929d0e0e473G-00f067aa0ba902b7-01";
    ask(&[&without]).await;
    ask(&[unwanted]).await;
    ask(&[twice, twice]).await;
    ask(&[bad]).await;
    ask(&[&within]).await;
    assert_eq!(web.end("-INT").await.code(), Some(0));
    let traces: BTreeSet<String> = receiver
        .spans()
        .into_iter()
        .map(|span| span.trace)
        .collect();
    assert!(traces.contains(&within[3..35]), "{traces:?}");
    for other in [&*without, unwanted, twice, bad] {
        assert!(!traces.contains(&other[3..35]), "{other} in {traces:?}");
    }
    ground.clear().await;
}

#[tokio::test]
async fn a_subscription_is_traced_until_its_first_answer() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = ground()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url());
    let web = Process::start(&ground, "web").await;
    let ada = web.person().sign_up("ada").await;
    let mut socket = ada.socket().await;
    socket
        .subscribe("subscription Mine { containers { totalCount } }")
        .await;
    socket.next().await.unwrap();
    // It goes on, and its beginning has been told.
    let span = until("the subscription's span", async || {
        let mut spans = receiver.spans().into_iter();
        spans.find(|span| span.name == "subscription Mine")
    })
    .await;
    assert_eq!(span.attributes["graphql.operation.type"], "subscription");
    assert_eq!(span.parent, "", "it is a trace of its own");
    web.kill().await;
    ground.clear().await;
}

#[track_caller]
fn only<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "spans named {name} in\n{}", tree(spans));
    found[0]
}

fn is_below(spans: &[Span], span: &Span, above: &Span) -> bool {
    let mut at = Some(span);
    while let Some(span) = at {
        if span.parent == above.id {
            return true;
        }
        at = spans.iter().find(|other| other.id == span.parent);
    }
    false
}

/// The trace as a person reads it.
fn tree(spans: &[Span]) -> String {
    let mut below: BTreeMap<&str, Vec<&Span>> = BTreeMap::new();
    let known: BTreeSet<&str> = spans.iter().map(|span| &*span.id).collect();
    for span in spans {
        let parent = if known.contains(&*span.parent) {
            &*span.parent
        } else {
            ""
        };
        below.entry(parent).or_default().push(span);
    }
    let start = spans.iter().map(|span| span.began).min().unwrap_or(0);
    let mut text = String::new();
    let mut stack: Vec<(usize, &Span)> = below
        .get("")
        .into_iter()
        .flatten()
        .rev()
        .map(|span| (0, *span))
        .collect();
    while let Some((depth, span)) = stack.pop() {
        let at = (span.began - start) / 1000;
        let took = (span.ended - span.began) / 1000;
        let name = format!("{}{}", "  ".repeat(depth), span.name);
        let _ = writeln!(text, "{:<6} {name:<44} +{at:>8} µs {took:>8} µs", span.role);
        let children = below.get(&*span.id).into_iter().flatten().rev();
        stack.extend(children.map(|span| (depth + 1, *span)));
    }
    text
}
