//! Forgetting what was recorded long ago, a bounded number of rows at a time.

use sea_orm::{ConnectionTrait as _, prelude::DateTimeUtc};

use super::{Store, source::statement};
use crate::{domain::entropy::earliest, error::StoreError};

/// Times before which rows are forgotten.
#[derive(Clone, Copy, Debug)]
pub struct Before {
    pub logs: DateTimeUtc,
    pub logins: DateTimeUtc,
    pub audit: DateTimeUtc,
}

/// Forgets at most `limit` rows of each table; how many it was of the table with the most.
pub async fn forget(store: &Store, before: Before, limit: u64) -> Result<u64, StoreError> {
    const LINES: &str = "DELETE FROM log_line WHERE (subject_id, line) IN \
        (SELECT subject_id, line FROM log_line WHERE at < $1 ORDER BY at LIMIT $2)";
    // Ids begin with the time, so the oldest stand at the index' beginning.
    const EVENTS: &str = "DELETE FROM audit_event WHERE id IN \
        (SELECT id FROM audit_event WHERE id < $1 ORDER BY id LIMIT $2)";
    const TRIES: &str = "DELETE FROM login_event WHERE id IN \
        (SELECT id FROM login_event WHERE id < $1 ORDER BY id LIMIT $2)";
    const TOKENS: &str = "DELETE FROM refresh_token WHERE session_id IN \
        (SELECT id FROM session WHERE id < $1 AND (ended_at < $3 OR expires_at < $3) ORDER BY id LIMIT $2)";
    const LOGINS: &str = "DELETE FROM session WHERE id IN \
        (SELECT id FROM session WHERE id < $1 AND (ended_at < $3 OR expires_at < $3) ORDER BY id LIMIT $2)";
    const LIMITS: &str = "DELETE FROM rate_limit WHERE name IN \
        (SELECT name FROM rate_limit WHERE name LIKE 'connection-log:%' AND next_at < $1 LIMIT $2)";
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let db = store.db();
    let day_ago = store.now() - chrono::TimeDelta::days(1);
    let mut most = 0;
    for (sql, cut) in [
        (LINES, before.logs.into()),
        (EVENTS, earliest(before.audit).into()),
        (TRIES, earliest(before.logins).into()),
        (LIMITS, day_ago.into()),
    ] {
        let gone = db
            .execute_raw(statement(db, sql, [cut, limit.into()]))
            .await?;
        most = most.max(gone.rows_affected());
    }
    let tx = store.begin().await?;
    for sql in [TOKENS, LOGINS] {
        let cut = earliest(before.logins).into();
        let values = [cut, limit.into(), before.logins.into()];
        let gone = tx.execute_raw(statement(&tx, sql, values)).await?;
        if sql == LOGINS {
            most = most.max(gone.rows_affected());
        }
    }
    tx.commit().await?;
    Ok(most)
}
