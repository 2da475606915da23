//! What is told to the rest of the system after a commit: which row changed, never what is in it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A table whose changes are announced.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    App,
    AuditEvent,
    Cluster,
    Configuration,
    ConnectionLog,
    Container,
    Engine,
    Host,
    HostCommand,
    Image,
    Log,
    /// What is logged by every process.
    LogFilter,
    LoginEvent,
    Pool,
    Region,
    Schedule,
    Session,
    Snapshot,
    Task,
    User,
    VirtualMachine,
}

/// Why a change is announced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Updated,
    /// Somebody asked the running task to stop; its worker looks at once instead of at its next renewal.
    CancelRequested,
    /// The configuration database has been written to; every process reads it at once instead of at its next look.
    ConfigurationChanged,
}

/// One committed change of a row. A reader compares `version` with what it has and reads the row again.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    pub table: Table,
    pub id: Uuid,
    /// Grows with every change of the row: a container's, a machine's and a task's is the row's own version, of others it is the time of
    /// the change.
    pub version: i64,
    pub owner: Option<Uuid>,
    pub kind: ChangeKind,
}
