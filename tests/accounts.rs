//! Signing up, logging in, keeping a session, and what a wrong proof is told.

use serde_json::json;

use crate::harness::{HTTP, World, client::PASSWORD};

const VIEWER: &str = "{ viewer { email role } }";

#[tokio::test]
async fn a_person_signs_up_and_is_recognised() {
    let world = World::start().await;
    assert_eq!(
        world.anonymous().ask(VIEWER).await.ok("/viewer"),
        json!(null)
    );
    let ada = world.person("ada").await;
    assert_eq!(
        ada.ask(VIEWER).await.ok("/viewer"),
        json!({ "email": "ada@example.com", "role": "USER" })
    );
    let admin = world.admin().await;
    assert_eq!(admin.ask(VIEWER).await.text("/viewer/role"), "ADMIN");
    world.stop().await;
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_address_get_the_same_answer() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let wrong = world.anonymous().try_log_in(&ada.email, "wrong").await;
    let unknown = world
        .anonymous()
        .try_log_in("nobody@example.com", PASSWORD)
        .await;
    let senseless = world
        .anonymous()
        .try_log_in("no address", &"x".repeat(100_000))
        .await;
    assert_eq!(wrong.code(), "UNAUTHENTICATED");
    assert_eq!(
        wrong.0["errors"][0]["message"],
        unknown.0["errors"][0]["message"]
    );
    assert_eq!(
        wrong.0["errors"][0]["message"],
        senseless.0["errors"][0]["message"]
    );
    world.stop().await;
}

#[tokio::test]
async fn administrators_see_who_tried_to_log_in_and_nobody_else_does() {
    const LIST: &str = "{ loginEvents(orderBy: [{field: AT, direction: ASC}]) { totalCount nodes { outcome at userAgent account { email } } }
        loginEventsAggregate(groupBy: [{field: OUTCOME}]) { group { outcome } count } }";
    let world = World::start().await;
    let ada = world.person("ada").await;
    let admin = world.admin().await;
    let tried = "somebody-unknown@example.com";
    world.anonymous().try_log_in(&ada.email, "wrong").await;
    world.anonymous().try_log_in(tried, PASSWORD).await;
    ada.log_in(&ada.email, PASSWORD).await;

    let seen = admin.ask(LIST).await;
    let nodes = seen.ok("/loginEvents/nodes");
    let found: Vec<_> = nodes
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["outcome"].clone(), node["account"]["email"].clone()))
        .collect();
    assert_eq!(
        found,
        [
            (json!("SUCCEEDED"), json!("admin@localhost")),
            (json!("REFUSED"), json!(ada.email)),
            (json!("REFUSED"), json!(null)),
            (json!("SUCCEEDED"), json!(ada.email)),
        ]
    );
    // What was typed where the address goes may be a password, and is nowhere.
    assert!(!seen.0.to_string().contains("somebody-unknown"));
    let groups = seen.ok("/loginEventsAggregate");
    let refused = json!({ "group": { "outcome": "REFUSED" }, "count": 2 });
    assert!(groups.as_array().unwrap().contains(&refused), "{groups}");
    let filter = format!(
        "{{ loginEvents(filter: {{outcome: {{eq: REFUSED}}, account: {{email: {{eq: \"{}\"}}}}}}) {{ totalCount nodes {{ id }} }} }}",
        ada.email
    );
    let own = admin.ask(&filter).await;
    assert_eq!(own.ok("/loginEvents/totalCount"), 1);
    let id = own.text("/loginEvents/nodes/0/id");
    let node = format!(
        "{{ node(id: \"{id}\") {{ ... on LoginEvent {{ id outcome }} }} loginEvent(id: \"{id}\") {{ id }} }}"
    );
    assert_eq!(admin.ask(&node).await.ok("/node/outcome"), "REFUSED");

    // Not even those of one's own account: it is somebody else who tried.
    assert_eq!(
        ada.ask(LIST).await.ok("/loginEvents"),
        json!({ "totalCount": 0, "nodes": [] })
    );
    assert_eq!(ada.ask(&node).await.code(), "NOT_FOUND");
    assert_eq!(world.anonymous().ask(LIST).await.code(), "UNAUTHENTICATED");
    world.stop().await;
}

#[tokio::test]
async fn a_refused_sign_up_names_the_field() {
    let world = World::start().await;
    world.person("ada").await;
    for (email, name, password, code, field) in [
        (
            "no address",
            "Ada",
            PASSWORD,
            "BAD_USER_INPUT",
            Some("email"),
        ),
        (
            "b@example.com",
            " ",
            PASSWORD,
            "BAD_USER_INPUT",
            Some("name"),
        ),
        (
            "b@example.com",
            "Bea",
            "short",
            "BAD_USER_INPUT",
            Some("password"),
        ),
        ("ADA@example.com ", "Ada", PASSWORD, "CONFLICT", None),
    ] {
        let reply = world
            .anonymous()
            .send(
                "mutation($input: SignUpInput!) { signUp(input: $input) { accessToken } }",
                json!({ "input": { "email": email, "name": name, "password": password } }),
            )
            .await;
        assert_eq!(
            (reply.code(), reply.field()),
            (code, field),
            "{email} {name} {password}"
        );
    }
    world.stop().await;
}

#[tokio::test]
async fn a_refresh_token_works_once_and_its_reuse_ends_the_session() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let first = ada.refresh_token.clone().unwrap();
    let second = ada
        .refresh(&first)
        .await
        .text("/refreshSession/refreshToken");
    let mut newer = ada.clone();
    newer.token = Some(
        ada.refresh(&second)
            .await
            .text("/refreshSession/accessToken"),
    );
    assert_eq!(newer.ask(VIEWER).await.text("/viewer/email"), ada.email);
    assert_eq!(ada.refresh(&first).await.code(), "UNAUTHENTICATED");
    // The thief's copy and the owner's newest token end together.
    assert_eq!(
        newer.ask("{ containers { totalCount } }").await.code(),
        "UNAUTHENTICATED"
    );
    assert_eq!(ada.refresh("made up").await.code(), "UNAUTHENTICATED");
    world.stop().await;
}

#[tokio::test]
async fn logging_out_ends_one_session_or_all() {
    let world = World::start().await;
    let phone = world.person("ada").await;
    let laptop = world.anonymous().log_in(&phone.email, PASSWORD).await;
    let desk = world.anonymous().log_in(&phone.email, PASSWORD).await;
    assert_eq!(
        phone
            .ask("mutation { logOut { ok endedSessions } }")
            .await
            .ok("/logOut/endedSessions"),
        json!(1)
    );
    assert_eq!(phone.ask(VIEWER).await.code(), "UNAUTHENTICATED");
    assert_eq!(
        phone
            .refresh(phone.refresh_token.as_ref().unwrap())
            .await
            .code(),
        "UNAUTHENTICATED"
    );
    let all = laptop
        .ask("mutation { logOut(input: { everywhere: true }) { endedSessions } }")
        .await;
    assert_eq!(all.ok("/logOut/endedSessions"), json!(2));
    assert_eq!(desk.ask(VIEWER).await.code(), "UNAUTHENTICATED");
    assert_eq!(
        world
            .anonymous()
            .ask("mutation { logOut { ok } }")
            .await
            .code(),
        "UNAUTHENTICATED"
    );
    world.stop().await;
}

#[tokio::test]
async fn what_is_open_in_a_session_ends_with_it_and_nothing_else_does() {
    const WATCH: &str = "subscription { containers { totalCount } }";
    let world = World::start().await;
    let phone = world.person("ada").await;
    let laptop = world.anonymous().log_in(&phone.email, PASSWORD).await;
    let desk = world.anonymous().log_in(&phone.email, PASSWORD).await;
    let mut sockets = Vec::new();
    for person in [&phone, &laptop, &desk] {
        let mut socket = person.socket().await;
        socket.subscribe(WATCH).await;
        let first = socket.next().await.unwrap();
        assert_eq!(first["data"]["containers"]["totalCount"], 0, "{first}");
        sockets.push(socket);
    }
    let [mut phones, mut laptops, mut desks] = <[_; 3]>::try_from(sockets).ok().unwrap();
    let stream = HTTP
        .post(format!("http://{}/graphql", desk.address))
        .header("accept", "text/event-stream")
        .bearer_auth(desk.token.as_ref().unwrap())
        .json(&json!({ "query": WATCH }));
    let stream = stream.send().await.unwrap();

    phone.ask("mutation { logOut { ok } }").await.ok("");
    assert_eq!(phones.hear().await.unwrap_err().0, 4403);
    // The others hear of a change as before.
    let made = laptop.create("hello").await;
    for socket in [&mut laptops, &mut desks] {
        let frame = socket.next().await.unwrap();
        assert_eq!(frame["data"]["containers"]["totalCount"], 1, "{frame}");
    }
    laptop.container_in(&made.container, "RUNNING").await;
    laptop
        .ask("mutation { logOut(input: { everywhere: true }) { ok } }")
        .await
        .ok("");
    for mut socket in [laptops, desks] {
        assert_eq!(socket.hear().await.unwrap_err().0, 4403);
    }
    let text = stream.text().await.unwrap();
    assert!(text.contains(r#""totalCount":1"#), "{text}");
    // The client is not told that all has been said.
    assert!(!text.contains("complete"), "{text}");
    world.stop().await;
}

#[tokio::test]
async fn a_malformed_token_is_refused_where_it_matters_and_does_not_keep_anyone_from_logging_in() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    for token in ["garbage", "", "a.b.c", &ada.token.clone().unwrap()[1..]] {
        let mut broken = ada.clone();
        broken.token = Some(token.to_owned());
        assert_eq!(
            broken.ask("{ containers { totalCount } }").await.code(),
            "UNAUTHENTICATED",
            "{token}"
        );
        assert_eq!(
            broken.ask(VIEWER).await.code(),
            "UNAUTHENTICATED",
            "{token}"
        );
        assert!(
            broken
                .try_log_in(&ada.email, PASSWORD)
                .await
                .ok("/logIn/session")
                .is_object(),
            "{token}"
        );
        let mut socket = broken.socket().await;
        socket
            .subscribe("subscription { taskUpdated(id: \"task_00\") { state } }")
            .await;
        assert_eq!(
            socket.hear().await.unwrap()["payload"]["errors"][0]["extensions"]["code"],
            "UNAUTHENTICATED",
            "{token}"
        );
    }
    world.stop().await;
}
