//! Removes a container from its engine.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::ActiveValue::Set;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Outside,
    create_container::{GRACE, find},
};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        task::Priority,
    },
    queue::{Run, TaskError, TaskKind},
    store::{
        containers::{self, ActiveModel},
        tasks::TaskInput,
    },
};

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
        if let Some(name) = &row.provider {
            self.0.keep_rate(name, run).await?;
            run.progress(30, "being removed from its engine").await?;
            find(&self.0, name)?.remove(id, GRACE).await?;
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
