//! The programs that do the work: run with a limit, killed when it is over.

use std::{ffi::OsStr, io, process::Stdio, time::Duration};

use tokio::process::Command;

use super::NAME;
use crate::providers::ProviderError;

/// The machine itself.
pub(super) const SYSTEM: &str = "qemu-system-x86_64";
/// Its disks.
pub(super) const DISKS: &str = "qemu-img";

/// What a program has left.
pub(super) struct Output {
    /// `None` when a signal has ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

impl Output {
    pub(super) fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// What it complained about, in one line.
    pub(super) fn complaint(&self) -> String {
        let lines = self
            .stderr
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty());
        let said = lines.collect::<Vec<_>>().join("; ");
        match (said.is_empty(), self.code) {
            (false, _) => said,
            (true, Some(code)) => format!("it ended with code {code} and without a word"),
            (true, None) => "it was killed".to_owned(),
        }
    }

    /// Its output when it has succeeded, else what its complaint means.
    pub(super) fn or_error(self) -> Result<String, ProviderError> {
        if self.is_success() {
            Ok(self.stdout)
        } else {
            Err(classify(&self.complaint()))
        }
    }
}

/// Runs a program to its end, with nothing of the environment but the way to programs: what the service knows is none of
/// a guest's business.
///
/// # Errors
/// [`ProviderError::TimedOut`] after `limit`, when it has been killed; [`ProviderError::Unreachable`] when it is not there.
pub(super) async fn run(
    program: &'static str,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    limit: Duration,
) -> Result<Output, ProviderError> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        // Errors are read here.
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let ended = tokio::time::timeout(limit, command.output()).await;
    let output = ended
        .map_err(|_| ProviderError::TimedOut {
            engine: NAME,
            after: limit,
        })?
        .map_err(|error| not_run(program, &error))?;
    Ok(Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn not_run(program: &str, error: &io::Error) -> ProviderError {
    match error.kind() {
        io::ErrorKind::OutOfMemory => quota(format!("{program} could not be run: {error}")),
        _ => ProviderError::Unreachable {
            engine: NAME,
            why: format!("{program} could not be run: {error}"),
        },
    }
}

/// What a complaint of QEMU or of `qemu-img` means.
pub(super) fn classify(complaint: &str) -> ProviderError {
    let said = complaint.to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    if says(&[
        "no space left on device",
        "disk quota exceeded",
        "cannot allocate memory",
        "cannot set up guest memory",
        "file too large",
    ]) {
        quota(complaint.to_owned())
    } else if is_locked(complaint) {
        failed(format!("another process has its disk: {complaint}"))
    } else if says(&[
        "could not open backing file",
        "could not load kernel",
        "could not load initrd",
        "could not open kernel",
    ]) {
        ProviderError::NoSuchImage {
            image: "of the machine".to_owned(),
            why: complaint.to_owned(),
        }
    } else {
        failed(complaint.to_owned())
    }
}

/// Whether another process has the disk; one that was killed has it a moment longer than it is seen.
pub(super) fn is_locked(complaint: &str) -> bool {
    ["write\" lock", "another process using"]
        .iter()
        .any(|text| complaint.contains(text))
}

/// Whether QEMU could not have a port of its host: another may have taken it since it was seen to be free.
pub(super) fn is_port_taken(complaint: &str) -> bool {
    complaint.contains("host forwarding rule")
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

/// What an error of the file system means; `what` was being done.
pub(super) fn file_error(what: &str) -> impl FnOnce(io::Error) -> ProviderError {
    move |error| {
        let why = format!("{what}: {error}");
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => quota(why),
            _ => failed(why),
        }
    }
}

/// Runs what waits for disks where it holds up nobody.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ProviderError> + Send + 'static,
) -> Result<T, ProviderError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(failed(format!("its work was cut short: {error}"))),
    }
}

/// A moment before the next look at a process or a lock; theirs is real time.
#[expect(clippy::disallowed_methods, reason = "the engine's time is real time")]
pub(super) async fn moment(length: Duration) {
    tokio::time::sleep(length).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_by_what_it_means() {
        let code = |text| classify(text).code();
        let full = "qemu-img: disk.qcow2: Could not resize: No space left on device";
        assert_eq!(code(full), "ENGINE_FULL");
        let memory =
            "qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory";
        assert_eq!(code(memory), "ENGINE_FULL");
        let locked =
            "qemu-system-x86_64: Failed to get \"write\" lock\nIs another process using the image";
        assert_eq!(code(locked), "ENGINE_FAILED");
        let base = "qemu-img: Could not open backing file: no such file";
        assert_eq!(code(base), "NO_SUCH_IMAGE");
        assert!(is_port_taken(
            "Could not set up host forwarding rule 'tcp:127.0.0.1:80-:80'"
        ));
    }
}
