//! What the database alone would allow.

use main_webserver::domain::{Clock as _, SystemClock};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::{Spread, nap, ours::Bench};

/// A commit of one small row, spaced like the idle starts.
pub async fn bare_commit(bench: &Bench, count: usize) -> Spread {
    bench
        .sql("CREATE TABLE bare (id bigserial PRIMARY KEY, note text)")
        .await;
    let mut millis = Vec::new();
    for _ in 0..count + 20 {
        nap(10).await;
        let before = SystemClock.now();
        bench.sql("INSERT INTO bare (note) VALUES ('x')").await;
        millis.push((SystemClock.now() - before).as_seconds_f64() * 1000.0);
    }
    bench.sql("DROP TABLE bare").await;
    Spread::of(millis.split_off(20))
}

/// Rows a second that go through an insertion and two updates, in batches of 500 over two connections, in a table
/// with the same columns and indexes as ours.
pub async fn insert_and_two_updates(bench: &Bench, count: usize) -> f64 {
    bench
        .sql("CREATE TABLE bare (LIKE task INCLUDING ALL)")
        .await;
    let began = SystemClock.now();
    let lane = |lane: usize| async move {
        for batch in 0..count / 500 / 2 {
            let (first, last) = (batch * 1000 + lane * 500, batch * 1000 + lane * 500 + 499);
            let id =
                |n: &str| format!("('00000000-0000-0000-0000-' || lpad({n}::text, 12, '0'))::uuid");
            let insert = format!(
                "INSERT INTO bare (id, kind, input_version, input, owner_id, share, state, priority, version, attempt, \
                   failures, max_attempts, run_at, hint_at, deadline_at, progress, signalled, created_at) \
                 SELECT {}, 'noop', 1, '{{}}', {}, {}, 'queued', 1, 1, 0, 0, 5, now(), now(), now(), 0, FALSE, now() \
                 FROM generate_series({first}, {last}) AS n",
                id("n"),
                id("1"),
                id("1"),
            );
            let update = |set: &str| {
                format!(
                    "UPDATE bare SET {set}, version = version + 1 WHERE id BETWEEN {} AND {}",
                    id(&first.to_string()),
                    id(&last.to_string())
                )
            };
            let statements = [
                insert,
                update("state = 'running', attempt = 1, worker_id = id, lease_until = now()"),
                update("state = 'succeeded', finished_at = now(), worker_id = NULL"),
            ];
            let db = bench.store.db();
            for sql in statements {
                let statement = Statement::from_string(db.get_database_backend(), sql);
                db.execute_raw(statement).await.unwrap();
            }
        }
    };
    tokio::join!(lane(0), lane(1));
    let seconds = (SystemClock.now() - began).as_seconds_f64();
    bench.sql("DROP TABLE bare").await;
    count as f64 / seconds
}
