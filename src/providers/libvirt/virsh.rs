//! The client of libvirt, as a program: `virsh`, for a connection each time it is asked.

use std::time::Duration;

use super::NAME;
use crate::providers::{
    ProviderError,
    program::{self, Output, command, is_locked, moment},
};

const VIRSH: &str = "virsh";
/// What a way by SSH and the user's own keys need.
const KEPT: [&str; 6] = [
    "HOME",
    "USER",
    "LOGNAME",
    "SSH_AUTH_SOCK",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
];
/// Longest answer; the making and copying of disks' tables is among them.
const ANSWER: Duration = Duration::from_secs(120);
/// How long a killed process may hold on to a disk, and how often that is looked at.
const LETTING_GO: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);
/// The complaints about a machine that is not there.
pub(super) const NO_DOMAIN: &[&str] = &["failed to get domain", "Domain not found"];

/// A way to one libvirt.
#[derive(Clone, Debug)]
pub(super) struct Virsh {
    uri: String,
}

impl Virsh {
    pub(super) const fn new(uri: String) -> Self {
        Self { uri }
    }

    /// Whether its machines and their files are on this host.
    pub(super) fn is_local(&self) -> bool {
        self.uri
            .split_once("://")
            .is_some_and(|(_, rest)| rest.starts_with('/'))
    }

    pub(super) fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let connection = ["-q", "-c", &self.uri];
        command(VIRSH, connection.iter().chain(arguments), &KEPT)
    }

    /// Runs one command, or several of one connection when that is all of `arguments`, each ended by `;`; the code is the
    /// last one's.
    pub(super) async fn run(
        &self,
        arguments: &[&str],
        input: Option<&[u8]>,
    ) -> Result<Output, ProviderError> {
        let answered = async {
            loop {
                let output = program::run(NAME, self.command(arguments), input, ANSWER).await?;
                if output.is_success() || !is_locked(&output.stderr) {
                    return Ok(output);
                }
                moment(AGAIN).await;
            }
        };
        // Only a disk that is not let go of takes longer.
        tokio::time::timeout(ANSWER + LETTING_GO, answered)
            .await
            .map_err(|_| ProviderError::TimedOut {
                engine: NAME,
                after: ANSWER,
            })?
    }

    /// What a command says when it has succeeded.
    pub(super) async fn ask(&self, arguments: &[&str]) -> Result<String, ProviderError> {
        said(&self.run(arguments, None).await?)
    }

    /// The same of one that reads `input` as the file `/dev/stdin`.
    pub(super) async fn give(&self, arguments: &[&str], input: &[u8]) -> Result<(), ProviderError> {
        said(&self.run(arguments, Some(input)).await?).map(drop)
    }

    /// Whether a command has done what it is to do; `false` for one whose complaint has one of `expected`.
    pub(super) async fn tried(
        &self,
        arguments: &[&str],
        expected: &[&str],
    ) -> Result<bool, ProviderError> {
        let output = self.run(arguments, None).await?;
        if !output.is_success() && expected.iter().any(|text| output.stderr.contains(text)) {
            return Ok(false);
        }
        said(&output).map(|_| true)
    }
}

/// A command's output when it has succeeded, else what its complaint means.
pub(super) fn said(output: &Output) -> Result<String, ProviderError> {
    if output.is_success() {
        Ok(output.text())
    } else {
        Err(meaning(&output.complaint()))
    }
}

fn meaning(complaint: &str) -> ProviderError {
    let why = complaint.replace("error: ", "");
    let says = |texts: &[&str]| texts.iter().any(|text| why.contains(text));
    if says(&[
        "failed to connect to the hypervisor",
        "Disconnected from",
        "client socket is closed",
        "End of file while reading data",
        "Cannot recv data",
        "Cannot write data",
        "connection closed due to keepalive timeout",
    ]) {
        ProviderError::Unreachable { engine: NAME, why }
    } else if says(&["failed to get pool", "Storage pool not found"]) {
        rejected(why)
    } else if says(&["Cannot access storage file", "Cannot access backing file"]) {
        ProviderError::NoSuchImage {
            image: "of the machine".to_owned(),
            why,
        }
    } else {
        program::classify(NAME, &why)
    }
}

pub(super) fn failed(why: String) -> ProviderError {
    ProviderError::Failed { engine: NAME, why }
}

pub(super) fn quota(why: String) -> ProviderError {
    ProviderError::Quota { engine: NAME, why }
}

pub(super) fn rejected(why: String) -> ProviderError {
    ProviderError::Rejected { engine: NAME, why }
}

/// The number after a name in lines of `name value…`, such as `Available: 5` or `cpu.time=5`.
pub(super) fn number(lines: &str, name: &str) -> Option<u64> {
    let rest = lines
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name))?;
    let digits = rest.trim_start_matches([' ', ':', '=']);
    digits.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_without_a_host_is_of_this_one() {
        let is_local = |uri: &str| Virsh::new(uri.to_owned()).is_local();
        assert!(is_local("qemu:///system"));
        assert!(is_local("qemu+unix:///system?socket=/run/sock"));
        assert!(!is_local("qemu+ssh://root@far/system"));
        assert!(!is_local("qemu+tls://far/system"));
    }

    #[test]
    fn a_complaint_is_told_by_what_it_means() {
        let code = |text| meaning(text).code();
        let lost = "error: failed to connect to the hypervisor; error: Failed to connect socket";
        assert_eq!(code(lost), "ENGINE_UNREACHABLE");
        assert_eq!(code("error: failed to get pool 'none'"), "ENGINE_REJECTED");
        let full =
            "error: internal error: Child process (qemu-img) failed: No space left on device";
        assert_eq!(code(full), "ENGINE_FULL");
        let other = "error: operation failed: domain is locked";
        assert_eq!(code(other), "ENGINE_FAILED");
    }

    #[test]
    fn a_number_is_found_by_its_name() {
        let said = "Domain: 'a'\n  cpu.time=12\n  balloon.rss=7\nfree   :   5 KiB\n";
        assert_eq!(number(said, "cpu.time"), Some(12));
        assert_eq!(number(said, "free"), Some(5));
        assert_eq!(number(said, "none"), None);
    }
}
