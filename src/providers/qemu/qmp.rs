//! The machine protocol: one JSON object a line (the QEMU Machine Protocol Specification), a command and its answer.
//!
//! A monitor has one client at a time, and there may be several workers: each command is a connection of its own that
//! ends with its answer, and the next waits in the socket's queue for the greeting. Nobody keeps a connection to listen
//! for events, which only one could: how a machine is gets asked instead (see `watch`).

use std::{path::Path, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};

use super::{NAME, program::failed};
use crate::providers::ProviderError;

/// Longest wait for the answer to a command, the commands of others before it among it.
const ANSWER: Duration = Duration::from_secs(10);
/// The same for how a machine is, which is asked often and of many.
const STATUS: Duration = Duration::from_secs(3);
/// The same for one that writes a disk's tables.
pub(super) const LONG_ANSWER: Duration = Duration::from_secs(120);

/// The value a command gives.
///
/// # Errors
/// [`ProviderError::Unreachable`] when nobody listens, [`ProviderError::Failed`] for what QEMU refuses.
pub(super) async fn ask(socket: &Path, command: &str) -> Result<Value, ProviderError> {
    ask_with(socket, command, json!({}), ANSWER).await
}

/// The same with arguments, and another limit.
pub(super) async fn ask_with(
    socket: &Path,
    command: &str,
    arguments: Value,
    limit: Duration,
) -> Result<Value, ProviderError> {
    let answer = tokio::time::timeout(limit, converse(socket, command, arguments)).await;
    answer.map_err(|_| ProviderError::TimedOut {
        engine: NAME,
        after: limit,
    })?
}

async fn converse(socket: &Path, command: &str, arguments: Value) -> Result<Value, ProviderError> {
    let lost = |error: std::io::Error| ProviderError::Unreachable {
        engine: NAME,
        why: format!("the machine's monitor: {error}"),
    };
    let connection = UnixStream::connect(socket).await.map_err(lost)?;
    let (reader, mut writer) = connection.into_split();
    let mut lines = BufReader::new(reader).lines();
    let agree = json!({ "execute": "qmp_capabilities" });
    let asked = json!({ "execute": command, "arguments": arguments });
    // The greeting is the answer to having come.
    let mut said = [None, Some(agree), Some(asked)].into_iter();
    let mut say = said.next().flatten();
    loop {
        if let Some(line) = say.take() {
            let line = format!("{line}\n");
            writer.write_all(line.as_bytes()).await.map_err(lost)?;
        }
        let Some(line) = lines.next_line().await.map_err(lost)? else {
            return Err(lost(std::io::ErrorKind::UnexpectedEof.into()));
        };
        let mut heard: Value = serde_json::from_str(&line)
            .map_err(|error| failed(format!("its monitor does not speak JSON: {error}")))?;
        if let Some(error) = heard.get("error") {
            let why = error["desc"].as_str().unwrap_or("no reason given");
            return Err(failed(format!("{command}: {why}")));
        }
        if heard.get("event").is_some() {
            continue;
        }
        match said.next() {
            Some(next) => say = next,
            None => return Ok(heard["return"].take()),
        }
    }
}

/// How the machine inside is, by the names of QEMU's `RunState`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RunState {
    Running,
    /// The guest has powered off; the process holds still until it is told to go.
    Shutdown,
    /// Its kernel has panicked, or its disk or its processor cannot go on.
    Broken,
    /// About to run.
    Waiting,
}

pub(super) async fn run_state(socket: &Path) -> Result<RunState, ProviderError> {
    let answer = ask_with(socket, "query-status", json!({}), STATUS).await?;
    Ok(match answer["status"].as_str().unwrap_or_default() {
        "running" => RunState::Running,
        "shutdown" => RunState::Shutdown,
        "guest-panicked" | "io-error" | "internal-error" | "watchdog" => RunState::Broken,
        _ => RunState::Waiting,
    })
}
