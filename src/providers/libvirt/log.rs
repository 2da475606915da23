//! What a machine writes on its serial port: a file where the worker may read it, else a volume that is fetched in pieces.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use futures_util::{StreamExt as _, stream, stream::BoxStream};

use super::{
    store::Places,
    virsh::{Virsh, failed, number, said},
};
use crate::providers::{
    Line, ProviderError, Start,
    console_log::{self, Cutter},
    program::moment,
};

/// Most that is fetched for the last lines.
const TAIL: u64 = 4 << 20;
/// How often a volume is looked at that does not grow.
const LOOK: Duration = Duration::from_secs(1);
const NO_VOLUME: &[&str] = &["failed to get vol", "Storage volume not found"];

/// A machine's log.
#[derive(Clone, Debug)]
pub(super) enum Log {
    File(PathBuf),
    Volume {
        virsh: Virsh,
        pool: String,
        name: String,
    },
}

impl Log {
    pub(super) async fn of(virsh: &Virsh, pool: &str, places: &Places) -> Self {
        let path = places.path("log");
        if places.is_local && tokio::fs::File::open(&path).await.is_ok() {
            return Self::File(path);
        }
        Self::Volume {
            virsh: virsh.clone(),
            pool: pool.to_owned(),
            name: places.volume("log"),
        }
    }

    /// Bytes that are in it; 0 without one.
    pub(super) async fn length(&self) -> Result<u64, ProviderError> {
        match self {
            Self::File(path) => Ok(tokio::fs::metadata(path)
                .await
                .map_or(0, |about| about.len())),
            Self::Volume { virsh, pool, name } => {
                let about = ["vol-info", "--bytes", "--pool", pool, name];
                let output = virsh.run(&about, None).await?;
                if is_gone(&output) {
                    return Ok(0);
                }
                Ok(number(&said(&output)?, "Capacity").unwrap_or_default())
            }
        }
    }

    /// Whether `text` is in it from `from` on; if not, where to look from the next time.
    pub(super) async fn search(
        &self,
        from: u64,
        text: &str,
    ) -> Result<Result<(), u64>, ProviderError> {
        // One that was begun anew is shorter.
        let from = if self.length().await? < from { 0 } else { from };
        match self {
            Self::File(path) => {
                let (path, text) = (path.clone(), text.to_owned());
                blocking(move || console_log::search(&path, from, &text)).await
            }
            Self::Volume { .. } => {
                let bytes = self.fetch(from).await?.unwrap_or_default();
                let has = bytes
                    .windows(text.len().max(1))
                    .any(|seen| seen == text.as_bytes());
                // The end may be the beginning of the text.
                let next = from + (bytes.len() + 1).saturating_sub(text.len()) as u64;
                Ok(if has || text.is_empty() {
                    Ok(())
                } else {
                    Err(next)
                })
            }
        }
    }

    /// The last `lines` lines; none without a log.
    pub(super) async fn last(&self, lines: u32) -> Result<Vec<String>, ProviderError> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                blocking(move || console_log::last(&path, lines)).await
            }
            Self::Volume { .. } => {
                let (mut found, mut cut) = self
                    .tail()
                    .await?
                    .unwrap_or_else(|| (Vec::new(), Cutter::new(0)));
                found.extend(cut.rest());
                let first = found.len().saturating_sub(lines as usize);
                Ok(found.drain(first..).map(|line| line.text).collect())
            }
        }
    }

    /// The lines from `start` and then each new one, over ends and starts, until the machine is removed.
    pub(super) fn follow(self, start: Start) -> BoxStream<'static, Line> {
        if let Self::File(path) = &self {
            return console_log::follow(path, start);
        }
        let begun = stream::once(async move {
            let (first, cut) = match start {
                Start::After(mark) => (Vec::new(), Cutter::new(u64::try_from(mark).unwrap_or(0))),
                Start::Last(lines) => {
                    let (mut found, cut) = self.tail().await.ok().flatten()?;
                    let first = found.len().saturating_sub(lines as usize);
                    (found.split_off(first), cut)
                }
            };
            let state = (self, cut, VecDeque::from(first));
            Some(stream::unfold(state, async |(log, mut cut, mut lines)| {
                loop {
                    if let Some(line) = lines.pop_front() {
                        return Some((line, (log, cut, lines)));
                    }
                    if log.length().await.ok()? < cut.at() {
                        cut = Cutter::new(0);
                    }
                    let bytes = log.fetch(cut.at()).await.ok()??;
                    if bytes.is_empty() {
                        moment(LOOK).await;
                    }
                    lines.extend(cut.add(&bytes));
                }
            }))
        });
        begun.filter_map(std::future::ready).flatten().boxed()
    }

    /// The lines at its end, and what cuts those that follow. `None` without a log.
    async fn tail(&self) -> Result<Option<(Vec<Line>, Cutter)>, ProviderError> {
        let from = self.length().await?.saturating_sub(TAIL);
        let Some(bytes) = self.fetch(from).await? else {
            return Ok(None);
        };
        let begun = match from {
            0 => 0,
            _ => bytes
                .iter()
                .position(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1),
        };
        let mut cut = Cutter::new(from + begun as u64);
        let lines = cut.add(&bytes[begun..]);
        Ok(Some((lines, cut)))
    }

    /// The bytes from a place on; `None` without a log.
    async fn fetch(&self, from: u64) -> Result<Option<Vec<u8>>, ProviderError> {
        let Self::Volume { virsh, pool, name } = self else {
            return Ok(None);
        };
        let from = from.to_string();
        let way = [
            "vol-download",
            "--pool",
            pool,
            name,
            "/dev/stdout",
            "--offset",
        ];
        let arguments: Vec<_> = way.into_iter().chain([from.as_str()]).collect();
        let output = virsh.run(&arguments, None).await?;
        if is_gone(&output) {
            return Ok(None);
        }
        said(&output)?;
        Ok(Some(output.stdout))
    }
}

fn is_gone(output: &crate::providers::program::Output) -> bool {
    !output.is_success() && NO_VOLUME.iter().any(|text| output.stderr.contains(text))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, ProviderError> {
    let unread = |error: &dyn std::fmt::Display| failed(format!("its console's log: {error}"));
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| unread(&error)),
        Err(error) => Err(unread(&error)),
    }
}
