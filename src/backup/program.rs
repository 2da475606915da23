//! PostgreSQL's client programs as child processes. What is secret goes by their environment, never among their words.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, Command},
    sync::mpsc,
};

use super::BackupError;

/// Bytes read from a program at once.
const PIECE: usize = 256 * 1024;
/// Bytes of its complaints that are kept.
const COMPLAINT: u64 = 4096;
/// Longest time to say its version.
const VERSION: Duration = Duration::from_secs(10);
/// What of the environment it gets.
const KEPT: [&str; 2] = ["PATH", "HOME"];

/// Where the programs are.
#[derive(Clone, Debug)]
pub(super) struct Programs(pub Option<PathBuf>);

impl Programs {
    fn path(&self, program: &str) -> PathBuf {
        let folder = self.0.as_deref().unwrap_or_else(|| Path::new(""));
        folder.join(program)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.path(program));
        let kept = KEPT
            .iter()
            .filter_map(|name| Some((name, std::env::var_os(name)?)));
        command
            .env_clear()
            .envs(kept)
            // Errors are read here.
            .env("LC_ALL", "C")
            .env("PGCONNECT_TIMEOUT", "10")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Refuses a program that is not there or is older than the server.
    pub(super) async fn check(&self, program: &str, needs: u32) -> Result<(), BackupError> {
        let none = |problem: String| BackupError::NoProgram {
            program: self.path(program).display().to_string(),
            problem,
        };
        let mut command = self.command(program);
        command.arg("--version").stdout(Stdio::piped());
        let said = tokio::time::timeout(VERSION, command.output()).await;
        let said = said
            .map_err(|_| none("it does not say its version".to_owned()))?
            .map_err(|error| none(error.to_string()))?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let has = major(&said).ok_or_else(|| none("it does not say its version".to_owned()))?;
        if has < needs {
            return Err(BackupError::Version {
                program: program.to_owned(),
                has,
                needs,
            });
        }
        Ok(())
    }

    /// Runs a program and sends what it writes to `out`, until both have ended.
    pub(super) async fn read(
        &self,
        program: &str,
        arguments: &[String],
        password: Option<&str>,
        out: mpsc::Sender<Bytes>,
    ) -> Result<(), BackupError> {
        let mut command = self.command(program);
        command.args(arguments).stdout(Stdio::piped());
        let mut child = start(program, command, password)?;
        let (mut stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let pass = async {
            let Some(stdout) = &mut stdout else {
                return Ok(());
            };
            loop {
                let mut piece = Vec::with_capacity(PIECE);
                if stdout.read_buf(&mut piece).await? == 0 || out.send(piece.into()).await.is_err()
                {
                    return Ok::<_, std::io::Error>(());
                }
            }
        };
        let (passed, complaint) = tokio::join!(pass, complaint(stderr));
        passed.map_err(|error| failed(program, error.to_string()))?;
        end(program, child, complaint).await
    }

    /// Runs a program and gives it what comes from `input`, until both have ended.
    pub(super) async fn write(
        &self,
        program: &str,
        arguments: &[String],
        password: Option<&str>,
        mut input: mpsc::Receiver<Bytes>,
    ) -> Result<(), BackupError> {
        let mut command = self.command(program);
        command.args(arguments).stdin(Stdio::piped());
        let mut child = start(program, command, password)?;
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let pass = async {
            if let Some(mut stdin) = stdin {
                while let Some(piece) = input.recv().await {
                    // One that ends without reading says why on its own.
                    if stdin.write_all(&piece).await.is_err() {
                        break;
                    }
                }
                let _ = stdin.shutdown().await;
            }
        };
        let ((), complaint) = tokio::join!(pass, complaint(stderr));
        end(program, child, complaint).await
    }
}

fn start(
    program: &str,
    mut command: Command,
    password: Option<&str>,
) -> Result<Child, BackupError> {
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    command.spawn().map_err(|error| BackupError::NoProgram {
        program: program.to_owned(),
        problem: error.to_string(),
    })
}

/// What it complains about, in one line; what is too much is read and forgotten, so that it never waits for the pipe.
async fn complaint(stderr: Option<ChildStderr>) -> String {
    let Some(mut stderr) = stderr else {
        return String::new();
    };
    let mut said = Vec::new();
    let _ = (&mut stderr).take(COMPLAINT).read_to_end(&mut said).await;
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("; ")
}

async fn end(program: &str, mut child: Child, complaint: String) -> Result<(), BackupError> {
    let status = child.wait().await;
    let status = status.map_err(|error| failed(program, error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let problem = if complaint.is_empty() {
        format!("it ended with {status}")
    } else {
        complaint
    };
    Err(failed(program, problem))
}

fn failed(program: &str, problem: String) -> BackupError {
    BackupError::Program {
        program: program.to_owned(),
        problem,
    }
}

/// The major version in `pg_dump (PostgreSQL) 15.14 (Debian …)`.
fn major(said: &str) -> Option<u32> {
    let (_, version) = said.split_once("(PostgreSQL) ")?;
    let digits = version.chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_found_in_what_a_program_says() {
        assert_eq!(
            major("pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(major("pg_restore (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major("psql, something else"), None);
    }
}
