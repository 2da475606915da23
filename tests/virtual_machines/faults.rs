//! What goes wrong with machines, and how each ends.

use main_webserver::providers::{Engine as _, Status};
use serde_json::json;

use super::{id, start, stop, up_since};
use crate::harness::{World, until};

#[tokio::test]
async fn a_machine_whose_process_is_killed_runs_again_with_its_disk_but_not_without_end() {
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    world.machines.write_disk(id(&machine), "kept");
    up_since(world.store(), &machine, 60).await;
    world.machines.end(id(&machine), 137);
    // This look finds it, or the one at what its start told, which may come late.
    world.reconcile().await;
    until("it is up again", async || {
        let there = world.machines.inspect(id(&machine)).await.unwrap()?;
        (there.status == Status::Ready).then_some(())
    })
    .await;
    ada.machine_in(&machine, "RUNNING").await;
    assert_eq!(world.machines.read_disk(id(&machine)).unwrap(), "kept");
    // Killed as soon as it is up: it is not started over and over.
    world.machines.end(id(&machine), 137);
    world.reconcile().await;
    let failed = ada.machine_in(&machine, "FAILED").await;
    assert_eq!(failed["failure"]["code"], "EXITED", "{failed}");
    start(&ada, &machine).await;
    assert_eq!(world.machines.read_disk(id(&machine)).unwrap(), "kept");
    world.stop().await;
}

#[tokio::test]
async fn a_guest_that_powers_off_is_stopped_and_one_that_panics_has_failed() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let (off, panicked) = (ada.running_machine().await, ada.running_machine().await);
    main_webserver::providers::Hypervisor::power_off(&*world.machines, id(&off))
        .await
        .unwrap();
    let stopped = ada.machine_in(&off, "STOPPED").await;
    assert!(stopped["failure"].is_null(), "{stopped}");
    start(&ada, &off).await;

    world.machines.panic(id(&panicked));
    let failed = ada.machine_in(&panicked, "FAILED").await;
    assert_eq!(failed["failure"]["code"], "GUEST_PANICKED");
    let reason = failed["failure"]["reason"].as_str().unwrap();
    assert!(reason.contains("Kernel panic"), "{reason}");
    start(&ada, &panicked).await;
    world.stop().await;
}

#[tokio::test]
async fn a_machine_whose_disk_is_gone_has_failed_and_is_not_made_anew() {
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    up_since(world.store(), &machine, 60).await;
    world.machines.lose(id(&machine));
    // A row that has just changed is left alone.
    tokio::time::timeout(crate::harness::PATIENCE, async {
        loop {
            world.reconcile().await;
            if ada.machine(&machine).await["state"] == "FAILED" {
                break;
            }
        }
    })
    .await
    .unwrap();
    let failed = ada.machine(&machine).await;
    assert_eq!(failed["failure"]["code"], "VANISHED", "{failed}");
    assert!(world.machines.list().await.unwrap().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn what_runs_and_should_not_is_ended_and_what_no_row_knows_is_left_for_long() {
    let world = World::quiet().await;
    let ada = world.person("ada").await;
    let machine = ada.running_machine().await;
    stop(&ada, &machine).await;
    // As a late answer of an engine would leave it.
    let guest = crate::harness::machines::guest_of(id(&machine), &world.keyring().deployment());
    let engine = &*world.machines;
    let go = tokio_util::sync::CancellationToken::new();
    main_webserver::providers::Hypervisor::ensure(engine, &guest, &go)
        .await
        .unwrap();
    until("it is ended", async || {
        world.reconcile().await;
        let status = engine.inspect(id(&machine)).await.unwrap().unwrap().status;
        (status == Status::Off).then_some(())
    })
    .await;
    assert_eq!(ada.machine(&machine).await["state"], "STOPPED");

    let stranger = main_webserver::domain::Id::new(uuid::Uuid::from_u128(5));
    let guest = crate::harness::machines::guest_of(stranger, &world.keyring().deployment());
    main_webserver::providers::Hypervisor::ensure(engine, &guest, &go)
        .await
        .unwrap();
    let looked = world.reconcile().await;
    let found = looked.to_string();
    assert!(
        found.contains("ORPHAN") && found.contains("WAIT"),
        "{found}"
    );
    assert!(engine.inspect(stranger).await.unwrap().is_some());
    world.stop().await;
}

#[tokio::test]
async fn a_machine_deleted_while_it_is_made_leaves_nothing() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    for delay in [0, 5, 20, 60] {
        let machine = ada.new_machine("tiny").await.id;
        crate::harness::nap(delay).await;
        ada.with_machine("deleteVirtualMachine", &machine, "")
            .await
            .ok("/deleteVirtualMachine");
        ada.machine_in(&machine, "DELETED").await;
    }
    until("nothing is left", async || {
        world
            .machines
            .list()
            .await
            .unwrap()
            .is_empty()
            .then_some(())
    })
    .await;
    world.stop().await;
}

#[tokio::test]
async fn an_engine_that_is_away_keeps_a_machine_waiting() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    world.machines.set_away(true);
    let created = ada.new_machine("tiny").await;
    until("an attempt has failed", async || {
        let task = ada.task(&created.task).await;
        (task["failures"] != json!(0)).then_some(())
    })
    .await;
    world.machines.set_away(false);
    ada.machine_in(&created.id, "RUNNING").await;
    world.stop().await;
}
