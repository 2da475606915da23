//! The log: its shape, its ids, and what never stands in it.

use serde_json::json;

use super::{ask_with, ground, logged};
use crate::harness::{
    ADMIN_PASSWORD, Person,
    client::PASSWORD,
    fleet::{cluster, invitation, register},
    receiver::{DSN_KEY, Manner, Receiver},
    until,
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn a_line_has_the_names_and_the_ids_of_what_it_belongs_to() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = ground()
        .await
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url())
        .with("ENVIRONMENT", "dev")
        .with("LOG_SAMPLE", "1");
    let (web, web_log) = logged(&ground, "web", "web").await;
    let (worker, worker_log) = logged(&ground, "worker", "worker").await;
    let ada = web.person().sign_up("ada").await;
    let me = ada.ask("{ viewer { id } }").await.text("/viewer/id");
    let headers = [("traceparent", TRACEPARENT), ("x-request-id", "request-7")];
    let query =
        "mutation Demo { startDemoTask(input: { steps: 1, stepMillis: 1 }) { task { id } } }";
    let (started, _) = ask_with(&ada, &headers, query, json!({})).await;
    let task = started.text("/startDemoTask/task/id");
    ada.task_in(&task, "SUCCEEDED").await;

    let access = until("the request's line", async || {
        let mut lines = web_log.with(|line| line["http.request_id"] == "request-7");
        lines.pop()
    })
    .await;
    for (name, expected) in [
        ("status", json!("info")),
        ("message", json!("request")),
        ("logger.name", json!("access")),
        ("service", json!("main-webserver")),
        ("env", json!("dev")),
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("http.method", json!("POST")),
        ("http.status_code", json!(200)),
        ("http.url_details.path", json!("/graphql")),
        ("graphql.operation.type", json!("mutation")),
        ("graphql.operation.name", json!("Demo")),
        ("usr.id", json!(me)),
        ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
        // The lower half of it, in decimal.
        ("dd.trace_id", json!("11803532876627986230")),
    ] {
        assert_eq!(access[name], expected, "{name} in {access:#}");
    }
    assert!(
        access["duration"].as_u64().unwrap() > 1000,
        "nanoseconds: {access}"
    );
    let at = access["timestamp"].as_str().unwrap();
    assert!(at.ends_with('Z') && at.contains('T'), "{at}");

    let run = until("the task's line", async || {
        let mut lines = worker_log.with(|line| line["task.id"] == task.as_str());
        lines.retain(|line| line["logger.name"] == "task");
        lines.pop()
    })
    .await;
    for (name, expected) in [
        ("task.kind", json!("demo")),
        ("task.attempt", json!(1)),
        ("outcome", json!("succeeded")),
        ("usr.id", json!(me)),
        ("trace_id", json!("4bf92f3577b34da6a3ce929d0e0e4736")),
    ] {
        assert_eq!(run[name], expected, "{name} in {run:#}");
    }
    drop((web, worker));
    ground.clear().await;
}

#[tokio::test]
async fn without_a_sample_only_slow_and_failed_requests_get_a_line() {
    let ground = ground().await.with("SLOW_OPERATION_MS", "0");
    let (web, log) = logged(&ground, "web", "web").await;
    let ada = web.person().sign_up("ada").await;
    for _ in 0..5 {
        ada.ask("{ viewer { id } }").await.ok("/viewer/id");
    }
    super::break_table(&ground, "app").await;
    assert_eq!(
        ada.ask("{ apps { nodes { slug } } }").await.code(),
        "INTERNAL"
    );
    let lines = until("the failed request's line", async || {
        let lines = log.with(|line| line["logger.name"] == "access");
        (!lines.is_empty()).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0]["error.kind"], "INTERNAL");
    assert_eq!(lines[0]["http.status_code"], 200);
    web.kill().await;
    ground.clear().await;
}

/// Does everything that has to do with a secret; the secrets.
async fn secrets_of(web: &Person) -> Vec<String> {
    let mut secrets: Vec<String> = [PASSWORD, ADMIN_PASSWORD, DSN_KEY]
        .map(str::to_owned)
        .into();
    let held = |person: &Person| [person.token.clone(), person.refresh_token.clone()];
    let ada = web.sign_up("ada").await;
    let again = web.log_in(&ada.email, PASSWORD).await;
    let admin = web.log_in("admin@localhost", ADMIN_PASSWORD).await;
    for person in [&ada, &again, &admin] {
        secrets.extend(held(person).into_iter().flatten());
    }
    let refreshed = ada.refresh(ada.refresh_token.as_deref().unwrap()).await;
    secrets.push(refreshed.text("/refreshSession/accessToken"));
    secrets.push(refreshed.text("/refreshSession/refreshToken"));
    // Wrong ones, and ones written into the text and the address.
    web.try_log_in(&ada.email, "wrong-but-secret-1").await;
    web.ask("mutation { logIn(input: { email: \"ada@example.com\", password: \"wrong-but-secret-2\" }) { accessToken } }")
        .await;
    let by_get = format!(
        "http://{}/graphql?query={{viewer{{id}}}}&variables={{\"password\":\"wrong-but-secret-3\"}}",
        web.address
    );
    crate::harness::HTTP.get(by_get).send().await.unwrap();
    let forged = Person {
        token: Some("wrong-but-secret-4".to_owned()),
        ..web.clone()
    };
    forged.ask("{ viewer { id } }").await;
    secrets.extend((1..=4).map(|number| format!("wrong-but-secret-{number}")));

    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;
    secrets.push(created.secret_key.clone());
    admin
        .ask("mutation { putMachineImage(input: { slug: \"tiny\", name: \"Tiny\", disk: \"tiny.qcow2\" }) { image { id } } }")
        .await
        .ok("/putMachineImage");
    let machine = ada
        .ask("mutation { createVirtualMachine(input: { name: \"box\", image: \"tiny\", region: \"us-east-1\" }) { secretKey virtualMachine { id } } }")
        .await;
    secrets.push(machine.text("/createVirtualMachine/secretKey"));
    let machine = machine.text("/createVirtualMachine/virtualMachine/id");
    until("the machine runs", async || {
        let state = format!("{{ virtualMachine(id: \"{machine}\") {{ state }} }}");
        (ada.ask(&state).await.text("/virtualMachine/state") == "RUNNING").then_some(())
    })
    .await;
    let console = format!("mutation {{ openConsole(input: {{ id: \"{machine}\" }}) {{ token }} }}");
    secrets.push(ada.ask(&console).await.text("/openConsole/token"));
    let cluster = cluster(&admin, "one", "us-east-1").await;
    let invitation = invitation(&admin, &cluster).await;
    let host = register(web, &invitation, "i-1").await;
    secrets.push(invitation);
    secrets.extend(host.token);
    let mut socket = again.socket().await;
    socket
        .subscribe("subscription { containers { totalCount } }")
        .await;
    socket.next().await.unwrap();
    secrets
}

#[tokio::test]
async fn a_log_of_everything_has_no_secret() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = ground()
        .await
        .with(
            "LOG",
            "trace,fred=trace,tungstenite::protocol=trace,sqlx=trace,sea_orm=trace,hyper=trace",
        )
        .with("LOG_SAMPLE", "1")
        .with("SLOW_QUERY_MS", "1")
        .with("SLOW_OPERATION_MS", "1")
        .with("MACHINE_PROVIDER", "simulated")
        .with("SENTRY_DSN", &receiver.dsn())
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", &receiver.url())
        .with(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20otlp-secret-1",
        );
    // The server trusts whoever comes, and takes any password.
    let url = ground
        .setting("DATABASE_URL")
        .replace("postgres@", "postgres:database-secret-1@");
    let ground = ground.with("DATABASE_URL", &url);
    let (web, web_log) = logged(&ground, "web", "web").await;
    let (worker, worker_log) = logged(&ground, "worker", "worker").await;
    let mut secrets = secrets_of(&web.person()).await;
    secrets.extend(["database-secret-1", "otlp-secret-1"].map(str::to_owned));
    secrets.push(ground.setting("SECRET_KEY").to_owned());
    assert_eq!(web.end("-INT").await.code(), Some(0));
    assert_eq!(worker.end("-INT").await.code(), Some(0));
    for log in [&web_log, &worker_log] {
        let lines = log.lines();
        let has_details = lines.iter().any(|line| line["status"] == "debug");
        assert!(
            has_details && lines.len() > 50,
            "everything is logged: {}",
            lines.len()
        );
        let text = log.text();
        for secret in &secrets {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(line, None, "has the secret {secret}");
        }
    }
    // Nor is one in what goes elsewhere.
    let told = format!("{:?}", receiver.spans());
    for secret in secrets {
        assert!(!told.contains(&secret), "a span has the secret {secret}");
    }
    ground.clear().await;
}
