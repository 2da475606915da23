//! A receiver of traces that is away, ill or silent costs traces and nothing else.

use futures_util::{StreamExt as _, stream};

use super::{ground, meters, value};
use crate::harness::{
    process::Process,
    receiver::{Manner, Receiver},
    servers::free_port,
    until,
};

/// Uses the service as ever; what the meters say of the spans then is returned once `is_enough`.
async fn used(endpoint: &str, requests: usize, is_enough: impl Fn(&str) -> bool) -> String {
    let ground = ground().await.with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let ada = web.person().sign_up("ada").await;
    let created = ada.create("hello").await;
    let answers = stream::iter(0..requests).map(|_| ada.ask("{ viewer { name } }"));
    let answers: Vec<_> = answers.buffer_unordered(16).collect().await;
    assert_eq!(answers.len(), requests);
    for answer in answers {
        assert_eq!(answer.text("/viewer/name"), "ada");
    }
    ada.container_in(&created.container, "RUNNING").await;
    let address = web.address.unwrap();
    let told = until("the spans are counted", async || {
        let told = meters(address).await;
        is_enough(&told).then_some(told)
    })
    .await;
    assert_eq!(web.end("-INT").await.code(), Some(0), "it ends in time");
    assert_eq!(worker.end("-INT").await.code(), Some(0), "it ends in time");
    ground.clear().await;
    told
}

fn spans(meters: &str, outcome: &str) -> u64 {
    let name = format!("main_webserver_trace_spans_total{{outcome=\"{outcome}\"}}");
    value(meters, &name)
}

#[tokio::test]
async fn a_receiver_that_is_away_costs_its_traces() {
    let nowhere = format!("http://127.0.0.1:{}", free_port());
    let told = used(&nowhere, 100, |told| spans(told, "refused") > 0).await;
    assert_eq!(spans(&told, "exported"), 0);
}

#[tokio::test]
async fn a_receiver_that_fails_costs_its_traces() {
    let receiver = Receiver::start(Manner::Fails).await;
    let told = used(&receiver.url(), 100, |told| spans(told, "refused") > 0).await;
    assert_eq!(spans(&told, "exported"), 0);
}

#[tokio::test]
async fn a_receiver_that_hangs_holds_nobody_up_and_what_finds_no_room_is_counted() {
    let receiver = Receiver::start(Manner::Hangs).await;
    // More than what waits, and what has been taken from there.
    let told = used(&receiver.url(), 6000, |told| spans(told, "dropped") > 0).await;
    assert_eq!(spans(&told, "exported"), 0);
}

#[tokio::test]
async fn a_receiver_that_is_well_gets_all_of_them() {
    let receiver = Receiver::start(Manner::Takes).await;
    let told = used(&receiver.url(), 100, |told| spans(told, "exported") > 200).await;
    assert_eq!((spans(&told, "refused"), spans(&told, "dropped")), (0, 0));
}
