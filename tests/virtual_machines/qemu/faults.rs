//! What goes wrong with real machines, and how each ends.

use serde_json::json;

use super::{BOOT, Site, done, ground_on, pid, reaches, running, types};
use crate::{
    harness::{
        directory::{Directory, Small, kill},
        until_within,
    },
    virtual_machines::up_since,
};

#[tokio::test]
async fn a_guest_that_panics_has_failed_and_starts_again() {
    let site = Site::serving().await;
    let ada = site.person("ada").await;
    let machine = running(&ada).await;
    types(&ada, &machine, "panic", "panicking").await;
    let failed = reaches(&ada, &machine, "FAILED").await;
    assert_eq!(failed["failure"]["code"], "GUEST_PANICKED", "{failed}");
    until_within(BOOT, "its process is ended", async || {
        site.directory.processes().is_empty().then_some(())
    })
    .await;
    done(&ada, "startVirtualMachine", &machine, "").await;
    assert_eq!(ada.machine(&machine).await["state"], "RUNNING");
    site.leaves_nothing_of(&ada, &machine).await;
    site.end().await;
}

#[tokio::test]
async fn a_machine_killed_from_outside_runs_again_with_its_disk() {
    let site = Site::serving().await;
    let ada = site.person("ada").await;
    let machine = running(&ada).await;
    types(&ada, &machine, "write kept", "written kept").await;
    up_since(&site.store, &machine, 60).await;
    let first = pid(&site).await;
    let before = site.row(&machine).await.running_at;
    kill(first);
    until_within(BOOT, "it has come up once more", async || {
        let row = site.row(&machine).await;
        (row.state == "running" && row.running_at != before).then_some(())
    })
    .await;
    assert_ne!(pid(&site).await, first);
    types(&ada, &machine, "read", "disk has kept").await;
    site.leaves_nothing_of(&ada, &machine).await;
    site.end().await;
}

#[tokio::test]
async fn a_guest_that_ignores_its_power_button_is_ended_after_its_grace() {
    let site = Site::serving().await;
    let ada = site.person("ada").await;
    let machine = running(&ada).await;
    types(&ada, &machine, "ignore-acpi", "ignoring").await;
    let stopped = done(&ada, "stopVirtualMachine", &machine, ", graceSeconds: 3").await;
    assert_eq!(stopped["result"]["graceful"], false, "{stopped}");
    let row = site.row(&machine).await;
    assert_eq!(row.state, "stopped");
    assert!(site.directory.processes().is_empty());
    site.leaves_nothing_of(&ada, &machine).await;
    site.end().await;
}

/// A create on a directory of so little room fails after its attempts and leaves nothing.
async fn there_is_no_room_on(kibibytes: u32, reserve: &str) {
    let directory = Directory::new();
    let _small = Small::at(directory.machines(), kibibytes).await;
    let ground = ground_on(&directory)
        .await
        .with("MACHINE_DISK_RESERVE_MEBIBYTES", reserve);
    let site = Site::of(directory, ground, &["serve"]).await;
    let ada = site.person("ada").await;
    let created = ada.new_machine("guest").await;
    let failed = reaches(&ada, &created.id, "FAILED").await;
    assert_eq!(failed["failure"]["code"], "ENGINE_FULL", "{failed}");
    let task = ada.task_in(&created.task, "FAILED").await;
    assert_eq!(
        (&task["error"]["code"], &task["attempt"]),
        (&json!("ENGINE_FULL"), &json!(5))
    );
    let remains = site.directory.remains();
    assert!(remains.is_empty(), "{remains:#?}");
    site.leaves_nothing_of(&ada, &created.id).await;
    site.end().await;
}

#[tokio::test]
async fn a_disk_with_less_than_its_reserve_takes_no_machine() {
    there_is_no_room_on(8 << 10, "16").await;
}

#[tokio::test]
async fn a_disk_that_is_full_takes_no_machine() {
    there_is_no_room_on(128, "0").await;
}
