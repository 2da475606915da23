//! The closed list of errors a client can meet. No GraphQL here: `graphql::error` is the one mapping to it.

use std::time::Duration;

use crate::domain::{IllegalTransition, value::Refused};

/// An error inside the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Database(#[from] sea_orm::DbErr),
    /// The row changed between reading and writing.
    #[error("the row has changed since it was read")]
    Stale,
    /// A task's run has been taken over; what it writes does not count any more.
    #[error("the lease was lost")]
    LeaseLost,
    /// Somebody has asked for the end of the task this is for.
    #[error("the task is to stop")]
    CancelRequested,
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    #[error("column {column} holds what this version cannot read")]
    Unreadable { column: &'static str },
}

impl StoreError {
    /// Whether the database could not be reached, as opposed to having refused.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Database(error) => is_outage(error),
            Self::Stale
            | Self::LeaseLost
            | Self::CancelRequested
            | Self::Illegal(_)
            | Self::Unreadable { .. } => false,
        }
    }
}

fn is_outage(error: &sea_orm::DbErr) -> bool {
    use sea_orm::{DbErr, RuntimeErr, SqlxError};
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => true,
        DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error)) => {
            match &**error {
                SqlxError::Io(_)
                | SqlxError::Tls(_)
                | SqlxError::PoolTimedOut
                | SqlxError::PoolClosed
                | SqlxError::WorkerCrashed => true,
                SqlxError::Database(error) => error.code().is_some_and(|code| may_pass(&code)),
                _ => false,
            }
        }
        _ => false,
    }
}

/// Whether a lock was not had in time.
pub fn is_lock_timeout(error: &sea_orm::DbErr) -> bool {
    use sea_orm::{DbErr, RuntimeErr, SqlxError};
    let (DbErr::Exec(RuntimeErr::SqlxError(error)) | DbErr::Query(RuntimeErr::SqlxError(error))) =
        error
    else {
        return false;
    };
    matches!(&**error, SqlxError::Database(error) if error.code().is_some_and(|code| code == "55P03"))
}

/// Whether the database's error code is one of a trouble that may be over in a moment.
///
/// PostgreSQL: class 08 is a connection exception, 57P an operator's intervention (shutdown, crash, start), 53300 too
/// many connections, 55P03 a lock not had in time, 40P01 a deadlock. SQLite: 5 is a database that stayed locked.
fn may_pass(code: &str) -> bool {
    code.starts_with("08")
        || code.starts_with("57P")
        || ["53300", "55P03", "40P01", "5"].contains(&code)
}

/// A queue or an event bus that did not do its part. Nothing is lost by it: the database has the truth.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// What can go wrong for the person who asked.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("{0}")]
    Unauthenticated(&'static str),
    #[error("not allowed")]
    Forbidden,
    #[error("no such {what}")]
    NotFound { what: &'static str },
    #[error("{field}: {reason}")]
    Invalid { field: &'static str, reason: String },
    #[error(transparent)]
    Illegal(#[from] IllegalTransition),
    #[error("{0}")]
    Conflict(&'static str),
    #[error("limit of {limit} {what} reached")]
    QuotaExceeded { what: &'static str, limit: u64 },
    #[error("too many requests, try again in {} s", .retry_after.as_secs().max(1))]
    RateLimited { retry_after: Duration },
    /// The words are those Apollo's clients look for.
    #[error("PersistedQueryNotFound")]
    PersistedQueryNotFound,
    #[error("{what} is not available, try again")]
    Unavailable { what: &'static str },
    /// A fault of ours. The client sees a reference number, the log sees the source.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Every public code.
pub const CODES: [&str; 11] = [
    "UNAUTHENTICATED",
    "FORBIDDEN",
    "NOT_FOUND",
    "BAD_USER_INPUT",
    "ILLEGAL_STATE",
    "CONFLICT",
    "QUOTA_EXCEEDED",
    "RATE_LIMITED",
    "PERSISTED_QUERY_NOT_FOUND",
    "UNAVAILABLE",
    "INTERNAL",
];

impl AppError {
    /// The public code. This list is closed; changing a code is a breaking change.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "UNAUTHENTICATED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound { .. } => "NOT_FOUND",
            Self::Invalid { .. } => "BAD_USER_INPUT",
            Self::Illegal(_) => "ILLEGAL_STATE",
            Self::Conflict(_) => "CONFLICT",
            Self::QuotaExceeded { .. } => "QUOTA_EXCEEDED",
            Self::RateLimited { .. } => "RATE_LIMITED",
            Self::PersistedQueryNotFound => "PERSISTED_QUERY_NOT_FOUND",
            Self::Unavailable { .. } => "UNAVAILABLE",
            Self::Internal(_) => "INTERNAL",
        }
    }

    /// The input field that was refused.
    pub const fn field(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { field, .. } => Some(field),
            _ => None,
        }
    }

    pub fn internal(source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Internal(Box::new(source))
    }
}

impl From<StoreError> for AppError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stale => Self::Conflict("changed by somebody else, read it again"),
            StoreError::Illegal(error) => Self::Illegal(error),
            error if error.is_outage() => {
                tracing::warn!(%error, "the database is not available");
                Self::Unavailable {
                    what: "the database",
                }
            }
            error => Self::internal(error),
        }
    }
}

impl From<sea_orm::DbErr> for AppError {
    fn from(error: sea_orm::DbErr) -> Self {
        StoreError::from(error).into()
    }
}

/// Names the field a refused value stood in.
pub trait InField<T> {
    fn in_field(self, field: &'static str) -> Result<T, AppError>;
}

impl<T> InField<T> for Result<T, Refused> {
    fn in_field(self, field: &'static str) -> Result<T, AppError> {
        self.map_err(|Refused(reason)| AppError::Invalid { field, reason })
    }
}
