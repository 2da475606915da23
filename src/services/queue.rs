//! Looking into the queue and steering it, for operators; and asking for tasks by their kind's name.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait as _, JsonValue, QueryFilter as _, QueryOrder as _, QuerySelect as _};

use super::{REUSED, Services, idempotency_key, may_with_all, signed_in};
use crate::{
    domain::{
        Id, IllegalTransition,
        id::{Task, User},
        policy::{Action, Resource, Viewer},
        task::{Priority, TaskState},
    },
    error::AppError,
    store::{
        keeps_text, keeps_time, kinds,
        scoped::Scoped as _,
        statistics::{self, Statistics},
        tasks::{self, Column, Entity, LeaseHeld, Model, NewTask},
        workers,
    },
    tasks::open,
};

use super::tasks::NO_TASK;

/// Most tasks one request asks for or tries again.
pub const MANY: usize = 1000;
/// Leases shown of a worker.
const LEASES: u64 = 1000;

/// A task somebody asks for by its kind's name.
pub struct Wanted {
    pub kind: String,
    pub input: JsonValue,
    pub priority: Option<Priority>,
    pub run_at: Option<DateTime<Utc>>,
    pub idempotency_key: Option<String>,
    pub unique_key: Option<String>,
}

/// Which dead letters to try again.
#[derive(Default)]
pub struct DeadLetters {
    pub kind: Option<String>,
    pub error_code: Option<String>,
    pub failed_before: Option<DateTime<Utc>>,
}

impl Services {
    /// Enqueues one task of an open kind. Concurrent requests share a commit.
    pub async fn create_task(&self, viewer: Viewer, wanted: Wanted) -> Result<Model, AppError> {
        may_with_all(viewer, Action::Create, Resource::Queue)?;
        let owner = signed_in(viewer)?;
        let task = Self::wanted(viewer, wanted)?;
        self.enqueue(owner, task).await
    }

    /// Enqueues many tasks of open kinds in one commit: all of them or none.
    pub async fn create_tasks(
        &self,
        viewer: Viewer,
        wanted: Vec<Wanted>,
    ) -> Result<Vec<Model>, AppError> {
        may_with_all(viewer, Action::Create, Resource::Queue)?;
        let owner = signed_in(viewer)?;
        if !(1..=MANY).contains(&wanted.len()) {
            return Err(AppError::Invalid {
                field: "tasks",
                reason: format!("1 to {MANY} tasks are expected"),
            });
        }
        let tasks = wanted
            .into_iter()
            .map(|wanted| Self::wanted(viewer, wanted))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(earlier) = self.admit(owner, &tasks).await? {
            return Ok(earlier);
        }
        let mut tx = self.store.begin().await?;
        let enqueued = tasks::insert_all(&mut tx, tasks.clone()).await?;
        let enqueued = enqueued
            .into_iter()
            .zip(&tasks)
            .map(|(enqueued, asked)| same(enqueued, asked))
            .collect::<Result<_, _>>()?;
        tx.commit().await?;
        Ok(enqueued)
    }

    /// Enqueues `task` with whatever else is being enqueued now.
    pub(super) async fn enqueue(&self, owner: Id<User>, task: NewTask) -> Result<Model, AppError> {
        let asked = [task];
        if let Some(earlier) = self.admit(owner, &asked).await? {
            return earlier.into_iter().next().ok_or(NO_TASK);
        }
        let [task] = &asked;
        same(self.enqueuer.enqueue(task.clone()).await?, task)
    }

    /// Lets `tasks` of `owner` in; when there is no room for them, they may all have been let in before, by an earlier
    /// request that this one repeats: then those.
    async fn admit(
        &self,
        owner: Id<User>,
        tasks: &[NewTask],
    ) -> Result<Option<Vec<Model>>, AppError> {
        let admitted = self.admission.admit(&self.store, owner, tasks.len() as u64);
        let Err(full) = admitted.await else {
            return Ok(None);
        };
        let mut found = Vec::with_capacity(tasks.len());
        for asked in tasks {
            let Some(task) = tasks::earlier(self.store.db(), asked).await? else {
                return Err(full);
            };
            let is_new = false;
            found.push(same(tasks::Enqueued { task, is_new }, asked)?);
        }
        Ok(Some(found))
    }

    fn wanted(viewer: Viewer, wanted: Wanted) -> Result<NewTask, AppError> {
        let key = idempotency_key(wanted.idempotency_key.as_deref())?;
        let unique_key = wanted
            .unique_key
            .as_deref()
            .map(crate::domain::value::IdempotencyKey::parse)
            .transpose();
        let unique_key = crate::error::InField::in_field(unique_key, "uniqueKey")?;
        let task = open::task(&wanted.kind, wanted.input)?;
        Ok(NewTask {
            owner: viewer.user(),
            priority: wanted.priority.unwrap_or(task.priority),
            run_at: wanted.run_at.map(|at| kept("runAt", at)).transpose()?,
            unique_key: unique_key.map(|key| key.as_str().to_owned()),
            ..task
        }
        .with_key(key))
    }

    /// Queues a task that failed or was cancelled again, with a fresh count of failures.
    pub async fn retry_task(&self, viewer: Viewer, id: Id<Task>) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let mut tx = self.store.begin().await?;
        let reached = Entity::visible_to(viewer, Action::Operate).filter(Column::Id.eq(id.uuid()));
        let task = reached.lock_exclusive().one(&tx).await?.ok_or(NO_TASK)?;
        let revived = tasks::revive(&mut tx, &[task]).await?;
        tx.commit().await?;
        revived.into_iter().next().ok_or(NO_TASK)
    }

    /// Queues failed tasks again, the oldest first, at most `limit`; those it has queued.
    pub async fn retry_dead_letters(
        &self,
        viewer: Viewer,
        which: DeadLetters,
        limit: i32,
    ) -> Result<Vec<Model>, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Queue)?;
        let limit = usize::try_from(limit)
            .ok()
            .filter(|limit| (1..=MANY).contains(limit))
            .ok_or_else(|| AppError::Invalid {
                field: "first",
                reason: format!("1 to {MANY} tasks are expected"),
            })?;
        let texts = [("kind", &which.kind), ("errorCode", &which.error_code)];
        for (field, text) in texts {
            if !text.as_deref().is_none_or(keeps_text) {
                let reason = "a text without a zero byte is expected".to_owned();
                return Err(AppError::Invalid { field, reason });
            }
        }
        let mut dead = Entity::visible_to(viewer, Action::Operate)
            .filter(Column::State.eq(TaskState::Failed.as_str()));
        if let Some(kind) = which.kind {
            dead = dead.filter(Column::Kind.eq(kind));
        }
        if let Some(code) = which.error_code {
            dead = dead.filter(Column::ErrorCode.eq(code));
        }
        if let Some(before) = which.failed_before {
            dead = dead.filter(Column::FinishedAt.lt(kept("failedBefore", before)?));
        }
        let mut tx = self.store.begin().await?;
        let dead = dead
            .order_by_asc(Column::Id)
            .limit(limit as u64)
            .lock_exclusive()
            .all(&tx)
            .await?;
        let revived = tasks::revive(&mut tx, &dead).await?;
        tx.commit().await?;
        Ok(revived)
    }

    /// Gives an unfinished task another priority.
    pub async fn set_task_priority(
        &self,
        viewer: Viewer,
        id: Id<Task>,
        priority: Priority,
    ) -> Result<Model, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Queue)?;
        let mut tx = self.store.begin().await?;
        let reached = Entity::visible_to(viewer, Action::Operate).filter(Column::Id.eq(id.uuid()));
        let task = reached.lock_exclusive().one(&tx).await?.ok_or(NO_TASK)?;
        let state = task.state()?;
        if crate::domain::Machine::is_terminal(state) {
            return Err(AppError::Illegal(IllegalTransition {
                from: state.as_str().to_uppercase(),
                event: "reprioritise".to_owned(),
            }));
        }
        let task = tasks::reprioritise(&mut tx, &task, priority).await?;
        tx.commit().await?;
        Ok(task)
    }

    /// Pauses a kind: its tasks stay queued until it is resumed; those that run go on.
    pub async fn set_kind_paused(
        &self,
        viewer: Viewer,
        kind: &str,
        is_paused: bool,
    ) -> Result<(), AppError> {
        may_with_all(viewer, Action::Operate, Resource::Queue)?;
        let is_name = !kind.is_empty()
            && kind.len() <= 64
            && kind
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
        if !is_name {
            return Err(AppError::Invalid {
                field: "kind",
                reason: "the name of a kind is expected, such as create_container".to_owned(),
            });
        }
        Ok(kinds::set_paused(&self.store, kind, is_paused).await?)
    }

    /// How the queue does.
    pub async fn queue_statistics(&self, viewer: Viewer) -> Result<Statistics, AppError> {
        may_with_all(viewer, Action::Read, Resource::Queue)?;
        Ok(statistics::latest(&self.store).await?)
    }

    /// The paused kinds.
    pub async fn paused_kinds(&self, viewer: Viewer) -> Result<BTreeSet<String>, AppError> {
        may_with_all(viewer, Action::Read, Resource::Queue)?;
        Ok(kinds::paused(&self.store).await?)
    }

    /// The living workers.
    pub async fn workers(&self, viewer: Viewer) -> Result<Vec<workers::Model>, AppError> {
        may_with_all(viewer, Action::Read, Resource::Queue)?;
        Ok(workers::all(&self.store).await?)
    }

    /// What a worker holds.
    pub async fn leases(
        &self,
        viewer: Viewer,
        worker: &workers::Model,
    ) -> Result<Vec<LeaseHeld>, AppError> {
        may_with_all(viewer, Action::Read, Resource::Queue)?;
        Ok(tasks::held_by_worker(&self.store, worker.id, LEASES).await?)
    }
}

fn kept(field: &'static str, at: DateTime<Utc>) -> Result<DateTime<Utc>, AppError> {
    let reason = "a time before the year 10000 is expected";
    let refused = || AppError::Invalid {
        field,
        reason: reason.to_owned(),
    };
    Some(at).filter(|at| keeps_time(*at)).ok_or_else(refused)
}

/// The task that was enqueued, or the earlier one if it is the same in what matters.
fn same(enqueued: tasks::Enqueued, asked: &NewTask) -> Result<Model, AppError> {
    let task = enqueued.task;
    let is_same = task.kind == asked.kind && task.input == asked.input;
    // A unique key is there to find whatever is under way; an idempotency key repeats one request.
    if enqueued.is_new || is_same || asked.idempotency_key.is_none() {
        Ok(task)
    } else {
        Err(REUSED)
    }
}
