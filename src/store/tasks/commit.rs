//! The commit of new tasks, which a worker may hear of before it has ended.
//!
//! A flush to the disk takes as long as all the rest of an idle start. So the way to the worker is gone meanwhile: a few new
//! tasks are foretold, their transaction holds a lock named after each until it has ended, and who wants to claim one
//! waits for that lock if it comes before. On PostgreSQL only.

use sea_orm::Statement;

use super::{Claimed, Claimer, Store, claim};
use crate::{
    domain::{Id, id::Task},
    error::{StoreError, is_lock_timeout},
    store::source::Parameters,
};

/// Most tasks of one commit that are foretold: more are worth more than the moment that is gained.
pub(super) const FEW: usize = 4;
/// Longest wait for a commit, in milliseconds. What takes longer is announced when it is there.
const PATIENCE_MILLIS: u32 = 50;

/// The name of a task's lock: its random half.
fn lock(task: Id<Task>) -> i64 {
    let (_, random) = task.uuid().as_u64_pair();
    random.cast_signed()
}

/// What an insertion reads from, so that its transaction holds the locks of `tasks`.
pub(super) fn held(parameters: &mut Parameters, tasks: &[Id<Task>]) -> String {
    let locks: Vec<String> = tasks
        .iter()
        .map(|task| format!("pg_advisory_xact_lock({})", parameters.put(lock(*task))))
        .collect();
    format!("(SELECT {}) AS held", locks.join(", "))
}

/// What waits until the transactions that add `tasks` have ended, or for as long as is worth it; then it fails.
fn waiting(store: &Store, tasks: &[Id<Task>]) -> Statement {
    let mut parameters = Parameters::of(store.engine());
    let locks: Vec<i64> = tasks.iter().map(|task| lock(*task)).collect();
    let locks = parameters.put(locks);
    // The sub-query keeps the order: who waits has said before for how long.
    let sql = format!(
        "SELECT pg_advisory_xact_lock_shared(k) FROM unnest({locks}::bigint[]) AS k, \
         (SELECT set_config('lock_timeout', '{PATIENCE_MILLIS}ms', TRUE)) AS bounded"
    );
    parameters.statement(sql)
}

/// Claims, as [`claim::claim`] does, tasks whose commit may be on its way: once it has ended. What has not even begun is not
/// found, and what takes long is not waited for.
pub async fn claim_foretold(
    store: &Store,
    tasks: &[Id<Task>],
    by: &Claimer,
) -> Result<Vec<Claimed>, StoreError> {
    let Some(kept) = store.writers.kept().filter(|_| !tasks.is_empty()) else {
        return claim::claim(store, tasks, by).await;
    };
    // One round trip, for it is all that lies between the commit and the start of the run.
    let both = [&waiting(store, tasks), &claim::statement(store, tasks, by)];
    match kept.write_both(both).await {
        Ok(rows) => claim::claimed(store, &rows),
        Err(error) if is_lock_timeout(&error) => Ok(Vec::new()),
        Err(error) => Err(error.into()),
    }
}
