//! Two hosts with a worker and an engine each: whoever takes a task, the machine's own host works on it.

use std::sync::Arc;

use main_webserver::{
    app::{App, Role, Seams},
    domain::{Entropy, SystemClock},
    providers::{Address, Engine as _, Engines, Providers, SimulatedMachines, Status},
};

use super::{id, start, stop};
use crate::harness::{QUICK, World, until};

/// A worker on a host of its own.
async fn host(world: &mut World, name: &str) -> Arc<SimulatedMachines> {
    let seed = name.bytes().map(u64::from).sum();
    let engine = SimulatedMachines::new(
        Arc::new(SystemClock),
        Arc::new(Entropy::seeded(seed)),
        QUICK,
    );
    let engine = Arc::new(engine);
    again(world, name, &engine).await;
    engine
}

/// A worker on a host whose machines are there.
async fn again(world: &mut World, name: &str, engine: &Arc<SimulatedMachines>) {
    let own = Address {
        provider: "simulated-machines".to_owned(),
        endpoint: Some(name.to_owned()),
    };
    let providers = Providers {
        machines: Engines::alone(own, engine.clone()),
        ..Providers::of(world.engine.clone(), engine.clone())
    };
    let seams = Seams {
        providers: Some(providers),
        ..Seams::default()
    };
    let role = if world.apps.is_empty() {
        Role::WebAndWorker
    } else {
        Role::Worker
    };
    let app = App::start(&world.ground.configuration().await, seams, role)
        .await
        .unwrap();
    world.apps.push(app);
}

#[tokio::test]
async fn each_machine_is_worked_on_where_it_is() {
    // One process with two parts needs a queue between them.
    if std::env::var("TEST_REDIS_URL").is_err() {
        return;
    }
    let ground = crate::harness::Ground::new()
        .await
        .with("RECONCILE_SECONDS", "1")
        .with("HEARTBEAT_SECONDS", "1")
        .with("HOST_STALE_SECONDS", "3");
    let mut world = World::on(ground, QUICK, &[]).await;
    let (west, east) = (
        host(&mut world, "west").await,
        host(&mut world, "east").await,
    );
    world.add_image("tiny", "tiny.qcow2").await;
    let ada = world.person("ada").await;
    let mut made = Vec::new();
    for _ in 0..6 {
        made.push(ada.running_machine().await);
    }
    let on = async |engine: &SimulatedMachines, machine: &str| {
        engine
            .inspect(id(machine))
            .await
            .unwrap()
            .map(|there| there.status)
    };
    for machine in &made {
        let there = (on(&west, machine).await, on(&east, machine).await);
        let is_on_one = matches!(
            there,
            (Some(Status::Ready), None) | (None, Some(Status::Ready))
        );
        assert!(is_on_one, "{there:?}");
    }
    // The other host's looks do not take what they do not see for lost.
    until("both have looked", async || {
        let engines = world.admin().await.ask("{ engines(filter: {provider: {eq: \"simulated-machines\"}}) { nodes { endpoint instances } } }").await;
        let seen = engines.ok("/engines/nodes");
        let count: i64 = seen.as_array().unwrap().iter().map(|at| at["instances"].as_i64().unwrap()).sum();
        (count == 6).then_some(())
    })
    .await;
    for machine in &made {
        assert_eq!(ada.machine(machine).await["state"], "RUNNING");
        stop(&ada, machine).await;
        let there = (on(&west, machine).await, on(&east, machine).await);
        assert!(
            matches!(there, (Some(Status::Off), None) | (None, Some(Status::Off))),
            "{there:?}"
        );
    }
    start(&ada, &made[0]).await;

    // A host whose worker is gone: nobody can tell how its machines are, until it is back.
    for machine in &made[1..] {
        start(&ada, machine).await;
    }
    let of_east = east.list().await.unwrap();
    world.apps.pop().unwrap().stop().await;
    for machine in &made {
        let is_east = of_east.iter().any(|there| there.id == id(machine));
        let state = if is_east { "UNKNOWN" } else { "RUNNING" };
        ada.machine_in(machine, state).await;
    }
    again(&mut world, "east", &east).await;
    for machine in &made {
        ada.machine_in(machine, "RUNNING").await;
    }
    for machine in &made {
        ada.with_machine("deleteVirtualMachine", machine, "")
            .await
            .ok("/deleteVirtualMachine");
        ada.machine_in(machine, "DELETED").await;
    }
    assert!(west.list().await.unwrap().is_empty() && east.list().await.unwrap().is_empty());
    world.stop().await;
}
