//! Who may ask for what: every field at the top, and every type that no entity declares.
//!
//! The fields of entities are declared with them ([`super::list::noun`]), and what their lists ask for follows from that.
//! The services enforce it; `tests/access` keeps this, the schema and what the services do in step.

use std::borrow::Cow;

use uuid::Uuid;

use super::list::{
    lists::LISTS,
    live::growing,
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
    /// The credential of a host.
    OfHost,
}

/// Who may ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asker {
    Anyone,
    SignedIn,
    Admin,
    Host,
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
                Scope::OwnedBy(_) | Scope::OnHost(_) | Scope::Everything => Asker::Anyone,
            },
            Self::Whole(action, resource) => match scope(user, action, resource) {
                Scope::Everything => Asker::SignedIn,
                Scope::OwnedBy(_) | Scope::OnHost(_) | Scope::Nothing => Asker::Admin,
            },
            Self::OfHost => Asker::Host,
        }
    }

    /// What `viewer` is told who may not ask; `None` for who may.
    pub fn refusal(self, viewer: Viewer) -> Option<AppError> {
        let is_on_host = match self {
            Self::Reached(action, resource) => scope(viewer, action, resource) != Scope::Nothing,
            Self::Open | Self::Whole(..) | Self::OfHost => false,
        };
        match (self.asker(), viewer) {
            (Asker::Anyone, _)
            | (Asker::Host, Viewer::Host { .. })
            | (Asker::SignedIn | Asker::Admin, Viewer::Admin { .. } | Viewer::System)
            | (Asker::SignedIn, Viewer::User { .. }) => None,
            (Asker::SignedIn, Viewer::Host { .. }) if is_on_host => None,
            (_, Viewer::Anonymous) => Some(AppError::Unauthenticated("log in first")),
            (Asker::SignedIn | Asker::Admin, Viewer::Host { .. })
            | (Asker::Admin, Viewer::User { .. })
            | (Asker::Host, Viewer::User { .. } | Viewer::Admin { .. } | Viewer::System) => {
                Some(AppError::Forbidden)
            }
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
    use Access::{OfHost, Open, Reached, Whole};
    use Action::{Create, Delete, Operate, Read};
    use Resource::{
        App, Backup, Cluster, ConnectionLog, Container, Engine, Host, Image, Pool, Queue, Region,
        Report, Schedule, Session, Setting, Snapshot, Task, User, VirtualMachine, Worker,
    };
    use Root::{Mutation, Query, Subscription};
    &[
        (Query, "node", Open),
        (Query, "nodes", Open),
        (Query, "viewer", Open),
        (Query, "protocolInfo", Reached(Read, Container)),
        (Query, "containerLogs", Reached(Read, Container)),
        (Query, "virtualMachineLogs", Reached(Read, VirtualMachine)),
        (Query, "queue", Whole(Read, Queue)),
        (Query, "workers", Whole(Read, Worker)),
        (Query, "loginReport", Whole(Read, Report)),
        (Query, "containerReport", Whole(Read, Report)),
        (Query, "usageReport", Whole(Read, Report)),
        (Query, "settings", Whole(Read, Setting)),
        (Query, "configValues", Whole(Read, Setting)),
        (Query, "logFilter", Whole(Read, Worker)),
        (Mutation, "setLogFilter", Whole(Operate, Worker)),
        (Query, "backups", Whole(Read, Backup)),
        (Query, "connectionLogText", Reached(Read, ConnectionLog)),
        (Mutation, "reportConnection", Reached(Create, ConnectionLog)),
        (
            Mutation,
            "bookmarkConnection",
            Reached(Operate, ConnectionLog),
        ),
        (Mutation, "reportServerLog", OfHost),
        (Mutation, "backUp", Whole(Create, Backup)),
        (Mutation, "signUp", Open),
        (Mutation, "logIn", Open),
        (Mutation, "refreshSession", Open),
        (Mutation, "logOut", Reached(Delete, Session)),
        (Mutation, "createContainer", Reached(Create, Container)),
        (Mutation, "assignContainer", Reached(Create, Container)),
        (Mutation, "drainContainer", Reached(Operate, Container)),
        (Mutation, "restartContainer", Reached(Operate, Container)),
        (Mutation, "updateContainer", Reached(Operate, Container)),
        (Mutation, "deleteContainer", Reached(Delete, Container)),
        (
            Mutation,
            "createVirtualMachine",
            Reached(Create, VirtualMachine),
        ),
        (
            Mutation,
            "startVirtualMachine",
            Reached(Operate, VirtualMachine),
        ),
        (
            Mutation,
            "stopVirtualMachine",
            Reached(Operate, VirtualMachine),
        ),
        (
            Mutation,
            "restartVirtualMachine",
            Reached(Operate, VirtualMachine),
        ),
        (
            Mutation,
            "resizeVirtualMachine",
            Reached(Operate, VirtualMachine),
        ),
        (
            Mutation,
            "deleteVirtualMachine",
            Reached(Delete, VirtualMachine),
        ),
        (
            Mutation,
            "snapshotVirtualMachine",
            Reached(Operate, VirtualMachine),
        ),
        (
            Mutation,
            "restoreVirtualMachine",
            Reached(Operate, Snapshot),
        ),
        (Mutation, "deleteSnapshot", Reached(Delete, Snapshot)),
        (Mutation, "openConsole", Reached(Operate, VirtualMachine)),
        (Mutation, "putMachineImage", Whole(Create, Image)),
        (Mutation, "createCluster", Whole(Create, Cluster)),
        (Mutation, "updateCluster", Whole(Operate, Cluster)),
        (Mutation, "drainCluster", Whole(Operate, Cluster)),
        (Mutation, "activateCluster", Whole(Operate, Cluster)),
        (Mutation, "deleteCluster", Whole(Delete, Cluster)),
        (Mutation, "sendClusterCommand", Whole(Operate, Cluster)),
        (Mutation, "createRegistrationToken", Whole(Create, Host)),
        (Mutation, "registerHost", Open),
        (Mutation, "heartbeat", OfHost),
        // An agent changes a container by what it reports, and by nothing else.
        (Mutation, "reportContainer", OfHost),
        (Mutation, "reportCommand", OfHost),
        (Mutation, "rotateHostCredential", OfHost),
        (Mutation, "drainHost", Whole(Operate, Host)),
        (Mutation, "activateHost", Whole(Operate, Host)),
        (Mutation, "revokeHost", Whole(Delete, Host)),
        (Mutation, "reconcile", Whole(Operate, Engine)),
        (Mutation, "putApp", Whole(Create, App)),
        (Mutation, "updateRegion", Whole(Operate, Region)),
        (Mutation, "setWarmPool", Whole(Create, Pool)),
        (Mutation, "setReleaseChannel", Whole(Operate, User)),
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
        (Mutation, "setConfigValue", Whole(Operate, Setting)),
        (Mutation, "removeConfigValue", Whole(Delete, Setting)),
        (Mutation, "reloadConfig", Whole(Operate, Setting)),
        (Subscription, "node", Open),
        (Subscription, "containerLogAdded", Reached(Read, Container)),
        (Subscription, "containerUpdated", Reached(Read, Container)),
        (
            Subscription,
            "virtualMachineLogAdded",
            Reached(Read, VirtualMachine),
        ),
        (
            Subscription,
            "virtualMachineUpdated",
            Reached(Read, VirtualMachine),
        ),
        (Subscription, "hostCommands", OfHost),
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
    let streamed = growing().map(|(added, entry)| Operation {
        root: Root::Subscription,
        name: added.into(),
        access: Access::Whole(Action::Read, (entry.noun)().resource),
    });
    by_hand.chain(listed).chain(streamed).collect()
}

/// Fields of entities that they resolve by themselves, with who sees them.
pub const PARTS: &[(&str, &str, Audience)] = &[
    ("Cluster", "capacity", Admins),
    ("Task", "children", Everyone),
    ("Task", "logs", Everyone),
    ("Task", "steps", Everyone),
];

/// Types that no entity declares. Those of everyone are shown to whoever reaches the field that has them; those of
/// administrators stand only behind fields that are theirs.
pub const TYPES: &[(&str, Audience)] = &[
    // Shown.
    ("ActivateHostPayload", Admins),
    ("AssignContainerPayload", Everyone),
    ("ClusterCapacity", Admins),
    ("LoginReportRow", Admins),
    ("ContainerReportRow", Admins),
    ("UsageReportRow", Admins),
    ("ConfigPayload", Admins),
    ("ConfigValue", Admins),
    ("Setting", Admins),
    ("BackUpPayload", Admins),
    ("Backup", Admins),
    ("BackupTable", Admins),
    ("BookmarkConnectionPayload", Everyone),
    ("ReportConnectionPayload", Everyone),
    ("ReportServerLogPayload", Everyone),
    ("LogLine", Everyone),
    ("MachineUsage", Everyone),
    ("CreateVirtualMachinePayload", Everyone),
    ("OpenConsolePayload", Everyone),
    ("PutMachineImagePayload", Admins),
    ("ResizeVirtualMachinePayload", Everyone),
    ("SnapshotPayload", Everyone),
    ("VirtualMachineTaskPayload", Everyone),
    ("ClusterTaskPayload", Admins),
    ("CreateRegistrationTokenPayload", Admins),
    ("DrainContainerPayload", Everyone),
    ("DrainHostPayload", Admins),
    ("Finding", Everyone),
    ("HeartbeatPayload", Everyone),
    ("HostCommand", Everyone),
    ("ProtocolInfo", Everyone),
    ("PutAppPayload", Admins),
    ("ReconcilePayload", Admins),
    ("RegisterHostPayload", Everyone),
    ("ReportCommandPayload", Everyone),
    ("ReportContainerPayload", Everyone),
    ("RestartContainerPayload", Everyone),
    ("RevokeHostPayload", Admins),
    ("RotateHostCredentialPayload", Everyone),
    ("SendClusterCommandPayload", Admins),
    ("SetReleaseChannelPayload", Admins),
    ("SetWarmPoolPayload", Admins),
    ("UpdateClusterPayload", Admins),
    ("UpdateContainerPayload", Everyone),
    ("UpdateRegionPayload", Admins),
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
    ("LogFilter", Admins),
    ("LogOutPayload", Everyone),
    ("SetLogFilterPayload", Admins),
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
    ("BackUpInput", Admins),
    ("BookmarkConnectionInput", Everyone),
    ("Connected", Everyone),
    ("ReportConnectionInput", Everyone),
    ("ReportServerLogInput", Everyone),
    ("ChannelImageInput", Admins),
    ("ClusterInput", Admins),
    ("ReportInput", Admins),
    ("ContainerReportInput", Admins),
    ("UsageReportInput", Admins),
    ("RemoveConfigValueInput", Admins),
    ("SetConfigValueInput", Admins),
    ("ClusterStatusFilter", Everyone),
    ("CreateClusterInput", Admins),
    ("CreateRegistrationTokenInput", Admins),
    ("CreateVirtualMachineInput", Everyone),
    ("DeleteSnapshotInput", Everyone),
    ("OpenConsoleInput", Everyone),
    ("PutMachineImageInput", Admins),
    ("ResizeVirtualMachineInput", Everyone),
    ("RestoreVirtualMachineInput", Everyone),
    ("SnapshotStateFilter", Everyone),
    ("SnapshotVirtualMachineInput", Everyone),
    ("StopVirtualMachineInput", Everyone),
    ("VirtualMachineInput", Everyone),
    ("VirtualMachineStateFilter", Everyone),
    ("DrainContainerInput", Everyone),
    ("EngineStateFilter", Everyone),
    ("HeartbeatInput", Everyone),
    ("HostInput", Admins),
    ("HostStatusFilter", Everyone),
    ("PublishedPortInput", Everyone),
    ("PutAppInput", Admins),
    ("ReconcileInput", Admins),
    ("RegisterHostInput", Everyone),
    ("ReportCommandInput", Everyone),
    ("ReportContainerInput", Everyone),
    ("RestartContainerInput", Everyone),
    ("SendClusterCommandInput", Admins),
    ("SetLogFilterInput", Admins),
    ("SetReleaseChannelInput", Admins),
    ("SetWarmPoolInput", Admins),
    ("UpdateClusterInput", Admins),
    ("UpdateContainerInput", Everyone),
    ("UpdateRegionInput", Admins),
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
    ("LoginOutcomeFilter", Everyone),
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
    "side",
];
