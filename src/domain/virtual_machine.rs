//! The life of a virtual machine. Its disk lasts from the first start to its deletion, whatever becomes of its engine's process.

use super::{Machine, machine::named};

/// Where a virtual machine stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineState {
    /// Asked for; no engine knows of it yet.
    Requested,
    /// A worker is getting its disk made and its engine started.
    Provisioning,
    /// It runs, and its guest is not up yet.
    Booting,
    /// Its guest is up.
    Running,
    /// Its guest has been asked to power off.
    Stopping,
    /// It does not run; its disk is kept.
    Stopped,
    /// A worker is removing it.
    Deleting,
    /// It is gone from its engine, and its disk with it.
    Deleted,
    /// It could not be made, or died; what there is of its disk is kept.
    Failed,
    /// Its host is lost; nobody can tell.
    Unknown,
}

/// What happens to a virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MachineEvent {
    Begin,
    Launched,
    Booted,
    Stop,
    /// It has ended in order.
    Ended,
    Start,
    /// Its engine's process was ended from outside, and it is to run again.
    Died,
    Delete,
    Removed,
    Fail,
    /// Its host is silent.
    LostHost,
    /// It is heard of again.
    Seen,
}

named!(MachineState {
    Requested = "requested",
    Provisioning = "provisioning",
    Booting = "booting",
    Running = "running",
    Stopping = "stopping",
    Stopped = "stopped",
    Deleting = "deleting",
    Deleted = "deleted",
    Failed = "failed",
    Unknown = "unknown",
});

impl Machine for MachineState {
    type Event = MachineEvent;
    const TERMINAL: &'static [Self] = &[Self::Deleted];
    // `Provisioning + Begin` and `Booting + Launched` stay: a second attempt has to be able to go on.
    const TABLE: &'static [(Self, MachineEvent, Self)] = {
        use MachineEvent as E;
        use MachineState as S;
        &[
            (S::Requested, E::Begin, S::Provisioning),
            (S::Requested, E::Fail, S::Failed),
            (S::Requested, E::Delete, S::Deleting),
            (S::Provisioning, E::Begin, S::Provisioning),
            (S::Provisioning, E::Launched, S::Booting),
            (S::Provisioning, E::Fail, S::Failed),
            (S::Provisioning, E::Delete, S::Deleting),
            (S::Booting, E::Launched, S::Booting),
            (S::Booting, E::Booted, S::Running),
            (S::Booting, E::Stop, S::Stopping),
            (S::Booting, E::Ended, S::Stopped),
            (S::Booting, E::Fail, S::Failed),
            (S::Booting, E::LostHost, S::Unknown),
            (S::Booting, E::Delete, S::Deleting),
            (S::Running, E::Stop, S::Stopping),
            (S::Running, E::Ended, S::Stopped),
            (S::Running, E::Died, S::Provisioning),
            (S::Running, E::Fail, S::Failed),
            (S::Running, E::LostHost, S::Unknown),
            (S::Running, E::Delete, S::Deleting),
            (S::Stopping, E::Ended, S::Stopped),
            (S::Stopping, E::Fail, S::Failed),
            (S::Stopping, E::LostHost, S::Unknown),
            (S::Stopping, E::Delete, S::Deleting),
            (S::Stopped, E::Start, S::Provisioning),
            (S::Stopped, E::Fail, S::Failed),
            (S::Stopped, E::Delete, S::Deleting),
            (S::Failed, E::Start, S::Provisioning),
            (S::Failed, E::Delete, S::Deleting),
            (S::Unknown, E::Seen, S::Running),
            (S::Unknown, E::Ended, S::Stopped),
            (S::Unknown, E::Fail, S::Failed),
            (S::Unknown, E::Delete, S::Deleting),
            (S::Deleting, E::Removed, S::Deleted),
        ]
    };
}

impl MachineState {
    /// Those that take room: everything whose disk is kept.
    pub const LIVE: [Self; 9] = [
        Self::Requested,
        Self::Provisioning,
        Self::Booting,
        Self::Running,
        Self::Stopping,
        Self::Stopped,
        Self::Deleting,
        Self::Failed,
        Self::Unknown,
    ];

    /// Whether it runs, as far as anybody knows.
    pub const fn is_up(self) -> bool {
        match self {
            Self::Booting | Self::Running | Self::Stopping | Self::Unknown => true,
            Self::Requested
            | Self::Provisioning
            | Self::Stopped
            | Self::Deleting
            | Self::Deleted
            | Self::Failed => false,
        }
    }

    /// Those whose size may be changed and whose disk may be put back: nothing runs.
    pub const fn is_at_rest(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// Whether a worker has still to bring it up.
    pub const fn is_coming_up(self) -> bool {
        matches!(self, Self::Requested | Self::Provisioning | Self::Booting)
    }
}

/// Which console of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConsoleKind {
    /// Bytes of the first serial port, as they come.
    Serial,
    /// The RFB protocol (RFC 6143).
    Vnc,
}

named!(ConsoleKind { Serial = "serial", Vnc = "vnc" });

/// Where a snapshot stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotState {
    /// Being taken.
    Creating,
    /// It can be given back to its machine.
    Ready,
    /// Being removed.
    Deleting,
    /// It is gone.
    Deleted,
    /// It could not be taken.
    Failed,
}

/// What happens to a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotEvent {
    Taken,
    Fail,
    Delete,
    Removed,
}

named!(SnapshotState {
    Creating = "creating",
    Ready = "ready",
    Deleting = "deleting",
    Deleted = "deleted",
    Failed = "failed",
});

impl Machine for SnapshotState {
    type Event = SnapshotEvent;
    const TERMINAL: &'static [Self] = &[Self::Deleted];
    const TABLE: &'static [(Self, SnapshotEvent, Self)] = {
        use SnapshotEvent as E;
        use SnapshotState as S;
        &[
            (S::Creating, E::Taken, S::Ready),
            (S::Creating, E::Fail, S::Failed),
            (S::Creating, E::Delete, S::Deleting),
            (S::Ready, E::Delete, S::Deleting),
            (S::Failed, E::Delete, S::Deleting),
            (S::Creating, E::Removed, S::Deleted),
            (S::Ready, E::Removed, S::Deleted),
            (S::Failed, E::Removed, S::Deleted),
            (S::Deleting, E::Removed, S::Deleted),
        ]
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lives_of_a_machine_and_of_a_snapshot_are_sound() {
        crate::domain::machine::laws::hold_for(MachineState::Requested);
        crate::domain::machine::laws::hold_for(SnapshotState::Creating);
    }
}
