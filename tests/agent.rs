//! The agent as a real process beside a real server, on machines whose engine does not answer. With an engine it is tried in
//! `docker::agent`, with one that is made up in [`logs`].

mod engine;
mod logs;

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::harness::{
    Ground, PATIENCE, Person,
    agent::Machine,
    fleet,
    process::{Process, output_of},
    servers::free_port,
    until,
};

/// A ground with hosts that are soon missed.
pub async fn ground() -> Ground {
    Ground::new()
        .await
        .with("HEARTBEAT_SECONDS", "1")
        .with("HOST_STALE_SECONDS", "3")
        .with("HOST_DEAD_SECONDS", "60")
        .with("CONTAINER_DRAIN_SECONDS", "1")
}

pub async fn admin(serve: &Process) -> Person {
    let password = crate::harness::ADMIN_PASSWORD;
    serve.person().log_in("admin@localhost", password).await
}

/// What an administrator sees of a host.
pub async fn host(admin: &Person, id: &str) -> Value {
    admin.ask(&host_query(id)).await.ok("/host")
}

fn host_query(id: &str) -> String {
    format!(
        "{{ host(id: \"{id}\") {{ status heartbeat instanceId agentVersion cpuMillis cpuUsedMillis memoryMebibytes \
            memoryAvailableMebibytes containers }} }}"
    )
}

/// Waits until a host has this status.
pub async fn host_in(admin: &Person, id: &str, status: &str) -> Value {
    until(&format!("the host is {status}"), async || {
        let host = host(admin, id).await;
        (host["status"] == status).then_some(host)
    })
    .await
}

/// Waits until a host was heard of since.
pub async fn heard_after(admin: &Person, id: &str, number: i64) -> i64 {
    until("it is heard of", async || {
        let newest = host(admin, id).await["heartbeat"].as_i64()?;
        (newest > number).then_some(newest)
    })
    .await
}

#[tokio::test]
async fn a_machine_becomes_a_host_by_a_token_and_stays_it_by_its_credential() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let cluster = fleet::cluster(&admin, "first", "us-east-1").await;
    let token = fleet::invitation(&admin, &cluster).await;
    let machine = Machine::without_engine(&ground, serve.address.unwrap(), "machine-1");

    let mut traced = machine.command(&ground, Some(&token));
    traced.env("LOG", "trace");
    let log = std::fs::File::create(ground.folder().join("traced")).unwrap();
    traced.stderr(log);
    let agent = Process::until_it_says(traced, "host").await;
    let id = machine.agent().email;
    let seen = host_in(&admin, &id, "HEALTHY").await;
    assert_eq!(seen["instanceId"], "machine-1");
    assert_eq!(seen["agentVersion"], env!("CARGO_PKG_VERSION"));
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let cpus = cpus
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    assert_eq!(seen["cpuMillis"], json!(1000 * cpus));
    let figure = |name: &str| seen[name].as_i64().unwrap();
    assert!((0..=figure("cpuMillis")).contains(&figure("cpuUsedMillis")));
    assert!((1..=figure("memoryMebibytes")).contains(&figure("memoryAvailableMebibytes")));

    let mode = std::fs::metadata(machine.file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let number = heard_after(&admin, &id, figure("heartbeat")).await;
    agent.kill().await;
    let traced = std::fs::read_to_string(ground.folder().join("traced")).unwrap();
    let credential = machine.agent().token.unwrap();
    let (_, secret) = credential.split_once('.').unwrap();
    assert!(traced.contains("registered"), "{traced}");
    for kept in [secret, &token] {
        let at = traced.lines().find(|line| line.contains(kept));
        assert_eq!(at, None, "a secret stands in the log");
    }

    let again = machine.start(&ground, None).await;
    assert_eq!(machine.agent().email, id);
    heard_after(&admin, &id, number).await;
    // The engine's absence is told once, whatever the number of heartbeats.
    assert_eq!(
        machine.log().matches("the engine does not answer").count(),
        1
    );

    let thief = Machine::without_engine(&ground, serve.address.unwrap(), "thief");
    let (code, _, said) = output_of(thief.command(&ground, Some(&token))).await;
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("the registration token is unknown, spent or too old"),
        "{said}"
    );
    assert!(!thief.file().exists());
    drop((again, serve));
    ground.clear().await;
}

#[tokio::test]
async fn a_revoked_credential_ends_the_agent_and_no_start_helps() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let cluster = fleet::cluster(&admin, "revoked", "us-east-1").await;
    let token = fleet::invitation(&admin, &cluster).await;
    let machine = Machine::without_engine(&ground, serve.address.unwrap(), "machine-1");
    let agent = machine.start(&ground, Some(&token)).await;
    let id = machine.agent().email;
    let revoke = format!("mutation {{ revokeHost(input: {{id: \"{id}\"}}) {{ host {{ id }} }} }}");
    admin.ask(&revoke).await.ok("/revokeHost");
    assert_eq!(agent.ended().await.code(), Some(1));
    let log = machine.log();
    let line = "error: the server refuses this host's credential";
    assert_eq!(
        log.lines().filter(|l| l.starts_with(line)).count(),
        1,
        "{log}"
    );
    let (code, _, said) = output_of(machine.command(&ground, None)).await;
    assert_eq!(code, 1);
    assert!(
        said.contains(line) && said.contains("agent.credential"),
        "{said}"
    );
    host_in(&admin, &id, "STALE").await;

    // Without its file it is a new start, and the same machine is the same host.
    std::fs::remove_file(machine.file()).unwrap();
    let (code, _, said) = output_of(machine.command(&ground, None)).await;
    assert!(code == 1 && said.contains("AGENT_TOKEN"), "{said}");
    let token = fleet::invitation(&admin, &cluster).await;
    let agent = machine.start(&ground, Some(&token)).await;
    assert_eq!(machine.agent().email, id);
    host_in(&admin, &id, "HEALTHY").await;
    drop((agent, serve));
    ground.clear().await;
}

#[tokio::test]
async fn a_host_speaks_for_itself_only_and_late_heartbeats_change_nothing() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let cluster = fleet::cluster(&admin, "own", "us-east-1").await;
    let token = fleet::invitation(&admin, &cluster).await;
    let machine = Machine::without_engine(&ground, serve.address.unwrap(), "machine-1");
    let agent = machine.start(&ground, Some(&token)).await;
    let id = machine.agent().email;
    let ada = serve.person().sign_up("ada").await;
    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;

    let elsewhere = fleet::cluster(&admin, "other", "us-west-2").await;
    let token = fleet::invitation(&admin, &elsewhere).await;
    let other = Machine::without_engine(&ground, serve.address.unwrap(), "machine-2");
    let stranger = other.start(&ground, Some(&token)).await;
    let report = format!(
        "mutation {{ reportContainer(input: {{id: \"{}\", report: GONE, generation: 9}}) {{ container {{ id }} }} }}",
        created.container
    );
    assert_eq!(other.agent().ask(&report).await.code(), "NOT_FOUND");
    let look = format!(
        "{{ host(id: \"{id}\") {{ id }} container(id: \"{}\") {{ id }} }}",
        created.container
    );
    let seen = other.agent().ask(&look).await;
    assert!(
        seen.0["data"]["host"].is_null() && seen.0["data"]["container"].is_null(),
        "{}",
        seen.0
    );
    assert_eq!(ada.container(&created.container).await["state"], "RUNNING");

    let before = host(&admin, &id).await;
    let late = fleet::beat(&machine.agent(), 1).await;
    assert_eq!(late.ok("/heartbeat/accepted"), false);
    assert_ne!(
        host(&admin, &id).await["memoryAvailableMebibytes"],
        1024,
        "{before}"
    );
    // As after a clock that was an hour ahead and has been put right: the agent's numbers are late from now on.
    let ahead = before["heartbeat"].as_i64().unwrap() + 3_600_000;
    let early = fleet::beat(&machine.agent(), ahead).await;
    assert_eq!(early.ok("/heartbeat/accepted"), true);
    heard_after(&admin, &id, ahead).await;
    drop((agent, stranger, serve));
    ground.clear().await;
}

#[tokio::test]
async fn an_agent_that_is_ended_has_its_host_drained() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let cluster = fleet::cluster(&admin, "dying", "us-east-1").await;
    let token = fleet::invitation(&admin, &cluster).await;
    let machine = Machine::without_engine(&ground, serve.address.unwrap(), "machine-1");
    let agent = machine.start(&ground, Some(&token)).await;
    let id = machine.agent().email;
    let ada = serve.person().sign_up("ada").await;
    let created = ada.create("hello").await;
    ada.container_in(&created.container, "RUNNING").await;
    assert_eq!(agent.end("-TERM").await.code(), Some(0));
    // Drained from the moment it ended, and given up when it was empty, not by its silence.
    assert_ne!(host(&admin, &id).await["status"], "HEALTHY");
    ada.container_in(&created.container, "DELETED").await;
    host_in(&admin, &id, "DEAD").await;
    drop(serve);
    ground.clear().await;
}

#[tokio::test]
async fn a_renewed_credential_replaces_the_one_before() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let cluster = fleet::cluster(&admin, "renewed", "us-east-1").await;
    let token = fleet::invitation(&admin, &cluster).await;
    let machine = Machine::without_engine(&ground, serve.address.unwrap(), "machine-1");
    let agent = machine.start(&ground, Some(&token)).await;
    let first = machine.agent();
    agent.signal("-HUP").await;
    until("the file has another credential", async || {
        (machine.agent().token != first.token).then_some(())
    })
    .await;
    let mode = std::fs::metadata(machine.file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let number = host(&admin, &first.email).await["heartbeat"]
        .as_i64()
        .unwrap();
    heard_after(&admin, &first.email, number + 1).await;
    agent.kill().await;
    let again = machine.start(&ground, None).await;
    drop((again, serve));
    ground.clear().await;
}

#[tokio::test]
async fn an_agent_finds_its_server_again() {
    let ground = ground().await.with("PORT", &free_port().to_string());
    let serve = Process::start(&ground, "serve").await;
    let first = admin(&serve).await;
    let cluster = fleet::cluster(&first, "again", "us-east-1").await;
    let token = fleet::invitation(&first, &cluster).await;
    let machine = Machine::without_engine(&ground, serve.address.unwrap(), "machine-1");
    let agent = machine.start(&ground, Some(&token)).await;
    let id = machine.agent().email;
    let number = host(&first, &id).await["heartbeat"].as_i64().unwrap();
    serve.kill().await;
    let serve = Process::start(&ground, "serve").await;
    heard_after(&admin(&serve).await, &id, number).await;
    serve.kill().await;
    // Nobody answers, and it ends all the same.
    assert_eq!(agent.end("-INT").await.code(), Some(0));
    ground.clear().await;
}

#[tokio::test]
async fn an_agent_says_what_it_lacks() {
    let ground = ground().await;
    let machine = Machine::without_engine(&ground, "127.0.0.1:9".parse().unwrap(), "machine-1");
    let (code, _, said) = output_of(machine.command(&ground, None)).await;
    assert!(
        code == 1 && said.contains("AGENT_TOKEN or --token"),
        "{said}"
    );
    let mut wrong = crate::harness::process::command(&ground, &["agent"]);
    wrong.env("AGENT_SERVER", "ftp://server");
    let (code, _, said) = output_of(wrong).await;
    assert!(
        code == 2 && said.contains("http://… or https://… is expected"),
        "{said}"
    );
    let mut help = crate::harness::process::command(&ground, &["agent", "--help"]);
    help.env("AGENT_TOKEN", "a-secret-token");
    let (code, said, _) = output_of(help).await;
    assert!(
        code == 0 && said.contains("AGENT_TOKEN") && !said.contains("a-secret-token"),
        "{said}"
    );
    // A folder that cannot be written is found out before the token is spent.
    let mut unwritable = machine.command(&ground, Some("token"));
    unwritable.env("AGENT_STATE", "/proc/no/such/folder");
    let in_time = tokio::time::timeout(PATIENCE, output_of(unwritable)).await;
    let (code, _, said) = in_time.unwrap();
    assert!(code == 1 && said.contains("/proc/no/such/folder"), "{said}");
    ground.clear().await;
}

#[tokio::test]
async fn an_agent_is_understood_where_only_known_operations_are() {
    let ground = ground().await.with("PORT", &free_port().to_string());
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let cluster = fleet::cluster(&admin, "closed", "us-east-1").await;
    let token = fleet::invitation(&admin, &cluster).await;
    let machine = Machine::without_engine(&ground, serve.address.unwrap(), "machine-1");
    let agent = machine.start(&ground, Some(&token)).await;
    let id = machine.agent().email;
    serve.kill().await;
    let file = ground.folder().join("operations.json");
    let operations = json!({ "host": host_query(&id) });
    std::fs::write(&file, operations.to_string()).unwrap();
    let ground = ground
        .with("PERSISTED_OPERATIONS", &file.display().to_string())
        .with("PERSISTED_ONLY", "on");
    let serve = Process::start(&ground, "serve").await;
    assert_eq!(admin.ask("{ viewer { id } }").await.code(), "FORBIDDEN");
    let number = host(&admin, &id).await["heartbeat"].as_i64().unwrap();
    heard_after(&admin, &id, number).await;
    drop((agent, serve));
    ground.clear().await;
}
