//! What a viewer may do: one pure function from (viewer, action, resource) to a scope of rows.

use uuid::Uuid;

use super::{
    Id,
    id::{Host, Session, User},
    machine::named,
};

/// What an account is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    User,
    Admin,
}

named!(Role { User = "user", Admin = "admin" });

/// Who asks. `auth` finds out; this module decides what follows from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Viewer {
    /// Nobody signed in.
    Anonymous,
    User {
        id: Id<User>,
        session: Id<Session>,
    },
    Admin {
        id: Id<User>,
        session: Id<Session>,
    },
    /// The agent of a host.
    Host {
        id: Id<Host>,
    },
    /// The service itself: workers, the sweeper, the command line.
    System,
}

impl Viewer {
    /// The signed-in person, whatever their role.
    pub const fn user(self) -> Option<Id<User>> {
        match self {
            Self::User { id, .. } | Self::Admin { id, .. } => Some(id),
            Self::Anonymous | Self::Host { .. } | Self::System => None,
        }
    }

    /// The login they came with.
    pub const fn session(self) -> Option<Id<Session>> {
        match self {
            Self::User { session, .. } | Self::Admin { session, .. } => Some(session),
            Self::Anonymous | Self::Host { .. } | Self::System => None,
        }
    }

    /// Somebody with the same [`scope`] everywhere, and the same one for all who have it: what they are shown can be
    /// shown to each of these. An administrator loses their name by it, a user only their session.
    #[must_use]
    pub const fn impersonal(self) -> Self {
        const NOBODY: Uuid = Uuid::nil();
        match self {
            Self::User { id, .. } => Self::User {
                id,
                session: Id::new(NOBODY),
            },
            Self::Admin { .. } => Self::Admin {
                id: Id::new(NOBODY),
                session: Id::new(NOBODY),
            },
            Self::Host { id } => Self::Host { id },
            Self::Anonymous => Self::Anonymous,
            Self::System => Self::System,
        }
    }
}

/// What is to be done with a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    Read,
    Create,
    Operate,
    Delete,
    /// Telling how it is, as an agent does of what runs beside it.
    Report,
}

/// What it is done to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    App,
    AuditEvent,
    Cluster,
    Engine,
    Host,
    Image,
    Pool,
    Region,
    Container,
    VirtualMachine,
    Snapshot,
    Task,
    User,
    Session,
    /// The queue as a whole: its depths, rates, kinds.
    Queue,
    Worker,
    Schedule,
    /// What is summed up over time, of everybody.
    Report,
    /// The settings of every process.
    Setting,
    Backup,
    ConnectionLog,
    /// Who tried to log in.
    LoginEvent,
}

/// The rows a viewer reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    Nothing,
    OwnedBy(Id<User>),
    /// What runs on a host, and the host itself.
    OnHost(Id<Host>),
    Everything,
}

/// The access policy.
pub fn scope(viewer: Viewer, action: Action, resource: Resource) -> Scope {
    match (viewer, resource) {
        (Viewer::System | Viewer::Admin { .. }, _) => Scope::Everything,
        (
            Viewer::User { .. } | Viewer::Host { .. } | Viewer::Anonymous,
            Resource::App | Resource::Image | Resource::Region,
        ) => match action {
            Action::Read => Scope::Everything,
            Action::Create | Action::Operate | Action::Delete | Action::Report => Scope::Nothing,
        },
        (
            Viewer::User { id, .. },
            Resource::Container
            | Resource::VirtualMachine
            | Resource::Snapshot
            | Resource::Task
            | Resource::User
            | Resource::Session
            | Resource::ConnectionLog,
        ) => Scope::OwnedBy(id),
        // An agent tells of what runs beside it; it asks for nothing and removes nothing.
        (Viewer::Host { id }, Resource::Container | Resource::Host) => match action {
            Action::Read | Action::Report => Scope::OnHost(id),
            Action::Create | Action::Operate | Action::Delete => Scope::Nothing,
        },
        (
            Viewer::Host { .. } | Viewer::Anonymous,
            Resource::VirtualMachine
            | Resource::Snapshot
            | Resource::Task
            | Resource::User
            | Resource::Session
            | Resource::ConnectionLog,
        )
        | (Viewer::Anonymous, Resource::Container | Resource::Host)
        | (Viewer::User { .. }, Resource::Host)
        | (
            Viewer::User { .. } | Viewer::Host { .. } | Viewer::Anonymous,
            Resource::AuditEvent
            | Resource::Cluster
            | Resource::Engine
            | Resource::Pool
            | Resource::Queue
            | Resource::Worker
            | Resource::Schedule
            | Resource::Report
            | Resource::Setting
            | Resource::Backup
            | Resource::LoginEvent,
        ) => Scope::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_reaches_what_is_theirs_and_the_catalogue_only_to_read() {
        let id = Id::new(Uuid::from_u128(1));
        let user = Viewer::User {
            id,
            session: Id::new(Uuid::from_u128(2)),
        };
        assert_eq!(
            scope(user, Action::Delete, Resource::Container),
            Scope::OwnedBy(id)
        );
        assert_eq!(scope(user, Action::Read, Resource::App), Scope::Everything);
        assert_eq!(scope(user, Action::Create, Resource::App), Scope::Nothing);
        assert_eq!(
            scope(Viewer::Anonymous, Action::Read, Resource::Task),
            Scope::Nothing
        );
    }

    #[test]
    fn an_impersonal_viewer_reaches_the_same_and_stands_for_all_who_do() {
        let (id, other) = (Id::new(Uuid::from_u128(1)), Id::new(Uuid::from_u128(2)));
        let session = Id::new(Uuid::from_u128(3));
        let viewers = [
            Viewer::Anonymous,
            Viewer::User { id, session },
            Viewer::Admin { id, session },
            Viewer::Host {
                id: Id::new(Uuid::from_u128(4)),
            },
            Viewer::System,
        ];
        for viewer in viewers {
            for resource in [
                Resource::App,
                Resource::Task,
                Resource::Container,
                Resource::Queue,
            ] {
                let of = |viewer| scope(viewer, Action::Read, resource);
                assert_eq!(of(viewer.impersonal()), of(viewer));
            }
        }
        let user = |id| Viewer::User { id, session }.impersonal();
        let admin = |id| Viewer::Admin { id, session }.impersonal();
        assert_ne!(user(id), user(other));
        assert_eq!(admin(id), admin(other));
        assert_ne!(user(id), admin(id));
    }
}
