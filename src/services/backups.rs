//! Backups, as administrators see them and ask for them.

use sea_orm::SqlErr;
use serde_json::json;

use super::{Services, idempotency_key, may_with_all, replayed, signed_in};
use crate::{
    backup::{BackupError, Manifest},
    config,
    domain::{
        cadence::Cadence,
        policy::{Action, Resource, Viewer},
    },
    error::{AppError, StoreError},
    store::{
        audit,
        schedules::{self, NewSchedule},
        tasks::{self, Model, TaskInput as _},
    },
    tasks::backup::Input,
};

/// The schedule that is the service's own.
const SCHEDULE: &str = "backup";
/// Most backups one request lists.
const MANY: i32 = 100;

impl Services {
    /// The newest backups, the newest first.
    pub async fn list_backups(
        &self,
        viewer: Viewer,
        first: i32,
    ) -> Result<Vec<Manifest>, AppError> {
        may_with_all(viewer, Action::Read, Resource::Backup)?;
        let limit = usize::try_from(first)
            .ok()
            .filter(|_| (1..=MANY).contains(&first))
            .ok_or_else(|| AppError::Invalid {
                field: "first",
                reason: format!("1 to {MANY} backups are expected"),
            })?;
        let Some(backups) = &self.backups else {
            return Ok(Vec::new());
        };
        backups.list(limit).await.map_err(|error| match error {
            BackupError::Store { .. } => {
                tracing::warn!(%error, "backups cannot be listed");
                AppError::Unavailable {
                    what: "the store of backups",
                }
            }
            error => AppError::internal(error),
        })
    }

    /// Asks for a backup now.
    pub async fn back_up(&self, viewer: Viewer, key: Option<&str>) -> Result<Model, AppError> {
        may_with_all(viewer, Action::Create, Resource::Backup)?;
        let owner = signed_in(viewer)?;
        let key = idempotency_key(key)?;
        if let Some(earlier) = replayed(self.store.db(), owner, key.as_ref(), Input::KIND).await? {
            return Ok(earlier);
        }
        if self.backups.is_none() {
            return Err(AppError::Unavailable {
                what: "a place for backups (BACKUP_URL)",
            });
        }
        self.admission.admit(&self.store, owner, 1).await?;
        let task = Input {}.into_task(Some(owner), None)?.with_key(key);
        let mut tx = self.store.begin().await?;
        let enqueued = tasks::insert(&mut tx, task).await?;
        if enqueued.is_new {
            let detail = json!({});
            audit::record(&mut tx, viewer, "backup.ask", enqueued.task.id(), detail).await?;
        }
        tx.commit().await?;
        Ok(enqueued.task)
    }

    /// Keeps the nightly schedule as the settings say: it is there where there is a place for backups. Whether it is enabled
    /// stays what somebody has chosen.
    pub async fn keep_backup_schedule(&self, wanted: &config::Backup) -> Result<(), AppError> {
        let known = schedules::unscoped_by_name(self.store.db(), SCHEDULE).await?;
        if wanted.place.is_none() {
            if let Some(known) = known {
                let mut tx = self.store.begin().await?;
                schedules::remove(&mut tx, known.id()).await?;
                tx.commit().await?;
            }
            return Ok(());
        }
        let is_same = |known: &schedules::Model| {
            known.cron == wanted.cron && known.time_zone == wanted.time_zone
        };
        if known.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        let next = Cadence::parse(&wanted.cron, &wanted.time_zone)
            .ok()
            .and_then(|cadence| cadence.next(self.store.now()));
        let Some(next_at) = next else {
            tracing::warn!(cron = wanted.cron, "BACKUP_CRON never comes round");
            return Ok(());
        };
        let schedule = NewSchedule {
            name: SCHEDULE.to_owned(),
            template: Input {}.into_task(None, None)?.into(),
            cron: wanted.cron.clone(),
            time_zone: wanted.time_zone.clone(),
            enabled: known.is_none_or(|known| known.enabled),
            next_at,
        };
        let mut tx = self.store.begin().await?;
        match schedules::put(&mut tx, schedule).await {
            Ok(_) => Ok(tx.commit().await?),
            // Another process that starts now has put the same.
            Err(StoreError::Database(error))
                if matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_))) =>
            {
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }
}
