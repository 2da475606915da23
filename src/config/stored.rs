//! The configuration database: default values for each environment, one row a value.
//!
//! It may be one that many deployments share, so its rows are of the environment `all` or of one, the latter stronger.
//! What is secret is encrypted under `CONFIG_KEY`, each value for its place alone.

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectOptions, ConnectionTrait as _, DatabaseConnection, DbBackend, DbErr, QueryResult,
    SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait as _, Value,
};

use super::{
    ConfigError, Database, Environment, Key, Origin, Pairs, Secret, key, nearest, seal::SealKey,
};

/// How long the database may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
/// Longest value, in bytes.
const LONGEST: usize = 64 * 1024;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS configuration (
    environment VARCHAR(16) NOT NULL CHECK (environment IN ('all', 'dev', 'staging', 'prod')),
    name VARCHAR(64) NOT NULL,
    value TEXT NOT NULL,
    is_encrypted BOOLEAN NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL,
    updated_by VARCHAR(256) NOT NULL,
    PRIMARY KEY (environment, name)
)";
const ALL: &str = "SELECT environment, name, value, is_encrypted, updated_at, updated_by
    FROM configuration ORDER BY name, environment";
const PUT: &str =
    "INSERT INTO configuration (environment, name, value, is_encrypted, updated_at, updated_by)
    VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (environment, name) DO UPDATE SET value = excluded.value, is_encrypted = excluded.is_encrypted,
        updated_at = excluded.updated_at, updated_by = excluded.updated_by";
const REMOVE: &str = "DELETE FROM configuration WHERE environment = $1 AND name = $2";
const SEALED: &str = "SELECT environment, name, value, is_encrypted, updated_at, updated_by
    FROM configuration WHERE is_encrypted ORDER BY name, environment";
const SEAL_ANEW: &str = "UPDATE configuration SET value = $3 WHERE environment = $1 AND name = $2";
/// Keeps writers away, not readers; SQLite has one writer anyway.
const ALONE: &str = "SET LOCAL lock_timeout = '5s';
    LOCK TABLE configuration IN SHARE ROW EXCLUSIVE MODE";

/// For which environments a stored value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    All,
    Of(Environment),
}

impl Level {
    pub const EVERY: [Self; 4] = [
        Self::All,
        Self::Of(Environment::Dev),
        Self::Of(Environment::Staging),
        Self::Of(Environment::Prod),
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Of(environment) => environment.as_str(),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::EVERY.into_iter().find(|level| level.name() == text)
    }
}

/// A stored value.
#[derive(Debug, Clone)]
pub struct Entry {
    pub level: Level,
    pub name: String,
    /// As it stands there: encrypted when it is a secret.
    value: String,
    is_encrypted: bool,
    pub updated_at: DateTime<Utc>,
    pub updated_by: String,
}

impl Entry {
    /// The value for a person's eyes; nothing of a secret.
    pub fn shown(&self) -> Option<&str> {
        let is_open = key(&self.name).is_some_and(|key| !key.is_secret) && !self.is_encrypted;
        is_open.then_some(self.value.as_str())
    }
}

/// The open configuration database.
#[derive(Clone)]
pub struct Stored {
    db: DatabaseConnection,
    target: String,
    seal: Option<SealKey>,
}

impl Stored {
    /// Connects to `url`, which has been looked at.
    pub async fn open(url: &Secret, secret: Option<&Secret>) -> Result<Self, ConfigError> {
        let target = Database::parse(url.expose()).map_or_else(|_| "…".to_owned(), |db| db.shown());
        let mut options = ConnectOptions::new(url.expose().to_owned());
        options
            .max_connections(1)
            .min_connections(0)
            .connect_timeout(PATIENCE)
            .acquire_timeout(PATIENCE)
            .sqlx_logging(false);
        let opened = sea_orm::Database::connect(options).await;
        let db = opened.map_err(|error| down(&target, &error))?;
        Ok(Self {
            db,
            target,
            seal: secret.map(SealKey::new),
        })
    }

    /// Makes the table, unless it is there.
    pub async fn init(&self) -> Result<(), ConfigError> {
        let made = self.db.execute_unprepared(TABLE).await;
        made.map(|_| ()).map_err(|error| self.down(&error))
    }

    /// Every row.
    pub async fn entries(&self) -> Result<Vec<Entry>, ConfigError> {
        let rows = self.db.query_all_raw(self.statement(ALL, [])).await;
        let rows = rows.map_err(|error| self.unreadable(&error))?;
        rows.iter()
            .map(|row| read(row).map_err(|error| self.down(&error)))
            .collect()
    }

    /// What `environment` gets from here, weaker layers last. Names of another version are left out, and told of.
    pub async fn layers(
        &self,
        environment: Environment,
    ) -> Result<Vec<(Origin, Pairs)>, ConfigError> {
        let entries = self.entries().await?;
        let layer = |level: Level| {
            let mut pairs = Pairs::new();
            for entry in entries.iter().filter(|entry| entry.level == level) {
                let Some(key) = key(&entry.name).filter(|key| !key.is_local) else {
                    tracing::warn!(
                        setting = entry.name,
                        "the configuration database has what this version does not know"
                    );
                    continue;
                };
                pairs.insert(entry.name.clone(), self.opened(entry, key)?);
            }
            let environment = level.name();
            Ok((Origin::Stored { environment }, pairs))
        };
        Ok(vec![layer(Level::Of(environment))?, layer(Level::All)?])
    }

    fn opened(&self, entry: &Entry, key: &'static Key) -> Result<String, ConfigError> {
        if !entry.is_encrypted {
            if key.is_secret {
                let problem = format!(
                    "holds {} in clear; store it by: main-webserver config set",
                    key.name
                );
                return Err(self.problem(problem));
            }
            return Ok(entry.value.clone());
        }
        let Some(seal) = &self.seal else {
            return Err(ConfigError::Missing {
                key: "CONFIG_KEY",
                problem: format!(
                    "needed to read {} of the configuration database",
                    entry.name
                ),
            });
        };
        let opened = seal.open(&place(entry.level, key.name), &entry.value);
        opened.map_err(|_| {
            self.problem(format!(
                "holds a {} that this CONFIG_KEY does not open",
                entry.name
            ))
        })
    }

    /// Stores a value that has been looked at by [`storable`].
    pub async fn put(
        &self,
        level: Level,
        key: &'static Key,
        value: &str,
        by: &str,
        at: DateTime<Utc>,
    ) -> Result<(), ConfigError> {
        let value = match (&self.seal, key.is_secret) {
            (_, false) => value.to_owned(),
            (Some(seal), true) => seal.seal(&place(level, key.name), value),
            (None, true) => {
                let problem = format!("needed to encrypt {}", key.name);
                return Err(ConfigError::Missing {
                    key: "CONFIG_KEY",
                    problem,
                });
            }
        };
        let values: [Value; 6] = [
            level.name().into(),
            key.name.into(),
            value.into(),
            key.is_secret.into(),
            at.into(),
            by.into(),
        ];
        let put = self.db.execute_raw(self.statement(PUT, values)).await;
        put.map(|_| ()).map_err(|error| self.down(&error))
    }

    /// Removes a value; whether there was one.
    pub async fn remove(&self, level: Level, name: &str) -> Result<bool, ConfigError> {
        let values: [Value; 2] = [level.name().into(), name.into()];
        let removed = self.db.execute_raw(self.statement(REMOVE, values)).await;
        let removed = removed.map_err(|error| self.down(&error))?;
        Ok(removed.rows_affected() > 0)
    }

    /// Seals every secret anew under `new`, all of them or none; how many there are.
    ///
    /// # Errors
    /// A value that the present key does not open.
    pub async fn rotate(&self, new: &Secret) -> Result<usize, ConfigError> {
        let present = self.seal.as_ref().ok_or_else(|| ConfigError::Missing {
            key: "CONFIG_KEY",
            problem: "needed to read what is sealed now".to_owned(),
        })?;
        let new = SealKey::new(new);
        let down = |error: DbErr| self.down(&error);
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let tx = self.db.begin_with_options(options).await.map_err(down)?;
        if tx.get_database_backend() == DbBackend::Postgres {
            let alone = tx.execute_unprepared(ALONE).await;
            alone.map_err(|error| self.unreadable(&error))?;
        }
        let rows = tx.query_all_raw(self.statement(SEALED, [])).await;
        let rows = rows.map_err(|error| self.unreadable(&error))?;
        for row in &rows {
            let entry = read(row).map_err(down)?;
            // Those of another version are bound to their place in the same way.
            let place = place(entry.level, &entry.name);
            let plain = present.open(&place, &entry.value).map_err(|_| {
                self.problem(format!(
                    "holds a {} for {} that this CONFIG_KEY does not open; nothing is changed",
                    entry.name,
                    entry.level.name()
                ))
            })?;
            let values: [Value; 3] = [
                entry.level.name().into(),
                entry.name.into(),
                new.seal(&place, &plain).into(),
            ];
            let sealed = tx.execute_raw(self.statement(SEAL_ANEW, values)).await;
            sealed.map_err(down)?;
        }
        tx.commit().await.map_err(down)?;
        Ok(rows.len())
    }

    fn statement(&self, sql: &str, values: impl IntoIterator<Item = Value>) -> Statement {
        Statement::from_sql_and_values(self.db.get_database_backend(), sql, values)
    }

    fn problem(&self, problem: String) -> ConfigError {
        ConfigError::Stored {
            target: self.target.clone(),
            problem,
        }
    }

    /// Why the table cannot be read.
    fn unreadable(&self, error: &DbErr) -> ConfigError {
        match error.to_string().to_lowercase() {
            text if text.contains("no such table") || text.contains("does not exist") => self
                .problem(
                    "has no table of settings; make it by: main-webserver config init".to_owned(),
                ),
            _ => self.down(error),
        }
    }

    fn down(&self, error: &DbErr) -> ConfigError {
        down(&self.target, error)
    }
}

/// The setting `name`, if `value` is one it takes and it may be stored.
///
/// # Errors
/// What is wrong, and with which of the two: `name` or `value`.
pub fn storable(name: &str, value: &str) -> Result<&'static Key, (&'static str, String)> {
    let Some(key) = key(name) else {
        let nearest = nearest(name).map(|name| format!("; did you mean {name}?"));
        let problem = format!("no such setting{}", nearest.unwrap_or_default());
        return Err(("name", problem));
    };
    if key.is_local {
        let problem = "it says where the others are, so it is set where the process starts";
        return Err(("name", problem.to_owned()));
    }
    if value.is_empty() || value.len() > LONGEST {
        return Err(("value", format!("1 to {LONGEST} bytes are expected")));
    }
    key.check(value).map_err(|problem| {
        (
            "value",
            format!("{problem}; {} is expected", key.expected()),
        )
    })?;
    Ok(key)
}

/// What a sealed value is bound to.
fn place(level: Level, name: &str) -> String {
    format!("{}/{name}", level.name())
}

fn read(row: &QueryResult) -> Result<Entry, DbErr> {
    let environment: String = row.try_get("", "environment")?;
    let level = Level::parse(&environment);
    Ok(Entry {
        level: level.ok_or_else(|| DbErr::Custom(format!("no environment '{environment}'")))?,
        name: row.try_get("", "name")?,
        value: row.try_get("", "value")?,
        is_encrypted: row.try_get("", "is_encrypted")?,
        updated_at: row.try_get("", "updated_at")?,
        updated_by: row.try_get("", "updated_by")?,
    })
}

fn down(target: &str, error: &DbErr) -> ConfigError {
    ConfigError::Stored {
        target: target.to_owned(),
        problem: format!("cannot be used, {error}"),
    }
}
