//! What a backup is: written last, so that there is none without all of its data.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Everything that is known of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Of this form; 1.
    pub version: u32,
    /// Begins with the time, so that names sort by age.
    pub name: String,
    /// The object with the data.
    pub object: String,
    pub database: Engine,
    /// The database server's version.
    pub server: String,
    /// The program that made it.
    pub program: String,
    /// The steps the tables were brought up to, in order.
    pub migrations: Vec<String>,
    /// Every table as it was at one moment.
    pub tables: Vec<Table>,
    pub started_at: DateTime<Utc>,
    pub took_millis: u64,
    /// Bytes of the dump, before encryption.
    pub plain_bytes: u64,
    /// Bytes of the object, and their SHA-256 in hexadecimal.
    pub bytes: u64,
    pub sha256: String,
    /// `None` is in clear.
    pub encryption: Option<Encryption>,
    /// The task that made it, or the command line.
    pub origin: String,
    /// `None` until it has been tried.
    pub verification: Option<Verification>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// In `pg_dump`'s custom format.
    Postgresql,
    /// The database's file, by gzip.
    Sqlite,
}

impl Engine {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgresql => "PostgreSQL",
            Self::Sqlite => "SQLite",
        }
    }

    /// How the dump's name ends.
    pub(super) const fn ending(self) -> &'static str {
        match self {
            Self::Postgresql => "dump",
            Self::Sqlite => "sqlite3.gz",
        }
    }
}

/// A table, its rows, and what they add up to in whatever order they come.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Table {
    pub name: String,
    pub rows: u64,
    /// The sum of the rows' hashes.
    pub checksum: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encryption {
    /// `age-encryption.org/v1`.
    pub format: String,
    /// Whose identity opens it.
    pub recipient: String,
}

/// What came of restoring it into a database of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    pub at: DateTime<Utc>,
    pub took_millis: u64,
    /// `None` when everything was there.
    pub problem: Option<String>,
}

impl Manifest {
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// The newest step of its tables.
    pub fn schema(&self) -> &str {
        self.migrations.last().map_or("none", String::as_str)
    }

    /// Whether it has been restored and compared.
    pub fn is_good(&self) -> bool {
        matches!(self.verification, Some(Verification { problem: None, .. }))
    }

    /// Whether it was found not to be.
    pub fn is_bad(&self) -> bool {
        matches!(
            self.verification,
            Some(Verification {
                problem: Some(_),
                ..
            })
        )
    }
}

/// How `found` differs from `expected`, table by table; `None` when it does not.
pub fn difference(expected: &[Table], found: &[Table]) -> Option<String> {
    const SHOWN: usize = 5;
    let by_name = |tables: &[Table]| -> std::collections::BTreeMap<String, Table> {
        let named = tables
            .iter()
            .map(|table| (table.name.clone(), table.clone()));
        named.collect()
    };
    let (expected, found) = (by_name(expected), by_name(found));
    let names: std::collections::BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let told = names.into_iter().filter_map(|name| {
        Some(match (expected.get(name), found.get(name)) {
            (Some(_), None) => format!("{name} is missing"),
            (None, Some(_)) => format!("{name} is too many"),
            (Some(wanted), Some(had)) if wanted.rows != had.rows => {
                format!("{name} has {} rows instead of {}", had.rows, wanted.rows)
            }
            (Some(wanted), Some(had)) if wanted.checksum != had.checksum => {
                format!("{name} has other rows")
            }
            _ => return None,
        })
    });
    let told: Vec<String> = told.collect();
    let more = told.len().saturating_sub(SHOWN);
    let mut text = told.into_iter().take(SHOWN).collect::<Vec<_>>().join(", ");
    if more > 0 {
        use std::fmt::Write as _;
        let _ = write!(text, " and {more} more");
    }
    (!text.is_empty()).then_some(text)
}
