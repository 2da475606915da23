//! What a platform gives a process and asks of it: a Redis whose certificate nobody has signed, and a health check.

use std::path::Path;

use tokio::process::Command;

use super::{a_task_is_run_and_watched, ground};
use crate::harness::{
    process::{Process, output},
    servers::{Redis, free_port},
    until,
};

/// A key and a certificate that it has signed itself.
async fn certificate(folder: &Path) -> (String, String) {
    let file = |name: &str| folder.join(name).display().to_string();
    let (key, certificate) = (file("redis.key"), file("redis.crt"));
    let arguments = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=somebody else",
        "-days",
        "2",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    let output = Command::new("openssl")
        .args(arguments)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    (key, certificate)
}

#[tokio::test]
async fn a_redis_whose_certificate_nobody_has_signed_is_used_only_when_that_is_asked_for() {
    let ground = ground().await;
    let (key, certificate) = certificate(ground.folder()).await;
    let port = free_port();
    let tls_port = free_port();
    let (tls_port_text, off) = (tls_port.to_string(), "no");
    let _redis = Redis::with(
        port,
        &[
            "--tls-port",
            &tls_port_text,
            "--tls-key-file",
            &key,
            "--tls-cert-file",
            &certificate,
            "--tls-auth-clients",
            off,
        ],
    );
    let url = format!("rediss://127.0.0.1:{tls_port}/0");
    let lenient = ground
        .with("REDIS_URL", &url)
        .with("REDIS_CERTIFICATE", "any");
    until("the server answers", async || {
        let (_, out, _) = output(&lenient, &["doctor"]).await;
        out.contains("ok     redis").then_some(())
    })
    .await;
    let strict = lenient.with("REDIS_CERTIFICATE", "verified");
    let (code, out, _) = output(&strict, &["doctor"]).await;
    let found: Vec<&str> = out
        .lines()
        .skip_while(|line| !line.starts_with("WRONG  redis"))
        .take(2)
        .collect();
    assert_eq!((code, found.len()), (1, 2), "{out}");
    assert!(found[0].contains("has signed its certificate"), "{out}");
    assert!(
        found[1].contains("REDIS_CERTIFICATE to any"),
        "how to mend it: {out}"
    );
    // Where nobody listens no certificate is to blame.
    let away = strict.with("REDIS_URL", "rediss://127.0.0.1:1/0");
    let (_, out, _) = output(&away, &["doctor"]).await;
    assert!(
        out.contains("WRONG  redis") && !out.contains("REDIS_CERTIFICATE"),
        "{out}"
    );
    let strict = away.with("REDIS_URL", &url);
    let lenient = strict.with("REDIS_CERTIFICATE", "any");
    a_task_is_run_and_watched(lenient).await;
}

#[tokio::test]
async fn a_health_check_tells_a_ready_process_from_one_that_is_not() {
    let ground = ground().await;
    let (web_port, worker_port) = (free_port().to_string(), free_port().to_string());
    let ground = ground
        .with("PORT", &web_port)
        .with("METRICS_PORT", &worker_port);
    let (code, _, err) = output(&ground, &["healthcheck"]).await;
    assert_eq!(
        (code, err.contains("refused")),
        (1, true),
        "nobody listens: {err}"
    );
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let says = |process: &Process, what: &str| process.banner.contains(what);
    assert!(
        says(&web, "  console   http://127.0.0.1:"),
        "{}",
        web.banner
    );
    let served = format!(
        "  meters    http://127.0.0.1:{worker_port}/metrics\n  health    http://127.0.0.1:{worker_port}/healthz  "
    );
    assert!(says(&worker, &served), "{}", worker.banner);
    // What it does not serve it does not say.
    for absent in ["console", "endpoint", "/graphql"] {
        assert!(!says(&worker, absent), "{}", worker.banner);
    }
    for arguments in [
        &["healthcheck"][..],
        &["healthcheck", "--worker"],
        &["healthcheck", "--alive"],
    ] {
        let (code, out, err) = output(&ground, arguments).await;
        assert_eq!(
            (code, out.starts_with("ok")),
            (0, true),
            "{arguments:?}: {out}{err}"
        );
    }
    // It does not answer any more, though its port is open.
    web.signal("-STOP").await;
    let (code, _, err) = output(&ground, &["healthcheck"]).await;
    assert_eq!((code, err.contains("timed out")), (1, true), "{err}");
    web.signal("-CONT").await;
    let ground = ground.with("METRICS_PORT", "0");
    let (code, _, err) = output(&ground, &["healthcheck", "--worker"]).await;
    assert_eq!((code, err.contains("METRICS_PORT")), (1, true), "{err}");
    assert_eq!(web.end("-TERM").await.code(), Some(0));
    assert_eq!(worker.end("-TERM").await.code(), Some(0));
    ground.clear().await;
}
