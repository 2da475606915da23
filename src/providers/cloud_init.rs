//! What a guest is told at its start, in the words of cloud-init's `NoCloud` source.

use super::Guest;

/// Where the secret lands in a guest that runs cloud-init.
const SECRET_FILE: &str = "/etc/main-webserver/secret-key";
/// The label of the disk with the files.
pub(super) const LABEL: &str = "cidata";
/// The names below which the firmware tells (`/sys/firmware/qemu_fw_cfg/by_name/…/raw` in Linux).
pub(super) const FIRMWARE: [&str; 2] = ["host-name", "secret-key"];

/// What is told below those names.
pub(super) fn firmware(guest: &Guest) -> [&str; 2] {
    [&guest.host_name, &guest.secret_key]
}

/// The file `meta-data`. A generation is another instance to the guest, which then sets itself up anew.
pub(super) fn meta_data(guest: &Guest) -> String {
    format!(
        "instance-id: {}-{}\nlocal-hostname: {}\n",
        guest.id,
        guest.generation,
        quoted(&guest.host_name)
    )
}

/// The file `user-data`.
pub(super) fn user_data(guest: &Guest) -> String {
    let mut keys = String::new();
    for (at, key) in guest.ssh_keys.iter().enumerate() {
        keys.push_str(if at == 0 {
            "ssh_authorized_keys:\n"
        } else {
            ""
        });
        keys.extend(["  - ", &quoted(key), "\n"]);
    }
    let secret = quoted(&guest.secret_key);
    format!(
        "#cloud-config\n{keys}write_files:\n  - path: {SECRET_FILE}\n    owner: root:root\n    permissions: \"0600\"\n    \
         content: {secret}\n"
    )
}

/// A text as YAML reads it back: JSON's strings are strings there, too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::{domain::Id, providers::Image};

    pub(in crate::providers) fn guest() -> Guest {
        Guest {
            id: Id::new(uuid::Uuid::from_u128(7)),
            generation: 2,
            deployment: "tests".to_owned(),
            image: Image {
                disk: None,
                kernel: None,
                initrd: None,
                command_line: String::new(),
                ready_text: None,
            },
            cpus: 1,
            memory_bytes: 128 << 20,
            disk_bytes: 1 << 20,
            host_name: "guest-a".to_owned(),
            ssh_keys: vec!["ssh-ed25519 AAAA me: \"x\"".to_owned()],
            secret_key: "s3cret: #1".to_owned(),
            ports: vec![8080],
            publish_address: [127, 0, 0, 1].into(),
        }
    }

    #[test]
    fn what_a_guest_is_told_cannot_be_read_as_something_else() {
        let text = user_data(&guest());
        assert!(
            text.contains("  - \"ssh-ed25519 AAAA me: \\\"x\\\"\"\n"),
            "{text}"
        );
        assert!(text.contains("    content: \"s3cret: #1\"\n"), "{text}");
        assert!(meta_data(&guest()).starts_with("instance-id: machine_"));
        assert!(meta_data(&guest()).contains("-2\nlocal-hostname: \"guest-a\"\n"));
    }
}
