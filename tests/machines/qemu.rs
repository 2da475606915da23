//! Real machines, on the guest that `tests/run.sh` builds.

mod room;
mod workers;

use std::{os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use main_webserver::{
    domain::{Entropy, Id, id::VirtualMachine},
    providers::{Accel, Given, Image, Qemu, QemuSettings},
};

use super::{
    Inside, READY, Stage,
    typing::{said, typed},
};
use crate::harness::{directory::Directory, required};

const BOOT: Duration = Duration::from_secs(60);

held_to_the_laws!(stage);

/// An engine with a directory of its own.
struct Real {
    qemu: Qemu,
    directory: Directory,
}

fn settings(directory: &Path) -> QemuSettings {
    QemuSettings {
        directory: directory.join("machines"),
        images: required("TEST_QEMU_IMAGES").into(),
        // The same everywhere.
        accel: Accel::Tcg,
        disk_reserve_bytes: 0,
        memory_reserve_bytes: 0,
    }
}

fn image() -> Image {
    Image {
        disk: None,
        kernel: Some("vmlinuz".to_owned()),
        initrd: Some("initrd".to_owned()),
        command_line: "console=ttyS0 loglevel=4".to_owned(),
        ready_text: Some(READY.to_owned()),
    }
}

fn real() -> Arc<Real> {
    let directory = Directory::new();
    let qemu = Qemu::at(settings(directory.path()));
    Arc::new(Real { qemu, directory })
}

fn stage() -> Stage {
    stage_of(real())
}

fn stage_of(real: Arc<Real>) -> Stage {
    let with_disk = |disk: &str| Image {
        disk: Some(disk.to_owned()),
        ..image()
    };
    Stage {
        engine: Arc::new(real.qemu.clone()),
        inside: real,
        image: image(),
        missing: with_disk("none.qcow2"),
        corrupt: with_disk("corrupt.qcow2"),
        entropy: Entropy::from_os(),
    }
}

#[async_trait]
impl Inside for Real {
    async fn given(&self, id: Id<VirtualMachine>) -> Given {
        let kibibytes: u64 = said(&self.qemu, id, "mem").await.parse().unwrap();
        Given {
            cpus: said(&self.qemu, id, "cpus").await.parse().unwrap(),
            memory_bytes: kibibytes * 1024,
            disk_bytes: said(&self.qemu, id, "disk").await.parse().unwrap(),
        }
    }

    async fn write_disk(&self, id: Id<VirtualMachine>, text: &str) {
        typed(&self.qemu, id, &format!("write {text}"), "written").await;
    }

    async fn read_disk(&self, id: Id<VirtualMachine>) -> String {
        typed(&self.qemu, id, "read", "disk has").await
    }

    async fn panic(&self, id: Id<VirtualMachine>) {
        typed(&self.qemu, id, "panic", "panicking").await;
    }

    async fn ignore_acpi(&self, id: Id<VirtualMachine>) {
        typed(&self.qemu, id, "ignore-acpi", "ignoring").await;
    }

    async fn end(&self, _id: Id<VirtualMachine>) {
        self.directory.kill();
    }

    async fn remains(&self) -> Vec<String> {
        self.directory.remains()
    }
}

#[tokio::test]
async fn a_guest_is_told_its_name_and_its_secret_and_nobody_else_is() {
    let real = real();
    let stage = stage_of(real.clone());
    let guest = stage.guest();
    stage.up(&guest).await;
    let digest = {
        use sha2::Digest as _;
        let whole = sha2::Sha256::digest(guest.secret_key.as_bytes());
        format!(
            "{:016x}",
            u64::from_be_bytes(whole[..8].try_into().unwrap())
        )
    };
    // By the firmware, and on the disk labelled for NoCloud.
    assert_eq!(said(&real.qemu, guest.id, "secret").await, digest);
    assert_eq!(said(&real.qemu, guest.id, "named").await, "guest-a");
    assert_eq!(said(&real.qemu, guest.id, "seeded").await, "yes");
    let (_, line) = real.directory.processes().pop().unwrap();
    assert!(!line.contains(&guest.secret_key), "{line}");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let folder = real.directory.folder_of(guest.id);
    assert_eq!(mode(&folder), 0o700);
    for file in [
        "seed/user-data",
        "seed/meta-data",
        "firmware/secret-key",
        "machine.json",
    ] {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
    }
    stage.remove(guest.id).await;
}

#[tokio::test]
async fn a_disk_is_a_layer_above_its_images() {
    let real = real();
    let mut stage = stage_of(real);
    stage.image.disk = Some("base.qcow2".to_owned());
    assert_eq!(stage.engine.check(&stage.image).await.unwrap(), 48 << 20);
    let guest = stage.guest();
    stage.up(&guest).await;
    // The image is larger than what was asked for.
    assert_eq!(stage.inside.given(guest.id).await.disk_bytes, 48 << 20);
    assert_eq!(stage.inside.read_disk(guest.id).await, "from the image");
    stage.inside.write_disk(guest.id, "its own").await;
    // Another machine of the image has nothing of that, at the same time.
    let other = stage.guest();
    stage.up(&other).await;
    assert_eq!(stage.inside.read_disk(other.id).await, "from the image");
    assert_eq!(stage.inside.read_disk(guest.id).await, "its own");
    stage.engine.remove(other.id, Duration::ZERO).await.unwrap();
    stage.remove(guest.id).await;
}

#[tokio::test]
async fn an_image_with_a_layer_outside_the_folder_is_none() {
    let stage = stage();
    for name in [
        "outside.qcow2",
        "/etc/passwd",
        "../images/../../secret",
        "text.qcow2",
    ] {
        let image = Image {
            disk: Some(name.to_owned()),
            ..stage.image.clone()
        };
        let error = stage.engine.check(&image).await.unwrap_err();
        assert_eq!(error.code(), "NO_SUCH_IMAGE", "{name}: {error}");
    }
}
