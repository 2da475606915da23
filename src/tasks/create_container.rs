//! Makes a container on an engine and brings it to `RUNNING`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Outside;
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        id::Container,
        task::Priority,
    },
    error::StoreError,
    providers::{Instance, Prepared, Provider, ProviderError, Spec, Status},
    queue::{GiveUp, Run, TaskError, TaskKind},
    store::{
        Store, apps,
        containers::{self, ActiveModel, Model, PortMap},
        regions,
        tasks::TaskInput,
    },
};

/// Longest time from the start of the container to the passing of its health check.
const HEALTH: Duration = Duration::from_secs(120);
/// Looks again after this even if no event told of a change.
const LOOK: Duration = Duration::from_secs(2);
/// The failure of a container that ended by itself.
pub(super) const EXITED: &str = "EXITED";
/// What a container gets to end by itself before it is killed.
pub(super) const GRACE: Duration = Duration::from_secs(5);

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
        if let Some(provider) = self.provider_of(&row)? {
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
    /// The engine that has the container; `None` when no engine has been chosen yet.
    fn provider_of(&self, row: &Model) -> Result<Option<Arc<dyn Provider>>, TaskError> {
        row.provider
            .as_deref()
            .map(|name| find(&self.0, name))
            .transpose()
    }

    async fn advance(&self, id: Id<Container>, run: &Run) -> Result<Output, TaskError> {
        let row = containers::unscoped_by_id(self.0.store.db(), id)
            .await?
            .ok_or_else(gone)?;
        match row.state()? {
            ContainerState::Requested | ContainerState::Creating => {}
            ContainerState::Running => return Ok(output(row)),
            _ => return Err(gone()),
        }
        let (row, provider) = self.begin(row, run).await?;
        self.0.keep_rate(provider.name(), run).await?;
        let spec = self.spec(&row).await?;
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
        if let Some(provider) = self.provider_of(&row)? {
            return Ok((row, provider));
        }
        let region = regions::unscoped_by_id(self.0.store.db(), Id::new(row.region_id))
            .await?
            .ok_or_else(gone)?;
        let provider = match region.provider.as_deref() {
            Some(name) => find(&self.0, name)?,
            None => self.0.providers.default(),
        };
        let patch = ActiveModel {
            provider: Set(Some(provider.name().to_owned())),
            ..ActiveModel::default()
        };
        let row = record(&self.0.store, run, row.id(), ContainerEvent::Begin, patch).await?;
        run.progress(5, &format!("taken by the {} engine", provider.name()))
            .await?;
        Ok((row, provider))
    }

    async fn spec(&self, row: &Model) -> Result<Spec, TaskError> {
        let app = apps::unscoped_by_id(self.0.store.db(), Id::new(row.app_id))
            .await?
            .ok_or_else(gone)?;
        Ok(Spec {
            container: row.id(),
            generation: 1,
            deployment: self.0.keyring.deployment(),
            cluster: None,
            image: app.image,
            command: app.command.0,
            env: vec![
                ("CONTAINER_ID".to_owned(), row.id().to_string()),
                (
                    "CONTAINER_SECRET_KEY".to_owned(),
                    self.0.keyring.container_key(row.id()),
                ),
                ("CONTAINER_DPI".to_owned(), row.dpi.to_string()),
            ],
            cpu_millis: u32::try_from(app.cpu_millis).unwrap_or_default(),
            memory_bytes: u64::try_from(app.memory_bytes).unwrap_or_default(),
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
            Status::Created | Status::Starting => {
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
        if let (true, Ok(Some(provider))) = (is_unwanted, self.provider_of(&row)) {
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

pub(super) fn find(outside: &Outside, name: &str) -> Result<Arc<dyn Provider>, TaskError> {
    outside
        .providers
        .at(&crate::providers::Address {
            provider: name.to_owned(),
            endpoint: None,
        })
        .ok_or_else(|| TaskError::Retryable {
            code: "ENGINE_UNREACHABLE",
            message: format!("this worker has no {name} engine"),
        })
}

fn gone() -> TaskError {
    TaskError::Permanent {
        code: "CONTAINER_GONE",
        message: "the container is not wanted any more".to_owned(),
    }
}

fn output(row: Model) -> Output {
    Output {
        container: row.id().to_string(),
        ports: row.ports,
    }
}

fn found(instance: &Instance) -> ActiveModel {
    ActiveModel {
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
        .ok_or_else(gone)?;
    let row = match containers::transition(&mut tx, &row, event, patch).await {
        Err(StoreError::Illegal(_)) => return Err(gone()),
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
pub(super) async fn last_words(provider: &dyn Provider, id: Id<Container>) -> String {
    match provider.logs(id, 5).await {
        Ok(lines) if !lines.is_empty() => format!("; it said last: {}", lines.join(" | ")),
        Ok(_) | Err(_) => String::new(),
    }
}
