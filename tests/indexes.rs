//! What is looked through again and again is found by an index, however large the table is.

use chrono::TimeDelta;
use main_webserver::{
    app::Role,
    store::retention::{self, Before},
};
use sea_orm::{ConnectionTrait as _, Statement};

use crate::harness::{QUICK, World, until};

/// Rows of each table: so many that reading them all is dearer than any way around it.
const ROWS: i64 = 100_000;

/// Lines and containers, one every ten minutes, of which all but the newest have ended.
const FILL: [&str; 3] = [
    "INSERT INTO log_line (subject_id, line, mark, at, is_error, message)
     SELECT lpad(to_hex(x % 50), 32, '0')::uuid, x, x, now() - make_interval(mins => ((100000 - x) * 10)::int), false, 'a line'
     FROM generate_series(1::bigint, 100000) AS s(x)",
    "INSERT INTO container (id, app_id, region_id, state, version, dpi, ports, created_at, updated_at, running_at, ended_at)
     SELECT lpad(to_hex(1000000000 + x), 32, '0')::uuid, (SELECT id FROM app ORDER BY id LIMIT 1),
        (SELECT id FROM region ORDER BY id LIMIT 1), CASE WHEN x < 99000 THEN 'deleted' ELSE 'requested' END, 1, 96, '{}',
        now() - make_interval(mins => ((100000 - x) * 10)::int), now(), NULL,
        CASE WHEN x < 99000 THEN now() - make_interval(mins => ((99990 - x) * 10)::int) END
     FROM generate_series(1::bigint, 100000) AS s(x)",
    "ANALYZE log_line, container",
];

/// Rows that were read of a table by going through all of it, and entries that were found by an index.
async fn reads(world: &World, table: &str, index: &str) -> (i64, i64) {
    let db = world.store().db();
    let sql = format!(
        "SELECT t.seq_tup_read, i.idx_scan FROM pg_stat_user_tables t, pg_stat_user_indexes i \
         WHERE t.relname = '{table}' AND i.indexrelname = '{index}'"
    );
    let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql));
    let row = row.await.unwrap().unwrap();
    (
        row.try_get_by_index(0).unwrap(),
        row.try_get_by_index(1).unwrap(),
    )
}

#[tokio::test]
async fn retention_and_reports_do_not_read_whole_tables() {
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        // SQLite counts no reads.
        return;
    }
    // Without a worker nobody but the test reads these tables.
    let world = World::with(QUICK, &[Role::Web]).await;
    let store = world.store();
    for sql in FILL {
        store.db().execute_unprepared(sql).await.unwrap();
    }
    let tables = [
        ("log_line", "log_line_at"),
        ("container", "container_ended"),
    ];
    let mut before = Vec::new();
    for (table, index) in tables {
        before.push(reads(&world, table, index).await);
    }
    let old = store.now() - TimeDelta::minutes((ROWS - 500) * 10);
    let old = Before {
        logs: old,
        logins: old,
        audit: old,
    };
    // There are 500.
    for gone in [100, 100] {
        assert_eq!(retention::forget(store, old, gone).await.unwrap(), gone);
    }
    let admin = world.admin().await;
    let day = store.now() - TimeDelta::days(100);
    let report = format!(
        "{{ containerReport(input: {{over: {{from: \"{}\", to: \"{}\", every: DAY}}}}) {{ deleted }} }}",
        day.format("%Y-%m-%dT00:00:00Z"),
        (day + TimeDelta::days(1)).format("%Y-%m-%dT00:00:00Z"),
    );
    let rows = admin.ask(&report).await.ok("/containerReport");
    assert_eq!(rows[0]["deleted"], 144, "{rows}");
    for ((table, index), (whole, by_index)) in tables.into_iter().zip(before) {
        until("the server has counted", async || {
            (reads(&world, table, index).await.1 > by_index).then_some(())
        })
        .await;
        let now = reads(&world, table, index).await;
        assert!(
            now.0 - whole < ROWS / 10,
            "{table}: {} rows were read one after the other",
            now.0 - whole
        );
    }
    world.stop().await;
}
