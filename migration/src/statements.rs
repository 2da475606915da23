//! Statements that are written out.

use sea_orm_migration::prelude::*;

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
