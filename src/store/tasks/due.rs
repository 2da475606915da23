//! Looking for what should run: fairly, kind by kind and share by share, without reading a million rows.
//!
//! The groups of (kind, share) that have queued tasks are found by jumping from one to the next through the index
//! (PostgreSQL wiki, *Loose indexscan*), and each gives its longest unheard tasks. A group's million rows cost as much as one.

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, entity::prelude::*};

use super::{Hint, Id, SILENCE, Store, claim::Claimer, lists::read_hint};
use crate::{
    domain::id::Task,
    error::StoreError,
    store::source::{Cell, Col, Parameters, Row, col, statement},
};

/// Most groups one look goes through; the next look goes on behind them.
const GROUPS: i64 = 500;

/// Where a look stopped. The next one goes on from there, so that every group has its turn.
#[derive(Clone, Debug, Default)]
pub struct Cursor(String, Uuid);

#[derive(Clone, Debug, FromQueryResult)]
struct Group {
    kind: String,
    share: Uuid,
}

impl Row for Group {
    const COLUMNS: &'static [Col] = &[col("kind", Cell::Text), col("share", Cell::Uuid)];
    fn cells(&self) -> Vec<sea_orm::Value> {
        vec![self.kind.as_str().into(), self.share.into()]
    }
}

/// The groups behind `cursor`; it goes back to the start when they were the last.
async fn groups(store: &Store, cursor: &mut Cursor) -> Result<Vec<Group>, StoreError> {
    const JUMP: &str = "WITH RECURSIVE jump(kind, share) AS ( \
          (SELECT kind, share FROM task WHERE state = 'queued' AND (kind, share) > ($1, $2) \
            ORDER BY kind, share LIMIT 1) \
          UNION ALL SELECT n.kind, n.share FROM jump CROSS JOIN LATERAL \
            (SELECT kind, share FROM task WHERE state = 'queued' AND (kind, share) > (jump.kind, jump.share) \
              ORDER BY kind, share LIMIT 1) AS n) \
        SELECT kind, share FROM jump LIMIT $3";
    const DISTINCT: &str = "SELECT DISTINCT kind, share FROM task WHERE state = 'queued' AND (kind, share) > ($1, $2) \
        ORDER BY kind, share LIMIT $3";
    let db = store.engine();
    let sql = match db.get_database_backend() {
        DbBackend::Postgres => JUMP,
        _ => DISTINCT,
    };
    let values = [cursor.0.as_str().into(), cursor.1.into(), GROUPS.into()];
    let found = Group::find_by_statement(statement(db, sql, values))
        .all(db)
        .await?;
    let is_full = i64::try_from(found.len()).is_ok_and(|count| count == GROUPS);
    *cursor = match found.last() {
        Some(last) if is_full => Cursor(last.kind.clone(), last.share),
        _ => Cursor::default(),
    };
    Ok(found)
}

/// The table `jump` of the kinds that have queued tasks, with a null at its end.
pub(super) const QUEUED_KINDS: &str = "WITH RECURSIVE jump(kind) AS ( \
      SELECT kind FROM (SELECT kind FROM task WHERE state = 'queued' ORDER BY kind LIMIT 1) AS first \
      UNION ALL SELECT (SELECT kind FROM task WHERE state = 'queued' AND kind > jump.kind ORDER BY kind LIMIT 1) \
        FROM jump WHERE jump.kind IS NOT NULL)";

/// The kinds that have queued tasks.
pub(super) async fn queued_kinds(store: &Store) -> Result<Vec<String>, StoreError> {
    let sql = format!("{QUEUED_KINDS} SELECT kind FROM jump WHERE kind IS NOT NULL");
    let db = store.engine();
    let found = db
        .query_all_raw(statement(db, sql, std::iter::empty()))
        .await?;
    found
        .iter()
        .map(|row| Ok(row.try_get("", "kind")?))
        .collect()
}

/// A share's part of a look: all of it when it is alone, but always something.
fn part(limit: u64, groups: usize) -> i64 {
    i64::try_from(limit / (groups.max(1) as u64)).map_or(i64::MAX, |part| part.max(1))
}

/// The longest unheard tasks of each of `groups` that are not paused, at most `limit`.
async fn longest_unheard(
    store: &Store,
    groups: &[Group],
    unheard_since: DateTimeUtc,
    limit: u64,
) -> Result<Vec<Hint>, StoreError> {
    let db = store.engine();
    let mut parameters = Parameters::of(db);
    let groups_table = parameters.rows(groups);
    let [since, now] = [unheard_since, store.now()].map(|at| parameters.put(at));
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let [part, most] = [part(limit, groups.len()), most].map(|count| parameters.put(count));
    let running = "NOT EXISTS (SELECT 1 FROM task_kind AS k WHERE k.name = x.kind AND k.paused_at IS NOT NULL)";
    let sql = if parameters.is_postgres() {
        format!(
            "SELECT t.id, t.priority, t.share FROM {groups_table} CROSS JOIN LATERAL \
               (SELECT id, priority, share, hint_at FROM task WHERE state = 'queued' AND kind = x.kind \
                 AND share = x.share AND hint_at <= {since} AND run_at <= {now} ORDER BY hint_at LIMIT {part}) AS t \
             WHERE {running} ORDER BY t.priority, t.hint_at LIMIT {most}"
        )
    } else {
        format!(
            "SELECT t.id, t.priority, t.share FROM \
               (SELECT q.id, q.priority, q.share, q.hint_at, \
                  ROW_NUMBER() OVER (PARTITION BY q.kind, q.share ORDER BY q.hint_at) AS place \
                FROM task AS q JOIN {groups_table} ON q.kind = x.kind AND q.share = x.share \
                WHERE q.state = 'queued' AND q.hint_at <= {since} AND q.run_at <= {now} AND {running}) AS t \
             WHERE t.place <= {part} ORDER BY t.priority, t.hint_at LIMIT {most}"
        )
    };
    let found = db.query_all_raw(parameters.statement(sql)).await?;
    Ok(found.iter().map(read_hint).collect::<Result<_, _>>()?)
}

/// Marks due tasks that nobody has been told of in time as told now, and returns them to be announced.
pub async fn reannounce(
    store: &Store,
    cursor: &mut Cursor,
    limit: u64,
) -> Result<Vec<Hint>, StoreError> {
    let groups = groups(store, cursor).await?;
    if groups.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    let now = store.now();
    let unheard = longest_unheard(store, &groups, now, limit).await?;
    if unheard.is_empty() {
        return Ok(unheard);
    }
    let db = store.engine();
    let mut parameters = Parameters::of(db);
    let ids: Vec<Uuid> = unheard.iter().map(|hint| hint.task.uuid()).collect();
    let rows = parameters.rows(&ids);
    let [next, now] = [now + SILENCE, now].map(|at| parameters.put(at));
    // Rows a worker is claiming now need no reminder, and nobody waits for them here while holding others.
    let skip = if parameters.is_postgres() {
        "FOR UPDATE OF t SKIP LOCKED"
    } else {
        ""
    };
    let sql = format!(
        "UPDATE task SET hint_at = {next} WHERE id IN (SELECT t.id FROM {rows} JOIN task AS t ON t.id = x.id \
           WHERE t.state || '' = 'queued' AND t.hint_at <= {now} {skip})"
    );
    db.execute_raw(parameters.statement(sql)).await?;
    Ok(unheard)
}

/// Tasks `by` may run now, every share in its turn: what a worker lives on while the queue is away.
pub async fn due(
    store: &Store,
    by: &Claimer,
    cursor: &mut Cursor,
    limit: u64,
) -> Result<Vec<Id<Task>>, StoreError> {
    let mut groups = groups(store, cursor).await?;
    groups.retain(|group| by.kinds.iter().any(|known| known.kind == group.kind));
    if groups.is_empty() || limit == 0 {
        return Ok(Vec::new());
    }
    // What has been announced counts as well: whoever was told may have lost it with the queue.
    let ever = store.now() + SILENCE;
    let hints = longest_unheard(store, &groups, ever, limit).await?;
    Ok(hints.into_iter().map(|hint| hint.task).collect())
}

/// When the next parked or postponed task is due.
pub async fn next_due(store: &Store) -> Result<Option<DateTimeUtc>, StoreError> {
    let mut cursor = Cursor::default();
    let groups = groups(store, &mut cursor).await?;
    let db = store.engine();
    let mut parameters = Parameters::of(db);
    let rows = parameters.rows(&groups);
    let sql = format!(
        "SELECT MIN(at) AS at FROM ( \
           SELECT MIN(run_at) AS at FROM task WHERE state = 'waiting' \
           UNION ALL SELECT MIN(next_at) FROM task_schedule WHERE enabled \
           UNION ALL SELECT (SELECT MIN(hint_at) FROM task WHERE state = 'queued' AND kind = x.kind AND share = x.share) \
             FROM {rows} WHERE NOT EXISTS \
               (SELECT 1 FROM task_kind AS k WHERE k.name = x.kind AND k.paused_at IS NOT NULL)) AS next"
    );
    let next = db.query_one_raw(parameters.statement(sql)).await?;
    Ok(next
        .map(|row| row.try_get::<Option<DateTimeUtc>>("", "at"))
        .transpose()?
        .flatten())
}
