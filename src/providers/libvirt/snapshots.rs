//! Snapshots inside a machine's disk, without its memory.
//!
//! libvirt keeps a snapshot of a running machine only together with its memory, or outside the disk. So QEMU is told to
//! keep one, and libvirt is then told that it is there, as one of a machine that is off; from there on it is like any other.

use serde_json::{Value, json};

use super::{
    host::Host,
    look::Found,
    virsh::{failed, rejected},
};
use crate::{
    domain::{
        Id,
        id::{Snapshot, VirtualMachine},
    },
    providers::{ProviderError, instance_name},
};

const GONE: &[&str] = &[
    "failed to get domain",
    "Domain not found",
    "Domain snapshot not found",
];

impl Host {
    pub(super) async fn snapshot(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let _lock = self.lock(id).await?;
        let found = self.there(id).await?;
        let (domain, name) = (instance_name(id), snapshot.to_string());
        if self.has_snapshot(&domain, &name).await? {
            return Ok(());
        }
        if found.has_process() {
            self.keep_running(&found, &name).await?;
            return self.make_known(&domain, snapshot).await;
        }
        let create = ["snapshot-create-as", &domain, &name, "--atomic"];
        self.virsh.ask(&create).await.map(drop)
    }

    pub(super) async fn restore(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let _lock = self.lock(id).await?;
        let found = self.there(id).await?;
        if found.has_process() {
            return Err(rejected("it runs".to_owned()));
        }
        let (domain, name) = (instance_name(id), snapshot.to_string());
        if !self.has_snapshot(&domain, &name).await? {
            return Err(rejected(format!("it has no snapshot {name}")));
        }
        // What is written into the domain is of now, not of then.
        let definition = self.virsh.ask(&["dumpxml", "--inactive", &domain]).await?;
        let reverted = self.virsh.ask(&["snapshot-revert", &domain, &name]).await;
        self.define(&definition).await?;
        reverted.map(drop)
    }

    pub(super) async fn forget_snapshot(
        &self,
        id: Id<VirtualMachine>,
        snapshot: Id<Snapshot>,
    ) -> Result<(), ProviderError> {
        let _lock = self.lock(id).await?;
        let delete = ["snapshot-delete", &instance_name(id), &snapshot.to_string()];
        self.virsh.tried(&delete, GONE).await.map(drop)
    }

    async fn there(&self, id: Id<VirtualMachine>) -> Result<Found, ProviderError> {
        super::look::find(&self.virsh, id)
            .await?
            .ok_or_else(|| rejected("there is no such machine".to_owned()))
    }

    async fn has_snapshot(&self, domain: &str, name: &str) -> Result<bool, ProviderError> {
        let listed = self.virsh.ask(&["snapshot-list", domain, "--name"]).await?;
        Ok(listed.lines().any(|line| line.trim() == name))
    }

    /// Has QEMU keep it, unless it does already.
    async fn keep_running(&self, found: &Found, name: &str) -> Result<(), ProviderError> {
        let disk = self.places(found.id).await?.file("qcow2");
        let domain = instance_name(found.id);
        let question = json!({ "execute": "query-named-block-nodes" });
        let nodes = self.monitor(&domain, &question).await?;
        let is_disk = |node: &&Value| node["drv"] == "qcow2" && node["file"] == *disk;
        let node = nodes
            .as_array()
            .and_then(|nodes| nodes.iter().find(is_disk));
        let node = node.ok_or_else(|| failed("it has no disk".to_owned()))?;
        let kept = node["image"]["snapshots"].as_array().into_iter().flatten();
        if kept.into_iter().any(|known| known["name"] == *name) {
            return Ok(());
        }
        let arguments = json!({ "device": node["node-name"], "name": name });
        let keep = json!({ "execute": "blockdev-snapshot-internal-sync", "arguments": arguments });
        self.monitor(&domain, &keep).await.map(drop)
    }

    /// Tells libvirt of a snapshot that the disk has.
    async fn make_known(&self, domain: &str, snapshot: Id<Snapshot>) -> Result<(), ProviderError> {
        // libvirt reads none without a time; its id has one, in seconds since 1970.
        let made = snapshot.uuid().get_timestamp();
        let made = made.map_or(0, |time| time.to_unix().0).max(1);
        let definition = self.virsh.ask(&["dumpxml", "--inactive", domain]).await?;
        let xml = format!(
            "<domainsnapshot><name>{snapshot}</name><state>shutoff</state><creationTime>{made}</creationTime><memory snapshot='no'/>\
             <disks><disk name='vda' snapshot='internal'/><disk name='vdb' snapshot='no'/></disks>\
             {definition}</domainsnapshot>"
        );
        let create = ["snapshot-create", domain, "/dev/stdin", "--redefine"];
        self.virsh.give(&create, xml.as_bytes()).await
    }

    /// What QEMU answers to a command of its own.
    async fn monitor(&self, domain: &str, command: &Value) -> Result<Value, ProviderError> {
        let told = ["qemu-monitor-command", domain, &command.to_string()];
        let text = self.virsh.ask(&told).await?;
        let mut answer: Value = serde_json::from_str(&text)
            .map_err(|error| failed(format!("what QEMU answers cannot be read: {error}")))?;
        match answer.get("error") {
            Some(error) => Err(failed(format!("QEMU refused: {}", error["desc"]))),
            None => Ok(answer["return"].take()),
        }
    }
}
