//! Every filter and order that lists offer and use is found by an index: a page of a million rows is read from few of them.

use main_webserver::{
    domain::{Id, policy::Viewer},
    graphql::list::{
        lists::entry_of_list,
        read::{Asked, Part},
        row::record_columns,
    },
    store::together::Form,
};
use sea_orm::{ConnectionTrait as _, Statement};
use serde_json::Value;
use uuid::Uuid;

use crate::harness::World;

/// A page of 50 may read so many pages of 8 KiB: each of its rows from another one, ten others before it that do not
/// fit, and the way down to them.
const MOST_BLOCKS: u64 = 700;

/// How many are read by one statement, when several are.
const TOGETHER: usize = 3;

/// A million containers of a thousand people, in time's order, in all the states of life.
const CONTAINERS: &str = "INSERT INTO container (id, owner_id, app_id, region_id, state, version, dpi, ports, created_at, updated_at, running_at)
    SELECT lpad(to_hex(1000000000 + x), 32, '0')::uuid, o.id, a.id, r.id,
        (ARRAY['requested', 'creating', 'running', 'running', 'running', 'deleted', 'deleted', 'deleted', 'deleted', 'failed'])[(1 + x / 7 % 10)::int],
        1, 96, '{}', now() - make_interval(secs => 2000000 - x), now() - make_interval(secs => x * 7919 % 2000000),
        CASE WHEN x % 3 > 0 THEN now() - make_interval(secs => x * 104729 % 2000000) END
    FROM generate_series(1::bigint, 1000000) AS s(x)
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM account WHERE email LIKE '%@plans') AS o ON o.n = x * 31 % 1000
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM app) AS a ON a.n = x % (SELECT count(*) FROM app)
    JOIN (SELECT id, row_number() OVER (ORDER BY id) - 1 AS n FROM region) AS r ON r.n = x % (SELECT count(*) FROM region)";

const ACCOUNTS: &str = "INSERT INTO account (id, email, name, password_hash, role, disabled, version, created_at, updated_at)
    SELECT gen_random_uuid(), 'p' || n || '@plans', 'p' || n, '', 'user', false, 1, now(), now() FROM generate_series(1, 1000) AS n";

fn asked(list: &str, count: u16, filter: Value, order: Value) -> Asked {
    let noun = (entry_of_list(list).unwrap().noun)();
    let mut asked = Asked::default();
    let read = |json| async_graphql::Value::from_json(json).unwrap();
    asked.read(noun, "first", read(count.into())).unwrap();
    asked.read(noun, "filter", read(filter)).unwrap();
    asked.read(noun, "orderBy", read(order)).unwrap();
    asked
}

fn blocks(plan: &Value) -> u64 {
    let of = |key: &str| plan["Plan"][key].as_u64().unwrap_or_default();
    of("Shared Hit Blocks") + of("Shared Read Blocks")
}

fn nodes<'a>(plan: &'a Value, found: &mut Vec<&'a str>) {
    found.push(plan["Node Type"].as_str().unwrap_or_default());
    for below in plan["Plans"].as_array().into_iter().flatten() {
        nodes(below, found);
    }
}

/// The first five containers of each of fifty people; those that are not read by an index.
async fn below_people(
    world: &World,
    viewer: Viewer,
    filters: &[Value],
    orders: &[Value],
) -> Vec<String> {
    let db = world.store().db();
    let people = "SELECT id FROM account WHERE email LIKE '%@plans' ORDER BY id LIMIT 50";
    let people = Statement::from_string(db.get_database_backend(), people);
    let people = db.query_all_raw(people).await.unwrap();
    let ids: Vec<Uuid> = people
        .iter()
        .map(|row| row.try_get("", "id").unwrap())
        .collect();
    let noun = (entry_of_list("containers").unwrap().noun)();
    let columns = record_columns(noun);
    let mut bad = Vec::new();
    for filter in filters {
        for order in orders {
            let asked = asked("containers", 5, filter.clone(), order.clone());
            let part = Part::in_reach(noun, asked, viewer).unwrap();
            let below = (&columns, "owner_id", &*ids);
            let mut statement = part.statement_below(world.store(), below, false);
            statement.sql = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}", statement.sql);
            let row = db.query_one_raw(statement).await.unwrap().unwrap();
            let plan: Value = row.try_get_by_index(0).unwrap();
            let each = blocks(&plan[0]) / 50;
            if each > MOST_BLOCKS / 2 {
                let mut found = Vec::new();
                nodes(&plan[0]["Plan"], &mut found);
                bad.push(format!(
                    "below {filter} {order}: {each} blocks by {found:?}"
                ));
            }
        }
    }
    bad
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_million_rows_is_read_by_an_index() {
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        // The plans of SQLite are not looked at; its tables are a single person's.
        return;
    }
    let world = World::start().await;
    let db = world.store().db().clone();
    for sql in [ACCOUNTS, CONTAINERS, "ANALYZE container", "ANALYZE account"] {
        db.execute_unprepared(sql).await.unwrap();
    }
    let owner = db.query_one_raw(Statement::from_string(
        db.get_database_backend(),
        "SELECT id FROM account WHERE email = 'p7@plans'",
    ));
    let owner: Uuid = owner.await.unwrap().unwrap().try_get("", "id").unwrap();
    let session = Id::new(Uuid::nil());
    let viewers = [
        (
            "owner",
            Viewer::User {
                id: Id::new(owner),
                session,
            },
        ),
        (
            "admin",
            Viewer::Admin {
                id: Id::new(owner),
                session,
            },
        ),
    ];
    let id = |number: u64| format!("container_{number:032x}");
    let owned = format!("user_{}", owner.simple());
    let filters = [
        serde_json::json!({}),
        serde_json::json!({"state": {"eq": "CREATING"}}),
        serde_json::json!({"state": {"in": ["RUNNING", "FAILED"]}}),
        serde_json::json!({"id": {"in": [id(1_000_000_007), id(1_000_500_000)]}}),
        serde_json::json!({"owner": {"id": {"eq": owned}}}),
        serde_json::json!({"not": {"state": {"eq": "DELETED"}}}),
    ];
    let orders = [
        serde_json::json!([]),
        serde_json::json!([{"field": "CREATED_AT", "direction": "ASC"}]),
        serde_json::json!([{"field": "UPDATED_AT", "direction": "DESC"}]),
        serde_json::json!([{"field": "UPDATED_AT"}]),
        serde_json::json!([{"field": "RUNNING_AT", "direction": "DESC", "nulls": "FIRST"}]),
        serde_json::json!([{"field": "RUNNING_AT"}]),
    ];
    let (mut bad, mut looked_at) = (Vec::new(), 0);
    for (who, viewer) in viewers {
        for filter in &filters {
            for order in &orders {
                let asked = asked("containers", 50, filter.clone(), order.clone());
                let part = Part::new((entry_of_list("containers").unwrap().noun)(), asked, viewer)
                    .unwrap();
                let one = part.statement(world.store(), &record_columns(part.noun), false);
                let together = Form::of(one.clone()).map(|(form, values)| Statement {
                    sql: form.text_for_many(),
                    values: Some(form.values_of([&values; TOGETHER].into_iter())),
                    db_backend: one.db_backend,
                });
                for (mut statement, count) in [(Some(one), 1), (together.ok(), TOGETHER as u64)] {
                    let Some(statement) = &mut statement else {
                        continue;
                    };
                    statement.sql =
                        format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {}", statement.sql);
                    let row = db.query_one_raw(statement.clone()).await.unwrap().unwrap();
                    let plan: Value = row.try_get_by_index(0).unwrap();
                    let mut found = Vec::new();
                    nodes(&plan[0]["Plan"], &mut found);
                    let each = blocks(&plan[0]) / count;
                    looked_at += count;
                    if each > MOST_BLOCKS {
                        bad.push(format!(
                            "{who} {filter} {order}: {each} blocks by {found:?}, one of {count}"
                        ));
                    }
                }
            }
        }
    }
    bad.extend(below_people(&world, viewers[1].1, &filters[..3], &orders).await);
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(looked_at > 150, "{looked_at} statements");
    world.stop().await;
}
