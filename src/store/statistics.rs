//! How the queue does: counted by one process every few seconds, read by all.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use sea_orm::{
    ConnectionTrait as _, FromQueryResult, QueryOrder as _, QuerySelect as _, entity::prelude::*,
};
use serde::{Deserialize, Serialize};

use super::{Store, source::statement, tasks};
use crate::{domain::task::TaskState, error::StoreError};

/// The time that rates and latencies are about.
pub const WINDOW: Duration = Duration::from_secs(300);
/// Most ended tasks that are looked at for them: the newest.
const SAMPLE: u64 = 20_000;
/// How old a count may be before whoever reads it counts for themselves.
const STALE: TimeDelta = TimeDelta::seconds(30);

/// The state of the queue at a time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Statistics {
    pub at: DateTimeUtc,
    pub depths: Vec<Depth>,
    pub recent: Vec<Recent>,
}

/// How many tasks of a kind are in a state; of the ended ones only the failed, the dead letters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depth {
    pub kind: String,
    pub state: String,
    pub count: i64,
    /// When the one that has been due longest became so.
    pub oldest_due_at: Option<DateTimeUtc>,
}

/// What became of the tasks of a kind that ended within [`WINDOW`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    pub kind: String,
    pub succeeded: i64,
    pub failed: i64,
    pub cancelled: i64,
    /// From the time it was due to its first start, of those that succeeded at once.
    pub wait: Percentiles,
    /// From its first start to its end.
    pub run: Percentiles,
}

/// Milliseconds that a half, 95 and 99 in a hundred do not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Percentiles {
    fn of(mut millis: Vec<f64>) -> Self {
        millis.sort_by(f64::total_cmp);
        // The nearest rank: the smallest value that so many per cent of all do not exceed.
        let at = |per_cent: usize| {
            let rank = (millis.len() * per_cent).div_ceil(100).max(1);
            millis.get(rank - 1).copied().unwrap_or_default()
        };
        Self {
            p50: at(50),
            p95: at(95),
            p99: at(99),
        }
    }
}

impl Statistics {
    /// How many tasks have not ended.
    pub fn live(&self) -> u64 {
        let live = self
            .depths
            .iter()
            .filter(|depth| depth.state != TaskState::Failed.as_str());
        live.map(|depth| depth.count.unsigned_abs()).sum()
    }
}

mod row {
    use sea_orm::entity::prelude::*;

    #[derive(Clone, Debug, PartialEq, Eq, DeriveEntityModel)]
    #[sea_orm(table_name = "task_statistics")]
    pub struct Model {
        #[sea_orm(primary_key, auto_increment = false)]
        pub id: i32,
        pub at: DateTimeUtc,
        pub document: Json,
    }
    #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
    pub enum Relation {}
    impl ActiveModelBehavior for ActiveModel {}
}

/// Counts anew and keeps the result for the others.
pub async fn refresh(store: &Store) -> Result<Statistics, StoreError> {
    let counted = Statistics {
        at: store.now(),
        depths: depths(store).await?,
        recent: recent(store).await?,
    };
    let document =
        serde_json::to_value(&counted).map_err(|error| DbErr::Json(error.to_string()))?;
    let row = row::ActiveModel {
        id: sea_orm::ActiveValue::Set(1),
        at: sea_orm::ActiveValue::Set(counted.at),
        document: sea_orm::ActiveValue::Set(document),
    };
    let replace = sea_orm::sea_query::OnConflict::column(row::Column::Id)
        .update_columns([row::Column::At, row::Column::Document])
        .to_owned();
    row::Entity::insert(row)
        .on_conflict(replace)
        .exec_without_returning(store.db())
        .await?;
    Ok(counted)
}

/// The newest count; a fresh one when nobody has counted lately.
pub async fn latest(store: &Store) -> Result<Statistics, StoreError> {
    let row = row::Entity::find_by_id(1).one(store.db()).await?;
    let fresh = row.filter(|row| store.now() - row.at < STALE);
    match fresh.map(|row| serde_json::from_value(row.document)) {
        Some(Ok(statistics)) => Ok(statistics),
        Some(Err(_)) | None => refresh(store).await,
    }
}

async fn depths(store: &Store) -> Result<Vec<Depth>, StoreError> {
    // Each state by its own index; the table has all that ended lately too.
    const COUNT: &str = "SELECT kind, 'queued' AS state, COUNT(*) AS count, MIN(run_at) AS due \
          FROM task WHERE state = 'queued' GROUP BY kind \
        UNION ALL SELECT kind, 'running', COUNT(*), NULL FROM task WHERE state = 'running' GROUP BY kind \
        UNION ALL SELECT kind, 'waiting', COUNT(*), NULL FROM task WHERE state = 'waiting' GROUP BY kind \
        UNION ALL SELECT kind, 'failed', COUNT(*), NULL FROM task WHERE state = 'failed' GROUP BY kind \
        ORDER BY 1, 2";
    let counted = store
        .db()
        .query_all_raw(statement(store.db(), COUNT, std::iter::empty()))
        .await?;
    let read = |row: &sea_orm::QueryResult| {
        Ok(Depth {
            kind: row.try_get("", "kind")?,
            state: row.try_get("", "state")?,
            count: row.try_get("", "count")?,
            oldest_due_at: row.try_get("", "due")?,
        })
    };
    Ok(counted.iter().map(read).collect::<Result<_, DbErr>>()?)
}

#[derive(FromQueryResult)]
struct Ended {
    kind: String,
    state: String,
    attempt: i32,
    run_at: DateTimeUtc,
    started_at: Option<DateTimeUtc>,
    finished_at: Option<DateTimeUtc>,
}

async fn recent(store: &Store) -> Result<Vec<Recent>, StoreError> {
    use tasks::{Column, Entity};
    let since = store.now() - WINDOW;
    let ended: Vec<Ended> = Entity::find()
        .select_only()
        .columns([
            Column::Kind,
            Column::State,
            Column::Attempt,
            Column::RunAt,
            Column::StartedAt,
            Column::FinishedAt,
        ])
        .filter(Column::FinishedAt.gt(since))
        .order_by_desc(Column::FinishedAt)
        .limit(SAMPLE)
        .into_model()
        .all(store.db())
        .await?;
    let mut kinds: BTreeMap<String, (Recent, Vec<f64>, Vec<f64>)> = BTreeMap::new();
    for task in ended {
        let (recent, waits, runs) = kinds.entry(task.kind).or_default();
        match TaskState::parse(&task.state) {
            Some(TaskState::Succeeded) => recent.succeeded += 1,
            Some(TaskState::Failed) => recent.failed += 1,
            Some(TaskState::Cancelled) => recent.cancelled += 1,
            Some(TaskState::Queued | TaskState::Running | TaskState::Waiting) | None => {}
        }
        if let (Some(started), Some(finished)) = (task.started_at, task.finished_at) {
            if task.attempt == 1 {
                waits.push(millis(started - task.run_at));
            }
            runs.push(millis(finished - started));
        }
    }
    let finish = |(kind, (recent, waits, runs))| Recent {
        kind,
        wait: Percentiles::of(waits),
        run: Percentiles::of(runs),
        ..recent
    };
    Ok(kinds.into_iter().map(finish).collect())
}

fn millis(span: TimeDelta) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a latency, for people")]
    let micros = span.num_microseconds().unwrap_or_default().max(0) as f64;
    micros / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let of = |values: &[f64]| Percentiles::of(values.to_vec());
        assert_eq!(of(&[]), Percentiles::default());
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        let seen = Percentiles {
            p50: 50.0,
            p95: 95.0,
            p99: 99.0,
        };
        assert_eq!(of(&hundred), seen);
        assert_eq!(
            of(&[3.0]),
            Percentiles {
                p50: 3.0,
                p95: 3.0,
                p99: 3.0
            }
        );
    }
}
