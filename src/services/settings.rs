//! The settings of this process and those that are stored for all.

use sea_orm::JsonValue;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Services, may_with_all};
pub use crate::config::{Entry, Environment, Level, Reloaded, Shown};
use crate::{
    config::{ConfigError, Key, storable},
    domain::{
        Change, ChangeKind, Id, Table,
        id::Setting,
        policy::{Action, Resource, Viewer},
    },
    error::AppError,
    store::{Tx, audit},
};

impl Services {
    /// Every setting as it holds in this process.
    pub fn settings(&self, viewer: Viewer) -> Result<Vec<Shown>, AppError> {
        may_with_all(viewer, Action::Read, Resource::Setting)?;
        Ok(self.configuration.shown())
    }

    /// What is stored.
    pub async fn config_values(&self, viewer: Viewer) -> Result<Vec<Entry>, AppError> {
        may_with_all(viewer, Action::Read, Resource::Setting)?;
        self.configuration
            .entries()
            .await
            .map_err(|error| down(&error))
    }

    /// Stores a value; every process follows it, this one before the answer.
    pub async fn set_config_value(
        &self,
        viewer: Viewer,
        level: Level,
        name: &str,
        value: &str,
    ) -> Result<Reloaded, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Setting)?;
        let key =
            storable(name, value).map_err(|(field, reason)| AppError::Invalid { field, reason })?;
        let write = async |by: String| {
            let at = self.store.now();
            let stored = self.configuration.needed()?;
            stored.put(level, key, value, &by, at).await
        };
        self.written(viewer, "set", level, key, write).await
    }

    /// Removes a stored value.
    pub async fn remove_config_value(
        &self,
        viewer: Viewer,
        level: Level,
        name: &str,
    ) -> Result<Reloaded, AppError> {
        const NONE: AppError = AppError::NotFound {
            what: "stored value",
        };
        may_with_all(viewer, Action::Delete, Resource::Setting)?;
        let entries = self.configuration.entries().await;
        let entries = entries.map_err(|error| down(&error))?;
        let is_there = |entry: &&Entry| entry.level == level && entry.name == name;
        entries.iter().find(is_there).ok_or(NONE)?;
        let remove = async |_| {
            let stored = self.configuration.needed()?;
            stored.remove(level, name).await.map(|_| ())
        };
        if let Some(key) = crate::config::key(name) {
            return self.written(viewer, "remove", level, key, remove).await;
        }
        // Another version's; nobody here follows it.
        remove(String::new()).await.map_err(|error| down(&error))?;
        Ok(Reloaded::default())
    }

    /// Writes to the configuration database, records who did, tells every process, and follows it here.
    async fn written(
        &self,
        viewer: Viewer,
        action: &str,
        level: Level,
        key: &Key,
        write: impl AsyncFnOnce(String) -> Result<(), ConfigError>,
    ) -> Result<Reloaded, AppError> {
        let id = identity(key.name);
        let mut tx = self.store.begin().await?;
        let detail: JsonValue = json!({ "name": key.name, "environment": level.name() });
        audit::record(&mut tx, viewer, action, id, detail).await?;
        announce(&mut tx, id.uuid());
        let by = viewer.user().map(|id| id.to_string()).unwrap_or_default();
        // Within the transaction: what could not be written leaves no record of it.
        write(by).await.map_err(|error| down(&error))?;
        tx.commit().await?;
        // The value is stored; that others make this process' settings unusable is told by the log and `settings`.
        match self.configuration.reload().await {
            Ok(found) => Ok(found),
            Err(error) => {
                tracing::warn!(%error, "the settings stay as they are");
                Ok(Reloaded::default())
            }
        }
    }

    /// Reads the settings of every process again.
    pub async fn reload_config(&self, viewer: Viewer) -> Result<Reloaded, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Setting)?;
        let found = self.configuration.reload().await.map_err(|error| {
            let reason = error.to_string();
            AppError::Invalid {
                field: "settings",
                reason,
            }
        })?;
        let mut tx = self.store.begin().await?;
        announce(&mut tx, Uuid::nil());
        tx.commit().await?;
        Ok(found)
    }
}

/// Tells every process to read its settings again.
fn announce(tx: &mut Tx<'_>, id: Uuid) {
    let version = tx.now().timestamp_micros();
    tx.changed(Change {
        table: Table::Configuration,
        id,
        version,
        owner: None,
        kind: ChangeKind::ConfigurationChanged,
    });
}

/// The id a setting has in the audit log: the same everywhere, since it follows from its name.
fn identity(name: &str) -> Id<Setting> {
    let hash = Sha256::digest(name.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Id::new(Uuid::from_bytes(bytes))
}

fn down(error: &ConfigError) -> AppError {
    match error {
        ConfigError::Missing {
            key: "CONFIG_DB_URL",
            ..
        } => AppError::Unavailable {
            what: "a configuration database",
        },
        ConfigError::Missing { key, problem } => AppError::Invalid {
            field: "value",
            reason: format!("{key} is {problem}"),
        },
        error => {
            tracing::warn!(%error, "the configuration database failed");
            AppError::Unavailable {
                what: "the configuration database",
            }
        }
    }
}
