//! What a machine goes through in the hands of its owner.

use main_webserver::store::machines;
use serde_json::Value;
use sha2::Digest as _;

use super::{BOOT, Site, done, hears, pid, reaches, running, said, types};
use crate::{
    harness::{HTTP, Person, process::Process, until_within},
    machines::READY,
    virtual_machines::console,
};

async fn listens(
    person: &Person,
    machine: &str,
    after: Option<&str>,
) -> crate::harness::socket::Socket {
    let after = after.map_or_else(String::new, |after| format!(", after: \"{after}\""));
    let mut socket = person.socket().await;
    let follow = format!(
        "subscription {{ virtualMachineLogAdded(id: \"{machine}\"{after}) {{ message }} }}"
    );
    socket.subscribe(&follow).await;
    socket
}

async fn serves(machine: &Value) {
    let port = &machine["ports"][0]["published"];
    let page = until_within(BOOT, "its forwarded port answers", async || {
        let answer = HTTP.get(format!("http://127.0.0.1:{port}/")).send().await;
        answer.ok()?.text().await.ok()
    })
    .await;
    assert_eq!(page.trim(), "serving box");
}

/// Its owner's secret, as the guest shows that it has been told.
fn digest(secret: &str) -> String {
    let whole = sha2::Sha256::digest(secret.as_bytes());
    let first: [u8; 8] = whole[..8].try_into().unwrap();
    format!("{:016x}", u64::from_be_bytes(first))
}

async fn resized_and_started(ada: &Person, machine: &str) {
    let more = ", cpus: 2, memoryMebibytes: 256, diskMebibytes: 96";
    ada.with_machine("resizeVirtualMachine", machine, more)
        .await
        .ok("/resizeVirtualMachine");
    done(ada, "startVirtualMachine", machine, "").await;
    let query = format!("{{ virtualMachineLogs(id: \"{machine}\", last: 100) {{ message }} }}");
    // A line is there a moment after it has been said.
    let lines = until_within(BOOT, "its console says what it has now", async || {
        let lines = ada.ask(&query).await.ok("/virtualMachineLogs");
        let text = |line: &Value| line["message"].as_str().unwrap().to_owned();
        let lines: Vec<String> = lines.as_array().unwrap().iter().map(text).collect();
        (said(&lines, "cpus") == "2").then_some(lines)
    })
    .await;
    assert_eq!(said(&lines, "disk"), (96_u64 << 20).to_string());
    let kibibytes: u64 = said(&lines, "mem").parse().unwrap();
    assert!((200 << 10..256 << 10).contains(&kibibytes), "{kibibytes}");
}

#[tokio::test]
async fn a_real_machine_lives_from_its_creation_to_its_deletion() {
    let site = Site::serving().await;
    let ada = site.person("ada").await;
    let created = ada.new_machine("guest").await;
    let machine = &created.id;
    let mut states = ada.socket().await;
    states
        .subscribe(&format!(
            "subscription {{ virtualMachineUpdated(id: \"{machine}\") {{ state }} }}"
        ))
        .await;
    let lines = hears(&mut listens(&ada, machine, None).await, READY).await;
    assert!(lines.iter().any(|line| line.contains("guest ready box ")));
    assert_eq!(said(&lines, "cpus"), "1");
    assert_eq!(said(&lines, "secret"), digest(&created.secret_key));
    while states.next().await.unwrap()["data"]["virtualMachineUpdated"]["state"] != "RUNNING" {}
    serves(&ada.machine(machine).await).await;

    types(&ada, machine, "write first", "written first").await;
    let ticket = console::token(&ada, machine, "VNC").await;
    let mut screen = console::enter(ada.address, &ticket).await;
    console::hear(&mut screen, "RFB 003.").await;
    drop(screen);
    let snapshot = ada.snapshot_of(machine, "first").await;
    types(&ada, machine, "write second", "written second").await;

    let stopped = done(&ada, "stopVirtualMachine", machine, "").await;
    assert_eq!(stopped["result"]["graceful"], true, "{stopped}");
    assert_eq!(ada.machine(machine).await["state"], "STOPPED");
    assert!(site.directory.processes().is_empty());
    resized_and_started(&ada, machine).await;
    types(&ada, machine, "read", "disk has second").await;
    done(&ada, "stopVirtualMachine", machine, "").await;
    let restore = format!(
        "mutation {{ restoreVirtualMachine(input: {{snapshot: \"{snapshot}\"}}) {{ task {{ id }} }} }}"
    );
    let restored = ada.ask(&restore).await;
    let task = restored.text("/restoreVirtualMachine/task/id");
    ada.task_in(&task, "SUCCEEDED").await;
    done(&ada, "startVirtualMachine", machine, "").await;
    types(&ada, machine, "read", "disk has first").await;
    serves(&ada.machine(machine).await).await;

    site.leaves_nothing_of(&ada, machine).await;
    ada.snapshot_in(&snapshot, "DELETED").await;
    site.end().await;
}

#[tokio::test]
async fn a_machine_outlives_the_service_and_its_log_goes_on() {
    let mut site = Site::serving().await;
    let ada = site.person("ada").await;
    let machine = running(&ada).await;
    types(&ada, &machine, "echo before", "echo before").await;
    let (its, row) = (pid(&site).await, site.row(&machine).await);
    let last = format!("{{ virtualMachineLogs(id: \"{machine}\", last: 1) {{ message cursor }} }}");
    let last = ada.ask(&last).await;
    assert_eq!(last.text("/virtualMachineLogs/0/message"), "echo before");
    site.processes.remove(0).kill().await;

    site.processes
        .push(Process::start(&site.ground, "serve").await);
    let ada = ada.moved_to(site.processes[0].address.unwrap());
    let cursor = last.text("/virtualMachineLogs/0/cursor");
    let mut log = listens(&ada, &machine, Some(&cursor)).await;
    types(&ada, &machine, "echo after", "echo after").await;
    assert_eq!(hears(&mut log, "echo after").await, ["echo after"]);
    serves(&ada.machine(&machine).await).await;
    let now: machines::Model = site.row(&machine).await;
    assert_eq!((now.state, now.running_at), (row.state, row.running_at));
    assert_eq!(pid(&site).await, its);
    site.leaves_nothing_of(&ada, &machine).await;
    site.end().await;
}

#[tokio::test]
async fn the_machines_of_two_people_do_not_see_each_other() {
    let site = Site::serving().await;
    let (ada, eve) = (site.person("ada").await, site.person("eve").await);
    let (hers, other) = tokio::join!(running(&ada), running(&eve));
    types(&ada, &hers, "write ada's", "written ada's").await;
    types(&eve, &other, "write eve's", "written eve's").await;
    types(&ada, &hers, "read", "disk has ada's").await;
    let console = |machine: &str| {
        format!("mutation {{ openConsole(input: {{id: \"{machine}\"}}) {{ token }} }}")
    };
    let logs = |machine: &str| format!("{{ virtualMachineLogs(id: \"{machine}\") {{ message }} }}");
    let look = |machine: &str| format!("{{ virtualMachine(id: \"{machine}\") {{ id }} }}");
    for (person, machine) in [(&ada, &other), (&eve, &hers)] {
        for query in [console(machine), logs(machine), look(machine)] {
            assert_eq!(person.ask(&query).await.code(), "NOT_FOUND", "{query}");
        }
        for operation in ["stopVirtualMachine", "deleteVirtualMachine"] {
            let refused = person.with_machine(operation, machine, "").await;
            assert_eq!(refused.code(), "NOT_FOUND", "{operation}");
        }
        let count = person.ask("{ virtualMachines { totalCount } }").await;
        assert_eq!(count.ok("/virtualMachines/totalCount"), 1);
    }
    let gone = eve.with_machine("deleteVirtualMachine", &other, "").await;
    gone.ok("/deleteVirtualMachine");
    reaches(&eve, &other, "DELETED").await;
    types(&ada, &hers, "read", "disk has ada's").await;
    site.leaves_nothing_of(&ada, &hers).await;
    site.end().await;
}
