//! Lets a container's client finish, then removes the container.

use std::time::Duration;

use async_trait::async_trait;
use chrono::TimeDelta;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Outside, create_container::topic, delete_container, locked};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        task::Priority,
        value::IdempotencyKey,
    },
    error::AppError,
    queue::{Run, TaskError, TaskKind},
    store::{
        Tx,
        containers::{self, ActiveModel, Model},
        tasks::{self, Enqueued, TaskInput},
    },
};

/// A client that has not been seen for so long has left.
const LEFT: TimeDelta = TimeDelta::seconds(30);
/// Looks again after this even if nobody told of a change.
const LOOK: Duration = Duration::from_secs(10);

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub container: Uuid,
    /// Seconds its client may stay at most.
    pub patience: u32,
}

impl TaskInput for Input {
    const KIND: &'static str = "drain_container";
    const PRIORITY: Priority = Priority::Interactive;
    const DEADLINE: Duration = Duration::from_secs(7 * 86_400);
}

#[derive(Serialize)]
pub struct Output {
    container: String,
    /// The task that removes it; none when it was gone already.
    removal: Option<String>,
}

/// Moves a running container to `DRAINING` and adds the task that waits for its client.
pub async fn request(
    tx: &mut Tx<'_>,
    row: &Model,
    patience: Duration,
    key: Option<IdempotencyKey>,
) -> Result<(Model, Enqueued), AppError> {
    let patch = ActiveModel {
        draining_at: Set(Some(tx.now())),
        ..ActiveModel::default()
    };
    let row = containers::transition(tx, row, ContainerEvent::Drain, patch).await?;
    let input = Input {
        container: row.id,
        patience: u32::try_from(patience.as_secs()).unwrap_or(u32::MAX),
    };
    let task = input.into_task(row.owner_id.map(Id::new), Some(row.id))?;
    let task = tasks::insert(tx, task.with_key(key)).await?;
    Ok((row, task))
}

pub struct DrainContainer(pub Outside);

#[async_trait]
impl TaskKind for DrainContainer {
    type Input = Input;
    type Output = Output;

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id = Id::new(input.container);
        let output = |removal| {
            Ok(Output {
                container: id.to_string(),
                removal,
            })
        };
        // Armed before the look, so that a client that leaves in between is not missed.
        run.expect(&topic(id)).await?;
        let Some(row) = containers::unscoped_by_id(self.0.store.db(), id).await? else {
            return output(None);
        };
        if row.state()? != ContainerState::Draining {
            return output(None);
        }
        let since = row.draining_at.unwrap_or(row.updated_at);
        let must_end = since + TimeDelta::seconds(input.patience.into());
        let has_left = row
            .last_ping_at
            .map_or(since, |seen| (seen + LEFT).max(since));
        if run.now() < must_end.min(has_left) {
            if run.task.progress < 50 {
                run.progress(50, "waiting for its client to leave").await?;
            }
            let until = must_end.min(has_left).min(run.now() + LOOK);
            return Err(TaskError::Wait {
                until,
                wake_on: Some(topic(id)),
            });
        }
        let mut tx = run.begin(&self.0.store).await?;
        let Some((live, row)) = locked(&tx, id).await? else {
            return output(None);
        };
        // This task is one of them, and ends by itself.
        let others: Vec<_> = live
            .into_iter()
            .filter(|task| task.id != run.task.id().uuid())
            .collect();
        if row.state()? != ContainerState::Draining {
            return output(None);
        }
        let (_, removal) = delete_container::request(&mut tx, &row, &others, None).await?;
        tx.commit().await?;
        output(Some(removal.task.id().to_string()))
    }
}
