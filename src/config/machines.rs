//! The settings of virtual machines.

use std::{path::PathBuf, time::Duration};

use super::{
    AccelChoice, MachineProviderChoice,
    key::settings,
    kinds::{InDataDir, looked, mebibytes, number, one_of, seconds},
};

settings! {
    /// Where QEMU or libvirt has its machines and images, and what it leaves to its host.
    pub struct Machines {
        /// engine of virtual machines; auto takes QEMU when it is installed
        MACHINE_PROVIDER provider: MachineProviderChoice = one_of(&[("auto", MachineProviderChoice::Auto), ("qemu", MachineProviderChoice::Qemu), ("libvirt", MachineProviderChoice::Libvirt), ("simulated", MachineProviderChoice::Simulated)]);
        /// where QEMU keeps machines and their disks; its full name has 60 bytes at most
        MACHINE_DIR directory: PathBuf = InDataDir("machines");
        /// where the images of machines are
        MACHINE_IMAGE_DIR images: PathBuf = InDataDir("images");
        /// the libvirt of machines, when they are its; reached by virsh
        LIBVIRT_URI libvirt_uri: String = looked("qemu://… or qemu+…://…", "qemu:///system", libvirt_uri);
        /// libvirt's pool, a folder, that machines' disks are in
        LIBVIRT_POOL libvirt_pool: String = looked("a name", "main-webserver", libvirt_pool);
        /// libvirt's pool, a folder, that the images of machines are in
        LIBVIRT_IMAGE_POOL libvirt_image_pool: String = looked("a name", "main-webserver-images", libvirt_pool);
        /// what runs a guest's instructions; auto takes KVM when a guest is seen to run with it
        MACHINE_ACCEL accel: AccelChoice = one_of(&[("auto", AccelChoice::Auto), ("kvm", AccelChoice::Kvm), ("tcg", AccelChoice::Tcg)]);
        /// disk space without which no machine is started
        MACHINE_DISK_RESERVE_MEBIBYTES disk_reserve_bytes: u64 = mebibytes(1024, 0..=1_000_000_000);
        /// memory that is left to the host of the machines
        MACHINE_MEMORY_RESERVE_MEBIBYTES memory_reserve_bytes: u64 = mebibytes(512, 0..=1_000_000_000);
        /// virtual machines one owner has at once
        MACHINES_PER_OWNER per_owner: u64 = number(20, 1..=1_000_000), reloads;
        /// how long a virtual machine that no row knows is left on its engine
        MACHINE_ORPHAN_SECONDS orphan_grace: Duration = seconds(604_800, 0..=31_536_000), reloads;
    }
}

fn libvirt_uri(uri: &str) -> Result<String, String> {
    if ["qemu://", "qemu+"]
        .iter()
        .any(|scheme| uri.starts_with(scheme))
    {
        Ok(uri.to_owned())
    } else {
        Err(format!("'{uri}' has another scheme"))
    }
}

/// The name of a pool, which stands among the words of a command.
fn libvirt_pool(name: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.bytes().all(is_plain) && !name.is_empty() && !name.starts_with('-') {
        Ok(name.to_owned())
    } else {
        Err(format!("'{name}' is no plain name"))
    }
}
