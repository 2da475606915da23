//! The command line of a machine. No secret is in it: everybody on the host can read it.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use serde_json::json;

use super::{
    accel, disk,
    folder::{Place, firmware_in, seed_in},
};
use crate::providers::{
    Guest,
    cloud_init::{FIRMWARE, LABEL},
    image_files,
};

/// What QEMU is told. It goes on by itself (`-daemonize`), so that a machine outlives the worker, and it stands still when
/// its guest powers off or panics (`-action`): so an end in order is told from a killed process whoever looks, and whenever.
pub(super) fn arguments(
    place: &Place,
    guest: &Guest,
    image: &image_files::Found,
    accel: accel::Found,
    ports: &BTreeMap<u16, u16>,
) -> Vec<String> {
    let folder = place.folder();
    let name = crate::providers::instance_name(guest.id);
    let mut line = vec![
        ["-name".to_owned(), format!("guest={name}")],
        ["-uuid".to_owned(), guest.id.uuid().to_string()],
        ["-machine".to_owned(), format!("q35,accel={}", accel.name())],
        ["-cpu".to_owned(), accel.processor().to_owned()],
        ["-smp".to_owned(), guest.cpus.max(1).to_string()],
        // Whole mebibytes, the unit of `-m` that every version has.
        [
            "-m".to_owned(),
            format!("{}M", guest.memory_bytes.div_ceil(1 << 20).max(1)),
        ],
        ["-display".to_owned(), "none".to_owned()],
        [
            "-action".to_owned(),
            "shutdown=pause,panic=pause".to_owned(),
        ],
        ["-device".to_owned(), "pvpanic".to_owned()],
        // `spawn` and `elevateprivileges` would forbid the daemon's own fork and session.
        [
            "-sandbox".to_owned(),
            "on,obsolete=deny,resourcecontrol=deny".to_owned(),
        ],
        ["-pidfile".to_owned(), text(&place.pid_file())],
    ];
    line.extend(consoles(place));
    line.extend(disks(place, &folder));
    line.extend(network(guest, ports));
    line.extend(FIRMWARE.map(|name| {
        let file = escaped(&firmware_in(&folder).join(name));
        [
            "-fw_cfg".to_owned(),
            format!("name=opt/main-webserver/{name},file={file}"),
        ]
    }));
    if let Some(kernel) = &image.kernel {
        line.push(["-kernel".to_owned(), text(kernel)]);
        line.push(["-append".to_owned(), guest.image.command_line.clone()]);
    }
    line.extend(
        image
            .initrd
            .iter()
            .map(|initrd| ["-initrd".to_owned(), text(initrd)]),
    );
    let flags = ["-daemonize", "-nodefaults", "-no-user-config"].map(str::to_owned);
    flags
        .into_iter()
        .chain(line.into_iter().flatten())
        .collect()
}

fn consoles(place: &Place) -> Vec<[String; 2]> {
    let (serial, log) = (escaped(&place.serial()), escaped(&place.console_log()));
    let option = |name: &str, value: String| [name.to_owned(), value];
    vec![
        // What it writes is logged whether or not somebody is connected.
        option(
            "-chardev",
            format!("socket,id=serial,path={serial},server=on,wait=off,logfile={log},logappend=on"),
        ),
        option("-serial", "chardev:serial".to_owned()),
        option(
            "-chardev",
            format!(
                "socket,id=monitor,path={},server=on,wait=off",
                escaped(&place.monitor())
            ),
        ),
        option("-mon", "chardev=monitor,mode=control".to_owned()),
        option("-device", "VGA".to_owned()),
        option("-vnc", format!("unix:{}", escaped(&place.vnc()))),
    ]
}

fn disks(place: &Place, folder: &Path) -> Vec<[String; 2]> {
    let option = |name: &str, value: String| [name.to_owned(), value];
    let own = json!({
        "driver": "qcow2", "node-name": disk::NODE, "discard": "unmap",
        "file": { "driver": "file", "filename": text(&place.disk()), "discard": "unmap" },
    });
    let seed = json!({
        "driver": "raw", "node-name": "seed", "read-only": true,
        "file": {
            "driver": "vvfat", "dir": text(&seed_in(folder)), "label": LABEL,
            "fat-type": 16, "floppy": false,
        },
    });
    vec![
        option("-blockdev", own.to_string()),
        option(
            "-device",
            // 0 is a kernel's that is booted instead.
            format!("virtio-blk-pci,drive={},bootindex=1", disk::NODE),
        ),
        option("-blockdev", seed.to_string()),
        option("-device", "virtio-blk-pci,drive=seed".to_owned()),
    ]
}

fn network(guest: &Guest, ports: &BTreeMap<u16, u16>) -> [[String; 2]; 2] {
    let mut network = "user,id=net".to_owned();
    for (inside, outside) in ports {
        let from = guest.publish_address;
        let _ = write!(network, ",hostfwd=tcp:{from}:{outside}-:{inside}");
    }
    [
        ["-netdev".to_owned(), network],
        // It never boots from the network.
        [
            "-device".to_owned(),
            "virtio-net-pci,netdev=net,romfile=".to_owned(),
        ],
    ]
}

/// A path that was seen to be UTF-8.
fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The same inside an option, where a comma ends a value and two are one.
fn escaped(path: &Path) -> String {
    text(path).replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_on_the_command_line_and_no_path_ends_an_option() {
        let guest = crate::providers::cloud_init::tests::guest();
        let place = Place::new(guest.id, "/a,b".into());
        let image = image_files::Found {
            disk: None,
            kernel: Some("/images/vmlinuz".into()),
            initrd: None,
        };
        let ports = BTreeMap::from([(8080, 40000)]);
        let line = arguments(&place, &guest, &image, accel::Found::Tcg, &ports).join(" ");
        assert!(!line.contains(&guest.secret_key), "{line}");
        assert!(line.contains("path=/a,,b/main-machine_"), "{line}");
        assert!(line.contains("hostfwd=tcp:127.0.0.1:40000-:8080"), "{line}");
    }
}
