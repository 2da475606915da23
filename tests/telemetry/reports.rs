//! Faults reach a receiver of Sentry's protocol, with what helps to find them and nothing about people.

use serde_json::json;

use super::ground;
use crate::harness::{
    ADMIN_PASSWORD, Ground,
    process::Process,
    receiver::{Manner, Receiver},
    servers::free_port,
};

#[tokio::test]
async fn an_internal_error_is_reported_under_the_number_its_client_was_shown() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = ground()
        .await
        .with("SENTRY_DSN", &receiver.dsn())
        .with("ENVIRONMENT", "prod");
    let web = Process::start(&ground, "web").await;
    let ada = web.person().sign_up("ada").await;
    let me = ada.ask("{ viewer { id } }").await.text("/viewer/id");
    super::break_table(&ground, "app").await;
    let refused = ada.ask("query Shelf { apps { nodes { slug } } }").await;
    assert_eq!(refused.code(), "INTERNAL");
    let shown = refused.0["errors"][0]["message"].as_str().unwrap();
    let reference = shown.rsplit(' ').next().unwrap();
    let (event, text) = receiver
        .report("the error is reported", |event| {
            event.tags.get("reference").map(String::as_str) == Some(reference)
        })
        .await;
    assert_eq!(event.environment.as_deref(), Some("prod"));
    let release = event.release.unwrap();
    assert!(release.starts_with("main-webserver@0."), "{release}");
    assert_eq!(event.transaction.as_deref(), Some("query apps"));
    assert_eq!(event.user.as_ref().unwrap().id.as_deref(), Some(&*me));
    assert_eq!(event.exception[0].ty, "INTERNAL");
    assert!(event.tags.contains_key("request_id"), "{:?}", event.tags);
    for private in [
        "ada@example.com",
        "127.0.0.1",
        ada.token.as_deref().unwrap(),
    ] {
        let about = text.split_once('\n').unwrap().1;
        assert!(!about.contains(private), "{private} in {text}");
    }
    web.kill().await;
    ground.clear().await;
}

#[tokio::test]
async fn a_dead_letter_is_reported_with_its_task() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = ground().await.with("SENTRY_DSN", &receiver.dsn());
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let admin = web.person().log_in("admin@localhost", ADMIN_PASSWORD).await;
    let put = "mutation { putApp(input: { slug: \"missing\", name: \"Missing\", image: \"missing/app\", ports: [8080] }) { app { id } } }";
    admin.ask(put).await.ok("/putApp");
    let ada = web.person().sign_up("ada").await;
    let created = ada.create("missing").await;
    ada.task_in(&created.task, "FAILED").await;
    let (event, _) = receiver
        .report("the dead letter is reported", |event| {
            event.tags.get("task_id") == Some(&created.task)
        })
        .await;
    assert_eq!(event.tags["task_kind"], "create_container");
    assert_eq!(event.exception[0].ty, "NO_SUCH_IMAGE");
    assert_eq!(event.transaction.as_deref(), Some("create_container"));
    drop((web, worker));
    ground.clear().await;
}

/// In this process: nothing a client can send makes the service panic.
#[tokio::test]
async fn a_panic_is_reported_with_its_place() {
    let receiver = Receiver::start(Manner::Takes).await;
    let ground = Ground::new().await.with("SENTRY_DSN", &receiver.dsn());
    main_webserver::telemetry::start(&ground.load(), "test");
    let ended = tokio::spawn(async {
        assert!(
            free_port() == 0,
            "for ada@example.com with postgres://me:hunter2@db/x"
        );
    });
    ended.await.unwrap_err();
    main_webserver::telemetry::flush().await;
    let (event, text) = receiver
        .report("the panic is reported", |event| {
            event.exception[0].ty == "PANIC"
        })
        .await;
    let place = &event.tags["location"];
    assert!(place.contains("tests/telemetry/reports.rs:"), "{place}");
    for private in ["ada@example.com", "hunter2"] {
        assert!(!text.contains(private), "{private} in {text}");
    }
    ground.clear().await;
}

#[tokio::test]
async fn faults_without_end_are_reported_now_and_then_and_hold_nobody_up() {
    let receiver = Receiver::start(Manner::Hangs).await;
    let ground = ground().await.with("SENTRY_DSN", &receiver.dsn());
    let web = Process::start(&ground, "web").await;
    let ada = web.person().sign_up("ada").await;
    super::break_table(&ground, "app").await;
    for _ in 0..200 {
        let refused = ada.send("{ apps { nodes { slug } } }", json!({})).await;
        assert_eq!(refused.code(), "INTERNAL");
    }
    let meters = super::meters(web.address.unwrap()).await;
    let dropped = super::value(&meters, "main_webserver_reports_total{outcome=\"dropped\"}");
    assert!(dropped > 150, "{dropped} of 200");
    assert_eq!(web.end("-INT").await.code(), Some(0), "it ends in time");
    ground.clear().await;
}
