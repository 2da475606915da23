//! Whether the host's processor runs the guest (KVM) or QEMU translates it (TCG).

use std::{fs, path::Path, time::Duration};

use tokio::sync::OnceCell;

use super::program::{SYSTEM, run};

/// What runs the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Accel {
    /// KVM where a guest is seen to run with it, else TCG.
    #[default]
    Auto,
    Kvm,
    Tcg,
}

/// The answer, once found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    Kvm,
    Tcg,
}

impl Found {
    /// As `-machine accel=` takes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    /// The processor with the most a guest can be given.
    pub(super) const fn processor(self) -> &'static str {
        match self {
            Self::Kvm => "host",
            Self::Tcg => "max",
        }
    }
}

/// How long the probe's guest may take. Where virtual machines are stacked, `/dev/kvm` may be there and stand still, or
/// the host may do each instruction of the guest by hand: a few get through, an operating system never starts.
const PROBE: Duration = Duration::from_secs(3);
/// How far the probe's guest counts: 0.05 s on a processor, 0.4 s with TCG, over a minute done by hand.
const COUNT: u32 = 100_000_000;
/// What the probe's guest ends with: QEMU makes `2 n + 1` of the `n` that is written to the port.
const SIGN: u8 = 0x10;
const ENDED: i32 = 2 * SIGN as i32 + 1;

/// The same for all of this process.
static KVM: OnceCell<bool> = OnceCell::const_new();

pub(super) async fn find(wanted: Accel, folder: &Path) -> Found {
    let has_kvm = match wanted {
        Accel::Kvm => true,
        Accel::Tcg => false,
        Accel::Auto => *KVM.get_or_init(|| runs_kvm(folder)).await,
    };
    if has_kvm { Found::Kvm } else { Found::Tcg }
}

/// Whether there is KVM, and it is alive.
async fn runs_kvm(folder: &Path) -> bool {
    if fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return false;
    }
    let runs = ends(Found::Kvm, folder).await;
    tracing::info!(runs, "tried a guest on KVM");
    runs
}

/// Whether a guest that does nothing but count and end does so in time.
async fn ends(accel: Found, folder: &Path) -> bool {
    let sector = folder.join(format!(".probe-{}", std::process::id()));
    if fs::write(&sector, boot_sector()).is_err() {
        return false;
    }
    let drive = serde_json::json!({
        "driver": "raw", "node-name": "sector",
        "file": { "driver": "file", "filename": sector },
    });
    let drive = drive.to_string();
    let arguments = [
        "-accel",
        accel.name(),
        "-machine",
        "pc",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-m",
        "16M",
        "-blockdev",
        &drive,
        "-device",
        "ide-hd,drive=sector",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x01",
    ];
    let ended = run(SYSTEM, arguments, PROBE).await;
    let _ = fs::remove_file(&sector);
    ended.is_ok_and(|output| output.code == Some(ENDED))
}

/// `mov ecx, COUNT; dec ecx; jnz -4; mov al, SIGN; out 0xf4, al; hlt; jmp -3` and the signature a BIOS looks for.
fn boot_sector() -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..2].copy_from_slice(&[0x66, 0xb9]);
    sector[2..6].copy_from_slice(&COUNT.to_le_bytes());
    sector[6..10].copy_from_slice(&[0x66, 0x49, 0x75, 0xfc]);
    sector[10..17].copy_from_slice(&[0xb0, SIGN, 0xe6, 0xf4, 0xf4, 0xeb, 0xfd]);
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run by the part of `tests/run.sh` that has QEMU.
    #[tokio::test]
    async fn a_guest_that_counts_ends_where_guests_run() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ends(Found::Tcg, folder.path()).await);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
