//! Settings, as operators see and store them.

use async_graphql::{Context, Enum, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{services, viewer};
use crate::services::settings::{Entry, Environment, Level, Reloaded, Shown};

/// The environments a stored value is the default of.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
pub enum ConfigEnvironment {
    /// All of them; a value of one environment is stronger.
    All,
    /// Development.
    Dev,
    /// The rehearsal of production.
    Staging,
    /// Production.
    Prod,
}

impl From<ConfigEnvironment> for Level {
    fn from(environment: ConfigEnvironment) -> Self {
        match environment {
            ConfigEnvironment::All => Self::All,
            ConfigEnvironment::Dev => Self::Of(Environment::Dev),
            ConfigEnvironment::Staging => Self::Of(Environment::Staging),
            ConfigEnvironment::Prod => Self::Of(Environment::Prod),
        }
    }
}

impl From<Level> for ConfigEnvironment {
    fn from(level: Level) -> Self {
        match level {
            Level::All => Self::All,
            Level::Of(Environment::Dev) => Self::Dev,
            Level::Of(Environment::Staging) => Self::Staging,
            Level::Of(Environment::Prod) => Self::Prod,
        }
    }
}

/// A setting as it holds in the process that answers.
#[derive(SimpleObject)]
pub struct Setting {
    /// Its name, such as `REQUEST_SECONDS`.
    name: String,
    /// What it is for.
    description: String,
    /// What it accepts, with the default in brackets.
    accepts: String,
    /// What holds, masked where it is secret; null for the default.
    value: Option<String>,
    /// Where that comes from: the command line, the environment, a file, the configuration database, or the defaults.
    origin: String,
    /// Whether it is encrypted where it is stored.
    is_secret: bool,
    /// Whether a running process follows a change.
    reloads: bool,
    /// Whether another value waits for a restart.
    needs_restart: bool,
}

impl From<Shown> for Setting {
    fn from(shown: Shown) -> Self {
        Self {
            name: shown.key.name.to_owned(),
            description: shown.key.what.clone(),
            accepts: shown.key.expected(),
            value: shown.value,
            origin: shown.origin.to_string(),
            is_secret: shown.key.is_secret,
            reloads: shown.key.reloads,
            needs_restart: shown.needs_restart,
        }
    }
}

/// A value in the configuration database.
#[derive(SimpleObject)]
pub struct ConfigValue {
    /// Where it is the default.
    environment: ConfigEnvironment,
    /// The setting.
    name: String,
    /// The value; null for a secret.
    value: Option<String>,
    /// When it was stored.
    updated_at: DateTime<Utc>,
    /// Who stored it: an account's id, or a name from the command line.
    updated_by: String,
}

impl From<Entry> for ConfigValue {
    fn from(entry: Entry) -> Self {
        Self {
            environment: entry.level.into(),
            value: entry.shown().map(str::to_owned),
            updated_at: entry.updated_at,
            updated_by: entry.updated_by,
            name: entry.name,
        }
    }
}

/// A value to store.
#[derive(InputObject)]
pub struct SetConfigValueInput {
    /// Where it is to be the default.
    environment: ConfigEnvironment,
    /// The setting.
    name: String,
    /// The value, as the setting accepts it.
    value: String,
}

/// A stored value to remove.
#[derive(InputObject)]
pub struct RemoveConfigValueInput {
    /// Where it is the default.
    environment: ConfigEnvironment,
    /// The setting.
    name: String,
}

/// What the process that answers has made of the change; the others follow within moments.
#[derive(SimpleObject)]
pub struct ConfigPayload {
    /// Settings that have another value now.
    applied: Vec<String>,
    /// Settings that get another value by a restart.
    needs_restart: Vec<String>,
}

impl From<Reloaded> for ConfigPayload {
    fn from(found: Reloaded) -> Self {
        let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
        Self {
            applied: owned(found.applied),
            needs_restart: owned(found.waiting),
        }
    }
}

#[derive(Default)]
pub struct SettingsQuery;

#[Object]
impl SettingsQuery {
    /// Every setting of the process that answers, with where its value comes from. For administrators.
    async fn settings(&self, ctx: &Context<'_>) -> Result<Vec<Setting>> {
        let shown = services(ctx).settings(viewer(ctx)?)?;
        Ok(shown.into_iter().map(Setting::from).collect())
    }

    /// What stands in the configuration database (`CONFIG_DB_URL`); nothing without one. For administrators.
    ///
    /// Errors: `UNAVAILABLE`.
    async fn config_values(&self, ctx: &Context<'_>) -> Result<Vec<ConfigValue>> {
        let entries = services(ctx).config_values(viewer(ctx)?).await?;
        Ok(entries.into_iter().map(ConfigValue::from).collect())
    }
}

#[derive(Default)]
pub struct SettingsMutation;

#[Object]
impl SettingsMutation {
    /// Stores a setting's value in the configuration database, a secret encrypted. Processes follow it at once where the
    /// setting reloads, unless they are given a stronger value. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`, `UNAVAILABLE`.
    async fn set_config_value(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The value to store.")] input: SetConfigValueInput,
    ) -> Result<ConfigPayload> {
        let level = input.environment.into();
        let found = services(ctx)
            .set_config_value(viewer(ctx)?, level, &input.name, &input.value)
            .await?;
        Ok(found.into())
    }

    /// Removes a value from the configuration database, so that the weaker one holds. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`, `UNAVAILABLE`.
    async fn remove_config_value(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The value to remove.")] input: RemoveConfigValueInput,
    ) -> Result<ConfigPayload> {
        let level = input.environment.into();
        let found = services(ctx)
            .remove_config_value(viewer(ctx)?, level, &input.name)
            .await?;
        Ok(found.into())
    }

    /// Has every process read its settings again: its file and the configuration database. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT` naming the setting that cannot be used; then all stay as they are.
    async fn reload_config(&self, ctx: &Context<'_>) -> Result<ConfigPayload> {
        Ok(services(ctx).reload_config(viewer(ctx)?).await?.into())
    }
}
