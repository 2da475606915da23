//! What a host has no room for, and what it has.

use std::sync::Arc;

use main_webserver::providers::{Accel, Qemu, QemuSettings, Status};
use tokio_util::sync::CancellationToken;

use super::{Stage, real, settings, stage_of};
use crate::harness::directory::Small;

#[tokio::test]
async fn too_little_memory_is_said_and_leaves_nothing() {
    let host = real();
    let poor = QemuSettings {
        memory_reserve_bytes: 1 << 50,
        ..settings(host.directory.path())
    };
    let stage = Stage {
        engine: Arc::new(Qemu::at(poor)),
        ..stage_of(host)
    };
    let error = stage.refusal(&stage.guest()).await;
    assert_eq!(error.code(), "ENGINE_FULL", "{error}");
    // A machine that is there already keeps its disk.
    let rich = stage_of(real());
    let mut guest = rich.guest();
    rich.ensure(&guest).await;
    rich.engine.kill(guest.id).await.unwrap();
    guest.memory_bytes = 1 << 50;
    let go = CancellationToken::new();
    let error = rich.engine.ensure(&guest, &go).await.unwrap_err();
    assert_eq!(error.code(), "ENGINE_FULL", "{error}");
    rich.is(guest.id, Status::Off).await;
    rich.remove(guest.id).await;
}

#[tokio::test]
async fn a_full_disk_is_said_and_leaves_nothing() {
    for kibibytes in [32, 64, 128, 200] {
        let real = real();
        let _small = Small::at(real.directory.machines(), kibibytes).await;
        let stage = stage_of(real);
        let error = stage.refusal(&stage.guest()).await;
        assert_eq!(error.code(), "ENGINE_FULL", "{kibibytes}: {error}");
    }
    let real = real();
    let reserved = QemuSettings {
        disk_reserve_bytes: 1 << 50,
        ..settings(real.directory.path())
    };
    let stage = Stage {
        engine: Arc::new(Qemu::at(reserved)),
        ..stage_of(real)
    };
    let error = stage.refusal(&stage.guest()).await;
    assert_eq!(error.code(), "ENGINE_FULL", "{error}");
}

#[tokio::test]
async fn a_port_that_is_taken_meanwhile_is_another_then() {
    let real = real();
    let stage = stage_of(real);
    let guest = stage.guest();
    let first = stage.ensure(&guest).await.ports[&8080];
    stage.engine.kill(guest.id).await.unwrap();
    let _taken = std::net::TcpListener::bind(("127.0.0.1", first)).unwrap();
    let second = stage.ensure(&guest).await.ports[&8080];
    assert_ne!(first, second);
    stage.remove(guest.id).await;
}

#[tokio::test]
async fn a_processor_is_found_whatever_the_host_has() {
    let real = real();
    let auto = QemuSettings {
        accel: Accel::Auto,
        ..settings(real.directory.path())
    };
    let stage = Stage {
        engine: Arc::new(Qemu::at(auto)),
        ..stage_of(real)
    };
    let guest = stage.guest();
    stage.up(&guest).await;
    stage.remove(guest.id).await;
}
