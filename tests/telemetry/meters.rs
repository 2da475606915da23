//! The meters, what is made of them under docker/telemetry, and a real Prometheus that reads them.

use std::{collections::BTreeSet, path::Path, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::process::{Child, Command};

use super::{ground, meters};
use crate::harness::{
    ADMIN_PASSWORD, Ground, HTTP,
    process::Process,
    servers::{Redis, free_port},
    until, until_within,
};

fn file(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/telemetry");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// The names of our meters in a text.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_name(c));
    let ours =
        words.filter(|word| word.starts_with("main_webserver_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

struct Deployment {
    ground: Ground,
    web: Process,
    worker: Process,
    worker_port: u16,
}

impl Deployment {
    async fn start(ground: Ground) -> Self {
        let worker_port = free_port();
        let ground = ground.with("METRICS_PORT", &worker_port.to_string());
        Self {
            web: Process::start(&ground, "web").await,
            worker: Process::start(&ground, "worker").await,
            ground,
            worker_port,
        }
    }

    fn worker_address(&self) -> std::net::SocketAddr {
        ([127, 0, 0, 1], self.worker_port).into()
    }
}

#[tokio::test]
async fn what_dashboard_and_alerts_ask_for_is_there() {
    let all = Deployment::start(ground().await).await;
    let ada = all.web.person().sign_up("ada").await;
    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;
    let mut socket = ada.socket().await;
    socket
        .subscribe("subscription { containers { totalCount } }")
        .await;
    socket.next().await.unwrap();
    // One that waits for its time, so that the queue has something to count.
    let admin = all.web.person();
    let admin = admin.log_in("admin@localhost", ADMIN_PASSWORD).await;
    let later = "mutation { createTask(input: { kind: \"noop\", runAt: \"2999-01-01T00:00:00Z\" }) { task { id } } }";
    admin.ask(later).await.ok("/createTask");
    let text = until("the queue has been counted", async || {
        let of_web = meters(all.web.address.unwrap()).await;
        let of_worker = meters(all.worker_address()).await;
        let is_counted = of_web.contains("main_webserver_queue_depth{");
        is_counted.then(|| format!("{of_web}\n{of_worker}"))
    })
    .await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let known = names(&samples.collect::<Vec<_>>().join("\n"));
    for source in ["alerts.yml", "dashboard.json"] {
        let asked = names(&file(source));
        assert!(asked.len() > 10, "{source}: {asked:?}");
        let missing: Vec<_> = asked.difference(&known).collect();
        assert!(missing.is_empty(), "{source} asks for {missing:?}");
    }
    for line in [
        "main_webserver_graphql_answers_total{type=\"mutation\",operation=\"createContainer\",code=\"OK\"} 1",
        "main_webserver_engine_call_seconds_count{provider=\"simulated\",operation=\"ensure\",outcome=\"ok\"}",
        "main_webserver_http_request_seconds_count{route=\"/graphql\",method=\"POST\",status=\"200\"}",
        "main_webserver_sockets 1",
        "main_webserver_database_up 1",
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    drop((all.web, all.worker));
    all.ground.clear().await;
}

#[tokio::test]
async fn nobody_can_make_meters_without_end() {
    let all = Deployment::start(ground().await).await;
    let nobody = all.web.person();
    for number in 0..50 {
        nobody
            .ask(&format!("query Q{number} {{ field{number} }}"))
            .await;
        let path = format!("http://{}/path{number}", nobody.address);
        HTTP.get(path).send().await.unwrap();
    }
    let text = meters(nobody.address).await;
    let series = |name: &str| {
        text.lines()
            .filter(|line| line.starts_with(name) && line.contains("_count"))
            .count()
    };
    assert_eq!(
        series("main_webserver_graphql_operation_seconds"),
        1,
        "{text}"
    );
    assert!(series("main_webserver_http_request_seconds") <= 4, "{text}");
    drop((all.web, all.worker));
    all.ground.clear().await;
}

fn promtool(arguments: &[&str]) -> Command {
    let mut command = Command::new("promtool");
    command.args(arguments).kill_on_drop(true);
    command
}

#[tokio::test]
async fn rules_and_meters_pass_the_tool_of_prometheus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/telemetry");
    for (what, name) in [("rules", "alerts.yml"), ("config", "prometheus.yml")] {
        let path = folder.join(name);
        let checked = promtool(&["check", what, path.to_str().unwrap()]).output();
        let checked = checked.await.unwrap();
        assert!(
            checked.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}

/// A real Prometheus with the rules of docker/telemetry, which waits seconds where they wait minutes.
struct Prometheus {
    port: u16,
    _child: Child,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    async fn start(all: &Deployment) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let rules: Vec<String> = file("alerts.yml")
            .lines()
            .map(|line| match line.trim_start().strip_prefix("for: ") {
                Some(_) => "        for: 2s".to_owned(),
                None => line.to_owned(),
            })
            .collect();
        std::fs::write(folder.path().join("alerts.yml"), rules.join("\n")).unwrap();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\nrule_files: [alerts.yml]\nscrape_configs:\n  \
             - job_name: main-webserver\n    static_configs: [{{ targets: [\"{}\", \"{}\"] }}]\n",
            all.web.address.unwrap(),
            all.worker_address(),
        );
        let path = folder.path().join("prometheus.yml");
        std::fs::write(&path, config).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            port,
            _child: child,
            _folder: folder,
        }
    }

    async fn get(&self, path: &str) -> Option<Value> {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        HTTP.get(url).send().await.ok()?.json().await.ok()
    }

    async fn firing(&self) -> Option<BTreeSet<String>> {
        let alerts = self.get("/api/v1/alerts").await?;
        let alerts = alerts["data"]["alerts"].as_array()?.clone();
        let firing = alerts.iter().filter(|alert| alert["state"] == "firing");
        let names = firing.filter_map(|alert| alert["labels"]["alertname"].as_str());
        Some(names.map(str::to_owned).collect())
    }

    async fn fires(&self, name: &str) {
        // A lost worker is missed after a minute.
        until_within(Duration::from_secs(100), name, async || {
            self.firing().await?.contains(name).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_real_prometheus_reads_the_meters_and_faults_set_its_alerts_off() {
    let port = free_port();
    let redis = Redis::start(port);
    let ground = ground().await.with("REDIS_URL", &Redis::url(port));
    let mut all = Deployment::start(ground).await;
    let prometheus = Prometheus::start(&all).await;
    let ada = all.web.person().sign_up("ada").await;
    ada.create("hello").await;
    until("both processes are read", async || {
        let up = prometheus
            .get("/api/v1/query?query=sum(up%7Bjob%3D%22main-webserver%22%7D)")
            .await?;
        (up["data"]["result"][0]["value"][1] == "2").then_some(())
    })
    .await;
    until("the rules are looked at", async || {
        let rules = prometheus.get("/api/v1/rules").await?;
        let rules = rules["data"]["groups"][0]["rules"].as_array()?.clone();
        let looked_at = rules.iter().filter(|rule| rule["health"] == "ok").count();
        (looked_at == rules.len() && looked_at > 10).then_some(())
    })
    .await;
    let quiet = until("alerts are known", async || prometheus.firing().await).await;
    for name in ["WorkersGone", "RedisDown", "ProcessDown", "DatabaseDown"] {
        assert!(!quiet.contains(name), "{quiet:?}");
    }
    redis.kill().await;
    prometheus.fires("RedisDown").await;
    let worker = std::mem::replace(&mut all.worker, Process::start(&all.ground, "web").await);
    worker.kill().await;
    prometheus.fires("ProcessDown").await;
    prometheus.fires("WorkersGone").await;
    drop((all.web, all.worker));
    all.ground.clear().await;
}
