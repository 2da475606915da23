//! Programs that do an engine's work: run with a limit, killed when it is over.

use std::{ffi::OsStr, io, process::Stdio, time::Duration};

use tokio::{io::AsyncWriteExt as _, process::Command};

use super::ProviderError;

/// What makes, looks at and changes disks.
pub(super) const DISKS: &str = "qemu-img";
/// The variable that says where programs are.
const WAY: &str = "PATH";

/// What a program has left.
pub(super) struct Output {
    engine: &'static str,
    /// `None` when a signal has ended it.
    pub(super) code: Option<i32>,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: String,
}

impl Output {
    pub(super) fn is_success(&self) -> bool {
        self.code == Some(0)
    }

    /// Its output as text.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
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
            Ok(self.text())
        } else {
            Err(classify(self.engine, &self.complaint()))
        }
    }
}

/// A program to be run, with nothing of the environment but the way to programs and the variables in `kept`: what the
/// service knows is none of a guest's business.
pub(super) fn command(
    program: &str,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    kept: &[&str],
) -> Command {
    let mut command = Command::new(program);
    let kept = [WAY].iter().chain(kept);
    let kept = kept.filter_map(|name| Some((*name, std::env::var_os(name)?)));
    command
        .args(arguments)
        .env_clear()
        .envs(kept)
        // Errors are read here.
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a program of `engine` to its end, with `input` to read where there is any.
///
/// # Errors
/// [`ProviderError::TimedOut`] after `limit`, when it has been killed; [`ProviderError::Unreachable`] when it is not there.
pub(super) async fn run(
    engine: &'static str,
    mut command: Command,
    input: Option<&[u8]>,
    limit: Duration,
) -> Result<Output, ProviderError> {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.as_std().get_program().display().to_string();
    let ended = async {
        let mut child = command.spawn()?;
        let feed = async |pipe: Option<tokio::process::ChildStdin>| {
            if let (Some(mut pipe), Some(input)) = (pipe, input) {
                // One that ends without reading says why on its own.
                let _ = pipe.write_all(input).await;
            }
        };
        let pipe = child.stdin.take();
        let ((), output) = tokio::join!(feed(pipe), child.wait_with_output());
        output
    };
    let output = tokio::time::timeout(limit, ended)
        .await
        .map_err(|_| ProviderError::TimedOut {
            engine,
            after: limit,
        })?
        .map_err(|error| not_run(engine, &name, &error))?;
    Ok(Output {
        engine,
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn not_run(engine: &'static str, program: &str, error: &io::Error) -> ProviderError {
    let why = format!("{program} could not be run: {error}");
    match error.kind() {
        io::ErrorKind::OutOfMemory => ProviderError::Quota { engine, why },
        _ => ProviderError::Unreachable { engine, why },
    }
}

/// What a complaint of QEMU or of `qemu-img` means, whoever passes it on.
pub(super) fn classify(engine: &'static str, complaint: &str) -> ProviderError {
    let said = complaint.to_lowercase();
    let says = |texts: &[&str]| texts.iter().any(|text| said.contains(text));
    if says(&[
        "no space left on device",
        "disk quota exceeded",
        "cannot allocate memory",
        "cannot set up guest memory",
        "file too large",
    ]) {
        let why = complaint.to_owned();
        ProviderError::Quota { engine, why }
    } else if is_locked(complaint) {
        let why = format!("another process has its disk: {complaint}");
        ProviderError::Failed { engine, why }
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
        let why = complaint.to_owned();
        ProviderError::Failed { engine, why }
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

/// A moment before the next look at a process, a lock or a log; theirs is real time.
#[expect(clippy::disallowed_methods, reason = "the engine's time is real time")]
pub(super) async fn moment(length: Duration) {
    tokio::time::sleep(length).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complaint_is_told_by_what_it_means() {
        let code = |text| classify("qemu", text).code();
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

    #[tokio::test]
    async fn a_program_reads_what_it_is_given_and_knows_nothing_else() {
        let limit = Duration::from_secs(10);
        let echo = command("sh", ["-c", "cat; echo; env"], &[]);
        let output = run("qemu", echo, Some(b"given"), limit).await.unwrap();
        let text = output.text();
        assert!(text.starts_with("given\n"), "{text}");
        assert!(!text.contains("CARGO"), "{text}");
    }
}
