//! One Docker Engine, through its API (1.41 and later).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    errors::Error,
    models::{
        ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HealthStatusEnum,
        HostConfig, PortBinding,
    },
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder,
        ListContainersOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
        StopContainerOptionsBuilder,
    },
};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{
    Happened, Instance, LABEL, Prepared, Provider, ProviderError, Spec, Status, instance_name,
};
use crate::domain::{Id, id::Container};

const NAME: &str = "docker";
/// Longest wait for the answer to an ordinary call.
const CALL: Duration = Duration::from_secs(60);
/// Longest wait for a ping, at start-up and in `doctor`.
const PING: Duration = Duration::from_secs(3);
/// Longest silence of a pull.
const SILENCE: Duration = Duration::from_secs(120);

/// A Docker Engine; the API's version is agreed on at the first call that reaches it.
pub struct Docker {
    host: String,
    agreed: OnceCell<bollard::Docker>,
}

impl Docker {
    /// An engine at `unix://…` or `tcp://…`; nothing is sent yet, so it may come later.
    pub fn at(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            agreed: OnceCell::new(),
        }
    }

    async fn engine(&self) -> Result<&bollard::Docker, ProviderError> {
        let agree = || async {
            let engine = bollard::Docker::connect_with_host(&self.host)
                .map_err(|error| classify(error, None))?;
            within(PING, engine.negotiate_version()).await
        };
        self.agreed.get_or_try_init(agree).await
    }

    async fn inspect_raw(
        &self,
        id: Id<Container>,
    ) -> Result<Option<ContainerInspectResponse>, ProviderError> {
        let name = instance_name(id);
        match within(CALL, self.engine().await?.inspect_container(&name, None)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn create(&self, spec: &Spec) -> Result<(), ProviderError> {
        let options = CreateContainerOptionsBuilder::new()
            .name(&instance_name(spec.container))
            .build();
        let call = self
            .engine()
            .await?
            .create_container(Some(options), body(spec));
        match tokio::time::timeout(CALL, call).await {
            // Another attempt was quicker: its work is ours.
            Ok(
                Ok(_)
                | Err(Error::DockerResponseServerError {
                    status_code: 409, ..
                }),
            ) => Ok(()),
            Ok(Err(error)) => Err(classify(error, Some(&spec.image))),
            Err(_) => Err(ProviderError::TimedOut {
                engine: NAME,
                after: CALL,
            }),
        }
    }
}

fn body(spec: &Spec) -> ContainerCreateBody {
    let ports: Vec<String> = spec
        .ports
        .iter()
        .map(|port| format!("{port}/tcp"))
        .collect();
    let publish = |port: &String| {
        let binding = PortBinding {
            host_ip: Some(spec.publish_address.to_string()),
            host_port: Some(String::new()),
        };
        (port.clone(), Some(vec![binding]))
    };
    let host_config = HostConfig {
        memory: (spec.memory_bytes > 0)
            .then(|| i64::try_from(spec.memory_bytes).unwrap_or(i64::MAX)),
        nano_cpus: (spec.cpu_millis > 0).then(|| i64::from(spec.cpu_millis) * 1_000_000),
        pids_limit: Some(4096),
        port_bindings: Some(ports.iter().map(publish).collect()),
        init: Some(true),
        ..HostConfig::default()
    };
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: (!spec.command.is_empty()).then(|| spec.command.clone()),
        env: Some(
            spec.env
                .iter()
                .map(|(key, value)| format!("{key}={value}"))
                .collect(),
        ),
        labels: Some(HashMap::from([(
            LABEL.to_owned(),
            spec.container.to_string(),
        )])),
        exposed_ports: Some(ports),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

#[async_trait]
impl Provider for Docker {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        let version = within(PING, self.engine().await?.version()).await?;
        Ok(format!(
            "Docker {}",
            version
                .version
                .unwrap_or_else(|| "of an unknown version".to_owned())
        ))
    }

    fn prepare<'a>(&'a self, image: &'a str) -> BoxStream<'a, Result<Prepared, ProviderError>> {
        stream::once(async move {
            let engine = self.engine().await?;
            match within(CALL, engine.inspect_image(image)).await {
                Ok(_) => Ok(stream::once(std::future::ready(Ok(Prepared::Present))).boxed()),
                Err(error) if is_missing(&error) => Ok(pull(engine, image).boxed()),
                Err(error) => Err(error),
            }
        })
        .try_flatten()
        .boxed()
    }

    async fn ensure(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<Instance, ProviderError> {
        if self.inspect_raw(spec.container).await?.is_none() {
            if stop.is_cancelled() {
                return Err(ProviderError::Stopped);
            }
            self.create(spec).await?;
        }
        let found = self.inspect(spec.container).await?;
        let found = found.ok_or_else(|| ProviderError::Failed {
            engine: NAME,
            why: "it vanished after it was made".to_owned(),
        })?;
        if found.status != Status::Created {
            return Ok(found);
        }
        if stop.is_cancelled() {
            return Err(ProviderError::Stopped);
        }
        within(
            CALL,
            self.engine().await?.start_container(&found.handle, None),
        )
        .await?;
        let started = self.inspect(spec.container).await?;
        started.ok_or_else(|| ProviderError::Failed {
            engine: NAME,
            why: "it vanished after its start".to_owned(),
        })
    }

    async fn inspect(&self, id: Id<Container>) -> Result<Option<Instance>, ProviderError> {
        let Some(found) = self.inspect_raw(id).await? else {
            return Ok(None);
        };
        let label = found
            .config
            .as_ref()
            .and_then(|config| config.labels.as_ref()?.get(LABEL));
        if label.and_then(|label| Id::parse(label)) != Some(id) {
            let why = format!("{} exists and is not ours", instance_name(id));
            return Err(ProviderError::Rejected { engine: NAME, why });
        }
        Ok(Some(read(id, found)))
    }

    async fn remove(&self, id: Id<Container>, grace: Duration) -> Result<(), ProviderError> {
        let Some(found) = self.inspect(id).await? else {
            return Ok(());
        };
        let engine = self.engine().await?;
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let stop = StopContainerOptionsBuilder::new().t(seconds).build();
        let stopped = within(
            CALL + grace,
            engine.stop_container(&found.handle, Some(stop)),
        )
        .await;
        stopped.or_else(|error| {
            if is_missing(&error) {
                Ok(())
            } else {
                Err(error)
            }
        })?;
        let force = RemoveContainerOptionsBuilder::new()
            .force(true)
            .v(true)
            .build();
        let removed =
            tokio::time::timeout(CALL, engine.remove_container(&found.handle, Some(force))).await;
        match removed {
            // 409: another removal of the same container is under way.
            Ok(
                Ok(())
                | Err(Error::DockerResponseServerError {
                    status_code: 404 | 409,
                    ..
                }),
            ) => Ok(()),
            Ok(Err(error)) => Err(classify(error, None)),
            Err(_) => Err(ProviderError::TimedOut {
                engine: NAME,
                after: CALL,
            }),
        }
    }

    async fn list(&self) -> Result<Vec<Instance>, ProviderError> {
        let filters = HashMap::from([("label", vec![LABEL])]);
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&filters)
            .build();
        let found = within(CALL, self.engine().await?.list_containers(Some(options))).await?;
        let ids = found
            .iter()
            .filter_map(|summary| Id::parse(summary.labels.as_ref()?.get(LABEL)?));
        let mut instances = Vec::new();
        for id in ids {
            // One with our label under a foreign name, or gone meanwhile, is none of ours.
            if let Ok(Some(instance)) = self.inspect(id).await {
                instances.push(instance);
            }
        }
        Ok(instances)
    }

    async fn logs(&self, id: Id<Container>, lines: u32) -> Result<Vec<String>, ProviderError> {
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        let name = instance_name(id);
        let output: Vec<_> = within(
            CALL,
            self.engine()
                .await?
                .logs(&name, Some(options))
                .try_collect(),
        )
        .await?;
        let text: String = output
            .into_iter()
            .map(|part| String::from_utf8_lossy(&part.into_bytes()).into_owned())
            .collect();
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn events(&self) -> BoxStream<'static, Happened> {
        let filters = HashMap::from([("type", vec!["container"]), ("label", vec![LABEL])]);
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        // Until it has answered once there is nothing to hear.
        let Some(engine) = self.agreed.get() else {
            return stream::empty().boxed();
        };
        let seen = engine
            .events(Some(options))
            .take_while(|event| std::future::ready(event.is_ok()));
        seen.filter_map(async |event| {
            let actor = event.ok()?.actor?;
            Some(Happened {
                container: Id::parse(actor.attributes?.get(LABEL)?)?,
            })
        })
        .boxed()
    }
}

/// Pulls `image`, telling percents of the bytes known so far.
fn pull<'a>(
    engine: &'a bollard::Docker,
    image: &'a str,
) -> impl Stream<Item = Result<Prepared, ProviderError>> + 'a {
    let (name, tag) = split_tag(image);
    let options = CreateImageOptionsBuilder::new()
        .from_image(name)
        .tag(tag)
        .build();
    let mut layers: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let steps =
        tokio_stream::StreamExt::timeout(engine.create_image(Some(options), None, None), SILENCE);
    let told = steps.map(move |step| {
        let step = step.map_err(|_| ProviderError::TimedOut {
            engine: NAME,
            after: SILENCE,
        })?;
        let step = step.map_err(|error| classify(error, Some(image)))?;
        if let (Some(id), Some(detail)) = (step.id, step.progress_detail)
            && let (Some(done), Some(all)) = (detail.current, detail.total)
        {
            layers.insert(id, (done, all));
        }
        let (done, all) = layers
            .values()
            .fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        Ok(Prepared::Pulling(
            u8::try_from(100 * done / all.max(1))
                .unwrap_or(100)
                .min(100),
        ))
    });
    told.chain(stream::once(std::future::ready(Ok(Prepared::Present))))
}

/// `name:tag`, with `latest` for none; a digest stays with the name.
fn split_tag(image: &str) -> (&str, &str) {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !image.contains('@') => (name, tag),
        _ if image.contains('@') => (image, ""),
        _ => (image, "latest"),
    }
}

fn read(id: Id<Container>, found: ContainerInspectResponse) -> Instance {
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
    Instance {
        container: id,
        handle: found.id.unwrap_or_default(),
        status,
        ip: ip.filter(|ip| !ip.is_empty()),
        ports: ports.collect(),
    }
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, ProviderError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| classify(error, None)),
        Err(_) => Err(ProviderError::TimedOut {
            engine: NAME,
            after: limit,
        }),
    }
}

const MISSING: &str = "no such";

fn is_missing(error: &ProviderError) -> bool {
    matches!(error, ProviderError::Rejected { why, .. } if why.starts_with(MISSING))
}

/// What an error of the engine means for whoever asked; `image` when the call was about one.
fn classify(error: Error, image: Option<&str>) -> ProviderError {
    let engine = NAME;
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
                    || said.contains("port is already allocated") =>
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_told_from_a_port_and_a_digest() {
        assert_eq!(split_tag("busybox"), ("busybox", "latest"));
        assert_eq!(split_tag("busybox:1.37"), ("busybox", "1.37"));
        assert_eq!(split_tag("host:5000/app"), ("host:5000/app", "latest"));
        assert_eq!(split_tag("host:5000/app:2"), ("host:5000/app", "2"));
        assert_eq!(split_tag("app@sha256:00"), ("app@sha256:00", ""));
    }
}
