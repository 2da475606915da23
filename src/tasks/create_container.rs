//! Makes a container on an engine and brings it to `RUNNING`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Outside, place};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        id::Container,
        task::Priority,
        value::IdempotencyKey,
    },
    error::{AppError, StoreError},
    providers::{Address, Instance, Node, Prepared, Provider, ProviderError, Spec, Status},
    queue::{GiveUp, Run, TaskError, TaskKind},
    store::{
        Store, Tx, apps, clusters,
        containers::{self, ActiveModel, Model, NewContainer, PortMap},
        tasks::{self, Enqueued, TaskInput},
    },
};

/// Longest time from the start of the container to the passing of its health check.
const HEALTH: Duration = Duration::from_secs(120);
/// Looks again after this even if no event told of a change.
const LOOK: Duration = Duration::from_secs(2);
/// The failure of a container that ended by itself.
pub const EXITED: &str = "EXITED";
/// What a container gets to end by itself before it is killed.
pub const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub container: Uuid,
}

impl TaskInput for Input {
    const KIND: &'static str = "create_container";
    const PRIORITY: Priority = Priority::Interactive;
    const DEADLINE: Duration = Duration::from_secs(1800);
}

#[derive(Serialize)]
pub struct Output {
    container: String,
    ports: PortMap,
}

/// Adds a container with the task that makes it.
pub async fn request(
    tx: &mut Tx<'_>,
    wanted: NewContainer,
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let row = containers::insert(tx, wanted).await?;
    let task = task_of(&row)?.with_key(key);
    let task = tasks::insert(tx, task).await?;
    Ok((row, task))
}

/// Has a container made anew, by `event`: where it is, or wherever there is room.
///
/// # Errors
/// `ILLEGAL_STATE` when its life cycle has no such step now.
pub async fn request_again(
    tx: &mut Tx<'_>,
    row: &Model,
    event: ContainerEvent,
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let mut patch = ActiveModel {
        generation: Set(row.generation + 1),
        handle: Set(None),
        node: Set(None),
        ip: Set(None),
        ports: Set(PortMap::default()),
        failure_code: Set(None),
        failure_reason: Set(None),
        running_at: Set(None),
        ended_at: Set(None),
        ..ActiveModel::default()
    };
    if event == ContainerEvent::Replace {
        patch.provider = Set(None);
        patch.endpoint = Set(None);
        patch.host_id = Set(None);
        patch.cluster_id = Set(None);
    }
    let row = containers::transition(tx, row, event, patch).await?;
    let task = task_of(&row)?.with_key(key);
    let task = tasks::insert(tx, task).await?;
    Ok((row, task))
}

/// The task that makes a container.
pub fn task_of(row: &Model) -> Result<tasks::NewTask, AppError> {
    let input = Input { container: row.id };
    input.into_task(row.owner_id.map(Id::new), Some(row.id))
}

/// The event a parked creation waits for.
pub fn topic(id: Id<Container>) -> String {
    id.to_string()
}

pub struct CreateContainer(pub Outside);

#[async_trait]
impl TaskKind for CreateContainer {
    type Input = Input;
    type Output = Output;
    const TIMEOUT: Duration = Duration::from_secs(900);

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id = Id::new(input.container);
        let result = self.advance(id, run).await;
        if let Err(error) = &result
            && !matches!(error, TaskError::Wait { .. })
        {
            // This run may have been overtaken while the engine worked: what it made late must not stay.
            self.remove_unwanted(id).await;
        }
        result
    }

    async fn give_up(&self, input: Input, run: &Run, why: &GiveUp) -> Result<(), TaskError> {
        let id = Id::new(input.container);
        let Some(row) = containers::unscoped_by_id(self.0.store.db(), id).await? else {
            return Ok(());
        };
        if row.state()? == ContainerState::Running {
            return Ok(());
        }
        if let Some(provider) = engine_of(&self.0, &row)? {
            provider.remove(id, GRACE).await?;
        }
        let (code, reason) = match why {
            GiveUp::Cancelled => ("CANCELLED", "its creation was cancelled".to_owned()),
            GiveUp::Failed { code, message } => (*code, message.clone()),
        };
        let mut tx = run.begin(&self.0.store).await?;
        let Some(row) = containers::unscoped_by_id(&tx, id).await? else {
            return Ok(());
        };
        if matches!(
            row.state()?,
            ContainerState::Requested | ContainerState::Creating
        ) {
            let patch = ActiveModel {
                failure_code: Set(Some(code.to_owned())),
                failure_reason: Set(Some(reason)),
                ended_at: Set(Some(run.now())),
                ..ActiveModel::default()
            };
            containers::transition(&mut tx, &row, ContainerEvent::Fail, patch).await?;
        }
        Ok(tx.commit().await?)
    }
}

impl CreateContainer {
    async fn advance(&self, id: Id<Container>, run: &Run) -> Result<Output, TaskError> {
        let row = containers::unscoped_by_id(self.0.store.db(), id)
            .await?
            .ok_or(TaskError::Unwanted)?;
        match row.state()? {
            ContainerState::Requested | ContainerState::Creating => {}
            ContainerState::Running => return Ok(output(row)),
            _ => return Err(TaskError::Unwanted),
        }
        let (row, provider) = self.begin(row, run).await?;
        self.0.keep_rate(provider.name(), run).await?;
        let spec = self.spec(&row, &*provider).await?;
        if row.handle.is_none() {
            prepare(&*provider, &spec.image, run).await?;
            run.check_stop()?;
        }
        let instance = provider.ensure(&spec, run.stop.token()).await?;
        let row = if row.handle.is_none() {
            run.progress(70, "started on its engine").await?;
            record(
                &self.0.store,
                run,
                id,
                ContainerEvent::Begin,
                found(&instance),
            )
            .await?
        } else {
            row
        };
        self.finish(&*provider, row, instance, run).await
    }

    /// Moves to `CREATING` and chooses the engine, once.
    async fn begin(&self, row: Model, run: &Run) -> Result<(Model, Arc<dyn Provider>), TaskError> {
        if let Some(provider) = engine_of(&self.0, &row)? {
            return Ok((row, provider));
        }
        let mut tx = run.begin(&self.0.store).await?;
        let row = containers::unscoped_by_id(&tx, row.id())
            .await?
            .ok_or(TaskError::Unwanted)?;
        let own = self.0.providers.containers.default_address();
        let placed = match place::find(&tx, &place::Wanted::of_container(&row), own).await? {
            place::Found::Place(placed) => placed,
            place::Found::Nowhere => return Err(place::no_region()),
            place::Found::Full(why) => {
                let waited = run.now() - row.updated_at;
                let topic = topic(row.id());
                return Err(place::wait_for_room(&self.0, waited, &why, topic, run));
            }
        };
        let provider = find(&self.0, &placed.address)?;
        let patch = ActiveModel {
            cluster_id: Set(placed.cluster),
            host_id: Set(placed.host),
            provider: Set(Some(placed.address.provider)),
            endpoint: Set(placed.address.endpoint),
            ..ActiveModel::default()
        };
        let row = match containers::transition(&mut tx, &row, ContainerEvent::Begin, patch).await {
            Err(StoreError::Illegal(_)) => return Err(TaskError::Unwanted),
            row => row?,
        };
        tx.commit().await?;
        run.progress(5, &format!("taken by the {} engine", provider.name()))
            .await?;
        Ok((row, provider))
    }

    async fn spec(&self, row: &Model, provider: &dyn Provider) -> Result<Spec, TaskError> {
        let app = apps::unscoped_by_id(self.0.store.db(), Id::new(row.app_id))
            .await?
            .ok_or(TaskError::Unwanted)?;
        let cluster = match row.cluster_id {
            Some(id) => clusters::unscoped_by_id(self.0.store.db(), Id::new(id)).await?,
            None => None,
        };
        // Only where machines are kept for the cluster it must not run on others.
        let mut kept = None;
        if let (Some(cluster), Some(nodes)) = (cluster, provider.nodes().await?)
            && Node::are_kept(&nodes, &cluster.name)
        {
            kept = Some(cluster.name);
        }
        Ok(Spec {
            container: row.id(),
            generation: row.generation,
            deployment: self.0.keyring.deployment(),
            cluster: kept,
            image: row.image.clone().unwrap_or(app.image),
            command: app.command.0,
            env: vec![
                ("CONTAINER_ID".to_owned(), row.id().to_string()),
                (
                    "CONTAINER_SECRET_KEY".to_owned(),
                    self.0.keyring.container_key(row.id()),
                ),
                ("CONTAINER_DPI".to_owned(), row.dpi.to_string()),
            ],
            cpu_millis: u32::try_from(row.cpu_millis).unwrap_or_default(),
            memory_bytes: u64::try_from(row.memory_bytes).unwrap_or_default(),
            ports: app.ports.0,
            publish_address: self.0.publish_address,
        })
    }

    async fn finish(
        &self,
        provider: &dyn Provider,
        row: Model,
        instance: Instance,
        run: &Run,
    ) -> Result<Output, TaskError> {
        match instance.status {
            Status::Ready => {
                let patch = ActiveModel {
                    running_at: Set(Some(run.now())),
                    ..found(&instance)
                };
                let row =
                    record(&self.0.store, run, row.id(), ContainerEvent::Started, patch).await?;
                run.progress(99, "running").await?;
                Ok(output(row))
            }
            Status::Created | Status::Starting | Status::Off => {
                // Every step of a row's life moves `updated_at`; the last one was the start on the engine.
                if run.now() - row.updated_at
                    > chrono::TimeDelta::seconds(HEALTH.as_secs().cast_signed())
                {
                    let message = format!(
                        "its health check did not pass within {} s",
                        HEALTH.as_secs()
                    );
                    return Err(TaskError::Permanent {
                        code: "NEVER_HEALTHY",
                        message,
                    });
                }
                if run.task.progress < 80 {
                    run.progress(80, "waiting for its health check").await?;
                }
                Err(TaskError::Wait {
                    until: run.now() + LOOK,
                    wake_on: Some(topic(row.id())),
                })
            }
            Status::Unhealthy => {
                let said = last_words(provider, row.id()).await;
                Err(TaskError::Permanent {
                    code: "UNHEALTHY",
                    message: format!("its health check failed{said}"),
                })
            }
            Status::Exited { code } => {
                let said = last_words(provider, row.id()).await;
                Err(TaskError::Permanent {
                    code: EXITED,
                    message: format!("it ended at once with code {code}{said}"),
                })
            }
        }
    }

    /// Removes from the engine what nobody wants any more. Right at any time and under any lease, so it is not fenced.
    async fn remove_unwanted(&self, id: Id<Container>) {
        let Ok(Some(row)) = containers::unscoped_by_id(self.0.store.db(), id).await else {
            return;
        };
        let is_unwanted = row.state().is_ok_and(|state| !state.is_wanted());
        if let (true, Ok(Some(provider))) = (is_unwanted, engine_of(&self.0, &row)) {
            match provider.remove(id, GRACE).await {
                Ok(()) => {
                    tracing::info!(container = %id, "nobody wanted it any more; it is removed");
                }
                Err(error) => {
                    tracing::warn!(%error, container = %id, "an unwanted container stays for the reaper");
                }
            }
        }
    }
}

/// The engine at an address.
pub(super) fn find(outside: &Outside, address: &Address) -> Result<Arc<dyn Provider>, TaskError> {
    outside
        .providers
        .containers
        .at(address)
        .ok_or_else(|| TaskError::Retryable {
            code: "ENGINE_UNREACHABLE",
            message: format!("this worker has no {} engine", address.provider),
        })
}

/// The engine that has a container; `None` when none has been chosen yet.
pub(super) fn engine_of(
    outside: &Outside,
    row: &Model,
) -> Result<Option<Arc<dyn Provider>>, TaskError> {
    address_of(row)
        .map(|address| find(outside, &address))
        .transpose()
}

/// Where the engine is that has a container.
pub fn address_of(row: &Model) -> Option<Address> {
    row.provider.clone().map(|provider| Address {
        provider,
        endpoint: row.endpoint.clone(),
    })
}

fn output(row: Model) -> Output {
    Output {
        container: row.id().to_string(),
        ports: row.ports,
    }
}

/// What an instance says of itself.
pub fn found(instance: &Instance) -> ActiveModel {
    ActiveModel {
        node: Set(instance.node.clone()),
        handle: Set(Some(instance.handle.clone())),
        ip: Set(instance.ip.clone()),
        ports: Set(PortMap(instance.ports.clone())),
        ..ActiveModel::default()
    }
}

/// Moves the row by `event` in a fenced transaction. A step that is not possible any more means it is not wanted.
async fn record(
    store: &Store,
    run: &Run,
    id: Id<Container>,
    event: ContainerEvent,
    patch: ActiveModel,
) -> Result<Model, TaskError> {
    let mut tx = run.begin(store).await?;
    let row = containers::unscoped_by_id(&tx, id)
        .await?
        .ok_or(TaskError::Unwanted)?;
    let row = match containers::transition(&mut tx, &row, event, patch).await {
        Err(StoreError::Illegal(_)) => return Err(TaskError::Unwanted),
        row => row?,
    };
    tx.commit().await?;
    Ok(row)
}

/// Has the image fetched; what has come of it moves the progress from 10 to 60.
async fn prepare(provider: &dyn Provider, image: &str, run: &Run) -> Result<(), TaskError> {
    let mut steps = provider.prepare(image);
    let mut told = None;
    loop {
        let step = tokio::select! {
            step = steps.next() => step,
            () = run.stop.token().cancelled() => return Err(TaskError::Stopped),
        };
        match step.transpose()? {
            Some(Prepared::Pulling(percent)) => {
                // A tenth is news enough.
                let tenth = percent / 10;
                if told != Some(tenth) {
                    told = Some(tenth);
                    run.progress(10 + percent / 2, &format!("fetching {image}, {percent} %"))
                        .await?;
                }
            }
            Some(Prepared::Present) => {
                return run.progress(60, &format!("image {image} is there")).await;
            }
            None => {
                let why = "the fetching ended early".to_owned();
                return Err(ProviderError::Failed {
                    engine: provider.name(),
                    why,
                }
                .into());
            }
        }
    }
}

/// The last lines it wrote, to go behind an error message.
pub async fn last_words(provider: &dyn Provider, id: Id<Container>) -> String {
    match provider.logs(id, 5).await {
        Ok(lines) if !lines.is_empty() => format!("; it said last: {}", lines.join(" | ")),
        Ok(_) | Err(_) => String::new(),
    }
}
