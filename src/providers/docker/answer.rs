//! What the engine's answers mean: instances, and errors.

use std::collections::HashMap;

use bollard::{
    errors::Error,
    models::{
        ContainerInspectResponse, ContainerStateStatusEnum, ContainerSummary,
        ContainerSummaryStateEnum, HealthStatusEnum,
    },
};

use super::{CALL, NAME};
use crate::{
    domain::{Id, id::Container},
    providers::{DEPLOYMENT, GENERATION, Instance, ProviderError, Status, instance_name},
};

/// What the labels say of an instance: its generation and its deployment.
pub(in crate::providers) fn labelled(
    labels: Option<&HashMap<String, String>>,
) -> (i32, Option<String>) {
    let label = |name| labels.and_then(|labels| labels.get(name));
    let generation = label(GENERATION).and_then(|text| text.parse().ok());
    (generation.unwrap_or(1), label(DEPLOYMENT).cloned())
}

/// An instance as a list has it; `None` when more has to be asked about it.
pub(super) fn read_summary(id: Id<Container>, found: ContainerSummary) -> Option<Instance> {
    let is_named = found
        .names
        .iter()
        .flatten()
        .any(|name| name.trim_start_matches('/') == instance_name(id));
    if found.state != Some(ContainerSummaryStateEnum::RUNNING) || !is_named {
        return None;
    }
    let said = found.status.unwrap_or_default();
    let status = if said.contains("(health: starting)") {
        Status::Starting
    } else if said.contains("(unhealthy)") {
        Status::Unhealthy
    } else {
        Status::Ready
    };
    let (generation, deployment) = labelled(found.labels.as_ref());
    let ports = found.ports.unwrap_or_default().into_iter();
    let ip = found
        .network_settings
        .and_then(|network| network.networks)
        .unwrap_or_default()
        .into_values()
        .find_map(|endpoint| endpoint.ip_address);
    Some(Instance {
        id,
        generation,
        deployment,
        node: None,
        handle: found.id.unwrap_or_default(),
        status,
        ip: ip.filter(|ip| !ip.is_empty()),
        ports: ports
            .filter_map(|port| Some((port.private_port, port.public_port?)))
            .collect(),
    })
}

/// An instance as the engine describes it.
pub(super) fn read(id: Id<Container>, found: ContainerInspectResponse) -> Instance {
    let state = found.state.unwrap_or_default();
    let health = state.health.and_then(|health| health.status);
    let status = match state.status {
        Some(ContainerStateStatusEnum::CREATED) => Status::Created,
        Some(ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD) => Status::Exited {
            code: state.exit_code.unwrap_or_default(),
        },
        _ => match health {
            Some(HealthStatusEnum::STARTING) => Status::Starting,
            Some(HealthStatusEnum::UNHEALTHY) => Status::Unhealthy,
            Some(HealthStatusEnum::HEALTHY | HealthStatusEnum::NONE | HealthStatusEnum::EMPTY)
            | None => Status::Ready,
        },
    };
    let network = found.network_settings.unwrap_or_default();
    let ports = network
        .ports
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(inside, bindings)| {
            let inside = inside.strip_suffix("/tcp")?.parse().ok()?;
            let outside = bindings?.first()?.host_port.as_ref()?.parse().ok()?;
            Some((inside, outside))
        });
    let ip = network
        .networks
        .unwrap_or_default()
        .into_values()
        .find_map(|endpoint| endpoint.ip_address);
    let config = found.config.unwrap_or_default();
    let (generation, deployment) = labelled(config.labels.as_ref());
    Instance {
        id,
        generation,
        deployment,
        node: None,
        handle: found.id.unwrap_or_default(),
        status,
        ip: ip.filter(|ip| !ip.is_empty()),
        ports: ports.collect(),
    }
}

const MISSING: &str = "no such";

pub(in crate::providers) fn is_missing(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Rejected { why, .. } if why.starts_with(MISSING))
}

/// What an error of the engine means for whoever asked; `image` when the call was about one.
pub(super) fn classify(error: Error, image: Option<&str>) -> ProviderError {
    classify_as(NAME, error, image)
}

/// The same for an engine of another name behind the same API.
pub(in crate::providers) fn classify_as(
    engine: &'static str,
    error: Error,
    image: Option<&str>,
) -> ProviderError {
    match error {
        Error::DockerResponseServerError {
            status_code,
            message,
        } => {
            let said = message.to_lowercase();
            match (status_code, image) {
                (404, Some(image)) => ProviderError::NoSuchImage {
                    image: image.to_owned(),
                    why: message,
                },
                (404, None) => ProviderError::Rejected {
                    engine,
                    why: format!("{MISSING} thing: {message}"),
                },
                _ if said.contains("no space left")
                    || said.contains("port is already allocated")
                    || said.contains("all ports are allocated") =>
                {
                    ProviderError::Quota {
                        engine,
                        why: message,
                    }
                }
                // A command that cannot be executed is answered with 400 or, by older engines, with 500.
                _ if said.contains("oci runtime create failed")
                    || said.contains("executable file not found") =>
                {
                    ProviderError::Rejected {
                        engine,
                        why: message,
                    }
                }
                (400..=499, _) => ProviderError::Rejected {
                    engine,
                    why: message,
                },
                _ => ProviderError::Failed {
                    engine,
                    why: message,
                },
            }
        }
        Error::DockerStreamError { error } => match image {
            Some(image)
                if error.contains("not found")
                    || error.contains("denied")
                    || error.contains("manifest unknown") =>
            {
                ProviderError::NoSuchImage {
                    image: image.to_owned(),
                    why: error,
                }
            }
            _ => ProviderError::Failed { engine, why: error },
        },
        Error::RequestTimeoutError => ProviderError::TimedOut {
            engine,
            after: CALL,
        },
        Error::UnsupportedURISchemeError { uri } => ProviderError::Rejected {
            engine,
            why: format!("{uri} is not an address"),
        },
        Error::JsonDataError { message, .. } => ProviderError::Failed {
            engine,
            why: message,
        },
        other => ProviderError::Unreachable {
            engine,
            why: chain(&other),
        },
    }
}

/// An error with its causes; the top line of a connection error says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    std::iter::once(error.to_string())
        .chain(causes.map(ToString::to_string))
        .collect::<Vec<_>>()
        .join(": ")
}
