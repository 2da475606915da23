//! Messages are text, so that the database does not read what only this service reads.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::DbBackend};

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Puts a table with `message` in the place of the outbox; what waits in it goes along.
async fn rebuild(manager: &SchemaManager<'_>, message: ColumnDef, cast: &str) -> Result<(), DbErr> {
    manager
        .rename_table(Table::rename().table("outbox", "outbox_before").to_owned())
        .await?;
    manager
        .create_table(
            Table::create()
                .table("outbox")
                .col(uuid("id").primary_key())
                .col(message)
                .col(timestamp_with_time_zone("created_at"))
                .to_owned(),
        )
        .await?;
    let connection = manager.get_connection();
    connection
        .execute_unprepared(&format!(
            "INSERT INTO outbox SELECT id, CAST(message AS {cast}), created_at FROM outbox_before"
        ))
        .await?;
    connection
        .execute_unprepared("DROP TABLE outbox_before")
        .await?;
    Ok(())
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        rebuild(manager, text("message"), "text").await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            // A message lives for a moment: to compress it costs more than it saves.
            let plain = "ALTER TABLE outbox ALTER message SET STORAGE EXTERNAL";
            manager.get_connection().execute_unprepared(plain).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let cast = match manager.get_database_backend() {
            DbBackend::Postgres => "jsonb",
            _ => "text",
        };
        rebuild(manager, json_binary("message"), cast).await
    }
}
