//! Who may ask for what: every field at the top, and every type that no entity declares.
//!
//! The fields of entities are declared with them ([`super::list::noun`]), and what their lists ask for follows from that.
//! The services enforce it; `tests/access` keeps this, the schema and what the services do in step.

use std::borrow::Cow;

use uuid::Uuid;

use super::list::{
    lists::LISTS,
    noun::Audience::{self, Admins, Everyone},
};
use crate::{
    domain::{
        Id,
        policy::{Action, Resource, Scope, Viewer, scope},
    },
    error::AppError,
};

/// A part of the schema operations begin at.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Root {
    Query,
    Mutation,
    Subscription,
}

/// What somebody needs to ask for a field at the top.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Nothing; what it shows is in reach all the same.
    Open,
    /// Rows in reach; who is not logged in and reaches none is asked to log in.
    Reached(Action, Resource),
    /// The resource as a whole.
    Whole(Action, Resource),
}

/// Who may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    Anyone,
    SignedIn,
    Admin,
}

impl Access {
    /// Who may ask, by the policy.
    pub fn asker(self) -> Asker {
        let user = Viewer::User {
            id: Id::new(Uuid::nil()),
            session: Id::new(Uuid::nil()),
        };
        match self {
            Self::Open => Asker::Anyone,
            Self::Reached(action, resource) => match scope(Viewer::Anonymous, action, resource) {
                Scope::Nothing => Asker::SignedIn,
                Scope::OwnedBy(_) | Scope::Everything => Asker::Anyone,
            },
            Self::Whole(action, resource) => match scope(user, action, resource) {
                Scope::Everything => Asker::SignedIn,
                Scope::OwnedBy(_) | Scope::Nothing => Asker::Admin,
            },
        }
    }

    /// What `viewer` is told who may not ask; `None` for who may.
    pub fn refusal(self, viewer: Viewer) -> Option<AppError> {
        match (self.asker(), viewer) {
            (Asker::Anyone, _)
            | (_, Viewer::Admin { .. } | Viewer::System)
            | (Asker::SignedIn, Viewer::User { .. }) => None,
            (_, Viewer::Anonymous) => Some(AppError::Unauthenticated("log in first")),
            (Asker::Admin, Viewer::User { .. }) => Some(AppError::Forbidden),
        }
    }
}

/// A field at the top.
pub struct Operation {
    pub root: Root,
    pub name: Cow<'static, str>,
    pub access: Access,
}

/// The fields at the top that no list makes.
const OPERATIONS: &[(Root, &str, Access)] = {
    use Access::{Open, Reached, Whole};
    use Action::{Create, Delete, Operate, Read};
    use Resource::{Container, Queue, Schedule, Session, Task, Worker};
    use Root::{Mutation, Query, Subscription};
    &[
        (Query, "node", Open),
        (Query, "nodes", Open),
        (Query, "viewer", Open),
        (Query, "queue", Whole(Read, Queue)),
        (Query, "workers", Whole(Read, Worker)),
        (Mutation, "signUp", Open),
        (Mutation, "logIn", Open),
        (Mutation, "refreshSession", Open),
        (Mutation, "logOut", Reached(Delete, Session)),
        (Mutation, "createContainer", Reached(Create, Container)),
        (Mutation, "deleteContainer", Reached(Delete, Container)),
        (Mutation, "startDemoTask", Reached(Create, Task)),
        (Mutation, "cancelTask", Reached(Operate, Task)),
        (Mutation, "retryTask", Reached(Operate, Task)),
        (Mutation, "createTask", Whole(Create, Queue)),
        (Mutation, "createTasks", Whole(Create, Queue)),
        (Mutation, "retryDeadLetters", Whole(Operate, Queue)),
        (Mutation, "setTaskPriority", Whole(Operate, Queue)),
        (Mutation, "pauseTaskKind", Whole(Operate, Queue)),
        (Mutation, "resumeTaskKind", Whole(Operate, Queue)),
        (Mutation, "putSchedule", Whole(Create, Schedule)),
        (Mutation, "deleteSchedule", Whole(Delete, Schedule)),
        (Subscription, "node", Open),
        (Subscription, "containerUpdated", Reached(Read, Container)),
        (Subscription, "taskUpdated", Reached(Read, Task)),
        (Subscription, "taskLogAdded", Reached(Read, Task)),
    ]
};

/// Every field at the top.
pub fn operations() -> Vec<Operation> {
    let by_hand = OPERATIONS.iter().map(|(root, name, access)| Operation {
        root: *root,
        name: (*name).into(),
        access: *access,
    });
    let listed = LISTS.iter().flat_map(|entry| {
        let access = Access::Reached(Action::Read, (entry.noun)().resource);
        let aggregate = format!("{}Aggregate", entry.list);
        [
            (Root::Query, entry.list.into()),
            (Root::Query, entry.one.into()),
            (Root::Query, aggregate.into()),
            (Root::Subscription, entry.list.into()),
        ]
        .map(|(root, name)| Operation { root, name, access })
    });
    by_hand.chain(listed).collect()
}

/// Fields of entities that they resolve by themselves, with who sees them.
pub const PARTS: &[(&str, &str, Audience)] = &[
    ("Task", "children", Everyone),
    ("Task", "logs", Everyone),
    ("Task", "steps", Everyone),
];

/// Types that no entity declares. Those of everyone are shown to whoever reaches the field that has them; those of
/// administrators stand only behind fields that are theirs.
pub const TYPES: &[(&str, Audience)] = &[
    // Shown.
    ("CancelTaskPayload", Everyone),
    ("CreateContainerPayload", Everyone),
    ("CreateTaskPayload", Admins),
    ("CreateTasksPayload", Admins),
    ("Credentials", Everyone),
    ("DeleteContainerPayload", Everyone),
    ("DeleteSchedulePayload", Admins),
    ("Failure", Everyone),
    ("IntMeasures", Everyone),
    ("Latency", Admins),
    ("Lease", Admins),
    ("LogOutPayload", Everyone),
    ("Node", Everyone),
    ("PageInfo", Everyone),
    ("PublishedPort", Everyone),
    ("PutSchedulePayload", Admins),
    ("Queue", Admins),
    ("QueueDepth", Admins),
    ("QueueRate", Admins),
    ("RetryDeadLettersPayload", Admins),
    ("RetryTaskPayload", Everyone),
    ("SetTaskPriorityPayload", Admins),
    ("StartDemoTaskPayload", Everyone),
    ("TaskError", Everyone),
    ("TaskKindPayload", Admins),
    ("TaskLogLine", Everyone),
    ("TaskStep", Everyone),
    ("TimeMeasures", Everyone),
    ("Worker", Admins),
    ("WorkerKind", Admins),
    // Given.
    ("BoolFilter", Everyone),
    ("CancelTaskInput", Everyone),
    ("ContainerStateFilter", Everyone),
    ("CreateContainerInput", Everyone),
    ("CreateTaskInput", Admins),
    ("CreateTasksInput", Admins),
    ("DeleteContainerInput", Everyone),
    ("DeleteScheduleInput", Admins),
    ("IdFilter", Everyone),
    ("IntFilter", Everyone),
    ("LogInInput", Everyone),
    ("LogOutInput", Everyone),
    ("PutScheduleInput", Admins),
    ("RefreshSessionInput", Everyone),
    ("RetryDeadLettersInput", Admins),
    ("RetryTaskInput", Everyone),
    ("RoleFilter", Everyone),
    ("SetTaskPriorityInput", Admins),
    ("SignUpInput", Everyone),
    ("StartDemoTaskInput", Everyone),
    ("TaskKindInput", Admins),
    ("TaskPriorityFilter", Everyone),
    ("TaskStateFilter", Everyone),
    ("TextFilter", Everyone),
    ("TimeFilter", Everyone),
];

/// Arguments a field may have: each chooses among what the field's access lets through.
pub const ARGUMENTS: &[&str] = &[
    "after", "before", "filter", "first", "groupBy", "id", "ids", "input", "last", "orderBy",
];
