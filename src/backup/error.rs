//! What can go wrong with a backup, each in one line for an operator.

/// Why a backup was not made, not found good, or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("BACKUP_URL is not set, so there is no place for backups")]
    NoPlace,
    #[error("there is no backup {0}")]
    NotFound(String),
    /// Where backups are kept does not do what it should.
    #[error("the store of backups: {doing}: {problem}")]
    Store {
        doing: String,
        problem: String,
        may_pass: bool,
    },
    #[error(
        "{program} is not there ({problem}); install PostgreSQL's client programs, or set PG_BIN to their folder"
    )]
    NoProgram { program: String, problem: String },
    #[error(
        "{program} is of version {has}, and the server of {needs}: set PG_BIN to programs of version {needs} or later"
    )]
    Version {
        program: String,
        has: u32,
        needs: u32,
    },
    #[error("{program}: {problem}")]
    Program { program: String, problem: String },
    #[error("the database: {0}")]
    Database(#[from] sea_orm::sqlx::Error),
    #[error("the database's tables: {0}")]
    Migration(String),
    #[error("a database in memory has no file to back up")]
    InMemory,
    #[error("BACKUP_KEY: {0}")]
    Key(&'static str),
    #[error("{name} is encrypted, and BACKUP_KEY is not set")]
    NoKey { name: String },
    #[error("{name} cannot be opened with BACKUP_KEY: it is encrypted to {recipient}")]
    WrongKey { name: String, recipient: String },
    /// The data are not what was written.
    #[error("{name} is damaged: {problem}")]
    Damaged { name: String, problem: String },
    /// It could be restored, and holds something else than the database did.
    #[error("{name} does not hold what the database did: {problem}")]
    Differs { name: String, problem: String },
    #[error(
        "{name} has the tables of a later version ({step}); restore it with that version of main-webserver"
    )]
    Newer { name: String, step: String },
    #[error("{name} is a backup of {of}, and the target is {target}")]
    OtherDatabase {
        name: String,
        of: &'static str,
        target: &'static str,
    },
    #[error(
        "{target} has tables already; --force puts the backup in its place and keeps it under another name"
    )]
    NotEmpty { target: String },
    #[error("{target} is in use; stop the service first")]
    InUse { target: String },
    #[error("{path}: {error}")]
    File { path: String, error: std::io::Error },
    #[error("stopped on request")]
    Stopped,
    /// The one who watches does not want to go on.
    #[error("{0}")]
    Watcher(Box<dyn std::error::Error + Send + Sync>),
}

impl BackupError {
    /// A stable name of it.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoPlace => "NO_BACKUP_URL",
            Self::NotFound(_) => "NO_SUCH_BACKUP",
            Self::Store { .. } => "BACKUP_STORE",
            Self::NoProgram { .. } => "NO_PROGRAM",
            Self::Version { .. } => "PROGRAM_VERSION",
            Self::Program { .. } => "PROGRAM_FAILED",
            Self::Database(_) | Self::Migration(_) => "DATABASE",
            Self::InMemory => "DATABASE_IN_MEMORY",
            Self::Key(_) => "BAD_KEY",
            Self::NoKey { .. } => "NO_KEY",
            Self::WrongKey { .. } => "WRONG_KEY",
            Self::Damaged { .. } => "DAMAGED",
            Self::Differs { .. } => "DIFFERS",
            Self::Newer { .. } => "NEWER_TABLES",
            Self::OtherDatabase { .. } => "OTHER_DATABASE",
            Self::NotEmpty { .. } => "NOT_EMPTY",
            Self::InUse { .. } => "IN_USE",
            Self::File { .. } => "FILE",
            Self::Stopped => "STOPPED",
            Self::Watcher(_) => "WATCHER",
        }
    }

    /// Whether another try may go better.
    pub const fn may_pass(&self) -> bool {
        match self {
            Self::Store { may_pass, .. } => *may_pass,
            Self::Program { .. }
            | Self::Database(_)
            | Self::Migration(_)
            | Self::Differs { .. }
            | Self::Damaged { .. }
            | Self::File { .. }
            | Self::InUse { .. } => true,
            Self::NoPlace
            | Self::NotFound(_)
            | Self::NoProgram { .. }
            | Self::Version { .. }
            | Self::InMemory
            | Self::Key(_)
            | Self::NoKey { .. }
            | Self::WrongKey { .. }
            | Self::Newer { .. }
            | Self::OtherDatabase { .. }
            | Self::NotEmpty { .. }
            | Self::Stopped
            | Self::Watcher(_) => false,
        }
    }

    /// A file that could not be used.
    pub fn file(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.display().to_string();
        move |error| Self::File { path, error }
    }
}
