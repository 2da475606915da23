//! Typed settings: where they come from, what they accept, and how a running process follows their changes. A wrong one
//! stops the start with one line that names it.

mod backup;
mod configuration;
mod database;
mod key;
mod kinds;
mod machines;
mod retention;
mod seal;
mod secret;
mod settings;
mod sources;
mod stored;
mod telemetry;

pub use backup::{Access, Backup, Keep, Place};
pub use configuration::{Changes, Configuration, Given, Reloaded, Shown};
pub use database::{ANY_CERTIFICATE, Database};
pub use key::{KEYS, Key, key, nearest};
pub use machines::Machines;
pub use retention::Records;
pub use secret::Secret;
pub use settings::{Settings, check_log_filter};
pub use sources::{Origin, Pairs, Sources};
pub use stored::{Entry, Level, Stored, storable};
pub use telemetry::Telemetry;

/// A setting that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}: {problem} (from {origin}); {accepts} is expected")]
    Value {
        key: &'static str,
        problem: String,
        origin: Origin,
        accepts: String,
    },
    #[error("{key}: no such setting{}", .nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    UnknownKey {
        key: String,
        nearest: Option<&'static str>,
    },
    #[error("{key}: {problem}")]
    Missing { key: &'static str, problem: String },
    #[error("{key}: it is set by {key}_FILE as well")]
    Twice { key: String },
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    /// The configuration database cannot be read or written.
    #[error("CONFIG_DB_URL: {target} {problem}")]
    Stored { target: String, problem: String },
}

/// What a deployment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Dev,
    Staging,
    Prod,
}

impl Environment {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Staging => "staging",
            Self::Prod => "prod",
        }
    }
}

/// Which engine containers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderChoice {
    Auto,
    Docker,
    Swarm,
    Simulated,
}

/// Which engine virtual machines run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineProviderChoice {
    Auto,
    Qemu,
    Libvirt,
    Simulated,
}

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelChoice {
    Auto,
    Kvm,
    Tcg,
}

/// What is done about differences between the database and the engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconcile {
    /// They are mended.
    On,
    /// They are shown.
    DryRun,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}
