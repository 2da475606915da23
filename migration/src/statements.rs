//! Statements that are written out.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, Statement},
};

/// Executes them one after the other.
pub async fn run(
    manager: &SchemaManager<'_>,
    statements: &[impl AsRef<str> + Sync],
) -> Result<(), DbErr> {
    for statement in statements {
        manager
            .get_connection()
            .execute_unprepared(statement.as_ref())
            .await?;
    }
    Ok(())
}

/// An index over a table that may be large: built beside the writers, not instead of them.
///
/// PostgreSQL does so outside of transactions only, so the step has to say `use_transaction() -> Some(false)`; such a step
/// does nothing else, since half of it may stay done. Done again it makes good what was left half-built.
pub async fn build_index(manager: &SchemaManager<'_>, name: &str, over: &str) -> Result<(), DbErr> {
    let db = manager.get_connection();
    if db.get_database_backend() != DbBackend::Postgres {
        let sql = format!("CREATE INDEX IF NOT EXISTS {name} {over}");
        return run(manager, &[sql]).await;
    }
    // One whose building was cut off is there, is kept up to date, and serves nobody.
    let half_built = Statement::from_string(
        DbBackend::Postgres,
        format!(
            "SELECT 1 FROM pg_index WHERE indexrelid = to_regclass('{name}') AND NOT indisvalid"
        ),
    );
    if db.query_one_raw(half_built).await?.is_some() {
        run(manager, &[format!("DROP INDEX CONCURRENTLY {name}")]).await?;
    }
    let sql = format!("CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} {over}");
    run(manager, &[sql]).await
}
