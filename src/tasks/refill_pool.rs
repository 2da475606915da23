//! Brings a warm pool to its size: makes what is missing, removes what is too much.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::ConnectionTrait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Outside, create_container, delete_container, locked};
use crate::{
    domain::{Id, task::Priority, value::Dpi},
    error::{AppError, StoreError},
    queue::{Run, TaskError, TaskKind},
    store::{
        Tx, apps,
        containers::{self, NewContainer},
        pools,
        tasks::{self, NewTask, TaskInput},
    },
};

/// The release channel warm containers are of; who is on another gets one made.
const CHANNEL: &str = "stable";
/// Most containers one run makes or removes; the next look finds the rest.
const MOST: usize = 100;

/// So many of a pool may fail within that time, or as many as it has, before no more are made for a while.
const FAILURES: usize = 3;
const LATELY: TimeDelta = TimeDelta::seconds(300);

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    pub pool: Uuid,
}

impl TaskInput for Input {
    const KIND: &'static str = "refill_pool";
    const PRIORITY: Priority = Priority::Normal;
    const DEADLINE: Duration = Duration::from_secs(600);
}

#[derive(Serialize, Default)]
pub struct Output {
    made: usize,
    removed: usize,
}

/// The task that fills a pool; one at a time.
pub fn task_of(pool: &pools::Model) -> Result<NewTask, AppError> {
    let mut task = Input { pool: pool.id }.into_task(None, Some(pool.id))?;
    task.unique_key = Some(format!("{}:{}", Input::KIND, pool.id.simple()));
    Ok(task)
}

/// Adds that task unless it waits already.
pub async fn request(tx: &mut Tx<'_>, pool: &pools::Model) -> Result<tasks::Model, AppError> {
    Ok(tasks::insert(tx, task_of(pool)?).await?.task)
}

/// How many more containers may be made for a pool now: where many have failed lately, the next would as well.
pub async fn may_make(
    store: &impl ConnectionTrait,
    pool: &pools::Model,
    now: DateTime<Utc>,
) -> Result<usize, StoreError> {
    let (app, region) = (Id::new(pool.app_id), Id::new(pool.region_id));
    let failed = containers::unscoped_warm_failures(store, app, region, now - LATELY).await?;
    let failed = usize::try_from(failed).unwrap_or(usize::MAX);
    let size = usize::try_from(pool.size).unwrap_or_default();
    Ok(size.max(FAILURES).saturating_sub(failed))
}

pub struct RefillPool(pub Outside);

#[async_trait]
impl TaskKind for RefillPool {
    type Input = Input;
    type Output = Output;

    async fn run(&self, input: Input, run: &Run) -> Result<Output, TaskError> {
        let mut tx = run.begin(&self.0.store).await?;
        let output = fill(&mut tx, Id::new(input.pool)).await?;
        tx.commit().await?;
        Ok(output)
    }
}

/// Makes or removes what is missing or too much. The pool's row is locked meanwhile, so that two do not do it twice.
pub async fn fill(tx: &mut Tx<'_>, pool: Id<crate::domain::id::Pool>) -> Result<Output, AppError> {
    let Some(pool) = pools::lock(tx, pool).await? else {
        return Ok(Output::default());
    };
    let Some(app) = apps::unscoped_by_id(tx, Id::new(pool.app_id)).await? else {
        return Ok(Output::default());
    };
    let wanted = if app.active {
        usize::try_from(pool.size).unwrap_or_default()
    } else {
        0
    };
    let warm = containers::unscoped_warm(tx, app.id(), Id::new(pool.region_id)).await?;
    let mut output = Output::default();
    for row in warm
        .iter()
        .take(warm.len().saturating_sub(wanted).min(MOST))
    {
        // Another may just have been given it.
        if let Some((live, row)) = locked(tx, row.id()).await?
            && row.owner_id.is_none()
            && row.state()?.is_wanted()
        {
            delete_container::request(tx, &row, &live, None).await?;
            output.removed += 1;
        }
    }
    let room = may_make(tx, &pool, tx.now()).await?;
    let missing = wanted.saturating_sub(warm.len()).min(MOST).min(room);
    for _ in 0..missing {
        let container = NewContainer {
            owner: None,
            app: app.id(),
            region: Id::new(pool.region_id),
            cluster: None,
            dpi: Dpi::USUAL,
            stun: false,
            release_channel: CHANNEL.to_owned(),
            image: app.image_of(CHANNEL).to_owned(),
            cpu_millis: app.cpu_millis.into(),
            memory_bytes: app.memory_bytes,
        };
        create_container::request(tx, container, None).await?;
        output.made += 1;
    }
    Ok(output)
}
