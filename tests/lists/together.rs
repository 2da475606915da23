//! Statements that wait at the same time are read together: each gets its own rows, whatever becomes of the others.

use std::{collections::HashSet, time::Duration};

use futures_util::future::join_all;
use sea_orm::{DbErr, QueryResult, Statement};

use crate::harness::World;

const READERS: i64 = 400;

fn statement(world: &World, sql: &str, values: [sea_orm::Value; 2]) -> Statement {
    Statement::from_sql_and_values(world.store().db().get_database_backend(), sql, values)
}

fn numbers(rows: Result<Vec<QueryResult>, DbErr>) -> Vec<i64> {
    let number = |row: &QueryResult| row.try_get_by_index(0).unwrap();
    rows.unwrap().iter().map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_readers_gets_its_own_rows_in_order() {
    let world = World::start().await;
    let sql = "WITH RECURSIVE s(x) AS (SELECT $1 UNION ALL SELECT x + 1 FROM s WHERE x < $2)
        SELECT x FROM s ORDER BY x DESC LIMIT 9";
    let read = |n: i64| {
        let wanted: Vec<i64> = (n..=n + n % 7).rev().collect();
        let read = statement(&world, sql, [n.into(), (n + n % 7).into()]);
        let store = world.store();
        async move { assert_eq!(numbers(store.read(read).await), wanted) }
    };
    join_all((0..READERS).map(read)).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_who_fails_or_leaves_takes_nobody_along() {
    let world = World::start().await;
    let tasks: Vec<_> = (0..READERS)
        .map(|n| {
            let divisor = i64::from(n % 50 != 7);
            let sql = "SELECT $1 / $2 AS x, length(CAST($2 AS TEXT)) AS y";
            let read = statement(&world, sql, [n.into(), divisor.into()]);
            let store = world.store().clone();
            tokio::spawn(async move { store.read(read).await })
        })
        .collect();
    for leaver in tasks.iter().skip(3).step_by(10) {
        leaver.abort();
    }
    for (n, task) in (0..).zip(tasks) {
        let Ok(answer) = tokio::time::timeout(Duration::from_secs(20), task)
            .await
            .unwrap()
        else {
            assert_eq!(n % 10, 3, "only who leaves has no answer");
            continue;
        };
        // SQLite divides by nothing and has nothing.
        if n % 50 != 7 {
            assert_eq!(numbers(answer), [n]);
        } else if std::env::var_os("TEST_DATABASE_URL").is_some() {
            answer.unwrap_err();
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_are_read_by_few_statements() {
    if std::env::var_os("TEST_DATABASE_URL").is_none() {
        // On SQLite a statement is a call, and nothing is won by fewer.
        return;
    }
    let world = World::start().await;
    // One statement has one beginning on one connection.
    let sql = "SELECT concat(pg_backend_pid(), now()) AS x FROM (SELECT $1, $2) AS y";
    let read = |n: i64| {
        world
            .store()
            .read(statement(&world, sql, [n.into(), n.into()]))
    };
    let mut statements = HashSet::new();
    for rows in join_all((0..READERS).map(read)).await {
        let rows = rows.unwrap();
        assert_eq!(rows.len(), 1);
        statements.insert(rows[0].try_get_by_index::<String>(0).unwrap());
    }
    assert!(statements.len() < 200, "{} statements", statements.len());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_are_the_rows_that_are_shown() {
    let world = World::start().await;
    let ada = world.person("ada").await;
    let query = "{ tasks(first: 100) { nodes { id } totalCount } none: tasks(first: 0) { nodes { id } totalCount } }";
    let asking = async {
        let mut seen = 0;
        while seen < 40 {
            let reply = ada.ask(query).await;
            let shown = reply.ok("/tasks/nodes").as_array().unwrap().len() as u64;
            assert_eq!(reply.ok("/tasks/totalCount"), shown);
            assert_eq!(reply.ok("/none/nodes"), serde_json::json!([]));
            assert!(reply.ok("/none/totalCount").as_u64().unwrap() >= seen);
            seen = shown;
        }
    };
    let adding = async {
        for _ in 0..40 {
            ada.demo(1, 1).await;
        }
    };
    tokio::join!(asking, adding);
    world.stop().await;
}
