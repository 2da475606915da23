//! Starting, watching and cancelling tasks.

use sea_orm::{ColumnTrait as _, QueryFilter as _, QueryOrder as _, QuerySelect as _};

use super::{Services, idempotency_key, signed_in};
use crate::{
    domain::{
        Id,
        id::Task,
        policy::{Action, Viewer},
    },
    error::AppError,
    store::{
        scoped::Scoped as _,
        tasks::{self, Column, Entity, Model, TaskInput as _},
    },
    tasks::demo,
};

pub(super) const NO_TASK: AppError = AppError::NotFound { what: "task" };

impl Services {
    /// Enqueues a task that takes `steps` steps of `step_millis` each.
    pub async fn start_demo_task(
        &self,
        viewer: Viewer,
        steps: i32,
        step_millis: i32,
        key: Option<&str>,
    ) -> Result<Model, AppError> {
        let owner = signed_in(viewer)?;
        let refuse = |field, reason: &str| AppError::Invalid {
            field,
            reason: reason.to_owned(),
        };
        let steps = u16::try_from(steps)
            .ok()
            .filter(|steps| (1..=1000).contains(steps));
        let steps = steps.ok_or_else(|| refuse("steps", "1 to 1000 steps are expected"))?;
        let step_millis = u32::try_from(step_millis)
            .ok()
            .filter(|millis| *millis <= 60_000);
        let step_millis = step_millis
            .ok_or_else(|| refuse("stepMillis", "0 to 60000 milliseconds are expected"))?;
        let key = idempotency_key(key)?;
        let input = demo::Input { steps, step_millis };
        let task = input.into_task(Some(owner), None)?.with_key(key);
        self.enqueue(owner, task).await
    }

    /// Asks a task to stop; what it did is undone by its kind before it ends. Asking twice is asking once.
    pub async fn cancel_task(&self, viewer: Viewer, id: Id<Task>) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let mut tx = self.store.begin().await?;
        let reached = Entity::visible_to(viewer, Action::Operate).filter(Column::Id.eq(id.uuid()));
        // Locked, so that its worker's last write comes before or after, not in between.
        let task = reached.lock_exclusive().one(&tx).await?.ok_or(NO_TASK)?;
        let state = task.state()?;
        if crate::domain::Machine::is_terminal(state) {
            let from = state.as_str().to_uppercase();
            return Err(AppError::Illegal(crate::domain::IllegalTransition {
                from,
                event: "cancel".to_owned(),
            }));
        }
        let task = tasks::request_cancel(&mut tx, &task).await?;
        tx.commit().await?;
        Ok(task)
    }

    /// One task the viewer may see.
    pub async fn task(&self, viewer: Viewer, id: Id<Task>) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let reached = Entity::visible_to(viewer, Action::Read).filter(Column::Id.eq(id.uuid()));
        reached.one(self.store.db()).await?.ok_or(NO_TASK)
    }

    /// The children of a task the viewer may see.
    pub async fn children(&self, viewer: Viewer, parent: Id<Task>) -> Result<Vec<Model>, AppError> {
        let children = Entity::visible_to(viewer, Action::Read)
            .filter(Column::ParentId.eq(parent.uuid()))
            .order_by_asc(Column::Id)
            .limit(100);
        Ok(children.all(self.store.db()).await?)
    }
}
