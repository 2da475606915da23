//! The real binary as a process of its own.

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    process::{ExitStatus, Stdio},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
};

use super::{Ground, PATIENCE, Person};

/// A running process; it is killed when the test ends.
pub struct Process {
    child: Child,
    pub address: Option<SocketAddr>,
    /// What it has said of itself.
    pub banner: String,
}

/// The binary that is tested.
pub fn own_binary() -> OsString {
    env!("CARGO_BIN_EXE_main-webserver").into()
}

pub fn command(ground: &Ground, arguments: &[&str]) -> Command {
    command_of(&own_binary(), ground, arguments)
}

/// The same of another version's binary.
pub fn command_of(binary: &OsStr, ground: &Ground, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary);
    command
        .args(arguments)
        .current_dir(ground.folder())
        .env_clear()
        .kill_on_drop(true);
    for (key, value) in &ground.settings {
        command.env(key, value);
    }
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

impl Process {
    /// Starts a subcommand that serves or works, and waits for its banner.
    pub async fn start(ground: &Ground, subcommand: &str) -> Self {
        let last = if subcommand == "web" {
            "queue"
        } else {
            "engine"
        };
        Self::until_it_says(command(ground, &[subcommand]), last).await
    }

    /// Starts a command and waits for the line that begins so.
    pub async fn until_it_says(mut command: Command, last: &str) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut address, mut banner) = (None, String::new());
        let read = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                banner += &line;
                banner.push('\n');
                if let Some(url) = line.trim().strip_prefix("endpoint") {
                    let host = url
                        .trim()
                        .trim_start_matches("http://")
                        .split('/')
                        .next()
                        .unwrap();
                    address = Some(host.parse().unwrap());
                }
                if line.trim().starts_with(last) {
                    return true;
                }
            }
            false
        };
        let started = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("a banner in time");
        assert!(started, "{command:?} ended before it said '{last}'");
        // Read on, so that the process never waits for the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            child,
            address,
            banner,
        }
    }

    pub fn person(&self) -> Person {
        Person::at(self.address.unwrap())
    }

    pub fn pid(&self) -> i32 {
        self.child.id().unwrap().cast_signed()
    }

    pub async fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .await
            .unwrap();
        assert!(status.success());
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Asks for an orderly end and waits for it.
    pub async fn end(self, signal: &str) -> ExitStatus {
        self.signal(signal).await;
        self.ended().await
    }

    /// Waits until it ends by itself.
    pub async fn ended(mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("an end in time")
            .unwrap()
    }
}

/// Runs a command to its end: exit code, standard output, standard error.
pub async fn output(ground: &Ground, arguments: &[&str]) -> (i32, String, String) {
    output_of(command(ground, arguments)).await
}

pub async fn output_of(mut command: Command) -> (i32, String, String) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut out, mut err) = (String::new(), String::new());
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let run = async {
        let _ = tokio::join!(
            stdout.read_to_string(&mut out),
            stderr.read_to_string(&mut err)
        );
        child.wait().await.unwrap()
    };
    let status = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("the command ends in time");
    (status.code().unwrap_or(-1), out, err)
}
