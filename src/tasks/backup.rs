//! A backup of the database: made, tried, told of, and what is too old removed.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Outside;
use crate::{
    backup::{BackupError, Backups, Manifest, Watcher},
    domain::policy::Viewer,
    queue::{Run, TaskError, TaskKind},
    store::{audit, task_logs::Level, tasks::TaskInput},
};

#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Input {}

impl TaskInput for Input {
    const KIND: &'static str = "backup";
    const DEADLINE: Duration = Duration::from_secs(20 * 3600);
}

pub struct Backup(pub Outside);

/// Tells a run's watchers, and ends with it.
struct Told<'a>(&'a Run);

#[async_trait]
impl Watcher for Told<'_> {
    async fn progress(&self, percent: u8, message: &str) -> Result<(), BackupError> {
        if self.0.stop.token().is_cancelled() {
            return Err(BackupError::Stopped);
        }
        let told = self.0.progress(percent, message).await;
        told.map_err(|error| BackupError::Watcher(Box::new(error)))
    }
}

#[async_trait]
impl TaskKind for Backup {
    type Input = Input;
    type Output = Manifest;
    const TIMEOUT: Duration = Duration::from_secs(6 * 3600);

    async fn run(&self, _: Input, run: &Run) -> Result<Manifest, TaskError> {
        let backups = self.0.backups.as_deref().ok_or(BackupError::NoPlace)?;
        let made = tokio::select! {
            biased;
            () = run.stop.token().cancelled() => Err(TaskError::Stopped),
            made = self.make(backups, run) => made,
        };
        if made.is_err() {
            backups.count_failure();
        }
        made
    }
}

impl Backup {
    async fn make(&self, backups: &Backups, run: &Run) -> Result<Manifest, TaskError> {
        let watcher = Told(run);
        let origin = run.task.id().to_string();
        let taken: Manifest = run
            .step("taken", || async {
                Ok(backups.take(&origin, &watcher).await?)
            })
            .await?;
        // A run that was cut off while it tried it has left a database.
        backups.clear(&origin).await?;
        let verified = backups.verify(taken, &watcher).await?;
        for name in backups.prune().await? {
            run.log(Level::Info, &format!("{name} is too old and gone"))
                .await?;
        }
        let mut tx = run.begin(&self.0.store).await?;
        let detail = json!({
            "name": verified.name,
            "bytes": verified.bytes,
            "rows": verified.rows(),
            "encrypted": verified.encryption.is_some(),
        });
        audit::record(
            &mut tx,
            Viewer::System,
            "backup.make",
            run.task.id(),
            detail,
        )
        .await?;
        tx.commit().await?;
        run.progress(100, &format!("{} is made and tried", verified.name))
            .await?;
        Ok(verified)
    }
}

impl From<BackupError> for TaskError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Stopped => Self::Stopped,
            BackupError::Watcher(why) => match why.downcast::<TaskError>() {
                Ok(error) => *error,
                Err(why) => Self::Retryable {
                    code: "WATCHER",
                    message: why.to_string(),
                },
            },
            error if error.may_pass() => Self::Retryable {
                code: error.code(),
                message: error.to_string(),
            },
            error => Self::Permanent {
                code: error.code(),
                message: error.to_string(),
            },
        }
    }
}
