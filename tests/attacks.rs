//! What attackers of GraphQL servers send: each is refused for what it is, or costs no more than what it pays for.
//!
//! The set is that of graphql-cop and of the GraphQL cheat sheet of OWASP; `protocol` has those that are part of the
//! protocol: batches, mutations by GET, switched off introspection, suggestions and console, circular fragments.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Ground, HTTP, Person, QUICK, Reply, World};
use main_webserver::app::Role;

/// No answer takes longer, on however slow a machine tests run.
const LONG: Duration = Duration::from_secs(10);

async fn asked(person: &Person, query: &str, variables: Value) -> Reply {
    let answer = tokio::time::timeout(LONG, person.send(query, variables)).await;
    answer.unwrap_or_else(|_| panic!("no answer in time to {}", &query[..query.len().min(200)]))
}

/// Asks, and wants a refusal that is the asker's fault.
async fn refused(person: &Person, query: &str, variables: Value) {
    let reply = asked(person, query, variables).await;
    let code = reply.0["errors"][0]["extensions"]["code"].as_str();
    assert_eq!(
        code,
        Some("BAD_USER_INPUT"),
        "{} {}",
        &query[..query.len().min(200)],
        reply.0
    );
}

/// Asks, and takes an answer or a refusal, but nothing that went wrong inside.
async fn no_failure(person: &Person, query: &str, variables: Value) {
    let reply = asked(person, query, variables.clone()).await;
    let code = reply.0["errors"][0]["extensions"]["code"].as_str();
    let is_ours = matches!(code, Some("INTERNAL" | "UNAVAILABLE"));
    assert!(!is_ours, "{query} {variables} {}", reply.0);
}

#[tokio::test]
async fn numbers_out_of_bounds_are_refused() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let task = ada.demo(1, 0).await;
    for arguments in [
        "first: 2147483647",
        "first: -1",
        "first: 101",
        "last: 2147483647",
        "last: -2147483648",
        "first: 9223372036854775807",
        "first: 99999999999999999999999999",
        "first: 1e400",
        "first: 1.5",
        "first: 1, last: 1",
        "first: 10, after: \"\"",
        "after: \"AAAA\"",
        "orderBy: [{field: NOTHING}]",
    ] {
        refused(
            &ada,
            &format!("{{ containers({arguments}) {{ nodes {{ id }} }} }}"),
            json!({}),
        )
        .await;
    }
    for first in ["0", "501", "2147483647", "-1"] {
        refused(
            &ada,
            &format!("{{ task(id: \"{task}\") {{ logs(first: {first}) {{ at }} }} }}"),
            json!({}),
        )
        .await;
    }
    for (steps, millis) in [
        (0, 1),
        (1001, 1),
        (i32::MAX, i32::MAX),
        (-1, -1),
        (1, 60_001),
    ] {
        let input = json!({ "input": { "steps": steps, "stepMillis": millis } });
        refused(&ada, "mutation($input: StartDemoTaskInput!) { startDemoTask(input: $input) { task { id } } }", input).await;
    }
    let ids = vec![task; 101];
    refused(
        &ada,
        "query($ids: [ID!]!) { nodes(ids: $ids) { id } }",
        json!({ "ids": ids }),
    )
    .await;
    world.stop().await;
}

#[tokio::test]
async fn filters_and_cursors_have_bounds() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let query = "query($filter: TaskFilter, $after: String) { tasks(filter: $filter, after: $after) { totalCount } \
        tasksAggregate(filter: $filter) { count } }";
    let nested = |depth: usize| {
        (0..depth).fold(
            json!({ "kind": { "eq": "demo" } }),
            |below, _| json!({ "not": below }),
        )
    };
    let wide = |count: usize| json!({ "or": vec![json!({ "kind": { "eq": "demo" } }); count] });
    let many = |count: usize| json!({ "kind": { "in": vec!["demo"; count] } });
    for (filter, is_fine) in [
        (nested(8), true),
        (nested(9), false),
        (nested(400), false),
        (wide(100), true),
        (wide(101), false),
        (wide(10_000), false),
        (many(500), true),
        (many(501), false),
        (many(50_000), false),
    ] {
        let variables = json!({ "filter": filter });
        if is_fine {
            asked(&ada, query, variables).await.ok("/tasks/totalCount");
        } else {
            refused(&ada, query, variables).await;
        }
    }
    // Empty objects are no tests and cost nothing but their place.
    no_failure(
        &ada,
        query,
        json!({ "filter": { "or": vec![json!({}); 20_000] } }),
    )
    .await;
    let keys = vec![json!({ "field": "CREATED_AT" }); 5];
    let order = "query($order: [UserOrder!]) { users(orderBy: $order) { totalCount } }";
    no_failure(&ada, order, json!({ "order": keys })).await;
    no_failure(
        &ada,
        order,
        json!({ "order": vec![json!({ "field": "EMAIL" }); 10_000] }),
    )
    .await;
    for cursor in [
        "x".repeat(500_000),
        "A".repeat(500_000),
        "/../../etc/passwd".to_owned(),
        "\u{0}".to_owned(),
    ] {
        refused(&ada, query, json!({ "after": cursor })).await;
    }
    let groups = vec![json!({ "field": "KIND" }); 4];
    let by = "query($by: [TaskGroupBy!]) { tasksAggregate(groupBy: $by) { count } }";
    refused(&ada, by, json!({ "by": groups })).await;
    world.stop().await;
}

/// A pattern is matched in time, and a text no database takes is not an error inside.
#[tokio::test]
async fn texts_and_times_that_databases_choke_on_are_refused_or_found_nowhere() {
    let world = World::start().await;
    let (root, long) = (world.admin().await, "a".repeat(95));
    let name = json!({ "input": { "email": "bea@example.com", "name": long, "password": "correct horse battery" } });
    asked(
        &root,
        "mutation($input: SignUpInput!) { signUp(input: $input) { accessToken } }",
        name,
    )
    .await
    .ok("/signUp");
    let query = "query($filter: UserFilter) { users(filter: $filter) { totalCount } }";
    let bombs = [
        format!("{}b", "%a".repeat(40)),
        format!("{}b", "%_".repeat(40)),
        "%".repeat(10_000),
        "%a".repeat(100_000),
        "_".repeat(100_000),
        "\\".to_owned(),
        "\u{0}".to_owned(),
        "a\u{0}%".to_owned(),
        "[[[*?]".to_owned(),
        "\u{1F600}\u{10FFFF}\u{202E}".to_owned(),
        "' OR 1=1; --".to_owned(),
    ];
    for bomb in &bombs {
        for test in ["like", "ilike", "prefix", "eq", "neq", "gt", "in"] {
            let value = if test == "in" {
                json!([bomb])
            } else {
                json!(bomb)
            };
            let filter = json!({ "filter": { "name": { test: value } } });
            no_failure(&root, query, filter).await;
        }
    }
    for at in [
        "-262143-01-01T00:00:00Z",
        "+262142-12-31T23:59:59Z",
        "0000-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "-4714-01-01T00:00:00Z",
        "+300000-01-01T00:00:00Z",
        "1970-01-01T00:00:00.000000001Z",
        "yesterday",
    ] {
        no_failure(
            &root,
            query,
            json!({ "filter": { "createdAt": { "gt": at } } }),
        )
        .await;
        let letters = "mutation($at: DateTime) { retryDeadLetters(input: {failedBefore: $at}) { tasks { id } } }";
        no_failure(&root, letters, json!({ "at": at })).await;
        let later = "mutation($at: DateTime) { createTask(input: {kind: \"noop\", runAt: $at}) { task { id } } }";
        no_failure(&root, later, json!({ "at": at })).await;
    }
    let number = "query($filter: TaskFilter) { tasks(filter: $filter) { totalCount } }";
    for value in [
        json!(i64::MAX),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e300),
        json!(99_999),
    ] {
        no_failure(
            &root,
            number,
            json!({ "filter": { "progress": { "gt": value } } }),
        )
        .await;
        no_failure(
            &root,
            number,
            json!({ "filter": { "attempt": { "in": [value] } } }),
        )
        .await;
    }
    for id in [
        "",
        "task_",
        "task_zz",
        "user_00000000000000000000000000000001",
        "\u{0}",
        &"f".repeat(10_000),
    ] {
        no_failure(&root, number, json!({ "filter": { "id": { "in": [id] } } })).await;
        no_failure(
            &root,
            "query($id: ID!) { task(id: $id) { id } node(id: $id) { id } }",
            json!({ "id": id }),
        )
        .await;
    }
    world.stop().await;
}

/// PostgreSQL has no text with a zero byte.
#[tokio::test]
async fn a_zero_byte_in_a_text_is_refused_or_found_nowhere() {
    let world = World::start().await;
    let root = world.admin().await;
    for text in ["\u{0}", "a\u{0}b"] {
        for mutation in [
            "mutation($t: String!) { signUp(input: {email: $t, name: $t, password: $t}) { accessToken } }",
            "mutation($t: String!) { signUp(input: {email: \"c@example.com\", name: $t, password: \"correct horse battery\"}) { accessToken } }",
            "mutation($t: String!) { logIn(input: {email: $t, password: $t}) { accessToken } }",
            "mutation($t: String!) { refreshSession(input: {refreshToken: $t}) { accessToken } }",
            "mutation($t: String!) { createContainer(input: {app: $t, region: $t, idempotencyKey: $t}) { task { id } } }",
            "mutation($t: String!) { retryDeadLetters(input: {kind: $t, errorCode: $t}) { tasks { id } } }",
            "mutation($t: String!) { pauseTaskKind(input: {kind: $t}) { pausedKinds } }",
            "mutation($t: String!) { putSchedule(input: {name: $t, kind: $t, cron: $t, timeZone: $t}) { schedule { id } } }",
            "mutation($t: String!) { createTask(input: {kind: $t, uniqueKey: $t, idempotencyKey: $t}) { task { id } } }",
            "mutation($t: JSON!) { createTask(input: {kind: \"noop\", input: $t}) { task { id } } }",
        ] {
            no_failure(&root, mutation, json!({ "t": text })).await;
        }
    }
    world.stop().await;
}

#[tokio::test]
async fn variables_that_only_cost_are_refused_and_the_server_goes_on() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let url = format!("http://{}/graphql", ada.address);
    let post = async |body: String| {
        let request = HTTP
            .post(&url)
            .header("content-type", "application/json")
            .body(body);
        let answer = tokio::time::timeout(LONG, request.send())
            .await
            .expect("in time")
            .unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["errors"][0]["extensions"]["code"].clone()
    };
    let deep = |open: &str, close: &str, depth: usize| {
        format!("{}{}", open.repeat(depth), close.repeat(depth))
    };
    for variables in [
        deep("[", "]", 100_000),
        format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)),
    ] {
        let code = post(format!(
            "{{\"query\":\"{{ __typename }}\",\"variables\":{{\"v\":{variables}}}}}"
        ))
        .await;
        assert_eq!(code, "BAD_USER_INPUT");
    }
    let many = (0..60_000)
        .map(|n| format!("\"v{n}\":1,"))
        .collect::<Vec<_>>()
        .concat();
    let body = format!("{{\"query\":\"{{ __typename }}\",\"variables\":{{{many}\"v\":1}}}}");
    assert_eq!(
        post(body).await,
        Value::Null,
        "unused variables are ignored"
    );
    let declared = (0..5000)
        .map(|n| format!("$v{n}: Int "))
        .collect::<Vec<_>>()
        .concat();
    no_failure(
        &ada,
        &format!("query({declared}) {{ __typename }}"),
        json!({}),
    )
    .await;
    let literal = deep("[", "]", 45_000);
    refused(
        &ada,
        &format!("{{ nodes(ids: {literal}) {{ id }} }}"),
        json!({}),
    )
    .await;
    let nested = format!("{}{}", "{not: ".repeat(14_000), "}".repeat(14_000));
    refused(
        &ada,
        &format!("{{ tasks(filter: {nested}) {{ totalCount }} }}"),
        json!({}),
    )
    .await;
    assert_eq!(
        ada.ask("{ viewer { email } }").await.text("/viewer/email"),
        ada.email
    );
    world.stop().await;
}

#[tokio::test]
async fn documents_that_only_cost_are_refused() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let many =
        |count: usize, part: &dyn Fn(usize) -> String| -> String { (0..count).map(part).collect() };
    let introspect = |rounds: usize| {
        let (open, close) = (
            "fields { type { ofType { ".repeat(rounds),
            "} } } ".repeat(rounds),
        );
        format!("{{ __schema {{ types {{ {open} name {close} }} }} }}")
    };
    for query in [
        // graphql-cop: alias, directive and field overloading, and introspection in circles.
        format!("{{ {} }}", many(101, &|n| format!("alias{n}: __typename "))),
        format!("{{ __typename {} }}", many(10, &|_| "@aa ".to_owned())),
        format!("{{ __typename {} }}", many(500, &|_| "__typename ".to_owned())),
        introspect(3),
        introspect(4),
        "{ __schema { types { fields { type { fields { type { fields { type { fields { type { name } } } } } } } } } } }".to_owned(),
        "{ __type(name: \"Query\") { fields { args { type { inputFields { type { inputFields { type { inputFields { name } } } } } } } } } }".to_owned(),
        "{ ...A } fragment A on Query { __typename ...B } fragment B on Query { __typename ...A }".to_owned(),
        // Rows of rows of rows.
        format!("{{ tasks(first: 100) {{ nodes {{ {} id {} }} }} }}", "children { ".repeat(4), "} ".repeat(4)),
        format!("{{ tasks(first: 100) {{ nodes {{ {} }} }} }}", many(49, &|n| format!("a{n}: logs(first: 500) {{ message at attempt level }} "))),
        // A fragment costs what it adds up to, not what it looks like: two of two of two.
        format!(
            "{{ ...F0 }} {} fragment F30 on Query {{ viewer {{ id }} }}",
            many(30, &|n| format!("fragment F{n} on Query {{ ...F{0} ...F{0} }} ", n + 1))
        ),
        format!(
            "{{ ...F0 }} {} fragment F3 on Query {{ viewer {{ id }} }}",
            many(3, &|n| format!(
                "fragment F{n} on Query {{ {} }} ",
                format!("...F{} ", n + 1).repeat(1000)
            ))
        ),
        // A fragment in a fragment in a fragment, whether somebody uses them or not.
        format!(
            "{{ __typename }} {} fragment F2500 on Query {{ viewer {{ id }} }}",
            many(2_500, &|n| format!("fragment F{n} on Query {{ ...F{} }} ", n + 1))
        ),
        format!("{{ viewer {{ {} }} }}", "id ".repeat(30_000)),
        format!("{{ viewer {{ id }} }} #{}", " ".repeat(200_000)),
        format!("{{ viewer {}id{} }}", "{ ... ".repeat(5000), " }".repeat(5000)),
    ] {
        refused(&ada, &query, json!({})).await;
    }
    world.stop().await;
}

/// What a page of another site can send without asking first is not executed.
#[tokio::test]
async fn a_form_of_another_site_does_nothing() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let url = format!("http://{}/graphql", ada.address);
    let mutation = "mutation { startDemoTask(input: {steps: 1, stepMillis: 1}) { task { id } } }";
    let token = ada.token.as_ref().unwrap();
    let form = format!("query={}", mutation.replace(' ', "+"));
    for (kind, body) in [
        ("application/x-www-form-urlencoded", form.clone()),
        (
            "application/x-www-form-urlencoded",
            "query=%7B__typename%7D".to_owned(),
        ),
        ("text/plain", json!({ "query": mutation }).to_string()),
        (
            "multipart/form-data; boundary=b",
            format!(
                "--b\r\ncontent-disposition: form-data; name=\"operations\"\r\n\r\n{}\r\n--b--",
                json!({ "query": mutation })
            ),
        ),
        ("application/graphql", mutation.to_owned()),
        ("", json!({ "query": mutation }).to_string()),
    ] {
        let mut request = HTTP.post(&url).bearer_auth(token).body(body);
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 415, "{kind}");
    }
    let with_query = reqwest::Url::parse_with_params(&url, [("query", mutation)]).unwrap();
    assert_eq!(
        HTTP.get(with_query.clone())
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .status(),
        405
    );
    let posted = HTTP
        .post(with_query)
        .bearer_auth(token)
        .header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(posted.body("x=1").send().await.unwrap().status(), 415);
    // Nothing that a browser adds by itself says who asks, and no answer sets it.
    let cookie = HTTP.post(&url).header(
        "cookie",
        format!("authorization=Bearer {token}; token={token}"),
    );
    let answer = cookie
        .json(&json!({ "query": "{ viewer { id } }" }))
        .send()
        .await
        .unwrap();
    assert!(answer.headers().get("set-cookie").is_none());
    assert_eq!(
        answer.json::<Value>().await.unwrap()["data"]["viewer"],
        Value::Null
    );
    let foreign = HTTP
        .post(&url)
        .header("origin", "https://elsewhere.example");
    let answer = foreign
        .json(&json!({ "query": "{ __typename }" }))
        .send()
        .await
        .unwrap();
    assert!(
        answer
            .headers()
            .get("access-control-allow-credentials")
            .is_none()
    );
    assert_eq!(
        ada.ask("{ tasks { totalCount } }")
            .await
            .ok("/tasks/totalCount"),
        0
    );
    world.stop().await;
}

#[tokio::test]
async fn answers_tell_nothing_of_the_inside() {
    let ground = Ground::new()
        .await
        .with("INTROSPECTION", "off")
        .with("CONSOLE", "off");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let url = format!("http://{}/graphql", world.address());
    for query in [
        "{ __typename }",
        "{ containers { nodes { id } } }",
        "{ nothing }",
        "{",
        "query A { a } query A { b }",
    ] {
        let request = HTTP
            .post(&url)
            .header("x-apollo-tracing", "1")
            .header("apollo-tracing", "1")
            .header("x-debug", "1");
        let answer = request
            .json(&json!({ "query": query, "extensions": { "tracing": true } }))
            .send()
            .await
            .unwrap();
        let headers = format!("{:?}", answer.headers()).to_lowercase();
        let text = answer.text().await.unwrap().to_lowercase();
        for word in [
            "tracing",
            "stacktrace",
            "exception",
            ".rs:",
            "panicked",
            "select ",
            "sqlite",
            "postgres",
            "/src/",
            "rust",
        ] {
            assert!(!text.contains(word), "{word} in {text}");
        }
        assert!(
            !headers.contains("x-powered-by") && !headers.contains("\"server\""),
            "{headers}"
        );
    }
    for query in [
        "{ __schema { types { name } } }",
        "{ __type(name: \"User\") { fields { name } } }",
    ] {
        let reply = world.anonymous().ask(query).await;
        assert!(!reply.0["data"].to_string().contains("name"), "{}", reply.0);
    }
    for near in [
        "{ viewr { id } }",
        "{ viewer { emai } }",
        "{ tasks(frst: 1) { totalCount } }",
        "mutation { logOu { ok } }",
    ] {
        let reply = world.anonymous().ask(near).await;
        assert!(
            reply.0.get("errors").is_some() && !reply.0.to_string().contains("id you mean"),
            "{}",
            reply.0
        );
    }
    for path in [
        "/",
        "/graphiql",
        "/playground",
        "/altair",
        "/voyager",
        "/graphql/console",
    ] {
        let page = HTTP
            .get(format!("http://{}{path}", world.address()))
            .header("accept", "text/html")
            .send()
            .await
            .unwrap();
        assert_eq!(page.status(), 404, "{path}");
    }
    world.stop().await;
}
