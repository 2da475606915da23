//! What a test tells the guest that `tests/run.sh` builds, and hears of it.

use std::time::Duration;

use main_webserver::{
    domain::{Id, id::VirtualMachine},
    providers::{ConsoleKind, Hypervisor},
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::READY;

const ANSWER: Duration = Duration::from_secs(60);

/// Types a command on the console and waits for the line that begins with `answer`; the rest of it.
pub async fn typed(
    engine: &dyn Hypervisor,
    id: Id<VirtualMachine>,
    command: &str,
    answer: &str,
) -> String {
    let console = engine.console(id, ConsoleKind::Serial).await.unwrap();
    let mut console = BufReader::new(console);
    console
        .get_mut()
        .write_all(format!("{command}\n").as_bytes())
        .await
        .unwrap();
    let heard = async {
        loop {
            let mut line = String::new();
            assert_ne!(console.read_line(&mut line).await.unwrap(), 0, "{command}");
            if let Some(rest) = line.trim().strip_prefix(answer) {
                return rest.trim().to_owned();
            }
        }
    };
    let waited = tokio::time::timeout(ANSWER, heard).await;
    waited.unwrap_or_else(|_| panic!("no answer to {command}"))
}

/// What the guest said of itself at its last start.
pub async fn said(engine: &dyn Hypervisor, id: Id<VirtualMachine>, word: &str) -> String {
    let lines = engine.logs(id, 1000).await.unwrap();
    let line = lines.iter().rev().find(|line| line.contains(READY));
    let word = format!("{word}=");
    let mut words = line.unwrap().split_whitespace();
    words
        .find_map(|said| said.strip_prefix(&word))
        .unwrap()
        .to_owned()
}
