//! What a viewer may do: one pure function from (viewer, action, resource) to a scope of rows.

use super::{
    Id,
    id::{Session, User},
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
    /// The service itself: workers, the sweeper, the command line.
    System,
}

impl Viewer {
    /// The signed-in person, whatever their role.
    pub const fn user(self) -> Option<Id<User>> {
        match self {
            Self::User { id, .. } | Self::Admin { id, .. } => Some(id),
            Self::Anonymous | Self::System => None,
        }
    }

    /// The login they came with.
    pub const fn session(self) -> Option<Id<Session>> {
        match self {
            Self::User { session, .. } | Self::Admin { session, .. } => Some(session),
            Self::Anonymous | Self::System => None,
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
}

/// What it is done to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resource {
    App,
    Region,
    Container,
    Task,
    User,
    Session,
    /// The queue as a whole: its depths, rates, kinds.
    Queue,
    Worker,
    Schedule,
}

/// The rows a viewer reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    Nothing,
    OwnedBy(Id<User>),
    Everything,
}

/// The access policy.
pub fn scope(viewer: Viewer, action: Action, resource: Resource) -> Scope {
    match (viewer, resource) {
        (Viewer::System | Viewer::Admin { .. }, _) => Scope::Everything,
        (Viewer::User { .. } | Viewer::Anonymous, Resource::App | Resource::Region) => match action
        {
            Action::Read => Scope::Everything,
            Action::Create | Action::Operate | Action::Delete => Scope::Nothing,
        },
        (
            Viewer::User { id, .. },
            Resource::Container | Resource::Task | Resource::User | Resource::Session,
        ) => Scope::OwnedBy(id),
        (
            Viewer::Anonymous,
            Resource::Container | Resource::Task | Resource::User | Resource::Session,
        )
        | (
            Viewer::User { .. } | Viewer::Anonymous,
            Resource::Queue | Resource::Worker | Resource::Schedule,
        ) => Scope::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

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
}
