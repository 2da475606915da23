//! The settings of virtual machines.

use std::path::{Path, PathBuf};

use super::{AccelChoice, ConfigError, MachineProviderChoice, Machines, Sources, seconds};

pub(super) fn read(sources: &Sources, data_dir: &Path) -> Result<Machines, ConfigError> {
    let folder = |key, name: &str| {
        let path = sources.text(key).map(PathBuf::from);
        path.unwrap_or_else(|| data_dir.join(name))
    };
    let mebibytes = |key, usual| Ok(sources.number(key, usual, 0..=1_000_000_000_u64)? << 20);
    Ok(Machines {
        provider: sources.one_of(
            "MACHINE_PROVIDER",
            &[
                ("auto", MachineProviderChoice::Auto),
                ("qemu", MachineProviderChoice::Qemu),
                ("libvirt", MachineProviderChoice::Libvirt),
                ("simulated", MachineProviderChoice::Simulated),
            ],
        )?,
        directory: folder("MACHINE_DIR", "machines"),
        images: folder("MACHINE_IMAGE_DIR", "images"),
        libvirt_uri: libvirt_uri(sources)?,
        libvirt_pool: libvirt_pool(sources, "LIBVIRT_POOL", "main-webserver")?,
        libvirt_image_pool: libvirt_pool(sources, "LIBVIRT_IMAGE_POOL", "main-webserver-images")?,
        accel: sources.one_of(
            "MACHINE_ACCEL",
            &[
                ("auto", AccelChoice::Auto),
                ("kvm", AccelChoice::Kvm),
                ("tcg", AccelChoice::Tcg),
            ],
        )?,
        disk_reserve_bytes: mebibytes("MACHINE_DISK_RESERVE_MEBIBYTES", &1024)?,
        memory_reserve_bytes: mebibytes("MACHINE_MEMORY_RESERVE_MEBIBYTES", &512)?,
        per_owner: sources.number("MACHINES_PER_OWNER", &20, 1..=1_000_000)?,
        orphan_grace: seconds(sources, "MACHINE_ORPHAN_SECONDS", 604_800, 0..=31_536_000)?,
    })
}

fn libvirt_uri(sources: &Sources) -> Result<String, ConfigError> {
    let uri = sources
        .text("LIBVIRT_URI")
        .unwrap_or_else(|| "qemu:///system".to_owned());
    if ["qemu://", "qemu+"]
        .iter()
        .any(|scheme| uri.starts_with(scheme))
    {
        Ok(uri)
    } else {
        Err(sources.refuse("LIBVIRT_URI", format!("'{uri}' has another scheme")))
    }
}

/// The name of a pool, which stands among the words of a command.
fn libvirt_pool(sources: &Sources, key: &'static str, usual: &str) -> Result<String, ConfigError> {
    let name = sources.text(key).unwrap_or_else(|| usual.to_owned());
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.bytes().all(is_plain) && !name.is_empty() && !name.starts_with('-') {
        Ok(name)
    } else {
        Err(sources.refuse(key, format!("'{name}' is no plain name")))
    }
}
