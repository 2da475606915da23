//! Machines of a libvirt that `tests/run.sh` starts, on the guest that it builds.

use std::{os::unix::fs::PermissionsExt as _, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use main_webserver::{
    domain::{Entropy, Id, id::VirtualMachine},
    providers::{
        Accel, ConsoleKind, Engine as _, Given, Hypervisor as _, Image, Libvirt, LibvirtSettings,
        Start, Status,
    },
};
use tokio_util::sync::CancellationToken;

use super::{
    Inside, READY, Stage,
    typing::{said, typed},
};
use crate::harness::required;

held_to_the_laws!(stage);

/// An engine; all it has is removed with it.
struct Real {
    libvirt: Libvirt,
}

/// Folders of both pools are below this one.
fn folder() -> std::path::PathBuf {
    required("TEST_LIBVIRT_DIRECTORY").into()
}

fn settings() -> LibvirtSettings {
    LibvirtSettings {
        uri: required("TEST_LIBVIRT_URI"),
        pool: "machines".to_owned(),
        image_pool: "images".to_owned(),
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

fn stage() -> Stage {
    stage_of(settings())
}

fn stage_of(settings: LibvirtSettings) -> Stage {
    let libvirt = Libvirt::at(settings);
    let with_disk = |disk: &str| Image {
        disk: Some(disk.to_owned()),
        ..image()
    };
    Stage {
        engine: Arc::new(libvirt.clone()),
        inside: Arc::new(Real { libvirt }),
        image: image(),
        missing: with_disk("none.qcow2"),
        corrupt: with_disk("corrupt.qcow2"),
        entropy: Entropy::from_os(),
    }
}

fn virsh(arguments: &[&str]) -> String {
    let output = std::process::Command::new("virsh")
        .args(["-q", "-c", &required("TEST_LIBVIRT_URI")])
        .args(arguments)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The processes of QEMU of this libvirt, or of one of its machines.
fn processes(of: &str) -> Vec<i32> {
    let here = folder();
    let entries = std::fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let ours = pids.filter(|pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("qemu-system") && line.contains(here.to_str().unwrap()) && line.contains(of)
    });
    ours.collect()
}

impl Drop for Real {
    fn drop(&mut self) {
        for domain in virsh(&["list", "--all", "--name"]).split_whitespace() {
            virsh(&["destroy", domain]);
            virsh(&["undefine", domain, "--snapshots-metadata"]);
        }
        for entry in std::fs::read_dir(folder().join("machines"))
            .unwrap()
            .flatten()
        {
            let _ = std::fs::remove_file(entry.path());
        }
        virsh(&["pool-refresh", "machines"]);
    }
}

#[async_trait]
impl Inside for Real {
    async fn given(&self, id: Id<VirtualMachine>) -> Given {
        let number = async |word| said(&self.libvirt, id, word).await.parse::<u64>().unwrap();
        Given {
            cpus: u16::try_from(number("cpus").await).unwrap(),
            memory_bytes: number("mem").await * 1024,
            disk_bytes: number("disk").await,
        }
    }

    async fn write_disk(&self, id: Id<VirtualMachine>, text: &str) {
        typed(&self.libvirt, id, &format!("write {text}"), "written").await;
    }

    async fn read_disk(&self, id: Id<VirtualMachine>) -> String {
        typed(&self.libvirt, id, "read", "disk has").await
    }

    async fn panic(&self, id: Id<VirtualMachine>) {
        typed(&self.libvirt, id, "panic", "panicking").await;
    }

    async fn ignore_acpi(&self, id: Id<VirtualMachine>) {
        typed(&self.libvirt, id, "ignore-acpi", "ignoring").await;
    }

    async fn end(&self, id: Id<VirtualMachine>) {
        for pid in processes(&id.to_string()) {
            let kill = std::process::Command::new("kill")
                .args(["-9", &pid.to_string()])
                .status();
            assert!(kill.unwrap().success());
        }
    }

    async fn remains(&self) -> Vec<String> {
        let domains = virsh(&["list", "--all", "--name"]);
        let domains = domains.split_whitespace().map(str::to_owned);
        let files = std::fs::read_dir(folder().join("machines")).unwrap();
        let files = files.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let running = processes("").into_iter().map(|pid| pid.to_string());
        domains.chain(files).chain(running).collect()
    }
}

#[tokio::test]
async fn a_guest_is_told_its_name_and_its_secret_and_nobody_else_is() {
    let stage = stage();
    let libvirt = Libvirt::at(settings());
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
    assert_eq!(said(&libvirt, guest.id, "secret").await, digest);
    assert_eq!(said(&libvirt, guest.id, "named").await, "guest-a");
    assert_eq!(said(&libvirt, guest.id, "seeded").await, "yes");
    let name = format!("main-{}", guest.id);
    assert!(!virsh(&["dumpxml", &name, "--security-info"]).contains(&guest.secret_key));
    for kind in ["seed", "secret-key", "qcow2"] {
        let file = folder().join(format!("machines/{name}.{kind}"));
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{kind}");
    }
    stage.remove(guest.id).await;
}

#[tokio::test]
async fn a_disk_is_a_layer_above_its_images() {
    let mut stage = stage();
    stage.image.disk = Some("base.qcow2".to_owned());
    assert_eq!(stage.engine.check(&stage.image).await.unwrap(), 48 << 20);
    let guest = stage.guest();
    stage.up(&guest).await;
    // The image is larger than what was asked for.
    assert_eq!(stage.inside.given(guest.id).await.disk_bytes, 48 << 20);
    assert_eq!(stage.inside.read_disk(guest.id).await, "from the image");
    stage.inside.write_disk(guest.id, "its own").await;
    assert_eq!(stage.inside.read_disk(guest.id).await, "its own");
    stage.remove(guest.id).await;
}

#[tokio::test]
async fn what_is_outside_the_pool_is_no_image() {
    let stage = stage();
    for name in [
        "outside.qcow2",
        "/etc/passwd",
        "../images/../../secret",
        "text.qcow2",
    ] {
        let image = Image {
            disk: Some(name.to_owned()),
            ..image()
        };
        let error = stage.engine.check(&image).await.unwrap_err();
        assert_eq!(error.code(), "NO_SUCH_IMAGE", "{name}: {error}");
    }
}

#[tokio::test]
async fn what_libvirt_does_not_have_is_said() {
    let nowhere = Libvirt::at(LibvirtSettings {
        uri: "qemu:///system?socket=/nowhere".to_owned(),
        ..settings()
    });
    let error = nowhere.ping().await.unwrap_err();
    assert_eq!(error.code(), "ENGINE_UNREACHABLE", "{error}");
    let poolless = Libvirt::at(LibvirtSettings {
        pool: "none".to_owned(),
        ..settings()
    });
    let error = poolless.ping().await.unwrap_err();
    assert_eq!(error.code(), "ENGINE_REJECTED", "{error}");
    assert!(error.to_string().contains("pool-define-as none"), "{error}");
    for poor in [
        LibvirtSettings {
            memory_reserve_bytes: 1 << 50,
            ..settings()
        },
        LibvirtSettings {
            disk_reserve_bytes: 1 << 50,
            ..settings()
        },
    ] {
        let stage = stage_of(poor);
        let error = stage.refusal(&stage.guest()).await;
        assert_eq!(error.code(), "ENGINE_FULL", "{error}");
    }
}

#[tokio::test]
async fn another_worker_finds_what_one_has_started() {
    let stage = stage();
    let guest = stage.guest();
    stage.up(&guest).await;
    let other = Libvirt::at(settings());
    let found = other
        .ensure(&guest, &CancellationToken::new())
        .await
        .unwrap();
    assert_eq!((found.generation, found.status), (1, Status::Ready));
    assert_eq!(processes("").len(), 1);
    other.kill(guest.id).await.unwrap();
    stage.is(guest.id, Status::Off).await;
    // What somebody else has ended is not at rest.
    stage.ensure(&guest).await;
    virsh(&["destroy", &format!("main-{}", guest.id)]);
    stage.is(guest.id, Status::Exited { code: -1 }).await;
    stage.remove(guest.id).await;
}

/// By TCP, as if it were another host: nothing of it is seen but through libvirt.
#[tokio::test]
async fn a_machine_of_another_host_is_managed_through_libvirt_alone() {
    let far = LibvirtSettings {
        uri: required("TEST_LIBVIRT_FAR_URI"),
        ..settings()
    };
    let stage = stage_of(far.clone());
    let libvirt = Libvirt::at(far);
    let mut guest = stage.guest();
    guest.image.disk = Some("base.qcow2".to_owned());
    let ready = stage.up(&guest).await;
    let page = crate::harness::HTTP
        .get(format!("http://127.0.0.1:{}/", ready.ports[&8080]))
        .send()
        .await;
    assert!(page.unwrap().text().await.unwrap().contains("guest-a"));
    assert_eq!(
        said(&libvirt, guest.id, "disk").await,
        (48 << 20).to_string()
    );
    let mut lines = libvirt.follow(guest.id, Start::Last(1));
    let first = lines.next().await.unwrap();
    assert!(first.text.contains(READY), "{first:?}");
    let refused = libvirt.console(guest.id, ConsoleKind::Serial).await;
    assert_eq!(
        refused.err().map(|error| error.code()),
        Some("ENGINE_REJECTED")
    );
    stage.power_off(guest.id).await;
    stage.up(&guest).await;
    let again = lines.by_ref().filter(|line| {
        let is_ready = line.text.contains(READY);
        std::future::ready(is_ready)
    });
    let mut again = Box::pin(again);
    assert!(again.next().await.unwrap().mark > first.mark);
    for image in ["none.qcow2", "outside.qcow2", "/etc/passwd"] {
        let image = Image {
            disk: Some(image.to_owned()),
            ..stage.image.clone()
        };
        let error = libvirt.check(&image).await.unwrap_err();
        assert_eq!(error.code(), "NO_SUCH_IMAGE", "{error}");
    }
    libvirt
        .remove(guest.id, Duration::from_secs(20))
        .await
        .unwrap();
    assert!(again.next().await.is_none());
    stage.remove(guest.id).await;
}
