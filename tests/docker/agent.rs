//! The agent beside a real engine: what happens to containers comes to the server through it, and commands to the engine.

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{docker, listed};
use crate::{
    agent::{self, admin, host, host_in},
    harness::{Ground, Person, agent::Machine, fleet, process::Process, required, until},
};

/// Hosts that are soon missed, and nobody but their agents who looks at engines by themselves.
async fn ground() -> Ground {
    agent::ground()
        .await
        .with("PROVIDER", "docker")
        .with("DOCKER_HOST", &required("TEST_DOCKER_HOST"))
        .with("RECONCILE_SECONDS", "3600")
}

fn machine(ground: &Ground, web: &Process) -> Machine {
    let engine = required("TEST_DOCKER_HOST");
    Machine::with_engine(ground, web.address.unwrap(), "machine-1", &engine)
}

/// A cluster of Docker engines in the region where the tests' people ask for containers, and its agent; the host's id.
async fn fleet_of_one(
    ground: &Ground,
    web: &Process,
    admin: &Person,
) -> (Machine, Process, String) {
    let input = json!({ "name": "real", "region": "us-east-1", "provider": "docker" });
    let cluster = fleet::cluster_with(admin, input).await;
    let token = fleet::invitation(admin, &cluster).await;
    let machine = machine(ground, web);
    let agent = machine.start(ground, Some(&token)).await;
    let id = machine.agent().email;
    host_in(admin, &id, "HEALTHY").await;
    (machine, agent, id)
}

async fn running(person: &Person) -> String {
    let created = person.create("hello").await;
    person.container_in(&created.container, "RUNNING").await;
    created.container
}

async fn watch(person: &Person, container: &str) -> crate::harness::socket::Socket {
    let mut socket = person.socket().await;
    let query = format!("subscription {{ containerUpdated(id: \"{container}\") {{ state }} }}");
    socket.subscribe(&query).await;
    socket
}

/// Reads what the owner sees until it is in this state.
async fn seen(socket: &mut crate::harness::socket::Socket, state: &str) {
    loop {
        let frame = socket.next().await.expect("more to come");
        if frame["data"]["containerUpdated"]["state"] == state {
            return;
        }
    }
}

#[expect(clippy::print_stdout, reason = "how long each step takes is asked for")]
fn told(begun: Instant, what: &str) {
    println!("{:>6} ms  {what}", begun.elapsed().as_millis());
}

#[tokio::test]
async fn what_happens_on_a_host_is_told_by_its_agent() {
    let ground = ground().await;
    let web = Process::start(&ground, "web").await;
    let worker = Process::start(&ground, "worker").await;
    let admin = admin(&web).await;
    let begun = Instant::now();
    let (machine, agent, id) = fleet_of_one(&ground, &web, &admin).await;
    told(begun, "from the agent's start to HEALTHY");
    let ada = web.person().sign_up("ada").await;
    let (doomed, stays) = (running(&ada).await, running(&ada).await);
    let placed = format!("{{ container(id: \"{doomed}\") {{ host {{ id }} }} }}");
    assert_eq!(admin.ask(&placed).await.text("/container/host/id"), id);
    until("the host counts them", async || {
        (host(&admin, &id).await["containers"].as_i64()? >= 2).then_some(())
    })
    .await;

    // Without a worker nobody but the agent can tell.
    assert_eq!(worker.end("-TERM").await.code(), Some(0));
    let mut owner = watch(&ada, &doomed).await;
    seen(&mut owner, "RUNNING").await;
    let begun = Instant::now();
    docker(&["kill", &format!("main-{doomed}")]).await;
    seen(&mut owner, "FAILED").await;
    told(begun, "from docker kill to FAILED at its owner");
    let failure = ada.container(&doomed).await["failure"].clone();
    assert_eq!(failure["code"], "EXITED");
    let reason = failure["reason"].as_str().unwrap();
    assert!(reason.contains("with code 137"), "{reason}");

    // What the agent did not see while it happened is missed by it afterwards.
    let lost = format!("main-{stays}");
    agent.signal("-STOP").await;
    docker(&["rm", "-f", &lost]).await;
    let begun = Instant::now();
    agent.signal("-CONT").await;
    ada.container_in(&stays, "REQUESTED").await;
    told(
        begun,
        "from the loss of a container to its being asked for again",
    );
    let worker = Process::start(&ground, "worker").await;
    ada.container_in(&stays, "RUNNING").await;
    let label = "{{index .Config.Labels \"main-webserver.generation\"}}";
    assert_eq!(docker(&["inspect", "-f", label, &lost]).await.trim(), "2");

    let mut owner = watch(&ada, &stays).await;
    seen(&mut owner, "RUNNING").await;
    let begun = Instant::now();
    agent.kill().await;
    host_in(&admin, &id, "STALE").await;
    told(begun, "from kill -9 of the agent to STALE");
    seen(&mut owner, "UNKNOWN").await;
    told(begun, "from kill -9 of the agent to UNKNOWN at the owner");
    let begun = Instant::now();
    let agent = machine.start(&ground, None).await;
    host_in(&admin, &id, "HEALTHY").await;
    told(begun, "from the next start to HEALTHY");
    seen(&mut owner, "RUNNING").await;
    told(begun, "from the next start to RUNNING at the owner");
    assert_eq!(listed(&stays).await, [format!("main-{stays} running")]);

    ada.delete(&stays).await;
    ada.container_in(&stays, "DELETED").await;
    docker(&["rm", "-f", &format!("main-{doomed}")]).await;
    drop((agent, worker, web));
    ground.clear().await;
}

#[tokio::test]
async fn an_ended_agents_containers_leave_and_then_its_host_is_dead() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let (_, agent, id) = fleet_of_one(&ground, &serve, &admin).await;
    let ada = serve.person().sign_up("ada").await;
    let container = running(&ada).await;
    let begun = Instant::now();
    assert_eq!(agent.end("-TERM").await.code(), Some(0));
    assert_eq!(host(&admin, &id).await["status"], "DRAINING");
    told(begun, "from SIGTERM to the agent's end and DRAINING");
    ada.container_in(&container, "DELETED").await;
    assert!(listed(&container).await.is_empty());
    told(begun, "from SIGTERM to the end of its container");
    host_in(&admin, &id, "DEAD").await;
    told(begun, "from SIGTERM to DEAD");
    drop(serve);
    ground.clear().await;
}

#[tokio::test]
async fn an_engine_that_comes_later_is_found_and_told_of() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let input = json!({ "name": "late", "region": "us-east-1", "provider": "docker" });
    let cluster = fleet::cluster_with(&admin, input).await;
    let token = fleet::invitation(&admin, &cluster).await;
    let socket = ground.folder().join("engine.sock");
    let engine = format!("unix://{}", socket.display());
    let machine = Machine::with_engine(&ground, serve.address.unwrap(), "machine-1", &engine);
    let agent = machine.start(&ground, Some(&token)).await;
    let id = machine.agent().email;
    let ada = serve.person().sign_up("ada").await;
    let container = running(&ada).await;
    let number = host(&admin, &id).await["heartbeat"].as_i64().unwrap();
    agent::heard_after(&admin, &id, number + 2).await;
    assert_eq!(host(&admin, &id).await["containers"], 0);

    let real = required("TEST_DOCKER_HOST");
    std::os::unix::fs::symlink(real.strip_prefix("unix://").unwrap(), &socket).unwrap();
    until("the host counts it", async || {
        (host(&admin, &id).await["containers"].as_i64()? >= 1).then_some(())
    })
    .await;
    let log = machine.log();
    for line in ["the engine does not answer", "the engine answers again"] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    ada.delete(&container).await;
    ada.container_in(&container, "DELETED").await;
    drop((agent, serve));
    ground.clear().await;
}

async fn command(admin: &Person, cluster: &str, command: &str, image: Option<&str>) -> String {
    const SEND: &str = "mutation($input: SendClusterCommandInput!) { sendClusterCommand(input: $input) { task { id } } }";
    let input = json!({ "id": cluster, "command": command, "argument": image });
    let sent = admin.send(SEND, json!({ "input": input })).await;
    sent.text("/sendClusterCommand/task/id")
}

#[tokio::test]
async fn an_agent_does_what_its_cluster_is_told_once() {
    let ground = ground().await;
    let serve = Process::start(&ground, "serve").await;
    let admin = admin(&serve).await;
    let (machine, agent, id) = fleet_of_one(&ground, &serve, &admin).await;
    let cluster = format!("{{ host(id: \"{id}\") {{ cluster {{ id }} }} }}");
    let cluster = admin.ask(&cluster).await.text("/host/cluster/id");
    let said = |task: &Value| {
        task["result"]["hosts"][0]["output"]
            .as_str()
            .unwrap()
            .to_owned()
    };

    let begun = Instant::now();
    let task = command(&admin, &cluster, "DIAGNOSE", None).await;
    let output = said(&admin.task_in(&task, "SUCCEEDED").await);
    told(begun, "from DIAGNOSE to what the host said");
    for words in ["Docker ", "containers: ", "images: ", "storage: "] {
        assert!(output.contains(words), "{output}");
    }
    let task = command(&admin, &cluster, "PULL_IMAGE", Some("busybox:1.37")).await;
    assert_eq!(
        said(&admin.task_in(&task, "SUCCEEDED").await),
        "busybox:1.37 is there"
    );
    let missing = "127.0.0.1:9/no-such-image:1";
    let task = command(&admin, &cluster, "PULL_IMAGE", Some(missing)).await;
    let error = admin.task_in(&task, "FAILED").await["error"].clone();
    assert_eq!(error["code"], "COMMAND_FAILED");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("connection refused"), "{message}");
    let log = machine.log();
    assert_eq!(log.matches("told to").count(), 3, "each once: {log}");
    drop((agent, serve));
    ground.clear().await;
}
