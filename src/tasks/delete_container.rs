//! Removes a container from its engine.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside,
    create_container::{GRACE, engine_of},
};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        host::HostStatus,
        task::Priority,
        value::IdempotencyKey,
    },
    error::AppError,
    queue::{Run, TaskError, TaskKind},
    store::{
        Tx,
        containers::{self, ActiveModel, Model},
        hosts,
        tasks::{self, Enqueued, TaskInput},
    },
};

/// Marks a container as unwanted, stops what makes it, and adds the task that removes it. The row and its `live` tasks are
/// locked by the transaction.
///
/// Deleting what is being deleted gives the task that does it.
pub async fn request(
    tx: &mut Tx<'_>,
    row: &Model,
    live: &[tasks::Model],
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let row = if row.state()? == ContainerState::Deleting {
        // Looked for again: it may have been added while this transaction waited for the row.
        let now = tasks::unscoped_live_of(tx, row.id).await?;
        if let Some(task) = now.into_iter().find(|task| task.kind == Input::KIND) {
            let task = Enqueued {
                task,
                is_new: false,
            };
            return Ok((row.clone(), task));
        }
        row.clone()
    } else {
        containers::transition(tx, row, ContainerEvent::Delete, ActiveModel::default()).await?
    };
    for task in live {
        if task.kind != Input::KIND {
            tasks::request_cancel(tx, task).await?;
        }
    }
    let task = tasks::insert(tx, task_of(&row)?.with_key(key)).await?;
    Ok((row, task))
}

/// The task that removes a container.
pub fn task_of(row: &Model) -> Result<tasks::NewTask, AppError> {
    let input = Input { container: row.id };
    input.into_task(row.owner_id.map(Id::new), Some(row.id))
}

/// Whether a host is given up, with what is on it.
pub(super) async fn is_on_a_lost_host(
    outside: &Outside,
    host: Option<Uuid>,
) -> Result<bool, TaskError> {
    let Some(host) = host else {
        return Ok(false);
    };
    let host = hosts::unscoped_by_id(outside.store.db(), Id::new(host)).await?;
    Ok(host.is_some_and(|host| host.status().is_ok_and(|status| status == HostStatus::Dead)))
}

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub container: Uuid,
}

impl TaskInput for Input {
    const KIND: &'static str = "delete_container";
    const PRIORITY: Priority = Priority::Interactive;
    const MAX_ATTEMPTS: i32 = 20;
    const DEADLINE: Duration = Duration::from_secs(86_400);
}

#[derive(Serialize)]
pub struct Output {
    container: String,
}

pub struct DeleteContainer(pub Outside);

#[async_trait]
impl TaskKind for DeleteContainer {
    type Input = Input;
    type Output = Output;

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id = Id::new(input.container);
        let output = || Output {
            container: id.to_string(),
        };
        let Some(row) = containers::unscoped_by_id(self.0.store.db(), id).await? else {
            return Ok(output());
        };
        if row.state()? == ContainerState::Deleted {
            return Ok(output());
        }
        // What a lost host still has is removed when the host comes back.
        if !is_on_a_lost_host(&self.0, row.host_id).await?
            && let Some(provider) = engine_of(&self.0, &row)?
        {
            self.0.keep_rate(provider.name(), run).await?;
            run.progress(30, "being removed from its engine").await?;
            provider.remove(id, GRACE).await?;
        }
        let mut tx = run.begin(&self.0.store).await?;
        if let Some(row) = containers::unscoped_by_id(&tx, id).await? {
            let patch = ActiveModel {
                ended_at: Set(Some(run.now())),
                ..ActiveModel::default()
            };
            containers::transition(&mut tx, &row, ContainerEvent::Removed, patch).await?;
        }
        tx.commit().await?;
        Ok(output())
    }
}
