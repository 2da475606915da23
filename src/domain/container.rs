//! The life of a container. Being assigned is having an owner, not a state.

use super::{Machine, machine::named};

/// Where a container stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContainerState {
    /// Asked for; no engine knows of it yet.
    Requested,
    /// A worker is making it on an engine.
    Creating,
    /// It runs and its health check, if its image has one, passed.
    Running,
    /// It takes no new work and ends when its client leaves.
    Draining,
    /// It exists on its engine and does not run.
    Stopped,
    /// A worker is removing it.
    Deleting,
    /// It is gone from its engine.
    Deleted,
    /// It could not be made, or died.
    Failed,
    /// Its host is lost; nobody can tell.
    Unknown,
}

/// What happens to a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContainerEvent {
    Begin,
    Started,
    Drain,
    Stop,
    Delete,
    Removed,
    Fail,
    /// Its host is silent.
    LostHost,
    /// It is heard of again.
    Seen,
    /// It is to be made anew where it is.
    Restart,
    /// Its engine has it no more, though somebody wants it.
    Vanish,
    /// Its host is given up.
    Replace,
}

named!(ContainerState {
    Requested = "requested",
    Creating = "creating",
    Running = "running",
    Draining = "draining",
    Stopped = "stopped",
    Deleting = "deleting",
    Deleted = "deleted",
    Failed = "failed",
    Unknown = "unknown",
});

impl Machine for ContainerState {
    type Event = ContainerEvent;
    const TERMINAL: &'static [Self] = &[Self::Deleted];
    // `Creating + Begin → Creating`: a second attempt has to be able to start.
    const TABLE: &'static [(Self, ContainerEvent, Self)] = {
        use ContainerEvent as E;
        use ContainerState as S;
        &[
            (S::Requested, E::Begin, S::Creating),
            (S::Requested, E::Fail, S::Failed),
            (S::Requested, E::Delete, S::Deleting),
            (S::Creating, E::Begin, S::Creating),
            (S::Creating, E::Started, S::Running),
            (S::Creating, E::Fail, S::Failed),
            (S::Creating, E::Delete, S::Deleting),
            (S::Running, E::Drain, S::Draining),
            (S::Running, E::Stop, S::Stopped),
            (S::Running, E::Fail, S::Failed),
            (S::Running, E::LostHost, S::Unknown),
            (S::Running, E::Delete, S::Deleting),
            (S::Draining, E::Stop, S::Stopped),
            (S::Draining, E::Fail, S::Failed),
            (S::Draining, E::LostHost, S::Unknown),
            (S::Draining, E::Delete, S::Deleting),
            (S::Running, E::Restart, S::Creating),
            (S::Running, E::Vanish, S::Requested),
            (S::Stopped, E::Restart, S::Creating),
            (S::Stopped, E::Delete, S::Deleting),
            (S::Failed, E::Restart, S::Creating),
            (S::Failed, E::Delete, S::Deleting),
            (S::Unknown, E::Seen, S::Running),
            (S::Unknown, E::Replace, S::Requested),
            (S::Unknown, E::Fail, S::Failed),
            (S::Unknown, E::Delete, S::Deleting),
            (S::Deleting, E::Removed, S::Deleted),
        ]
    };
}

impl ContainerState {
    /// Those that count against a quota and take room: on an engine, or on their way to or from it.
    pub const LIVE: [Self; 7] = [
        Self::Requested,
        Self::Creating,
        Self::Running,
        Self::Draining,
        Self::Stopped,
        Self::Deleting,
        Self::Unknown,
    ];

    /// Whether it runs, as far as anybody knows.
    pub const fn is_up(self) -> bool {
        match self {
            Self::Running | Self::Draining | Self::Unknown => true,
            Self::Requested
            | Self::Creating
            | Self::Stopped
            | Self::Deleting
            | Self::Deleted
            | Self::Failed => false,
        }
    }

    /// Whether somebody still wants it to exist; what an engine holds of the others is to be removed.
    pub const fn is_wanted(self) -> bool {
        match self {
            Self::Requested
            | Self::Creating
            | Self::Running
            | Self::Draining
            | Self::Stopped
            | Self::Unknown => true,
            Self::Deleting | Self::Deleted | Self::Failed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_a_container_is_sound() {
        crate::domain::machine::laws::hold_for(ContainerState::Requested);
    }

    #[test]
    fn an_illegal_step_names_state_and_event() {
        let error = ContainerState::Deleted
            .after(ContainerEvent::Delete)
            .expect_err("deleted is the end");
        assert_eq!(error.to_string(), "cannot delete while DELETED");
    }
}
