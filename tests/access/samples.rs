//! One operation for every field at the top, about a row of the owner's where it is about a row.

use main_webserver::{
    domain::policy::Resource,
    graphql::list::{
        lists::LISTS,
        live::growing,
        noun::{Kind, Noun},
    },
};

use super::scene::Scene;
use crate::harness::client::PASSWORD;

/// What somebody gets who may ask and does not reach the row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Hidden {
    NotFound,
    Empty,
}

/// Which row an operation is about.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum About {
    /// None of somebody's.
    Nothing,
    /// Whoever asks.
    Themselves,
    /// The owner's row, or one that nobody owns.
    Row(Resource, Hidden),
}

pub struct Sample {
    pub field: String,
    /// Arguments and selection. `$Container` and the like are ids of the scene, words in capitals are made for each use.
    pub text: String,
    pub about: About,
}

const BY_HAND: &[(&str, &str, About)] = {
    use About::{Nothing, Row, Themselves};
    use Hidden::{Empty, NotFound};
    use Resource::{
        Cluster, ConnectionLog, Container, Host, Region, Schedule, Snapshot, Task, User,
        VirtualMachine,
    };
    &[
        (
            "node",
            "(id: \"$Container\") { id }",
            Row(Container, NotFound),
        ),
        (
            "nodes",
            "(ids: [\"$Container\"]) { id }",
            Row(Container, Empty),
        ),
        ("viewer", "{ id email role disabled }", Themselves),
        (
            "queue",
            "{ at pausedKinds unknownKinds depths { kind count } rates { kind } }",
            Nothing,
        ),
        ("logFilter", "{ filter until }", Nothing),
        (
            "setLogFilter",
            "(input: { filter: \"info\", seconds: 0 }) { logFilter { filter until } }",
            Nothing,
        ),
        (
            "workers",
            "{ id host leases { taskId } kinds { name } }",
            Nothing,
        ),
        (
            "loginReport",
            "(input: {every: DAY}) { at logins failures users signUps }",
            Nothing,
        ),
        (
            "containerReport",
            "(input: {over: {every: DAY}, by: REGION}) { at part created failed deleted secondsToRunningP50 }",
            Nothing,
        ),
        (
            "usageReport",
            "(input: {over: {every: WEEK}, of: MACHINE, by: PRODUCT}) { at part hours peak began ended }",
            Nothing,
        ),
        ("settings", "{ name value origin needsRestart }", Nothing),
        (
            "configValues",
            "{ environment name value updatedBy }",
            Nothing,
        ),
        (
            "connectionLogText",
            "(id: \"$ConnectionLog\", side: CLIENT)",
            Row(ConnectionLog, NotFound),
        ),
        (
            "reportConnection",
            "(input: {to: {container: \"$Container\"}, clientVersion: \"1.0\"}) { connectionLog { id } }",
            Row(Container, NotFound),
        ),
        (
            "bookmarkConnection",
            "(input: {id: \"$ConnectionLog\"}) { connectionLog { id } }",
            Row(ConnectionLog, NotFound),
        ),
        (
            "reportServerLog",
            "(input: {container: \"$Container\", log: \"x\"}) { ok }",
            Row(Container, NotFound),
        ),
        ("backups", "{ name bytes tables { name rows } }", Nothing),
        ("backUp", "(input: {}) { task { id } }", Nothing),
        (
            "signUp",
            "(input: {email: \"$NEW@example.com\", name: \"N\", password: \"$PASSWORD\"}) { accessToken }",
            Nothing,
        ),
        (
            "logIn",
            "(input: {email: \"$EMAIL\", password: \"$PASSWORD\"}) { accessToken user { id } }",
            Nothing,
        ),
        (
            "refreshSession",
            "(input: {refreshToken: \"$REFRESH\"}) { accessToken session { id } }",
            Nothing,
        ),
        ("logOut", "{ ok endedSessions }", Nothing),
        (
            "createContainer",
            "(input: {app: \"hello\", region: \"us-east-1\"}) { container { id } task { id } }",
            Nothing,
        ),
        (
            "deleteContainer",
            "(input: {id: \"$CONTAINER\"}) { container { id } }",
            Row(Container, NotFound),
        ),
        (
            "assignContainer",
            "(input: {app: \"hello\", region: \"us-east-1\"}) { container { id } warm task { id } }",
            Nothing,
        ),
        (
            "drainContainer",
            "(input: {id: \"$RUNNING\"}) { container { id } task { id } }",
            Row(Container, NotFound),
        ),
        (
            "restartContainer",
            "(input: {id: \"$RUNNING\"}) { container { id } task { id } }",
            Row(Container, NotFound),
        ),
        (
            "updateContainer",
            "(input: {id: \"$CONTAINER\", dpi: 120, stun: true}) { container { id } }",
            Row(Container, NotFound),
        ),
        (
            "protocolInfo",
            "(id: \"$Container\") { containerId dpi stun ports { inside } }",
            Row(Container, NotFound),
        ),
        (
            "createCluster",
            "(input: {name: \"c-$NEW\", region: \"ca-central-1\", provider: \"simulated\"}) { cluster { id } task { id } }",
            Nothing,
        ),
        (
            "updateCluster",
            "(input: {id: \"$Cluster\", maxContainers: 500}) { cluster { id } }",
            Row(Cluster, NotFound),
        ),
        (
            "drainCluster",
            "(input: {id: \"$SPARE_CLUSTER\"}) { cluster { id } task { id } }",
            Row(Cluster, NotFound),
        ),
        (
            "activateCluster",
            "(input: {id: \"$DRAINED_CLUSTER\"}) { cluster { id } task { id } }",
            Row(Cluster, NotFound),
        ),
        (
            "deleteCluster",
            "(input: {id: \"$SPARE_CLUSTER\"}) { cluster { id } task { id } }",
            Row(Cluster, NotFound),
        ),
        (
            "sendClusterCommand",
            "(input: {id: \"$Cluster\", command: DIAGNOSE}) { task { id } }",
            Row(Cluster, NotFound),
        ),
        (
            "createRegistrationToken",
            "(input: {cluster: \"$Cluster\"}) { token expiresAt }",
            Row(Cluster, NotFound),
        ),
        (
            "registerHost",
            "(input: {token: \"$INVITATION\", instanceId: \"$NEW\", cpuMillis: 1, memoryBytes: 1}) { host { id } credential }",
            Nothing,
        ),
        (
            "heartbeat",
            "(input: {number: 1, cpuUsedMillis: 1, memoryAvailableBytes: 1, containers: 1}) { accepted host { id } }",
            Nothing,
        ),
        (
            "reportContainer",
            "(input: {id: \"$Container\", report: CONNECTED, generation: 1}) { container { id } }",
            Row(Container, NotFound),
        ),
        (
            "reportCommand",
            "(input: {id: \"$COMMAND\", succeeded: true}) { ok }",
            Row(Host, NotFound),
        ),
        ("rotateHostCredential", "{ credential }", Nothing),
        (
            "drainHost",
            "(input: {id: \"$SPARE_HOST\"}) { host { id } task { id } }",
            Row(Host, NotFound),
        ),
        (
            "activateHost",
            "(input: {id: \"$SPARE_HOST\"}) { host { id } }",
            Row(Host, NotFound),
        ),
        (
            "revokeHost",
            "(input: {id: \"$SPARE_HOST\"}) { host { id } }",
            Row(Host, NotFound),
        ),
        (
            "containerLogs",
            "(id: \"$Container\", last: 10) { message isError }",
            Row(Container, NotFound),
        ),
        (
            "containerLogAdded",
            "(id: \"$Container\") { cursor message }",
            Row(Container, NotFound),
        ),
        ("hostCommands", "{ id command argument }", Nothing),
        (
            "createVirtualMachine",
            "(input: {name: \"m\", image: \"tiny\", region: \"us-east-1\"}) { virtualMachine { id } task { id } }",
            Nothing,
        ),
        (
            "startVirtualMachine",
            "(input: {id: \"$STOPPED_MACHINE\"}) { virtualMachine { id } task { id } }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "stopVirtualMachine",
            "(input: {id: \"$RUNNING_MACHINE\"}) { virtualMachine { id } task { id } }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "restartVirtualMachine",
            "(input: {id: \"$RUNNING_MACHINE\"}) { virtualMachine { id } task { id } }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "resizeVirtualMachine",
            "(input: {id: \"$STOPPED_MACHINE\", cpus: 2}) { virtualMachine { id } }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "deleteVirtualMachine",
            "(input: {id: \"$RUNNING_MACHINE\"}) { virtualMachine { id } task { id } }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "snapshotVirtualMachine",
            "(input: {id: \"$RUNNING_MACHINE\", name: \"s\"}) { snapshot { id } task { id } }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "restoreVirtualMachine",
            "(input: {snapshot: \"$KEPT\"}) { virtualMachine { id } task { id } }",
            Row(Snapshot, NotFound),
        ),
        (
            "deleteSnapshot",
            "(input: {id: \"$KEPT\"}) { snapshot { id } task { id } }",
            Row(Snapshot, NotFound),
        ),
        (
            "openConsole",
            "(input: {id: \"$RUNNING_MACHINE\"}) { path token expiresAt }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "putMachineImage",
            "(input: {slug: \"i-$NEW\", name: \"I\", disk: \"i.qcow2\"}) { image { id } }",
            Nothing,
        ),
        (
            "virtualMachineLogs",
            "(id: \"$VirtualMachine\", last: 10) { message isError }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "virtualMachineLogAdded",
            "(id: \"$VirtualMachine\") { cursor message }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "virtualMachineUpdated",
            "(id: \"$VirtualMachine\") { id }",
            Row(VirtualMachine, NotFound),
        ),
        (
            "reconcile",
            "(input: {dryRun: true}) { task { id } }",
            Nothing,
        ),
        (
            "putApp",
            "(input: {slug: \"a-$NEW\", name: \"A\", image: \"a:1\"}) { app { id } }",
            Nothing,
        ),
        (
            "updateRegion",
            "(input: {id: \"$Region\", enabled: true}) { region { id } }",
            Row(Region, NotFound),
        ),
        (
            "setWarmPool",
            "(input: {app: \"hello\", region: \"us-west-1\", size: 0}) { warmPool { id } task { id } }",
            Nothing,
        ),
        (
            "setReleaseChannel",
            "(input: {user: \"$User\", channel: \"stable\"}) { user { id } }",
            Row(User, NotFound),
        ),
        (
            "startDemoTask",
            "(input: {steps: 1, stepMillis: 1}) { task { id } }",
            Nothing,
        ),
        (
            "cancelTask",
            "(input: {id: \"$QUEUED\"}) { task { id } }",
            Row(Task, NotFound),
        ),
        (
            "retryTask",
            "(input: {id: \"$FAILED\"}) { task { id } }",
            Row(Task, NotFound),
        ),
        (
            "createTask",
            "(input: {kind: \"noop\"}) { task { id } }",
            Nothing,
        ),
        (
            "createTasks",
            "(input: {tasks: [{kind: \"noop\"}]}) { tasks { id } }",
            Nothing,
        ),
        (
            "retryDeadLetters",
            "(input: {kind: \"noop\"}) { tasks { id } }",
            Nothing,
        ),
        (
            "setTaskPriority",
            "(input: {id: \"$QUEUED\", priority: BACKGROUND}) { task { id } }",
            Row(Task, NotFound),
        ),
        (
            "pauseTaskKind",
            "(input: {kind: \"noop\"}) { pausedKinds }",
            Nothing,
        ),
        (
            "resumeTaskKind",
            "(input: {kind: \"noop\"}) { pausedKinds }",
            Nothing,
        ),
        (
            "setConfigValue",
            "(input: {environment: DEV, name: \"TASKS_TOTAL\", value: \"1000\"}) { applied needsRestart }",
            Nothing,
        ),
        (
            "removeConfigValue",
            "(input: {environment: DEV, name: \"TASKS_TOTAL\"}) { applied }",
            Nothing,
        ),
        ("reloadConfig", "{ applied needsRestart }", Nothing),
        (
            "putSchedule",
            "(input: {name: \"s-$NEW\", kind: \"noop\", cron: \"0 0 1 1 *\"}) { schedule { id } }",
            Nothing,
        ),
        (
            "deleteSchedule",
            "(input: {id: \"$SCHEDULE\"}) { schedule { id } }",
            Row(Schedule, NotFound),
        ),
        (
            "containerUpdated",
            "(id: \"$Container\") { id }",
            Row(Container, NotFound),
        ),
        ("taskUpdated", "(id: \"$Task\") { id }", Row(Task, NotFound)),
        (
            "taskLogAdded",
            "(id: \"$Task\") { message }",
            Row(Task, NotFound),
        ),
    ]
};

/// The samples written by hand, and three of every list.
pub fn samples() -> Vec<Sample> {
    let by_hand = BY_HAND.iter().map(|(field, text, about)| Sample {
        field: (*field).to_owned(),
        text: (*text).to_owned(),
        about: *about,
    });
    let listed = LISTS.iter().flat_map(|entry| {
        let noun = (entry.noun)();
        let only = format!("(filter: {{id: {{eq: \"${}\"}}}})", noun.name);
        let row = |hidden| About::Row(noun.resource, hidden);
        [
            (
                entry.list.to_owned(),
                format!("{only} {{ totalCount nodes {{ id }} }}"),
                row(Hidden::Empty),
            ),
            (
                entry.one.to_owned(),
                format!("(id: \"${}\") {{ id }}", noun.name),
                row(Hidden::NotFound),
            ),
            (
                format!("{}Aggregate", entry.list),
                format!("{only} {{ count }}"),
                row(Hidden::Empty),
            ),
        ]
    });
    let streamed = growing().map(|(added, entry)| {
        let id = format!("{}_{:032x}", prefix((entry.noun)()), 0);
        (
            added.to_owned(),
            format!("(after: \"{id}\") {{ id }}"),
            About::Nothing,
        )
    });
    let more = listed.chain(streamed);
    let more = more.map(|(field, text, about)| Sample { field, text, about });
    by_hand.chain(more).collect()
}

/// What the ids of the noun's rows begin with.
fn prefix(noun: &Noun) -> &'static str {
    match noun.fields[0].kind {
        Kind::Id(prefix) => prefix,
        _ => panic!("{} has no id", noun.name),
    }
}

/// Whether what the operation is told is the owner's credential, so that it speaks for the owner whoever says it.
pub fn speaks_for_the_owner(sample: &Sample) -> bool {
    ["$EMAIL", "$REFRESH"]
        .iter()
        .any(|word| sample.text.contains(word))
}

impl Sample {
    /// The text with the ids put in, and with what is used up made anew.
    pub async fn fill(&self, scene: &Scene, time: usize) -> String {
        let mut text = self.text.clone();
        let mut names: Vec<_> = scene.rows.iter().collect();
        // `$Task` begins like `$TaskSomething` would.
        names.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
        for (name, id) in names {
            text = text.replace(&format!("${name}"), id);
        }
        text = text.replace("$NEW", &format!("new{time}"));
        text = text.replace("$PASSWORD", PASSWORD);
        text = text.replace("$EMAIL", &scene.owner.person.email);
        if text.contains("$REFRESH") {
            let login = scene.log_in(&scene.owner).await;
            text = text.replace("$REFRESH", &login.refresh_token.unwrap());
        }
        let person = &scene.owner.person;
        if text.contains("$RUNNING_MACHINE") {
            text = text.replace("$RUNNING_MACHINE", &person.running_machine().await);
        }
        if text.contains("$STOPPED_MACHINE") || text.contains("$KEPT") {
            let machine = person.running_machine().await;
            let snapshot = person.snapshot_of(&machine, "kept").await;
            person
                .with_machine("stopVirtualMachine", &machine, ", graceSeconds: 0")
                .await
                .ok("/stopVirtualMachine");
            person.machine_in(&machine, "STOPPED").await;
            text = text.replace("$STOPPED_MACHINE", &machine);
            text = text.replace("$KEPT", &snapshot);
        }
        if text.contains("$RUNNING") {
            let person = &scene.owner.person;
            let container = person.create("hello").await.container;
            person.container_in(&container, "RUNNING").await;
            text = text.replace("$RUNNING", &container);
        }
        if text.contains("$INVITATION") {
            text = text.replace("$INVITATION", &scene.invitation().await);
        }
        if text.contains("$COMMAND") {
            text = text.replace("$COMMAND", &scene.command().await);
        }
        if text.contains("$SPARE_HOST") {
            let host = scene.spare_host(&format!("spare-{time}")).await;
            text = text.replace("$SPARE_HOST", &host);
        }
        if text.contains("$SPARE_CLUSTER") {
            let cluster = scene.spare_cluster(&format!("spare-{time}")).await;
            text = text.replace("$SPARE_CLUSTER", &cluster);
        }
        if text.contains("$DRAINED_CLUSTER") {
            let cluster = scene.spare_cluster(&format!("drained-{time}")).await;
            let drain = format!(
                "mutation {{ drainCluster(input: {{id: \"{cluster}\"}}) {{ task {{ id }} }} }}"
            );
            scene.admin.person.ask(&drain).await.ok("/drainCluster");
            text = text.replace("$DRAINED_CLUSTER", &cluster);
        }
        if text.contains("$CONTAINER") {
            text = text.replace(
                "$CONTAINER",
                &scene.owner.person.create("hello").await.container,
            );
        }
        if text.contains("$QUEUED") {
            text = text.replace("$QUEUED", &scene.queued().await);
        }
        if text.contains("$FAILED") {
            text = text.replace("$FAILED", &scene.failed().await);
        }
        if text.contains("$SCHEDULE") {
            let put = format!(
                "mutation {{ putSchedule(input: {{name: \"d-{time}\", kind: \"noop\", cron: \"0 0 1 1 *\"}}) {{ schedule {{ id }} }} }}"
            );
            let put = scene.admin.person.ask(&put).await;
            text = text.replace("$SCHEDULE", &put.text("/putSchedule/schedule/id"));
        }
        assert!(!text.contains('$'), "{text}");
        text
    }
}
