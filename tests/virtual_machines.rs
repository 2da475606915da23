//! Virtual machines as their owners see them, on the simulated engine; `qemu.rs` has the same on real ones.

mod clusters;
mod console;
mod faults;
mod hosts;
pub mod qemu;

use chrono::TimeDelta;
use main_webserver::{
    domain::{Id, id::VirtualMachine},
    providers::Engine as _,
    store::{Store, machines},
};
use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};
use serde_json::{Value, json};

use crate::harness::{Ground, Person, QUICK, World, until};
use main_webserver::app::Role;

fn id(machine: &str) -> Id<VirtualMachine> {
    Id::parse(machine).unwrap()
}

/// Stops a machine and waits until it has.
async fn stop(person: &Person, machine: &str) {
    let stopped = person.with_machine("stopVirtualMachine", machine, "").await;
    stopped.ok("/stopVirtualMachine");
    person.machine_in(machine, "STOPPED").await;
}

async fn start(person: &Person, machine: &str) {
    let started = person
        .with_machine("startVirtualMachine", machine, "")
        .await;
    started.ok("/startVirtualMachine");
    person.machine_in(machine, "RUNNING").await;
}

/// Has its guest be up since so long ago.
async fn up_since(store: &Store, machine: &str, seconds: i64) {
    let then = store.now() - TimeDelta::seconds(seconds);
    machines::Entity::update_many()
        .col_expr(machines::Column::RunningAt, Expr::value(then))
        .filter(machines::Column::Id.eq(id(machine).uuid()))
        .exec(store.db())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_machine_is_made_stopped_resized_started_snapshotted_restored_and_deleted() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let mut socket = ada.socket().await;
    let created = ada.new_machine("tiny").await;
    socket
        .subscribe(&format!(
            "subscription {{ virtualMachineUpdated(id: \"{}\") {{ state version }} }}",
            created.id
        ))
        .await;
    let running = ada.machine_in(&created.id, "RUNNING").await;
    assert_eq!(running["ports"][0]["inside"], 8080);
    assert_eq!(running["provider"], "simulated-machines");
    assert_eq!(
        created.secret_key,
        world.keyring().machine_key(id(&created.id))
    );
    let done = ada.task_in(&created.task, "SUCCEEDED").await;
    assert_eq!(
        (&done["kind"], &done["attempt"]),
        (&json!("run_machine"), &json!(1))
    );

    let machine = &created.id;
    let wrong = ada.with_machine("startVirtualMachine", machine, "").await;
    assert_eq!(wrong.code(), "ILLEGAL_STATE");
    let wrong = ada
        .with_machine("resizeVirtualMachine", machine, ", cpus: 2")
        .await;
    assert_eq!(wrong.code(), "ILLEGAL_STATE");
    world.machines.write_disk(id(machine), "kept");
    let snapshot = ada.snapshot_of(machine, "before").await;
    world.machines.write_disk(id(machine), "changed");
    let restore = format!(
        "mutation {{ restoreVirtualMachine(input: {{snapshot: \"{snapshot}\"}}) {{ virtualMachine {{ id }} task {{ id }} }} }}"
    );
    assert_eq!(ada.ask(&restore).await.code(), "ILLEGAL_STATE");
    stop(&ada, machine).await;
    assert!(ada.machine(machine).await["endedAt"].is_string());

    let more = ", cpus: 2, memoryMebibytes: 256, diskMebibytes: 128";
    ada.with_machine("resizeVirtualMachine", machine, more)
        .await
        .ok("/resizeVirtualMachine");
    let less = ada
        .with_machine("resizeVirtualMachine", machine, ", diskMebibytes: 64")
        .await;
    assert_eq!(
        (less.code(), less.field()),
        ("BAD_USER_INPUT", Some("diskMebibytes"))
    );
    let restored = ada.ask(&restore).await;
    ada.task_in(
        &restored.text("/restoreVirtualMachine/task/id"),
        "SUCCEEDED",
    )
    .await;
    assert_eq!(world.machines.read_disk(id(machine)).unwrap(), "kept");
    start(&ada, machine).await;
    let given = world.machines.given(id(machine)).unwrap();
    assert_eq!((given.cpus, given.memory_bytes), (2, 256 << 20));
    assert!(ada.machine(machine).await["endedAt"].is_null());

    let gone = format!(
        "mutation {{ deleteSnapshot(input: {{id: \"{snapshot}\"}}) {{ snapshot {{ id }} task {{ id }} }} }}"
    );
    ada.ask(&gone).await.ok("/deleteSnapshot");
    ada.snapshot_in(&snapshot, "DELETED").await;
    assert_eq!(ada.ask(&gone).await.code(), "ILLEGAL_STATE");
    let left = ada.snapshot_of(machine, "left").await;
    ada.with_machine("deleteVirtualMachine", machine, "")
        .await
        .ok("/deleteVirtualMachine");
    ada.machine_in(machine, "DELETED").await;
    ada.snapshot_in(&left, "DELETED").await;
    assert!(world.machines.list().await.unwrap().is_empty());
    let again = ada.with_machine("deleteVirtualMachine", machine, "").await;
    assert_eq!(again.code(), "ILLEGAL_STATE");

    let mut last = 0;
    let mut seen = Vec::new();
    while let Some(frame) = socket.next().await {
        let now = &frame["data"]["virtualMachineUpdated"];
        assert!(now["version"].as_i64().unwrap() > last, "{frame}");
        last = now["version"].as_i64().unwrap();
        seen.push(now["state"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen.last().unwrap(), "DELETED", "{seen:?}");
    let done = "{ auditEvents(filter: {action: {prefix: \"machine.\"}}, orderBy: [{field: AT}]) { nodes { action actor } } }";
    let done = world.admin().await.ask(done).await.ok("/auditEvents/nodes");
    let done = done.as_array().unwrap().iter();
    let done: Vec<_> = done
        .map(|event| {
            assert_eq!(event["actor"], "user");
            event["action"].as_str().unwrap()["machine.".len()..].to_owned()
        })
        .collect();
    let right = [
        "create", "snapshot", "stop", "resize", "restore", "start", "snapshot", "delete",
    ];
    assert_eq!(done, right);
    world.stop().await;
}

#[tokio::test]
async fn a_restart_is_one_task_and_a_guest_that_ignores_its_button_is_ended() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    let before = ada.machine(&machine).await;
    let asked = ada
        .with_machine("restartVirtualMachine", &machine, "")
        .await;
    let task = asked.text("/restartVirtualMachine/task/id");
    assert_eq!(
        asked.text("/restartVirtualMachine/virtualMachine/state"),
        "STOPPING"
    );
    let done = ada.task_in(&task, "SUCCEEDED").await;
    assert_eq!(done["kind"], "stop_machine");
    let after = ada.machine(&machine).await;
    assert_eq!(after["state"], "RUNNING");
    assert_ne!(after["runningAt"], before["runningAt"]);

    world.machines.ignore_acpi(id(&machine), true);
    let asked = ada
        .with_machine("stopVirtualMachine", &machine, ", graceSeconds: 1")
        .await;
    let task = asked.text("/stopVirtualMachine/task/id");
    let done = ada.task_in(&task, "SUCCEEDED").await;
    assert_eq!(done["result"]["graceful"], false);
    assert_eq!(ada.machine(&machine).await["state"], "STOPPED");
    world.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_told_and_leaves_nothing() {
    let ground = Ground::new().await.with("MACHINES_PER_OWNER", "3");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    world.add_image("gone", "missing/disk.qcow2").await;
    world.add_image("broken", "corrupt/disk.qcow2").await;
    let ada = world.person("ada").await;
    for (field, value) in [
        ("name", json!("Box!")),
        ("name", json!("-box")),
        ("image", json!("none")),
        ("region", json!("nowhere")),
        ("cluster", json!("cluster_00000000000000000000000000000001")),
        ("cpus", json!(0)),
        ("memoryMebibytes", json!(1)),
        ("diskMebibytes", json!(1)),
        ("sshKeys", json!(["no key"])),
        ("sshKeys", json!(["ssh-ed25519 AAAA\nevil"])),
    ] {
        let mut input = json!({ "name": "box", "image": "tiny", "region": "us-west-2" });
        input[field] = value.clone();
        let reply = ada.create_machine(input).await;
        assert_eq!(
            (reply.code(), reply.field()),
            ("BAD_USER_INPUT", Some(field)),
            "{value}"
        );
    }
    for image in ["gone", "broken"] {
        let machine = ada.new_machine(image).await.id;
        let failed = ada.machine_in(&machine, "FAILED").await;
        assert_eq!(failed["failure"]["code"], "NO_SUCH_IMAGE", "{failed}");
        ada.with_machine("deleteVirtualMachine", &machine, "")
            .await
            .ok("/deleteVirtualMachine");
        ada.machine_in(&machine, "DELETED").await;
    }
    assert!(world.machines.list().await.unwrap().is_empty());
    // Eight at once, of which three may be.
    let asked = (0..8).map(|_| ada.ask_for_machine("tiny"));
    let asked = futures_util::future::join_all(asked).await;
    let refused = asked.iter().filter(|reply| reply.0.get("errors").is_some());
    let refused: Vec<_> = refused.map(|reply| reply.code()).collect();
    assert_eq!(refused, ["QUOTA_EXCEEDED"; 5]);
    world.stop().await;
}

#[tokio::test]
async fn two_requests_with_one_key_are_one_machine() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let input =
        json!({ "name": "box", "image": "tiny", "region": "us-west-2", "idempotencyKey": "k" });
    let first = ada.create_machine(input.clone()).await;
    let again = ada.create_machine(input.clone()).await;
    let path = "/createVirtualMachine/virtualMachine/id";
    assert_eq!(first.text(path), again.text(path));
    assert!(again.ok("/createVirtualMachine")["secretKey"].is_null());
    let mut other = input;
    other["name"] = json!("other");
    assert_eq!(ada.create_machine(other).await.code(), "CONFLICT");
    let machine = first.text(path);
    ada.machine_in(&machine, "RUNNING").await;
    // Two deletes at once are one; the engine keeps the first from its end until the second has come.
    world.machines.set_away(true);
    let (one, two) = tokio::join!(
        ada.with_machine("deleteVirtualMachine", &machine, ""),
        ada.with_machine("deleteVirtualMachine", &machine, "")
    );
    let path = "/deleteVirtualMachine/task/id";
    assert_eq!(one.text(path), two.text(path));
    world.machines.set_away(false);
    ada.machine_in(&machine, "DELETED").await;
    world.stop().await;
}

#[tokio::test]
async fn nobody_else_reaches_a_machine() {
    let world = World::start().await;
    let (ada, eve) = (world.person("ada").await, world.person("eve").await);
    let machine = ada.running_machine().await;
    let snapshot = ada.snapshot_of(&machine, "mine").await;
    for operation in [
        "startVirtualMachine",
        "stopVirtualMachine",
        "restartVirtualMachine",
        "resizeVirtualMachine",
        "deleteVirtualMachine",
    ] {
        let reply = eve.with_machine(operation, &machine, "").await;
        assert_eq!(reply.code(), "NOT_FOUND", "{operation}");
    }
    for query in [
        format!("mutation {{ openConsole(input: {{id: \"{machine}\"}}) {{ token }} }}"),
        format!(
            "mutation {{ snapshotVirtualMachine(input: {{id: \"{machine}\", name: \"x\"}}) {{ task {{ id }} }} }}"
        ),
        format!(
            "mutation {{ restoreVirtualMachine(input: {{snapshot: \"{snapshot}\"}}) {{ task {{ id }} }} }}"
        ),
        format!("mutation {{ deleteSnapshot(input: {{id: \"{snapshot}\"}}) {{ task {{ id }} }} }}"),
        format!("{{ virtualMachineLogs(id: \"{machine}\") {{ message }} }}"),
    ] {
        assert_eq!(eve.ask(&query).await.code(), "NOT_FOUND", "{query}");
    }
    let theirs = eve
        .ask("{ virtualMachines { totalCount } snapshots { totalCount } }")
        .await;
    assert_eq!(theirs.ok("/virtualMachines/totalCount"), 0);
    assert_eq!(theirs.ok("/snapshots/totalCount"), 0);
    assert_eq!(ada.machine(&machine).await["state"], "RUNNING");
    world.stop().await;
}

#[tokio::test]
async fn a_console_log_is_read_and_followed_over_a_restart() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    let mut socket = ada.socket().await;
    socket
        .subscribe(&format!(
            "subscription {{ virtualMachineLogAdded(id: \"{machine}\") {{ message }} }}"
        ))
        .await;
    let mut said: Vec<String> = Vec::new();
    let mut hear = async |text: &str| {
        while !said.iter().any(|line| line == text) {
            let frame = socket.next().await.unwrap();
            let lines = frame["data"]["virtualMachineLogAdded"].as_array().unwrap();
            let text = |line: &Value| line["message"].as_str().unwrap().to_owned();
            said.extend(lines.iter().map(text));
        }
    };
    world.machines.write(id(&machine), "one");
    hear("one").await;
    let asked = ada
        .with_machine("restartVirtualMachine", &machine, "")
        .await;
    ada.task_in(&asked.text("/restartVirtualMachine/task/id"), "SUCCEEDED")
        .await;
    world.machines.write(id(&machine), "two");
    hear("two").await;
    for line in ["one", "two"] {
        assert_eq!(
            said.iter().filter(|said| *said == line).count(),
            1,
            "{said:?}"
        );
    }
    let query = format!("{{ virtualMachineLogs(id: \"{machine}\", last: 1) {{ message }} }}");
    let last = ada.ask(&query).await.ok("/virtualMachineLogs");
    assert_eq!(last, json!([{ "message": "two" }]));
    world.stop().await;
}

#[tokio::test]
async fn what_a_machine_takes_is_measured() {
    let ground = Ground::new().await.with("RECONCILE_SECONDS", "1");
    let world = World::on(ground, QUICK, &[Role::WebAndWorker]).await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    let usage = until("it has been measured", async || {
        let usage = ada.machine(&machine).await["usage"].clone();
        usage.is_object().then_some(usage)
    })
    .await;
    assert!(usage["memoryMebibytes"].is_i64(), "{usage}");
    world.stop().await;
}
