//! GraphQL over HTTP, event streams and sockets: what is not business, and has to be right all the same.

use async_graphql::{EmptyMutation, EmptySubscription, Object, Schema, SimpleObject};
use serde_json::{Value, json};

use crate::harness::{Ground, HTTP, QUICK, World, nap, socket::Socket};
use main_webserver::app::Role;

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
    assert_eq!(HTTP.get(&url).send().await.unwrap().status(), 400);
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
    assert_eq!(
        kind(query, both).await,
        "application/graphql-response+json; charset=utf-8"
    );
    let json = "application/json; charset=utf-8";
    assert_eq!(kind(query, "*/*").await, json);
    assert_eq!(kind(query, "text/html").await, json, "of the refusal");
    assert_eq!(kind(&subscription, both).await, "text/event-stream");
    assert_eq!(kind(query, "text/event-stream").await, "text/event-stream");
    world.stop().await;
}

/// An answer's status, content type and body.
async fn sent(request: reqwest::RequestBuilder) -> (u16, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

fn code(answer: &Value) -> &str {
    answer["errors"][0]["extensions"]["code"].as_str().unwrap()
}

#[tokio::test]
async fn queries_come_by_get_and_mutations_do_not() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let get = |parameters: &[(&str, &str)]| {
        let url = format!("http://{}/graphql", ada.address);
        let url = reqwest::Url::parse_with_params(&url, parameters).unwrap();
        sent(HTTP.get(url).bearer_auth(ada.token.as_ref().unwrap()))
    };
    let (status, answer) = get(&[
        (
            "query",
            "query A { viewer { email } } query B($n: Int) { apps(first: $n) { nodes { id } } }",
        ),
        ("operationName", "B"),
        ("variables", "{\"n\": 0}"),
    ])
    .await;
    assert_eq!(
        (status, &answer["data"]),
        (200, &json!({ "apps": { "nodes": [] } }))
    );
    let mutation = "mutation { startDemoTask(input: { steps: 1, stepMillis: 1 }) { task { id } } }";
    let (status, answer) = get(&[("query", mutation)]).await;
    assert_eq!((status, code(&answer)), (405, "BAD_USER_INPUT"));
    let (status, answer) = get(&[("query", "{ viewer { id } }"), ("variables", "[1]")]).await;
    assert_eq!((status, code(&answer)), (400, "BAD_USER_INPUT"));
    assert_eq!(
        ada.ask("{ tasks { totalCount } }")
            .await
            .ok("/tasks/totalCount"),
        0
    );
    world.stop().await;
}

#[tokio::test]
async fn a_request_that_is_not_executed_has_a_status_and_no_data() {
    let world = World::start().await;
    let post = |query: &str, accept: &str| {
        let request = HTTP.post(format!("http://{}/graphql", world.address()));
        sent(
            request
                .header("accept", accept)
                .json(&json!({ "query": query })),
        )
    };
    let (own, json) = ("application/graphql-response+json", "application/json");
    for query in [
        "{",
        "{ nothing }",
        "query($n: Int!) { apps(first: $n) { nodes { id } } }",
    ] {
        let (status, answer) = post(query, own).await;
        assert_eq!(
            (status, answer.get("data"), code(&answer)),
            (400, None, "BAD_USER_INPUT"),
            "{query}"
        );
        let (status, answer) = post(query, json).await;
        assert_eq!((status, answer.get("data")), (200, None), "{query}");
    }
    let (status, answer) = post("{ containers { totalCount } }", own).await;
    assert_eq!(
        (status, &answer["data"], code(&answer)),
        (200, &Value::Null, "UNAUTHENTICATED"),
        "executed"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_batch_is_answered_in_order_and_has_a_limit() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let post = |batch: Value| {
        let request = HTTP.post(format!("http://{}/graphql", ada.address));
        sent(
            request
                .bearer_auth(ada.token.as_ref().unwrap())
                .json(&batch),
        )
    };
    let (status, answers) = post(json!([
        { "query": "{ a: viewer { email } }" },
        { "query": "{ nothing }" },
        { "query": "{ c: viewer { email } }" },
    ]))
    .await;
    assert_eq!(status, 200);
    assert_eq!(
        (
            &answers[0]["data"]["a"]["email"],
            code(&answers[1]),
            &answers[2]["data"]["c"]["email"]
        ),
        (&json!(ada.email), "BAD_USER_INPUT", &json!(ada.email))
    );
    let many = vec![json!({ "query": "{ __typename }" }); 9];
    assert_eq!(post(json!(many)).await.0, 400);
    world.stop().await;
}

#[tokio::test]
async fn a_text_is_sent_once_and_then_asked_for_by_its_hash() {
    let world = World::start().await;
    let post = |body: Value| {
        sent(
            HTTP.post(format!("http://{}/graphql", world.address()))
                .json(&body),
        )
    };
    let query = "{ apps(first: 1) { totalCount } }";
    let hash = sha256(query);
    let persisted = json!({ "persistedQuery": { "version": 1, "sha256Hash": hash } });
    let (status, answer) = post(json!({ "extensions": persisted })).await;
    assert_eq!(
        (status, code(&answer), &answer["errors"][0]["message"]),
        (
            200,
            "PERSISTED_QUERY_NOT_FOUND",
            &json!("PersistedQueryNotFound")
        )
    );
    let (_, answer) = post(json!({ "query": "{ __typename }", "extensions": persisted })).await;
    assert_eq!(code(&answer), "BAD_USER_INPUT", "another text's hash");
    let (_, first) = post(json!({ "query": query, "extensions": persisted })).await;
    let (_, second) = post(json!({ "extensions": persisted })).await;
    assert!(first["data"]["apps"]["totalCount"].is_number());
    assert_eq!(first, second);
    world.stop().await;
}

fn sha256(text: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(text.as_bytes());
    main_webserver::domain::keyring::hex(&digest)
}

#[tokio::test]
async fn persisted_operations_have_an_address_and_may_be_the_only_ones() {
    let ground = Ground::new().await;
    let file = ground.folder().join("operations.json");
    let apps = "query Apps($first: Int, $after: String) { apps(first: $first, after: $after) { nodes { slug } } }";
    let start = "mutation Start($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { state } } }";
    let login = "mutation($input: SignUpInput!) { signUp(input: $input) { accessToken } }";
    let operations = json!({ "apps": apps, "start": start, "signUp": login });
    std::fs::write(&file, operations.to_string()).unwrap();
    let ground = ground
        .with("PERSISTED_OPERATIONS", file.to_str().unwrap())
        .with("PERSISTED_ONLY", "on")
        .with("INTROSPECTION", "off")
        .with("CONSOLE", "off");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let at = |path: &str| format!("http://{}{path}", world.address());
    let (status, answer) = sent(HTTP.get(at("/api/rest/apps?first=1"))).await;
    assert_eq!(status, 200);
    assert_eq!(answer["data"]["apps"]["nodes"].as_array().unwrap().len(), 1);
    assert_eq!(
        sent(HTTP.get(at("/api/rest/apps?frist=1"))).await.0,
        400,
        "no such variable"
    );
    assert_eq!(sent(HTTP.get(at("/api/rest/nothing"))).await.0, 404);
    assert_eq!(sent(HTTP.get(at("/api/rest/start"))).await.0, 405);
    let person = json!({ "input": { "email": "ada@example.com", "name": "Ada", "password": "correct horse battery" } });
    let (_, answer) = sent(HTTP.post(at("/api/rest/signUp")).json(&person)).await;
    let token = answer["data"]["signUp"]["accessToken"].as_str().unwrap();
    let input = json!({ "input": { "steps": 1, "stepMillis": 1 } });
    let (_, answer) = sent(
        HTTP.post(at("/api/rest/start"))
            .bearer_auth(token)
            .json(&input),
    )
    .await;
    assert_eq!(answer["data"]["startDemoTask"]["task"]["state"], "QUEUED");
    let own = "application/graphql-response+json";
    let (status, answer) = sent(
        HTTP.post(at("/graphql"))
            .header("accept", own)
            .json(&json!({ "query": "{ __typename }" })),
    )
    .await;
    assert_eq!((status, code(&answer)), (403, "FORBIDDEN"));
    let known =
        json!({ "extensions": { "persistedQuery": { "version": 1, "sha256Hash": sha256(apps) } } });
    assert_eq!(sent(HTTP.post(at("/graphql")).json(&known)).await.0, 200);
    let page = HTTP.get(at("/")).send().await.unwrap();
    assert_eq!(page.status(), 404, "the console is off");
    world.stop().await;
}

#[tokio::test]
async fn a_schema_that_keeps_itself_to_itself_tells_nothing() {
    let ground = Ground::new().await.with("INTROSPECTION", "off");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let anonymous = world.anonymous();
    let schema = anonymous.ask("{ __schema { types { name } } }").await;
    assert!(schema.0["data"]["__schema"].is_null(), "{:?}", schema.0);
    let near = anonymous.ask("{ viewr { id } }").await;
    assert!(!near.0.to_string().contains("Did you mean"), "{:?}", near.0);
    world.stop().await;
}

#[tokio::test]
async fn what_only_costs_is_refused() {
    let world = World::start().await;
    let refused = async |query: String| {
        let reply = world.anonymous().ask(&query).await;
        assert_eq!(reply.code(), "BAD_USER_INPUT", "{query}");
    };
    let many =
        |count: usize, part: &dyn Fn(usize) -> String| -> String { (0..count).map(part).collect() };
    refused(format!(
        "{{ apps {{ {} }} }}",
        many(51, &|n| format!("a{n}: __typename "))
    ))
    .await;
    refused(format!("{{ {} }}", many(31, &|_| "__typename ".to_owned()))).await;
    refused(format!(
        "{{ __typename {} }}",
        many(51, &|_| "@include(if: true) ".to_owned())
    ))
    .await;
    refused(format!(
        "query {{ ...F0 }} {}",
        many(60, &|n| format!(
            "fragment F{n} on Query {{ ...F{} }} ",
            (n + 1) % 60
        ))
    ))
    .await;
    world.stop().await;
}

#[tokio::test]
async fn a_socket_ends_with_its_token() {
    let ground = Ground::new().await.with("ACCESS_TOKEN_SECONDS", "10");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let mut socket = ada.socket().await;
    socket
        .subscribe("subscription { taskUpdated(id: \"x\") { id } }")
        .await;
    let (code, _) = loop {
        if let Err(closed) = socket.hear().await {
            break closed;
        }
    };
    assert_eq!(code, 4403);
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
