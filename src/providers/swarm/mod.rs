//! A Docker Swarm: many engines behind one manager's API. A container is a service of one task, which the swarm itself
//! places, and places anew when its node is lost.

mod events;
mod follow;
mod service;
mod task;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    errors::Error,
    models::{NodeSpec, NodeSpecAvailabilityEnum, Service, Task},
    query_parameters::{
        InspectServiceOptions, ListNodesOptions, ListServicesOptionsBuilder,
        ListTasksOptionsBuilder, LogsOptionsBuilder, UpdateNodeOptionsBuilder,
    },
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream, stream::BoxStream};
use tokio::{sync::OnceCell, time::Instant};
use tokio_util::sync::CancellationToken;

use self::task::Seen;
use super::{
    Engine, Happened, Instance, LABEL, Line, Node, NodeHealth, Prepared, Provider, ProviderError,
    Spec, Start, Status,
    docker::answer::{classify_as, is_missing},
    instance_name,
};
use crate::domain::{Id, id::Container};

pub(super) const NAME: &str = "swarm";
/// The label of a node with the cluster it serves.
const CLUSTER: &str = "main-webserver.cluster";
/// The label of a node that is used only while it is needed; its value is `true`.
const SPARE: &str = "main-webserver.spare";
/// Longest wait for the answer to an ordinary call.
const CALL: Duration = Duration::from_secs(60);
/// Longest wait for a ping, at start-up and in `doctor`.
const PING: Duration = Duration::from_secs(3);
/// Longest wait for a task's log; one whose node is lost without being missed yet says nothing, and says it for ever.
const LOGS: Duration = Duration::from_secs(10);
/// How long a new service is watched until its task runs or is refused; an image that cannot be had is refused four
/// times.
const SETTLE: Duration = Duration::from_secs(12);
/// How long of that for a container that has been started and may have a health check.
const BOOT: Duration = Duration::from_secs(3);
/// Longest wait for the containers of a removed service, on nodes that can be reached.
const GONE: Duration = Duration::from_secs(20);
/// Time between two looks at what is to change soon.
const LOOK: Duration = Duration::from_millis(200);
/// How many times a service is looked for whose name is taken.
const LOOKS: u32 = 50;

/// A swarm, by one of its managers; the API's version is agreed on at the first call that reaches it.
pub struct Swarm {
    host: String,
    agreed: OnceCell<bollard::Docker>,
}

impl Swarm {
    /// The manager at `unix://…` or `tcp://…`; nothing is sent yet, so it may come later.
    pub fn at(host: &str) -> Self {
        Self {
            host: host.to_owned(),
            agreed: OnceCell::new(),
        }
    }

    async fn manager(&self) -> Result<&bollard::Docker, ProviderError> {
        let agree = || async {
            let manager = bollard::Docker::connect_with_host(&self.host)
                .map_err(|error| classify_as(NAME, error, None))?;
            within(PING, manager.negotiate_version()).await
        };
        self.agreed.get_or_try_init(agree).await
    }

    async fn service(&self, id: Id<Container>) -> Result<Option<Service>, ProviderError> {
        let manager = self.manager().await?;
        let name = instance_name(id);
        let call = manager.inspect_service(&name, None::<InspectServiceOptions>);
        let found = match within(CALL, call).await {
            Ok(found) => found,
            Err(error) if is_missing(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if task::container_of(&found) != Some(id) {
            let why = format!("{name} exists and is not ours");
            return Err(ProviderError::Rejected { engine: NAME, why });
        }
        Ok(Some(found))
    }

    async fn machines(&self) -> Result<BTreeMap<String, Node>, ProviderError> {
        let manager = self.manager().await?;
        let found = within(CALL, manager.list_nodes(None::<ListNodesOptions>)).await?;
        let nodes = found.into_iter().filter_map(task::node);
        Ok(nodes.map(|node| (node.id.clone(), node)).collect())
    }

    /// What there is of a container, with the task that counts.
    async fn look(&self, id: Id<Container>) -> Result<Option<Seen>, ProviderError> {
        let manager = self.manager().await?;
        let (service, tasks, nodes) =
            tokio::try_join!(self.service(id), tasks_of(manager, id), self.machines())?;
        Ok(service.map(|service| task::join(id, service, tasks, &nodes)))
    }

    /// Makes the service; `false` when its name is taken, by another attempt's work.
    async fn create(&self, spec: &Spec) -> Result<bool, ProviderError> {
        let manager = self.manager().await?;
        let call = manager.create_service(service::service(spec), None);
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(Error::DockerResponseServerError {
                status_code: 409, ..
            })) => Ok(false),
            Ok(Err(error)) => Err(classify_as(NAME, error, None)),
            Err(_) => Err(timed_out(CALL)),
        }
    }

    /// The service, made unless it is there, and whether this call made it.
    async fn made(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<(Seen, bool), ProviderError> {
        let mut is_new = false;
        for _ in 0..LOOKS {
            match self.look(spec.container).await? {
                Some(seen) if seen.instance.generation < spec.generation => {
                    self.remove(spec.container, service::GRACE).await?;
                }
                Some(seen) => return Ok((seen, is_new)),
                None => {}
            }
            if stop.is_cancelled() {
                return Err(ProviderError::Stopped);
            }
            is_new = self.create(spec).await?;
            if !is_new {
                pause(LOOK).await;
            }
        }
        let why = format!(
            "the name {} is taken and nothing is there",
            instance_name(spec.container)
        );
        Err(ProviderError::Failed { engine: NAME, why })
    }
}

#[async_trait]
impl Engine<Container> for Swarm {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn ping(&self) -> Result<String, ProviderError> {
        let manager = self.manager().await?;
        let info = within(PING, manager.info()).await?;
        let swarm = info.swarm.unwrap_or_default();
        let version = info
            .server_version
            .unwrap_or_else(|| "of an unknown version".to_owned());
        if swarm.control_available != Some(true) {
            let why = format!(
                "the engine at {} is no manager of a swarm; make it one with `docker swarm init`, or give a manager's address",
                self.host
            );
            return Err(ProviderError::Rejected { engine: NAME, why });
        }
        let nodes = swarm.nodes.unwrap_or_default();
        let noun = if nodes == 1 { "node" } else { "nodes" };
        Ok(format!("Docker {version}, manager of {nodes} {noun}"))
    }

    async fn inspect(&self, id: Id<Container>) -> Result<Option<Instance>, ProviderError> {
        Ok(self.look(id).await?.map(|seen| seen.instance))
    }

    /// The grace is the one every service is made with. What is on a node that is down is ended when that comes back.
    async fn remove(&self, id: Id<Container>, _: Duration) -> Result<(), ProviderError> {
        let manager = self.manager().await?;
        if self.service(id).await?.is_some() {
            let removed = within(CALL, manager.delete_service(&instance_name(id))).await;
            removed.or_else(|error| {
                if is_missing(&error) {
                    Ok(())
                } else {
                    Err(error)
                }
            })?;
        }
        let deadline = Instant::now() + GONE;
        loop {
            let (tasks, nodes) = tokio::try_join!(tasks_of(manager, id), self.machines())?;
            let is_reachable = |task: &Task| {
                let node = task.node_id.as_ref().and_then(|node| nodes.get(node));
                node.is_some_and(|node| node.health != NodeHealth::Down)
            };
            if !tasks
                .iter()
                .any(|task| task::is_alive(task) && is_reachable(task))
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(timed_out(GONE));
            }
            pause(LOOK).await;
        }
    }

    async fn list(&self) -> Result<Vec<Instance>, ProviderError> {
        let manager = self.manager().await?;
        let ours = ListServicesOptionsBuilder::new()
            .filters(&HashMap::from([("label", vec![LABEL])]))
            .build();
        let (services, tasks, nodes) = tokio::try_join!(
            within(CALL, manager.list_services(Some(ours))),
            within(CALL, manager.list_tasks(None)),
            self.machines()
        )?;
        let mut of_service: HashMap<String, Vec<Task>> = HashMap::new();
        for task in tasks {
            if let Some(service) = task.service_id.clone() {
                of_service.entry(service).or_default().push(task);
            }
        }
        let instances = services.into_iter().filter_map(|service| {
            let id = task::container_of(&service)?;
            let tasks = of_service.remove(service.id.as_ref()?).unwrap_or_default();
            Some(task::join(id, service, tasks, &nodes).instance)
        });
        Ok(instances.collect())
    }

    async fn logs(&self, id: Id<Container>, lines: u32) -> Result<Vec<String>, ProviderError> {
        let manager = self.manager().await?;
        let started = tasks_of(manager, id)
            .await?
            .into_iter()
            .filter(task::has_started);
        let Some(task) = task::newest(started) else {
            return Ok(Vec::new());
        };
        let nodes = self.machines().await?;
        let node = task.node_id.as_ref().and_then(|node| nodes.get(node));
        if let Some(lost) = node.filter(|node| node.health == NodeHealth::Down) {
            let why = format!("the node {} it is on is down", lost.name);
            return Err(ProviderError::Unreachable { engine: NAME, why });
        }
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .tail(&lines.to_string())
            .build();
        let task = task.id.unwrap_or_default();
        let said = manager.task_logs(&task, Some(options)).try_collect();
        let output: Vec<_> = within(LOGS, said).await?;
        let text: String = output
            .into_iter()
            .map(|part| String::from_utf8_lossy(&part.into_bytes()).into_owned())
            .collect();
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn follow(&self, id: Id<Container>, start: Start) -> BoxStream<'static, Line> {
        match self.agreed.get() {
            None => stream::empty().boxed(),
            Some(manager) => follow::follow(manager.clone(), id, start),
        }
    }

    async fn nodes(&self) -> Result<Option<Vec<Node>>, ProviderError> {
        Ok(Some(self.machines().await?.into_values().collect()))
    }

    async fn set_in_service(&self, node: &str, is_in_service: bool) -> Result<(), ProviderError> {
        let manager = self.manager().await?;
        let found = within(CALL, manager.inspect_node(node)).await?;
        let version = found.version.and_then(|version| version.index);
        let availability = if is_in_service {
            NodeSpecAvailabilityEnum::ACTIVE
        } else {
            NodeSpecAvailabilityEnum::DRAIN
        };
        let spec = NodeSpec {
            availability: Some(availability),
            ..found.spec.unwrap_or_default()
        };
        // Refused when somebody else has changed the node meanwhile.
        let options = UpdateNodeOptionsBuilder::new()
            .version(version.unwrap_or_default().cast_signed())
            .build();
        within(CALL, manager.update_node(node, spec, options)).await
    }

    fn events(&self) -> BoxStream<'static, Happened> {
        // Until it has answered once there is nothing to hear.
        match self.agreed.get() {
            None => stream::empty().boxed(),
            Some(manager) => events::events(manager.clone()),
        }
    }
}

#[async_trait]
impl Provider for Swarm {
    /// Nothing to do: each node fetches for itself, and [`Swarm::ensure`] tells when none can.
    fn prepare<'a>(&'a self, _: &'a str) -> BoxStream<'a, Result<Prepared, ProviderError>> {
        stream::once(std::future::ready(Ok(Prepared::Present))).boxed()
    }

    async fn ensure(
        &self,
        spec: &Spec,
        stop: &CancellationToken,
    ) -> Result<Instance, ProviderError> {
        let (mut seen, is_new) = self.made(spec, stop).await?;
        let mut deadline = Instant::now() + SETTLE;
        loop {
            let task = seen.task.as_ref();
            if let Some(refusal) = task.and_then(|task| task::refusal(task, &spec.image)) {
                if !refusal.is_retryable() {
                    self.remove(spec.container, service::GRACE).await?;
                }
                return Err(refusal);
            }
            if task.is_some_and(task::has_started) {
                deadline = deadline.min(Instant::now() + BOOT);
            }
            let is_settled = seen.instance.status != Status::Starting;
            if is_settled || !is_new || Instant::now() > deadline {
                return Ok(seen.instance);
            }
            if stop.is_cancelled() {
                return Err(ProviderError::Stopped);
            }
            pause(LOOK).await;
            seen = self.look(spec.container).await?.ok_or_else(|| {
                let why = "it vanished after its start".to_owned();
                ProviderError::Failed { engine: NAME, why }
            })?;
        }
    }
}

/// The tasks of a container, those of a removed service among them: they have its name still.
async fn tasks_of(
    manager: &bollard::Docker,
    id: Id<Container>,
) -> Result<Vec<Task>, ProviderError> {
    let named = ListTasksOptionsBuilder::new()
        .filters(&HashMap::from([(
            "name",
            vec![format!("{}.", instance_name(id))],
        )]))
        .build();
    within(CALL, manager.list_tasks(Some(named))).await
}

async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, ProviderError> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| classify_as(NAME, error, None)),
        Err(_) => Err(timed_out(limit)),
    }
}

fn timed_out(after: Duration) -> ProviderError {
    let engine = NAME;
    ProviderError::TimedOut { engine, after }
}

async fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "the engine's time is real time")]
    tokio::time::sleep(time).await;
}
