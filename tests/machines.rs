//! What every engine of virtual machines has to do, whichever it is; `qemu.rs` and `libvirt.rs` hold real ones to it.

mod laws;
mod typing;

/// Every law as a test of its own, on a new stage.
macro_rules! held_to_the_laws {
    ($stage:path: $($law:ident),* $(,)?) => {
        $(
            #[tokio::test]
            async fn $law() {
                $crate::machines::laws::$law(&$stage()).await;
            }
        )*
    };
    ($stage:path) => {
        held_to_the_laws!($stage:
            a_machine_comes_up_once_and_leaves_nothing,
            an_ended_guest_starts_with_what_it_is_to_have_now,
            a_snapshot_gives_back_what_it_kept,
            what_is_no_image_is_its_own_error_and_leaves_nothing,
            a_crash_is_seen_and_its_disk_is_kept,
            a_guest_that_ignores_its_button_runs_until_it_is_killed,
            a_panic_is_seen,
            a_console_answers_and_a_log_is_followed_over_a_restart,
            eight_at_once_make_one_machine,
            events_tell_of_a_machine,
            a_stop_before_the_start_leaves_nothing,
            a_new_generation_replaces_an_old_one,
            what_is_not_there_is_ended_and_removed_all_the_same,
        );
    };
}

mod libvirt;
mod qemu;

use std::sync::Arc;

use async_trait::async_trait;
use main_webserver::{
    domain::{Entropy, Id, SystemClock, id::VirtualMachine},
    providers::{Given, Guest, Hypervisor, Image, SimulatedMachines, Status},
};

use crate::harness::QUICK;

/// An engine, and what its guests do when a test asks them.
pub struct Stage {
    pub engine: Arc<dyn Hypervisor>,
    pub inside: Arc<dyn Inside>,
    /// Boots, says that it is ready, and serves HTTP on port 8080.
    pub image: Image,
    pub missing: Image,
    pub corrupt: Image,
    pub entropy: Entropy,
}

/// What a guest does of its own, or is done to it behind the engine's back.
#[async_trait]
pub trait Inside: Send + Sync {
    /// What the guest sees of what it was given.
    async fn given(&self, id: Id<VirtualMachine>) -> Given;
    async fn write_disk(&self, id: Id<VirtualMachine>, text: &str);
    async fn read_disk(&self, id: Id<VirtualMachine>) -> String;
    async fn panic(&self, id: Id<VirtualMachine>);
    async fn ignore_acpi(&self, id: Id<VirtualMachine>);
    /// Ends the machine as a crash would.
    async fn end(&self, id: Id<VirtualMachine>);
    /// What is left of the engine's things: empty when all are removed.
    async fn remains(&self) -> Vec<String>;
}

/// What a guest's console says when it is up.
pub const READY: &str = "guest ready";

impl Stage {
    /// A machine of this stage that is not there yet.
    pub fn guest(&self) -> Guest {
        Guest {
            id: self.entropy.id(chrono::DateTime::UNIX_EPOCH),
            generation: 1,
            deployment: "conformance".to_owned(),
            image: self.image.clone(),
            cpus: 1,
            memory_bytes: 128 << 20,
            disk_bytes: 32 << 20,
            host_name: "guest-a".to_owned(),
            ssh_keys: vec!["ssh-ed25519 AAAA somebody".to_owned()],
            secret_key: "a guest's secret".to_owned(),
            ports: vec![8080],
            publish_address: [127, 0, 0, 1].into(),
        }
    }
}

struct Simulation(Arc<SimulatedMachines>);

#[async_trait]
impl Inside for Simulation {
    async fn given(&self, id: Id<VirtualMachine>) -> Given {
        self.0.given(id).unwrap()
    }

    async fn write_disk(&self, id: Id<VirtualMachine>, text: &str) {
        self.0.write_disk(id, text);
    }

    async fn read_disk(&self, id: Id<VirtualMachine>) -> String {
        self.0.read_disk(id).unwrap()
    }

    async fn panic(&self, id: Id<VirtualMachine>) {
        self.0.panic(id);
    }

    async fn ignore_acpi(&self, id: Id<VirtualMachine>) {
        self.0.ignore_acpi(id, true);
    }

    async fn end(&self, id: Id<VirtualMachine>) {
        self.0.end(id, -1);
    }

    async fn remains(&self) -> Vec<String> {
        Vec::new()
    }
}

fn simulated() -> Stage {
    let engine = Arc::new(SimulatedMachines::new(
        Arc::new(SystemClock),
        Arc::new(Entropy::seeded(3)),
        QUICK,
    ));
    let image = |disk: &str| Image {
        disk: Some(disk.to_owned()),
        kernel: None,
        initrd: None,
        command_line: String::new(),
        ready_text: Some(READY.to_owned()),
    };
    Stage {
        engine: engine.clone(),
        inside: Arc::new(Simulation(engine)),
        image: Image {
            disk: None,
            ..image("")
        },
        missing: image("missing/disk"),
        corrupt: image("corrupt/disk"),
        entropy: Entropy::seeded(4),
    }
}

mod simulation {
    held_to_the_laws!(super::simulated);
}

#[tokio::test]
async fn a_full_simulation_takes_no_more_and_keeps_what_it_has() {
    let engine = SimulatedMachines::new(Arc::new(SystemClock), Arc::new(Entropy::seeded(5)), QUICK);
    let guest = simulated().guest();
    let go = tokio_util::sync::CancellationToken::new();
    engine.set_full(true);
    let error = engine.ensure(&guest, &go).await.unwrap_err();
    assert_eq!(error.code(), "ENGINE_FULL");
    engine.set_full(false);
    let started = engine.ensure(&guest, &go).await.unwrap();
    assert_eq!(started.status, Status::Starting);
}
