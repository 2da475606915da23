//! Which process does a job that must run once: a lease on a row, with a term that grows at every change of holder.

use std::time::Duration;

use sea_orm::{ConnectionTrait as _, Statement, entity::prelude::*};

use super::Store;
use crate::error::StoreError;

/// Takes or keeps the lead of `job` for `lease`; `None` while another holds it.
///
/// One statement on both databases: the row changes only when it is ours or its lease has ended.
pub async fn lead(
    store: &Store,
    job: &str,
    holder: Uuid,
    lease: Duration,
) -> Result<Option<i64>, StoreError> {
    const LEAD: &str = "INSERT INTO leadership (job, holder, term, until) VALUES ($1, $2, 1, $3) \
        ON CONFLICT (job) DO UPDATE SET \
          term = CASE WHEN leadership.holder = excluded.holder THEN leadership.term ELSE leadership.term + 1 END, \
          holder = excluded.holder, until = excluded.until \
        WHERE leadership.holder = excluded.holder OR leadership.until < $4 \
        RETURNING term";
    let now = store.now();
    let values: [Value; 4] = [job.into(), holder.into(), (now + lease).into(), now.into()];
    let statement = Statement::from_sql_and_values(store.db().get_database_backend(), LEAD, values);
    let row = store.db().query_one_raw(statement).await?;
    Ok(row.map(|row| row.try_get("", "term")).transpose()?)
}

/// Gives the lead back, so that another process need not wait for the lease to end.
pub async fn resign(store: &Store, job: &str, holder: Uuid) -> Result<(), StoreError> {
    const RESIGN: &str = "UPDATE leadership SET until = $1 WHERE job = $2 AND holder = $3";
    let values: [Value; 3] = [DateTimeUtc::UNIX_EPOCH.into(), job.into(), holder.into()];
    store
        .db()
        .execute_raw(Statement::from_sql_and_values(
            store.db().get_database_backend(),
            RESIGN,
            values,
        ))
        .await?;
    Ok(())
}
