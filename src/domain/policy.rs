//! What a viewer may do: one pure function from (viewer, action, resource) to a scope of rows.

use uuid::Uuid;

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
            Viewer::System,
        ];
        for viewer in viewers {
            for resource in [Resource::App, Resource::Task, Resource::Queue] {
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
