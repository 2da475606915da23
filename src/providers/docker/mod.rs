//! One Docker Engine, through its API (1.41 and later).

pub(super) mod answer;
mod events;
mod image;
mod machine;

use std::{collections::HashMap, time::Duration};

use answer::{classify, is_missing, read, read_summary};

use async_trait::async_trait;
use bollard::{
    container::LogOutput,
    errors::Error,
    models::{ContainerCreateBody, ContainerInspectResponse, HostConfig, PortBinding},
    query_parameters::{
        CreateContainerOptionsBuilder, ListContainersOptionsBuilder, LogsOptions,
        LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
    },
};
use chrono::{DateTime, Utc};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use image::pull;
pub use machine::About;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::{
    DEPLOYMENT, Engine, GENERATION, Happened, Instance, LABEL, Line, Prepared, Provider,
    ProviderError, Spec, Start, Status, instance_name,
};
use crate::domain::{Id, id::Container};

pub(super) const NAME: &str = "docker";
/// Longest wait for the answer to an ordinary call.
const CALL: Duration = Duration::from_secs(60);
/// Longest wait for a ping, at start-up and in `doctor`.
const PING: Duration = Duration::from_secs(3);

/// Longest line of a log, in bytes.
const LONGEST_LINE: usize = 8 * 1024;
/// What a container of an older generation gets to end by itself.
const OLD: Duration = Duration::from_secs(2);
/// How often, and how many times, a container is looked for whose name is taken.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 200;

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

    /// Makes the container; `false` when its name is taken, by another attempt's work.
    async fn create(&self, spec: &Spec) -> Result<bool, ProviderError> {
        let options = CreateContainerOptionsBuilder::new()
            .name(&instance_name(spec.container))
            .build();
        let call = self
            .engine()
            .await?
            .create_container(Some(options), body(spec));
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(Error::DockerResponseServerError {
                status_code: 409, ..
            })) => Ok(false),
            Ok(Err(error)) => Err(classify(error, Some(&spec.image))),
            Err(_) => Err(ProviderError::TimedOut {
                engine: NAME,
                after: CALL,
            }),
        }
    }

    /// The container, made unless it is there. A name is taken a moment before its container can be seen.
    async fn made(&self, spec: &Spec, stop: &CancellationToken) -> Result<Instance, ProviderError> {
        for _ in 0..LOOKS {
            match self.inspect(spec.container).await? {
                Some(found) if found.generation < spec.generation => {
                    self.remove(spec.container, OLD).await?;
                }
                Some(found) => return Ok(found),
                None => {}
            }
            if stop.is_cancelled() {
                return Err(ProviderError::Stopped);
            }
            if !self.create(spec).await? {
                #[expect(clippy::disallowed_methods, reason = "the engine's time is real time")]
                tokio::time::sleep(LOOK).await;
            }
        }
        let why = format!(
            "the name {} is taken and nothing is there",
            instance_name(spec.container)
        );
        Err(ProviderError::Failed { engine: NAME, why })
    }
}

/// What says on an engine which container this is.
pub(super) fn labels(spec: &Spec) -> HashMap<String, String> {
    HashMap::from([
        (LABEL.to_owned(), spec.container.to_string()),
        (DEPLOYMENT.to_owned(), spec.deployment.clone()),
        (GENERATION.to_owned(), spec.generation.to_string()),
    ])
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
        labels: Some(labels(spec)),
        exposed_ports: Some(ports),
        host_config: Some(host_config),
        ..ContainerCreateBody::default()
    }
}

#[async_trait]
impl Engine<Container> for Docker {
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
        let mut instances = Vec::with_capacity(found.len());
        for summary in found {
            let id = summary.labels.as_ref().and_then(|labels| labels.get(LABEL));
            let Some(id) = id.and_then(|id| Id::parse(id)) else {
                continue;
            };
            match read_summary(id, summary) {
                Some(instance) => instances.push(instance),
                // One with our label under a foreign name, or gone meanwhile, is none of ours.
                None => instances.extend(self.inspect(id).await.ok().flatten()),
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

    fn follow(&self, id: Id<Container>, start: Start) -> BoxStream<'static, Line> {
        let options = read_from(start);
        match self.agreed.get() {
            None => stream::empty().boxed(),
            Some(engine) => lines_of(engine.logs(&instance_name(id), Some(options))).boxed(),
        }
    }

    fn events(&self) -> BoxStream<'static, Happened> {
        // Until it has answered once there is nothing to hear.
        match self.agreed.get() {
            None => stream::empty().boxed(),
            Some(engine) => events::of(engine, None),
        }
    }
}

#[async_trait]
impl Provider for Docker {
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
        let found = self.made(spec, stop).await?;
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
}

/// What is asked of a log that is read from `start` on and as it grows. An engine counts in whole seconds.
pub(super) fn read_from(start: Start) -> LogsOptions {
    let options = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .timestamps(true)
        .follow(true);
    match start {
        Start::Last(lines) => options.tail(&lines.to_string()),
        Start::After(mark) => {
            options.since(i32::try_from(mark.div_euclid(1_000_000_000)).unwrap_or_default())
        }
    }
    .build()
}

/// Whole lines from the pieces of an engine's log, each with its time in front, which is its mark, too.
pub(super) fn lines_of(
    pieces: impl Stream<Item = Result<LogOutput, Error>> + Send + 'static,
) -> impl Stream<Item = Line> + Send + 'static {
    let mut begun = [String::new(), String::new()];
    let mut mark = 0;
    pieces
        .take_while(|piece| std::future::ready(piece.is_ok()))
        .filter_map(|piece| std::future::ready(piece.ok()))
        .map(move |piece| {
            let is_error = matches!(piece, LogOutput::StdErr { .. });
            let begun = &mut begun[usize::from(is_error)];
            begun.push_str(&String::from_utf8_lossy(&piece.into_bytes()));
            let mut whole = Vec::new();
            while let Some(end) = begun.find('\n') {
                let line: String = begun.drain(..=end).collect();
                whole.push(line_of(line.trim_end_matches(['\n', '\r']), is_error));
            }
            // What never ends a line is cut, so that it does not grow without bound.
            if begun.len() > LONGEST_LINE {
                whole.push(line_of(&std::mem::take(begun), is_error));
            }
            for line in &mut whole {
                let time = line.at.and_then(|at| at.timestamp_nanos_opt());
                mark = time.unwrap_or(mark);
                line.mark = mark;
            }
            stream::iter(whole)
        })
        .flatten()
}

fn line_of(line: &str, is_error: bool) -> Line {
    let (at, text) = match line.split_once(' ') {
        Some((time, text)) => (time.parse::<DateTime<Utc>>().ok(), text),
        None => (line.parse().ok(), ""),
    };
    let text = if at.is_some() { text } else { line };
    Line {
        mark: 0,
        at,
        is_error,
        text: text.chars().take(LONGEST_LINE).collect(),
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
