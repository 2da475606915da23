//! The programs that do the work, and what their errors mean here.

use std::{ffi::OsStr, io, time::Duration};

use super::NAME;
pub(super) use crate::providers::program::{DISKS, Output, is_locked, is_port_taken, moment};
use crate::providers::{ProviderError, program};

/// The machine itself.
pub(super) const SYSTEM: &str = "qemu-system-x86_64";

/// Runs a program to its end.
///
/// # Errors
/// [`ProviderError::TimedOut`] after `limit`, when it has been killed; [`ProviderError::Unreachable`] when it is not there.
pub(super) async fn run(
    program: &'static str,
    arguments: impl IntoIterator<Item: AsRef<OsStr>>,
    limit: Duration,
) -> Result<Output, ProviderError> {
    let command = program::command(program, arguments, &[]);
    program::run(NAME, command, None, limit).await
}

pub(super) fn classify(complaint: &str) -> ProviderError {
    program::classify(NAME, complaint)
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
