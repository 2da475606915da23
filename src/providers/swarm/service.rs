//! What a container is on a swarm: a service of one task.

use std::time::Duration;

use bollard::models::{
    EndpointPortConfig, EndpointPortConfigProtocolEnum, EndpointPortConfigPublishModeEnum,
    EndpointSpec, Limit, ResourceObject, ServiceSpec, ServiceSpecMode, ServiceSpecModeReplicated,
    TaskSpec, TaskSpecContainerSpec, TaskSpecPlacement, TaskSpecResources, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum,
};

use super::CLUSTER;
use crate::providers::{Spec, docker, instance_name};

/// What a container gets to end by itself; a swarm is told at the start, not at the end.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// Pause before a task takes the place of one that failed or whose node is lost.
const RESTART_DELAY: Duration = Duration::from_secs(1);
/// How often that happens within [`RESTART_WINDOW`]: an image that ends at once comes to an end, and a container whose
/// node is lost once a year goes on for ever.
const RESTARTS: i64 = 3;
const RESTART_WINDOW: Duration = Duration::from_secs(600);
const PIDS: i64 = 4096;

/// The service of a container.
///
/// Its ports are published on every address of the node, because a swarm knows no other way.
pub(super) fn service(spec: &Spec) -> ServiceSpec {
    let labels = docker::labels(spec);
    let container = TaskSpecContainerSpec {
        image: Some(spec.image.clone()),
        args: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(
            spec.env
                .iter()
                .map(|(key, value)| literal(&format!("{key}={value}")))
                .collect(),
        ),
        labels: Some(labels.clone()),
        init: Some(true),
        stop_grace_period: Some(nanoseconds(GRACE)),
        ..TaskSpecContainerSpec::default()
    };
    let restart = TaskSpecRestartPolicy {
        condition: Some(TaskSpecRestartPolicyConditionEnum::ANY),
        delay: Some(nanoseconds(RESTART_DELAY)),
        max_attempts: Some(RESTARTS),
        window: Some(nanoseconds(RESTART_WINDOW)),
    };
    let constraint = |cluster| format!("node.labels.{CLUSTER} == {cluster}");
    let placement = TaskSpecPlacement {
        constraints: spec
            .cluster
            .as_ref()
            .map(|cluster| vec![constraint(cluster)]),
        ..TaskSpecPlacement::default()
    };
    ServiceSpec {
        name: Some(instance_name(spec.container)),
        labels: Some(labels),
        task_template: Some(TaskSpec {
            container_spec: Some(container),
            resources: Some(resources(spec)),
            restart_policy: Some(restart),
            placement: Some(placement),
            ..TaskSpec::default()
        }),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(1) }),
            ..ServiceSpecMode::default()
        }),
        endpoint_spec: Some(EndpointSpec {
            ports: Some(spec.ports.iter().copied().map(published).collect()),
            ..EndpointSpec::default()
        }),
        ..ServiceSpec::default()
    }
}

/// The limits, reserved as well, so that a node is never promised twice.
fn resources(spec: &Spec) -> TaskSpecResources {
    let nano_cpus = (spec.cpu_millis > 0).then(|| i64::from(spec.cpu_millis) * 1_000_000);
    let memory_bytes =
        (spec.memory_bytes > 0).then(|| i64::try_from(spec.memory_bytes).unwrap_or(i64::MAX));
    TaskSpecResources {
        limits: Some(Limit {
            nano_cpus,
            memory_bytes,
            pids: Some(PIDS),
        }),
        reservations: Some(ResourceObject {
            nano_cpus,
            memory_bytes,
            ..ResourceObject::default()
        }),
        ..TaskSpecResources::default()
    }
}

/// A free port of the node the task is on, which needs none of the swarm's own networks.
fn published(port: u16) -> EndpointPortConfig {
    EndpointPortConfig {
        protocol: Some(EndpointPortConfigProtocolEnum::TCP),
        target_port: Some(i64::from(port)),
        publish_mode: Some(EndpointPortConfigPublishModeEnum::HOST),
        ..EndpointPortConfig::default()
    }
}

/// A swarm takes a variable for a template of Go's; this one says `text`.
fn literal(text: &str) -> String {
    text.replace("{{", r#"{{"{{"}}"#)
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
