//! GraphQL over HTTP, event streams and sockets: what is not business, and has to be right all the same.

use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema, SimpleObject};
use serde_json::{Value, json};

use crate::harness::{HTTP, World, nap, socket::Socket};

struct Root;

/// Fields that fail, to see how far an error reaches.
#[derive(SimpleObject, Default)]
#[graphql(complex)]
struct Fallible {
    ok: i32,
}

#[async_graphql::ComplexObject]
impl Fallible {
    async fn bad(&self) -> async_graphql::Result<i32> {
        Err("no".into())
    }
    async fn slow(&self) -> i32 {
        nap(20).await;
        1
    }
    async fn last(&self) -> i32 {
        2
    }
}

#[Object]
impl Root {
    async fn broken(&self) -> Option<Fallible> {
        Some(Fallible::default())
    }
    async fn must(&self) -> Fallible {
        Fallible::default()
    }
}

/// The GraphQL specification, section 6.4.4: an error in a non-null field makes its parent null.
#[tokio::test]
async fn errors_reach_as_far_as_the_specification_says_and_fields_keep_their_order() {
    let schema = Schema::new(Root, EmptyMutation, EmptySubscription);
    let data =
        async |query: &str| serde_json::to_string(&schema.execute(query).await.data).unwrap();
    assert_eq!(data("{ broken { ok bad } }").await, r#"{"broken":null}"#);
    assert_eq!(data("{ must { ok bad } }").await, "null");
    assert_eq!(
        data("{ broken { slow ok last } }").await,
        r#"{"broken":{"slow":1,"ok":0,"last":2}}"#
    );
}

#[tokio::test]
async fn a_nullable_field_that_fails_leaves_its_siblings() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let reply = ada
        .ask("{ task(id: \"task_1\") { id } viewer { email } }")
        .await;
    assert_eq!(
        reply.0["data"],
        json!({ "task": null, "viewer": { "email": ada.email } })
    );
    assert_eq!(reply.0["errors"][0]["path"], json!(["task"]));
    world.stop().await;
}

#[tokio::test]
async fn what_is_no_graphql_request_is_refused_in_its_own_form() {
    let world = World::start().await;
    let url = format!("http://{}/graphql", world.address());
    let send = async |kind: &str, body: Vec<u8>| {
        let answer = HTTP
            .post(&url)
            .header("content-type", kind)
            .body(body)
            .send()
            .await
            .unwrap();
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        (
            status,
            body["errors"][0]["extensions"]["code"]
                .as_str()
                .unwrap()
                .to_owned(),
        )
    };
    let bad = "BAD_USER_INPUT".to_owned();
    assert_eq!(
        send("application/json", b"nonsense".to_vec()).await,
        (400, bad.clone())
    );
    assert_eq!(
        send("application/json", b"[]".to_vec()).await,
        (400, bad.clone())
    );
    assert_eq!(
        send("application/json", vec![0xff; 10]).await,
        (400, bad.clone())
    );
    assert_eq!(send("text/plain", b"{}".to_vec()).await, (415, bad.clone()));
    assert_eq!(
        send("application/json", vec![b' '; 2 << 20]).await,
        (413, bad.clone())
    );
    let deep = format!(
        "{{\"query\":\"{{{}viewer{{id}}{}}}\"}}",
        "a{".repeat(500),
        "}".repeat(500)
    );
    assert_eq!(
        send("application/json", deep.into_bytes()).await,
        (200, bad.clone())
    );
    assert_eq!(HTTP.get(&url).send().await.unwrap().status(), 405);
    assert_eq!(
        HTTP.get(format!("http://{}/nothing", world.address()))
            .send()
            .await
            .unwrap()
            .status(),
        404
    );
    let wide = format!(
        "{{ {} }}",
        (0..1200)
            .map(|n| format!("a{n}: viewer {{ id }} "))
            .collect::<Vec<_>>()
            .concat()
    );
    assert_eq!(world.anonymous().ask(&wide).await.code(), "BAD_USER_INPUT");
    // The introspection of common clients has to pass the limits.
    let introspection = "{ __schema { types { fields { args { type { kind ofType { kind ofType { kind ofType { kind ofType { kind \
        ofType { kind ofType { name } } } } } } } } } } } }";
    assert!(
        world
            .anonymous()
            .ask(introspection)
            .await
            .0
            .get("errors")
            .is_none()
    );
    world.stop().await;
}

#[tokio::test]
async fn a_subscription_comes_as_an_event_stream_too() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(3, 10).await;
    let body =
        json!({ "query": format!("subscription {{ taskUpdated(id: \"{task}\") {{ state }} }}") });
    let request = HTTP
        .post(format!("http://{}/graphql", ada.address))
        .header("accept", "text/event-stream");
    let text = request
        .bearer_auth(ada.token.as_ref().unwrap())
        .json(&body)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    let events: Vec<&str> = text
        .split("\n\n")
        .filter(|event| !event.is_empty())
        .collect();
    assert!(
        events[0].starts_with("event: next\ndata: {\"data\":"),
        "{text}"
    );
    assert!(events[events.len() - 2].contains("SUCCEEDED"), "{text}");
    assert!(
        events[events.len() - 1].starts_with("event: complete"),
        "{text}"
    );
    world.stop().await;
}

#[tokio::test]
async fn the_older_socket_protocol_works() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(2, 10).await;
    let mut socket = Socket::connect(ada.address, "graphql-ws").await;
    let payload = json!({ "Authorization": format!("Bearer {}", ada.token.as_ref().unwrap()) });
    socket
        .say(json!({ "type": "connection_init", "payload": payload }))
        .await;
    assert_eq!(socket.hear().await.unwrap()["type"], "connection_ack");
    let query = format!("subscription {{ taskUpdated(id: \"{task}\") {{ state }} }}");
    socket
        .say(json!({ "type": "start", "id": "7", "payload": { "query": query } }))
        .await;
    let mut last = Value::Null;
    loop {
        let message = socket.hear().await.unwrap();
        if message["type"] == "complete" {
            break;
        }
        last = message;
    }
    assert_eq!(
        (
            &last["type"],
            &last["payload"]["data"]["taskUpdated"]["state"]
        ),
        (&json!("data"), &json!("SUCCEEDED"))
    );
    world.stop().await;
}

#[tokio::test]
async fn a_socket_that_talks_nonsense_is_closed_and_others_go_on() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let mut good = ada.socket().await;
    let mut bad = Socket::connect(ada.address, "graphql-transport-ws").await;
    bad.say(json!({ "type": "no such type" })).await;
    assert!(bad.hear().await.is_err());
    let mut huge = ada.socket().await;
    huge.say(json!({ "type": "ping", "payload": { "x": "x".repeat(2 << 20) } }))
        .await;
    assert!(huge.hear().await.is_err(), "a message of 2 MiB");
    let mut hasty = Socket::connect(ada.address, "graphql-transport-ws").await;
    hasty
        .subscribe("subscription { taskUpdated(id: \"x\") { id } }")
        .await;
    assert!(
        hasty.hear().await.is_err(),
        "an operation before connection_init"
    );
    good.subscribe("query { viewer { email } }").await;
    assert_eq!(
        good.next().await.unwrap()["data"]["viewer"]["email"],
        ada.email
    );
    world.stop().await;
}

/// Without the answer clients take the connection for broken and wait before they come back.
#[tokio::test]
async fn a_client_that_closes_gets_the_answer_to_its_close() {
    let world = World::start().await;
    let socket = world.person("ada").await.socket().await;
    let (code, reason) = socket.close().await;
    assert_eq!((code, reason.as_str()), (1000, "done"));
    world.stop().await;
}

#[tokio::test]
async fn json_is_preferred_for_all_but_subscriptions() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let kind = async |query: &str, accept: &str| {
        let request = HTTP
            .post(format!("http://{}/graphql", ada.address))
            .header("accept", accept);
        let answer = request
            .bearer_auth(ada.token.as_ref().unwrap())
            .json(&json!({ "query": query }))
            .send()
            .await
            .unwrap();
        answer.headers()["content-type"]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let task = ada.demo(1, 1).await;
    let (query, subscription) = (
        "{ viewer { id } }",
        format!("subscription {{ taskUpdated(id: \"{task}\") {{ id }} }}"),
    );
    let both = "application/graphql-response+json, application/json, text/event-stream";
    assert_eq!(kind(query, both).await, "application/json");
    assert_eq!(kind(&subscription, both).await, "text/event-stream");
    assert_eq!(kind(query, "text/event-stream").await, "text/event-stream");
    world.stop().await;
}

#[tokio::test]
async fn the_console_and_the_health_checks_are_served() {
    let world = World::start().await;
    let get = async |path: &str| {
        let answer = HTTP
            .get(format!("http://{}{path}", world.address()))
            .send()
            .await
            .unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, page) = get("/").await;
    assert!(
        status == 200 && page.to_lowercase().contains("<!doctype html>"),
        "{page}"
    );
    assert_eq!(get("/healthz").await, (200, "ok\n".to_owned()));
    let (status, ready) = get("/readyz").await;
    assert_eq!(
        (
            status,
            serde_json::from_str::<Value>(&ready).unwrap()["database"].clone()
        ),
        (200, json!("ok"))
    );
    assert_eq!(get("/assets/../Cargo.toml").await.0, 404);
    world.stop().await;
}
