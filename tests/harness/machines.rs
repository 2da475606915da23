//! Virtual machines as their owners ask for them.

use main_webserver::{
    domain::{Id, id::VirtualMachine},
    providers::{Guest, Image},
    store::{apps::Ports, images},
};
use sea_orm::ActiveValue::Set;
use serde_json::{Value, json};

use super::{Person, Reply, World};

/// What tests ask about a machine.
const FIELDS: &str = "id name state version cpus memoryMebibytes diskMebibytes provider ip ports { inside published } \
    usage { cpuMilliseconds memoryMebibytes diskMebibytes } failure { code reason } runningAt endedAt";

/// What an engine is asked for behind the service's back.
pub fn guest_of(id: Id<VirtualMachine>, deployment: &str) -> Guest {
    Guest {
        id,
        generation: 1,
        deployment: deployment.to_owned(),
        image: Image {
            disk: Some("tiny.qcow2".to_owned()),
            kernel: None,
            initrd: None,
            command_line: String::new(),
            ready_text: None,
        },
        cpus: 1,
        memory_bytes: 64 << 20,
        disk_bytes: 64 << 20,
        host_name: "box".to_owned(),
        ssh_keys: Vec::new(),
        secret_key: "secret".to_owned(),
        ports: Vec::new(),
        publish_address: [127, 0, 0, 1].into(),
    }
}

/// A machine that has been asked for.
pub struct CreatedMachine {
    pub id: String,
    pub task: String,
    pub secret_key: String,
}

impl World {
    pub async fn add_image(&self, slug: &str, disk: &str) {
        let image = images::ActiveModel {
            name: Set(slug.to_owned()),
            description: Set("For tests.".to_owned()),
            disk: Set(Some(disk.to_owned())),
            kernel: Set(None),
            initrd: Set(None),
            command_line: Set(String::new()),
            ready_text: Set(None),
            ports: Set(Ports(vec![8080])),
            cpus: Set(1),
            memory_bytes: Set(64 << 20),
            disk_bytes: Set(64 << 20),
            active: Set(true),
            ..Default::default()
        };
        let mut tx = self.store().begin().await.unwrap();
        images::put(&mut tx, image, slug).await.unwrap();
        tx.commit().await.unwrap();
    }
}

impl Person {
    pub async fn ask_for_machine(&self, image: &str) -> Reply {
        let input = json!({ "name": "box", "image": image, "region": "us-west-2" });
        self.create_machine(input).await
    }

    pub async fn create_machine(&self, input: Value) -> Reply {
        const CREATE: &str = "mutation($input: CreateVirtualMachineInput!) { createVirtualMachine(input: $input) { virtualMachine { id } task { id } secretKey } }";
        self.send(CREATE, json!({ "input": input })).await
    }

    /// A machine that is on its way.
    pub async fn new_machine(&self, image: &str) -> CreatedMachine {
        let reply = self.ask_for_machine(image).await;
        CreatedMachine {
            id: reply.text("/createVirtualMachine/virtualMachine/id"),
            task: reply.text("/createVirtualMachine/task/id"),
            secret_key: reply.text("/createVirtualMachine/secretKey"),
        }
    }

    /// A machine that runs.
    pub async fn running_machine(&self) -> String {
        let id = self.new_machine("tiny").await.id;
        self.machine_in(&id, "RUNNING").await;
        id
    }

    pub async fn machine(&self, id: &str) -> Value {
        let query = format!("{{ virtualMachine(id: \"{id}\") {{ {FIELDS} }} }}");
        self.ask(&query).await.ok("/virtualMachine")
    }

    pub async fn machine_in(&self, id: &str, state: &str) -> Value {
        super::client::in_state(state, async || self.machine(id).await).await
    }

    /// Does `operation` with a machine, with more of its input.
    pub async fn with_machine(&self, operation: &str, id: &str, more: &str) -> Reply {
        let selection = if operation == "resizeVirtualMachine" {
            "virtualMachine { id state }"
        } else {
            "virtualMachine { id state } task { id }"
        };
        self.ask(&format!(
            "mutation {{ {operation}(input: {{id: \"{id}\"{more}}}) {{ {selection} }} }}"
        ))
        .await
    }

    /// A snapshot of a machine, once it is ready.
    pub async fn snapshot_of(&self, machine: &str, name: &str) -> String {
        let take = format!(
            "mutation {{ snapshotVirtualMachine(input: {{id: \"{machine}\", name: \"{name}\"}}) {{ snapshot {{ id }} task {{ id }} }} }}"
        );
        let taken = self.ask(&take).await;
        let id = taken.text("/snapshotVirtualMachine/snapshot/id");
        self.snapshot_in(&id, "READY").await;
        id
    }

    pub async fn snapshot_in(&self, id: &str, state: &str) -> Value {
        let query = format!("{{ snapshot(id: \"{id}\") {{ id name state failure {{ code }} }} }}");
        super::client::in_state(state, async || self.ask(&query).await.ok("/snapshot")).await
    }
}
