//! Adding tasks: one in a transaction with what asks for it, or many from many callers in one statement.

use chrono::TimeDelta;
use sea_orm::{ConnectionTrait, DbBackend, Value, entity::prelude::*};

use super::{Column, Entity, Model, NewTask, SILENCE, commit, due::QUEUED_KINDS};
use crate::{
    domain::{ChangeKind, Id, id::Task, task::TaskState},
    error::{AppError, StoreError},
    store::{
        Posted, Store, Tx,
        batch::{Batcher, Failed, Limits},
        outbox,
        source::{Cell, Col, Parameters, Row, col, maybe, statement},
    },
};

/// What came of an insertion.
#[derive(Clone, Debug)]
pub struct Enqueued {
    pub task: Model,
    /// False when the idempotency key or the unique key led to an earlier task.
    pub is_new: bool,
}

impl Row for Model {
    const COLUMNS: &'static [Col] = &[
        col("id", Cell::Uuid),
        col("kind", Cell::Text),
        col("input_version", Cell::Int),
        col("input", Cell::Json),
        maybe("owner_id", Cell::Uuid),
        col("share", Cell::Uuid),
        maybe("subject_id", Cell::Uuid),
        maybe("parent_id", Cell::Uuid),
        col("priority", Cell::Int),
        col("max_attempts", Cell::Int),
        col("run_at", Cell::Time),
        col("hint_at", Cell::Time),
        col("deadline_at", Cell::Time),
        maybe("idempotency_key", Cell::Text),
        maybe("unique_key", Cell::Text),
        maybe("trace_context", Cell::Text),
    ];

    fn cells(&self) -> Vec<Value> {
        vec![
            self.id.into(),
            self.kind.as_str().into(),
            i64::from(self.input_version).into(),
            self.input.clone().into(),
            self.owner_id.into(),
            self.share.into(),
            self.subject_id.into(),
            self.parent_id.into(),
            i64::from(self.priority).into(),
            i64::from(self.max_attempts).into(),
            self.run_at.into(),
            self.hint_at.into(),
            self.deadline_at.into(),
            self.idempotency_key.clone().into(),
            self.unique_key.clone().into(),
            self.trace_context.clone().into(),
        ]
    }
}

/// The row a task begins as.
fn begin(id: Id<Task>, task: NewTask, now: DateTimeUtc) -> Model {
    let run_at = task.run_at.map_or(now, |at| at.max(now));
    let hint_at = if run_at > now { run_at } else { now + SILENCE };
    let deadline = TimeDelta::from_std(task.deadline).unwrap_or(TimeDelta::MAX);
    Model {
        id: id.uuid(),
        kind: task.kind.clone().into_owned(),
        input_version: task.input_version,
        owner_id: task.owner.map(Id::uuid),
        share: task.share(),
        input: task.input,
        subject_id: task.subject,
        parent_id: task.parent.map(Id::uuid),
        state: TaskState::Queued.as_str().to_owned(),
        priority: task.priority.rank(),
        version: 1,
        attempt: 0,
        failures: 0,
        max_attempts: task.max_attempts,
        run_at,
        hint_at,
        deadline_at: run_at
            .checked_add_signed(deadline)
            .unwrap_or(DateTimeUtc::MAX_UTC),
        worker_id: None,
        lease_until: None,
        wake_on: None,
        signalled: false,
        cancel_requested_at: None,
        progress: 0,
        progress_message: None,
        result: None,
        error_code: None,
        error_message: None,
        idempotency_key: task.idempotency_key,
        unique_key: task.unique_key,
        created_at: now,
        started_at: None,
        finished_at: None,
        trace_context: task.trace.map(|trace| trace.to_string()),
    }
}

/// Those of `tasks` that are foretold when they are committed.
fn foretold(backend: DbBackend, tasks: &[Model], now: DateTimeUtc) -> Vec<Id<Task>> {
    if backend != DbBackend::Postgres || tasks.len() > commit::FEW {
        return Vec::new();
    }
    let due = tasks.iter().filter(|task| task.run_at <= now);
    due.map(Model::id).collect()
}

/// The statement that adds `tasks` and returns the ids of those it has added; its transaction holds the locks of those
/// that are foretold.
fn insertion(
    parameters: &mut Parameters,
    tasks: &[Model],
    foretold: &[Id<Task>],
    now: DateTimeUtc,
) -> String {
    let names: Vec<&str> = Model::COLUMNS.iter().map(Col::name).collect();
    let values: Vec<String> = names.iter().map(|name| format!("x.{name}")).collect();
    let mut rows = parameters.rows(tasks);
    let now = parameters.put(now);
    if !foretold.is_empty() {
        rows = format!("{rows}, {}", commit::held(parameters, foretold));
    }
    format!(
        "INSERT INTO task ({}, state, version, attempt, failures, progress, signalled, created_at) \
         SELECT {}, 'queued', 1, 0, 0, 0, FALSE, {now} FROM {rows} WHERE TRUE \
         ON CONFLICT DO NOTHING RETURNING id",
        names.join(", "),
        values.join(", "),
    )
}

/// Adds tasks to the open transaction, with their announcements; an earlier one takes the place of a repeated one.
pub async fn insert_all(tx: &mut Tx<'_>, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, StoreError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let now = tx.now();
    let tasks: Vec<Model> = tasks
        .into_iter()
        .map(|task| begin(tx.new_id(), task, now))
        .collect();
    let mut parameters = Parameters::of(tx);
    let foretold = foretold(tx.get_database_backend(), &tasks, now);
    let sql = insertion(&mut parameters, &tasks, &foretold, now);
    tx.foretell(foretold);
    let inserted = tx.query_all_raw(parameters.statement(sql)).await?;
    let added: std::collections::HashSet<Uuid> = inserted
        .iter()
        .map(|row| row.try_get("", "id"))
        .collect::<Result<_, _>>()?;
    let mut enqueued = Vec::with_capacity(tasks.len());
    for task in tasks {
        let is_new = added.contains(&task.id);
        let task = if is_new {
            tx.changed(task.change(ChangeKind::Updated));
            if task.run_at <= now {
                tx.dispatch(task.hint());
            }
            task
        } else {
            earlier_row(tx, &task).await?.ok_or(StoreError::Stale)?
        };
        enqueued.push(Enqueued { task, is_new });
    }
    Ok(enqueued)
}

/// Adds one task to the open transaction, with its announcement.
pub async fn insert(tx: &mut Tx<'_>, task: NewTask) -> Result<Enqueued, StoreError> {
    let mut enqueued = insert_all(tx, vec![task]).await?;
    enqueued.pop().ok_or(StoreError::Stale)
}

/// The task that has taken a key of `task`.
pub async fn earlier(
    db: &impl ConnectionTrait,
    task: &NewTask,
) -> Result<Option<Model>, StoreError> {
    let keys = (task.idempotency_key.as_deref(), task.unique_key.as_deref());
    with_key(db, task.share(), keys).await
}

async fn earlier_row(db: &impl ConnectionTrait, task: &Model) -> Result<Option<Model>, StoreError> {
    let keys = (task.idempotency_key.as_deref(), task.unique_key.as_deref());
    with_key(db, task.share, keys).await
}

async fn with_key(
    db: &impl ConnectionTrait,
    share: Uuid,
    (idempotency_key, unique_key): (Option<&str>, Option<&str>),
) -> Result<Option<Model>, StoreError> {
    if let Some(key) = idempotency_key {
        let same = Entity::find()
            .filter(Column::Share.eq(share))
            .filter(Column::IdempotencyKey.eq(key));
        if let Some(found) = same.one(db).await? {
            return Ok(Some(found));
        }
    }
    let Some(key) = unique_key else {
        return Ok(None);
    };
    let same = Entity::find()
        .filter(Column::UniqueKey.eq(key))
        .filter(Column::State.is_in(TaskState::LIVE.map(TaskState::as_str)));
    Ok(same.one(db).await?)
}

/// Adds tasks that nothing else has to be written with: on PostgreSQL one statement, one flush to the disk.
pub async fn insert_batch(store: &Store, tasks: Vec<NewTask>) -> Result<Vec<Enqueued>, StoreError> {
    if store.engine().get_database_backend() != DbBackend::Postgres {
        let mut tx = store.begin_engine().await?;
        let enqueued = insert_all(&mut tx, tasks).await?;
        tx.commit().await?;
        return Ok(enqueued);
    }
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let now = store.now();
    let tasks: Vec<Model> = tasks
        .into_iter()
        .map(|task| begin(store.new_id(), task, now))
        .collect();
    let mut parameters = Parameters::new(DbBackend::Postgres);
    let foretold = foretold(DbBackend::Postgres, &tasks, now);
    let added = insertion(&mut parameters, &tasks, &foretold, now);
    // What is told of a repeated one is told of nothing, which does no harm.
    let changes: Vec<_> = tasks
        .iter()
        .map(|task| task.change(ChangeKind::Updated))
        .collect();
    let message = store.entropy.uuid(now);
    let row = [message.into(), outbox::text(&changes)?.into(), now.into()]
        .map(|value: Value| parameters.put(value));
    let sql = format!(
        "WITH added AS ({added}), \
         posted AS (INSERT INTO outbox (id, message, created_at) VALUES ({})) SELECT id FROM added",
        row.join(", ")
    );
    if !foretold.is_empty() {
        store.tell(Posted {
            foretold,
            ..Posted::default()
        });
    }
    let inserted = store.write(parameters.statement(sql)).await?;
    let added: std::collections::HashSet<Uuid> = inserted
        .iter()
        .map(|row| row.try_get("", "id"))
        .collect::<Result<_, _>>()?;
    let is_ready = |task: &&Model| added.contains(&task.id) && task.run_at <= now;
    let hints = tasks.iter().filter(is_ready).map(Model::hint).collect();
    store.tell(Posted {
        id: Some(message),
        changes,
        hints,
        ..Posted::default()
    });
    let mut enqueued = Vec::with_capacity(tasks.len());
    for task in tasks {
        let is_new = added.contains(&task.id);
        let task = if is_new {
            task
        } else {
            earlier_row(store.engine(), &task)
                .await?
                .ok_or(StoreError::Stale)?
        };
        enqueued.push(Enqueued { task, is_new });
    }
    Ok(enqueued)
}

/// How many tasks of a share have not ended; counted up to `most`.
pub async fn live_of_share(store: &Store, share: Uuid, most: u64) -> Result<u64, StoreError> {
    // Each state by its own index: kind by kind the queued ones, all that run, which are few, and those that wait. The
    // inner limits keep the planner from reading the queued tasks of everybody instead.
    let sql = format!(
        "{QUEUED_KINDS} SELECT CAST( \
           (SELECT COALESCE(SUM((SELECT COUNT(*) FROM (SELECT 1 FROM task WHERE state = 'queued' AND kind = jump.kind \
              AND share = $1 LIMIT $2) AS queued)), 0) FROM jump WHERE jump.kind IS NOT NULL) \
           + (SELECT COUNT(*) FROM (SELECT 1 FROM task WHERE state = 'running' AND share = $1 LIMIT $2) AS running) \
           + (SELECT COUNT(*) FROM (SELECT 1 FROM task WHERE state = 'waiting' AND share = $1 LIMIT $2) AS waiting) \
         AS bigint) AS count"
    );
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let counted = store
        .engine()
        .query_one_raw(statement(store.engine(), sql, [share.into(), limit.into()]))
        .await?;
    let count: i64 = counted.map_or(Ok(0), |row| row.try_get("", "count"))?;
    Ok(count.unsigned_abs())
}

/// Enqueues tasks of many callers together.
#[derive(Clone)]
pub struct Enqueuer(Batcher<NewTask, Result<Enqueued, Failed>>);

impl Enqueuer {
    pub fn new(store: Store) -> Self {
        const LIMITS: Limits = Limits {
            batch: 500,
            lanes: 2,
            waiting: 20_000,
        };
        Self(Batcher::new(LIMITS, move |tasks| {
            let store = store.clone();
            Box::pin(async move { write(&store, tasks).await })
        }))
    }

    /// Enqueues one task; it is on the disk on return.
    pub async fn enqueue(&self, task: NewTask) -> Result<Enqueued, AppError> {
        let written = self.0.submit(task).await;
        let written = written.map_err(|_| AppError::Unavailable {
            what: "the task queue",
        })?;
        Ok(written?)
    }
}

async fn write(store: &Store, tasks: Vec<NewTask>) -> Vec<Result<Enqueued, Failed>> {
    let count = tasks.len();
    match insert_batch(store, tasks.clone()).await {
        Ok(enqueued) => return enqueued.into_iter().map(Ok).collect(),
        Err(error) if count == 1 || error.is_outage() => {
            return vec![Err(Failed::from(&error)); count];
        }
        Err(error) => tracing::debug!(%error, "a batch is written one by one"),
    }
    // One of them cannot be written; the others do not suffer for it.
    let mut answers = Vec::with_capacity(count);
    for task in tasks {
        let one = insert_batch(store, vec![task]).await;
        let one = one.and_then(|mut one| one.pop().ok_or(StoreError::Stale));
        answers.push(one.map_err(|error| Failed::from(&error)));
    }
    answers
}
