//! A machine as libvirt is told of it. No secret is in it: whoever may look at the host's domains can read it.

use std::fmt::Write as _;

use super::{
    look::{Phase, Record, metadata},
    store::Places,
    xml::escaped,
};
use crate::providers::{Guest, ProviderError, cloud_init::FIRMWARE, image_files, instance_name};

/// Where the network's device is: far from those that libvirt places from the first on.
const NETWORK_SLOT: &str = "0x18";

/// What runs a guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accel {
    Kvm,
    Tcg,
}

/// The XML of a domain. Its network is a user's, which libvirt has no words for: QEMU is told directly.
pub(super) fn xml(
    guest: &Guest,
    places: &Places,
    image: &image_files::Found,
    accel: Accel,
    (record, phase): (&Record, Phase),
) -> Result<String, ProviderError> {
    let (kind, cpu) = match accel {
        Accel::Kvm => ("kvm", "host-passthrough"),
        Accel::Tcg => ("qemu", "maximum"),
    };
    Ok(format!(
        "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
         <name>{name}</name><uuid>{uuid}</uuid>{metadata}\
         <memory unit='b'>{memory}</memory><vcpu>{cpus}</vcpu>\
         <sysinfo type='fwcfg'>{firmware}</sysinfo>\
         <os><type arch='x86_64' machine='q35'>hvm</type>{boot}</os>\
         <features><acpi/><apic/></features><cpu mode='{cpu}'/>\
         <on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>preserve</on_crash>\
         <devices>{disks}{consoles}\
         <controller type='usb' model='none'/><memballoon model='none'/><panic model='isa'/></devices>\
         <qemu:commandline>{network}</qemu:commandline></domain>",
        name = instance_name(guest.id),
        uuid = guest.id.uuid(),
        metadata = metadata(record, phase)?,
        memory = guest.memory_bytes.max(1 << 20),
        cpus = guest.cpus.max(1),
        firmware = firmware(places),
        boot = boot(guest, image),
        disks = disks(places),
        consoles = consoles(places),
        network = network(guest, record),
    ))
}

fn firmware(places: &Places) -> String {
    let entries = FIRMWARE.map(|name| {
        let file = escaped(&places.file(name));
        format!("<entry name='opt/main-webserver/{name}' file='{file}'/>")
    });
    entries.concat()
}

fn boot(guest: &Guest, image: &image_files::Found) -> String {
    let Some(kernel) = &image.kernel else {
        return "<boot dev='hd'/>".to_owned();
    };
    let path = |path: &std::path::Path| escaped(&path.display().to_string());
    let mut boot = format!(
        "<kernel>{}</kernel><cmdline>{}</cmdline>",
        path(kernel),
        escaped(&guest.image.command_line)
    );
    if let Some(initrd) = &image.initrd {
        let _ = write!(boot, "<initrd>{}</initrd>", path(initrd));
    }
    boot
}

fn disks(places: &Places) -> String {
    let [disk, seed] = ["qcow2", "seed"].map(|kind| escaped(&places.file(kind)));
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2' discard='unmap'/>\
         <source file='{disk}'/><target dev='vda' bus='virtio'/></disk>\
         <disk type='file' device='disk' snapshot='no'><driver name='qemu' type='raw'/>\
         <source file='{seed}'/><target dev='vdb' bus='virtio'/><readonly/></disk>"
    )
}

/// A serial port, logged whether or not somebody is connected, and a screen; both at sockets for a worker of the same host.
fn consoles(places: &Places) -> String {
    let [log, serial, vnc] = ["log", "tty", "vnc"].map(|kind| escaped(&places.file(kind)));
    let log =
        format!("<log file='{log}' append='on'/><target type='isa-serial' port='0'/></serial>");
    if !places.is_local {
        return format!("<serial type='pty'>{log}");
    }
    format!(
        "<serial type='unix'><source mode='bind' path='{serial}'/>{log}\
         <graphics type='vnc'><listen type='socket' socket='{vnc}'/></graphics>\
         <video><model type='vga'/></video>"
    )
}

fn network(guest: &Guest, record: &Record) -> String {
    let mut network = "user,id=net".to_owned();
    for (inside, outside) in &record.ports {
        let from = guest.publish_address;
        let _ = write!(network, ",hostfwd=tcp:{from}:{outside}-:{inside}");
    }
    // It never boots from the network.
    let device = format!("virtio-net-pci,netdev=net,romfile=,bus=pcie.0,addr={NETWORK_SLOT}");
    let arguments = ["-netdev", &network, "-device", &device];
    let arguments = arguments.map(|value| format!("<qemu:arg value='{}'/>", escaped(value)));
    arguments.concat()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::providers::cloud_init::tests::guest;

    #[test]
    fn no_secret_is_in_a_domain_and_no_value_ends_its_place() {
        let mut guest = guest();
        guest.image.command_line = "a='<&>' b".to_owned();
        let places = Places::new(guest.id, std::path::Path::new("/pool 'a' & b"), true);
        let image = image_files::Found {
            disk: None,
            kernel: Some("/images/<vmlinuz>".into()),
            initrd: None,
        };
        let record = Record {
            generation: 1,
            deployment: "</metadata>".to_owned(),
            ports: BTreeMap::from([(8080, 40_000)]),
            ip: None,
            ready_text: None,
            starts: 0,
            log_start: 0,
        };
        let xml = xml(
            &guest,
            &places,
            &image,
            Accel::Tcg,
            (&record, Phase::Created),
        )
        .unwrap();
        assert!(!xml.contains(&guest.secret_key), "{xml}");
        assert!(xml.contains("hostfwd=tcp:127.0.0.1:40000-:8080"), "{xml}");
        assert!(
            xml.contains("file='/pool &#39;a&#39; &#38; b/main-machine_"),
            "{xml}"
        );
        assert!(
            xml.contains("<kernel>/images/&#60;vmlinuz&#62;</kernel>"),
            "{xml}"
        );
        assert_eq!(xml.matches("</metadata>").count(), 1);
    }
}
