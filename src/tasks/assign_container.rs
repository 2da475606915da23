//! What follows when a container of a warm pool has got its owner: the pool is filled again.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Outside, refill_pool};
use crate::{
    domain::{Id, task::Priority},
    queue::{Run, TaskError, TaskKind},
    store::{containers, pools, tasks::TaskInput},
};

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub container: Uuid,
}

impl TaskInput for Input {
    const KIND: &'static str = "assign_container";
    const PRIORITY: Priority = Priority::Interactive;
}

#[derive(Serialize)]
pub struct Output {
    container: String,
    /// The task that fills the pool.
    refill: Option<String>,
}

pub struct AssignContainer(pub Outside);

#[async_trait]
impl TaskKind for AssignContainer {
    type Input = Input;
    type Output = Output;

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let id: Id<crate::domain::id::Container> = Id::new(input.container);
        let mut tx = run.begin(&self.0.store).await?;
        let row = containers::unscoped_by_id(&tx, id).await?;
        let pool = match &row {
            Some(row) => {
                pools::unscoped_of(&tx, Id::new(row.app_id), Id::new(row.region_id)).await?
            }
            None => None,
        };
        let refill = match &pool {
            Some(pool) => Some(refill_pool::request(&mut tx, pool).await?),
            None => None,
        };
        tx.commit().await?;
        Ok(Output {
            container: id.to_string(),
            refill: refill.map(|task| task.id().to_string()),
        })
    }
}
