//! Real machines, through GraphQL: the real binary, on PostgreSQL and Redis, with the guest that `tests/run.sh` builds.

mod faults;
mod kills;
mod life;

use std::{sync::Arc, time::Duration};

use futures_util::SinkExt as _;
use main_webserver::{
    domain::{Entropy, SystemClock},
    store::{Store, connection, machines},
};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{console, id};
use crate::{
    harness::{
        ADMIN_PASSWORD, Ground, Person, client::in_state_within, directory::Directory,
        process::Process, required, socket::Socket, until_within,
    },
    machines::READY,
};

/// How long a guest may take on a processor that is translated and shared.
const BOOT: Duration = Duration::from_secs(60);

/// A deployment on a directory of machines of its own.
struct Site {
    processes: Vec<Process>,
    directory: Directory,
    ground: Ground,
    store: Store,
}

impl Site {
    /// Web and worker in one process.
    async fn serving() -> Self {
        let directory = Directory::new();
        let ground = ground_on(&directory).await;
        Self::of(directory, ground, &["serve"]).await
    }

    /// Starts a process for each of `parts`, the one that serves first, and puts the images.
    async fn of(directory: Directory, ground: Ground, parts: &[&str]) -> Self {
        let mut processes = Vec::new();
        for part in parts {
            processes.push(Box::pin(Process::start(&ground, part)).await);
        }
        let db = Box::pin(connection::open(&ground.load())).await.unwrap();
        let (store, _) = Store::new(db, Arc::new(SystemClock), Arc::new(Entropy::from_os()));
        let site = Self {
            processes,
            directory,
            ground,
            store,
        };
        let anybody = site.anybody();
        let log_in = anybody.log_in("admin@localhost", ADMIN_PASSWORD);
        let admin = Box::pin(log_in).await;
        put_image(&admin, "guest", None).await;
        put_image(&admin, "layered", Some("base.qcow2")).await;
        site
    }

    fn anybody(&self) -> Person {
        self.processes[0].person()
    }

    async fn person(&self, name: &str) -> Person {
        self.anybody().sign_up(name).await
    }

    /// What the database has of a machine.
    async fn row(&self, machine: &str) -> machines::Model {
        let row = machines::unscoped_by_id(self.store.db(), id(machine)).await;
        row.unwrap().unwrap()
    }

    /// Deletes a machine; nothing of it remains: no folder, no process, no socket.
    async fn leaves_nothing_of(&self, person: &Person, machine: &str) {
        let deleted = person
            .with_machine("deleteVirtualMachine", machine, "")
            .await;
        deleted.ok("/deleteVirtualMachine");
        reaches(person, machine, "DELETED").await;
        assert_eq!(self.row(machine).await.state, "deleted");
        let remains = self.directory.remains();
        assert!(remains.is_empty(), "{remains:#?}");
    }

    async fn end(self) {
        drop(self.processes);
        drop(self.store);
        self.ground.clear().await;
    }
}

async fn ground_on(directory: &Directory) -> Ground {
    required("TEST_DATABASE_URL");
    required("TEST_REDIS_URL");
    Ground::new()
        .await
        .with("MACHINE_PROVIDER", "qemu")
        .with("MACHINE_DIR", directory.machines().to_str().unwrap())
        .with("MACHINE_IMAGE_DIR", &required("TEST_QEMU_IMAGES"))
        // The same everywhere.
        .with("MACHINE_ACCEL", "tcg")
        .with("MACHINE_DISK_RESERVE_MEBIBYTES", "0")
        .with("MACHINE_MEMORY_RESERVE_MEBIBYTES", "0")
        .with("RECONCILE_SECONDS", "1")
}

async fn put_image(admin: &Person, slug: &str, disk: Option<&str>) {
    const PUT: &str = "mutation($input: PutMachineImageInput!) { putMachineImage(input: $input) { image { id } } }";
    let input = json!({
        "slug": slug, "name": slug, "disk": disk, "kernel": "vmlinuz", "initrd": "initrd",
        "commandLine": "console=ttyS0 loglevel=4", "readyText": READY, "ports": [8080],
        "cpus": 1, "memoryMebibytes": 128, "diskMebibytes": 32,
    });
    let put = admin.send(PUT, json!({ "input": input })).await;
    put.ok("/putMachineImage");
}

async fn reaches(person: &Person, machine: &str, state: &str) -> Value {
    in_state_within(BOOT, state, async || person.machine(machine).await).await
}

async fn running(person: &Person) -> String {
    let machine = person.new_machine("guest").await.id;
    reaches(person, &machine, "RUNNING").await;
    machine
}

/// Does `operation` with a machine and waits for the end of its task.
async fn done(person: &Person, operation: &str, machine: &str, more: &str) -> Value {
    let asked = person.with_machine(operation, machine, more).await;
    let task = asked.text(&format!("/{operation}/task/id"));
    in_state_within(BOOT, "SUCCEEDED", async || person.task(&task).await).await
}

/// Types a command on a machine's serial console and waits for the answer.
async fn types(person: &Person, machine: &str, command: &str, answer: &str) {
    let ticket = console::token(person, machine, "SERIAL").await;
    let mut open = console::enter(person.address, &ticket).await;
    let line = format!("{command}\n").into_bytes();
    open.send(Message::binary(line)).await.unwrap();
    console::hear(&mut open, answer).await;
    open.close(None).await.unwrap();
}

/// The lines of a machine's console as they come, until one has `text`.
async fn hears(socket: &mut Socket, text: &str) -> Vec<String> {
    let mut said: Vec<String> = Vec::new();
    while !said.iter().any(|line| line.contains(text)) {
        let frame = socket.next().await.unwrap();
        let lines = frame["data"]["virtualMachineLogAdded"].as_array().unwrap();
        said.extend(
            lines
                .iter()
                .map(|line| line["message"].as_str().unwrap().to_owned()),
        );
    }
    said
}

/// What a guest said of itself when it was up, as `word`=….
fn said(lines: &[String], word: &str) -> String {
    let line = lines.iter().rev().find(|line| line.contains(READY));
    let word = format!("{word}=");
    let mut words = line.unwrap().split_whitespace();
    let said = words.find_map(|said| said.strip_prefix(&word));
    said.unwrap().to_owned()
}

/// Its one process.
async fn pid(site: &Site) -> i32 {
    until_within(BOOT, "it has one process", async || {
        let pids = site.directory.pids();
        (pids.len() == 1).then(|| pids[0])
    })
    .await
}
