//! Concurrent `createTask` mutations over real HTTP, with authentication, policy and limits.

use main_webserver::domain::{Clock as _, SystemClock};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{Spread, ours::Bench, processes::Process};

pub struct Mutations {
    pub rate: f64,
    pub latency: Spread,
}

pub async fn measure(bench: &Bench, count: usize, callers: usize, with_workers: bool) -> Mutations {
    let web = Process::start("web", &bench.settings).await;
    let _workers = if with_workers {
        vec![bench.worker().await, bench.worker().await]
    } else {
        Vec::new()
    };
    let address = web.address.clone().unwrap();
    let token = log_in(&address, &bench.settings["ADMIN_PASSWORD"]).await;
    let body = json!({
        "query": "mutation($input: CreateTaskInput!) { createTask(input: $input) { task { id state } } }",
        "variables": { "input": { "kind": "noop" } },
    })
    .to_string();
    let request = format!(
        "POST /graphql HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let began = SystemClock.now();
    let each = (0..callers).map(|_| {
        let (address, request) = (address.clone(), request.clone());
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let mut millis = Vec::with_capacity(count / callers);
            for _ in 0..count / callers {
                let before = SystemClock.now();
                stream.write_all(request.as_bytes()).await.unwrap();
                let answer = read_answer(&mut stream).await;
                assert!(answer.contains(r#""state":"QUEUED""#), "{answer}");
                millis.push((SystemClock.now() - before).as_seconds_f64() * 1000.0);
            }
            millis
        })
    });
    let mut millis = Vec::new();
    for caller in each.collect::<Vec<_>>() {
        millis.extend(caller.await.unwrap());
    }
    let seconds = (SystemClock.now() - began).as_seconds_f64();
    Mutations {
        rate: millis.len() as f64 / seconds,
        latency: Spread::of(millis),
    }
}

async fn log_in(address: &str, password: &str) -> String {
    let query = json!({
        "query": "mutation($input: LogInInput!) { logIn(input: $input) { accessToken } }",
        "variables": { "input": { "email": "admin@localhost", "password": password } },
    });
    // Another one is there already when it was started before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer: Value = reqwest::Client::new()
        .post(format!("http://{address}/graphql"))
        .json(&query)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let token = answer.pointer("/data/logIn/accessToken");
    token.and_then(Value::as_str).unwrap().to_owned()
}

/// One answer with a `content-length`, or in chunks.
async fn read_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let mut part = [0; 4096];
        let count = stream.read(&mut part).await.unwrap();
        assert!(count > 0, "the server closed the connection");
        bytes.extend_from_slice(&part[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<usize>().ok())?
        });
        let is_whole = match length {
            Some(length) => body.len() >= length,
            None => body.ends_with("0\r\n\r\n"),
        };
        if is_whole {
            return body.to_owned();
        }
    }
}
