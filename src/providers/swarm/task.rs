//! What a swarm's answers mean: nodes, and a service's tasks as the one instance they stand for.

use std::{cmp::Reverse, collections::BTreeMap};

use bollard::models::{self, NodeSpecAvailabilityEnum, NodeState, Service, Task, TaskState};
use chrono::{DateTime, Utc};

use super::{CLUSTER, NAME, SPARE};
use crate::{
    domain::{Id, id::Container},
    providers::{Instance, LABEL, Node, NodeHealth, ProviderError, Status, docker::answer},
};

/// The code of what has ended and told none, such as what was on a node that is lost.
const UNKNOWN_CODE: i64 = -1;
/// What the scheduler says of a task that fits nowhere.
const NOWHERE: &str = "no suitable node";

/// A service with the task that counts and the node it is on.
pub(super) struct Seen {
    pub instance: Instance,
    /// The task that counts; `None` for a service too young to have one.
    pub task: Option<Task>,
}

/// The container a service is of; `None` for what is none of ours.
pub(super) fn container_of(service: &Service) -> Option<Id<Container>> {
    Id::parse(service.spec.as_ref()?.labels.as_ref()?.get(LABEL)?)
}

/// A service, its tasks and the nodes, joined.
pub(super) fn join(
    id: Id<Container>,
    service: Service,
    tasks: Vec<Task>,
    nodes: &BTreeMap<String, Node>,
) -> Seen {
    let of_this_service = tasks
        .into_iter()
        .filter(|task| task.service_id == service.id);
    let task = newest(of_this_service);
    let node = task
        .as_ref()
        .and_then(|task| task.node_id.clone())
        .filter(|node| !node.is_empty());
    let machine = node.as_ref().and_then(|node| nodes.get(node));
    let status = task
        .as_ref()
        .map_or(Status::Starting, |task| status(task, machine));
    let (generation, deployment) =
        answer::labelled(service.spec.as_ref().and_then(|spec| spec.labels.as_ref()));
    let instance = Instance {
        id,
        generation,
        deployment,
        handle: service.id.unwrap_or_default(),
        status,
        ip: machine.and_then(|machine| machine.ip.clone()),
        // A port is nobody's once its task no longer runs.
        ports: match (&task, status) {
            (Some(task), Status::Ready) => ports(task),
            _ => BTreeMap::new(),
        },
        node,
    };
    Seen { instance, task }
}

/// The task that counts: the youngest that is wanted, else the youngest. One whose node is lost goes on being said to
/// run beside the one in its place.
pub(super) fn newest(tasks: impl Iterator<Item = Task>) -> Option<Task> {
    tasks.min_by_key(|task| (is_given_up(task), Reverse(made_at(task))))
}

fn made_at(task: &Task) -> Option<DateTime<Utc>> {
    task.created_at.as_ref()?.parse().ok()
}

/// How far a task has come; the states are in the order a task goes through them.
pub(super) fn state(task: &Task) -> TaskState {
    let status = task.status.as_ref();
    status
        .and_then(|status| status.state)
        .unwrap_or(TaskState::NEW)
}

/// Whether the swarm no longer wants a task; when no younger one is wanted, the service has come to its end.
pub(super) fn is_given_up(task: &Task) -> bool {
    task.desired_state > Some(TaskState::RUNNING)
}

/// Whether a task's container has been started at some time, so that it may have said something.
pub(super) fn has_started(task: &Task) -> bool {
    state(task) >= TaskState::STARTING && state(task) != TaskState::REJECTED
}

/// Whether a task's container may be there still.
pub(super) fn is_alive(task: &Task) -> bool {
    state(task) <= TaskState::RUNNING
}

fn status(task: &Task, node: Option<&Node>) -> Status {
    let is_lost = node.is_some_and(|node| node.health == NodeHealth::Down);
    if is_given_up(task) {
        let code = task
            .status
            .as_ref()
            .and_then(|status| status.container_status.as_ref()?.exit_code)
            .filter(|_| !is_alive(task) && state(task) != TaskState::ORPHANED);
        return Status::Exited {
            code: code.unwrap_or(UNKNOWN_CODE),
        };
    }
    match state(task) {
        // Only once its health check has passed; when it no longer does, the task fails.
        TaskState::RUNNING if !is_lost => Status::Ready,
        // What has ended and is wanted is about to be replaced.
        _ => Status::Starting,
    }
}

fn ports(task: &Task) -> BTreeMap<u16, u16> {
    let published = task
        .status
        .as_ref()
        .and_then(|status| status.port_status.as_ref()?.ports.as_ref());
    let published = published.into_iter().flatten();
    published
        .filter_map(|port| {
            let inside = u16::try_from(port.target_port?).ok()?;
            Some((inside, u16::try_from(port.published_port?).ok()?))
        })
        .collect()
}

/// Why a task will not run: it fits nowhere for now, or no node could make it.
pub(super) fn refusal(task: &Task, image: &str) -> Option<ProviderError> {
    let engine = NAME;
    let why = task.status.as_ref()?.err.clone().unwrap_or_default();
    let said = why.to_lowercase();
    match state(task) {
        TaskState::PENDING if said.starts_with(NOWHERE) => {
            Some(ProviderError::Quota { engine, why })
        }
        TaskState::REJECTED if !is_given_up(task) => None,
        TaskState::REJECTED if said.contains("no such image") => Some(ProviderError::NoSuchImage {
            image: image.to_owned(),
            why,
        }),
        TaskState::REJECTED if said.contains("no space left") => {
            Some(ProviderError::Quota { engine, why })
        }
        TaskState::REJECTED => Some(ProviderError::Rejected { engine, why }),
        _ => None,
    }
}

/// A machine as the manager knows it.
pub(super) fn node(found: models::Node) -> Option<Node> {
    let (spec, status) = (
        found.spec.unwrap_or_default(),
        found.status.unwrap_or_default(),
    );
    let description = found.description.unwrap_or_default();
    let resources = description.resources.unwrap_or_default();
    let health = match (status.state, spec.availability) {
        (Some(NodeState::DOWN | NodeState::DISCONNECTED), _) => NodeHealth::Down,
        (Some(NodeState::READY), Some(NodeSpecAvailabilityEnum::ACTIVE)) => NodeHealth::Ready,
        // For some seconds after a manager's start its nodes are unknown: they get nothing new and run what they have.
        _ => NodeHealth::Draining,
    };
    let mut labels = spec.labels.unwrap_or_default();
    Some(Node {
        id: found.id?,
        name: description.hostname.unwrap_or_default(),
        ip: status.addr.filter(|address| !address.is_empty()),
        cpu_millis: resources.nano_cpus.unwrap_or_default() / 1_000_000,
        memory_bytes: resources.memory_bytes.unwrap_or_default(),
        health,
        cluster: labels.remove(CLUSTER),
        is_spare: labels.remove(SPARE).is_some_and(|value| value == "true"),
    })
}

#[cfg(test)]
mod tests {
    use bollard::models::{ContainerStatus, TaskStatus};

    use super::*;

    fn task(second: u8, wanted: TaskState, state: TaskState, node: &str) -> Task {
        let status = TaskStatus {
            state: Some(state),
            container_status: Some(ContainerStatus {
                exit_code: Some(7),
                ..ContainerStatus::default()
            }),
            ..TaskStatus::default()
        };
        Task {
            created_at: Some(format!("2026-01-01T00:00:{second:02}Z")),
            desired_state: Some(wanted),
            node_id: Some(node.to_owned()),
            status: Some(status),
            ..Task::default()
        }
    }

    /// How an instance of these tasks is, and where, on a swarm whose node `down` is so.
    fn seen(tasks: Vec<Task>) -> (Status, Option<String>) {
        let machine = |id: &str, health| Node {
            id: id.to_owned(),
            name: id.to_owned(),
            ip: None,
            cpu_millis: 0,
            memory_bytes: 0,
            health,
            cluster: None,
            is_spare: false,
        };
        let nodes = BTreeMap::from([
            ("up".to_owned(), machine("up", NodeHealth::Ready)),
            ("down".to_owned(), machine("down", NodeHealth::Down)),
        ]);
        let id = crate::domain::Entropy::seeded(1).id(DateTime::UNIX_EPOCH);
        let instance = join(id, Service::default(), tasks, &nodes).instance;
        (instance.status, instance.node)
    }

    #[test]
    fn the_task_in_the_place_of_a_lost_one_counts() {
        use TaskState::{PREPARING, READY, RUNNING, SHUTDOWN};
        let lost = task(1, SHUTDOWN, RUNNING, "down");
        let [down, up] = ["down", "up"].map(|node| Some(node.to_owned()));
        let unnoticed = task(1, RUNNING, RUNNING, "down");
        assert_eq!(seen(vec![unnoticed]), (Status::Starting, down.clone()));
        let coming = task(2, READY, PREPARING, "up");
        assert_eq!(
            seen(vec![coming, lost.clone()]),
            (Status::Starting, up.clone())
        );
        let come = task(2, RUNNING, RUNNING, "up");
        assert_eq!(seen(vec![lost.clone(), come]), (Status::Ready, up));
        // One that was not to be replaced any more has no code to tell.
        let code = UNKNOWN_CODE;
        assert_eq!(seen(vec![lost]), (Status::Exited { code }, down));
    }

    #[test]
    fn what_failed_is_over_only_once_nothing_takes_its_place() {
        use TaskState::{COMPLETE, FAILED, RUNNING, SHUTDOWN};
        let status = |tasks| seen(tasks).0;
        assert_eq!(status(Vec::new()), Status::Starting);
        assert_eq!(
            status(vec![task(1, RUNNING, FAILED, "up")]),
            Status::Starting
        );
        let failed = task(1, SHUTDOWN, FAILED, "up");
        assert_eq!(status(vec![failed.clone()]), Status::Exited { code: 7 });
        assert_eq!(
            status(vec![failed, task(2, SHUTDOWN, COMPLETE, "up")]),
            Status::Exited { code: 7 }
        );
    }

    #[test]
    fn a_refusal_says_whether_it_may_end() {
        use TaskState::{FAILED, PENDING, REJECTED, RUNNING, SHUTDOWN};
        let code = |wanted, state, why: &str| {
            let mut task = task(1, wanted, state, "");
            task.status.as_mut().unwrap().err = Some(why.to_owned());
            refusal(&task, "app:1").map(|error| (error.code(), error.is_retryable()))
        };
        let missing = "No such image: app:1";
        let nowhere = "no suitable node (insufficient resources on 3 nodes)";
        assert_eq!(code(RUNNING, PENDING, ""), None);
        assert_eq!(code(RUNNING, PENDING, nowhere), Some(("ENGINE_FULL", true)));
        assert_eq!(
            code(RUNNING, REJECTED, missing),
            None,
            "another node is tried"
        );
        assert_eq!(
            code(SHUTDOWN, REJECTED, missing),
            Some(("NO_SUCH_IMAGE", false))
        );
        assert_eq!(
            code(SHUTDOWN, REJECTED, "bad mount"),
            Some(("ENGINE_REJECTED", false))
        );
        assert_eq!(code(SHUTDOWN, FAILED, "task: non-zero exit (1)"), None);
    }

    #[test]
    fn a_node_not_yet_heard_of_is_not_down() {
        let health = |state, availability| {
            let found = models::Node {
                id: Some("node".to_owned()),
                spec: Some(models::NodeSpec {
                    availability: Some(availability),
                    ..models::NodeSpec::default()
                }),
                status: Some(models::NodeStatus {
                    state: Some(state),
                    ..models::NodeStatus::default()
                }),
                ..models::Node::default()
            };
            node(found).unwrap().health
        };
        let (active, drain) = (
            NodeSpecAvailabilityEnum::ACTIVE,
            NodeSpecAvailabilityEnum::DRAIN,
        );
        assert_eq!(health(NodeState::READY, active), NodeHealth::Ready);
        assert_eq!(health(NodeState::READY, drain), NodeHealth::Draining);
        assert_eq!(health(NodeState::UNKNOWN, active), NodeHealth::Draining);
        assert_eq!(health(NodeState::DISCONNECTED, active), NodeHealth::Down);
        assert_eq!(health(NodeState::DOWN, drain), NodeHealth::Down);
    }
}
