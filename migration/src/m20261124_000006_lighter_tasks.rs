//! Less work for the database in a task's life: messages are text, which it does not read, and no index follows an owner's
//! unfinished tasks from state to state; only those that wait have one.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::DbBackend};

use crate::statements::run;

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
    let copy = format!(
        "INSERT INTO outbox SELECT id, CAST(message AS {cast}), created_at FROM outbox_before"
    );
    run(manager, &[&copy, "DROP TABLE outbox_before"]).await
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        rebuild(manager, text("message"), "text").await?;
        if manager.get_database_backend() == DbBackend::Postgres {
            // A message lives for a moment: to compress it costs more than it saves.
            let plain = "ALTER TABLE outbox ALTER message SET STORAGE EXTERNAL";
            run(manager, &[plain]).await?;
        }
        let indexes = [
            "DROP INDEX task_live",
            "CREATE INDEX task_waiting ON task (share) WHERE state = 'waiting'",
        ];
        run(manager, &indexes).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let cast = match manager.get_database_backend() {
            DbBackend::Postgres => "jsonb",
            _ => "text",
        };
        rebuild(manager, json_binary("message"), cast).await?;
        let indexes = [
            "DROP INDEX task_waiting",
            "CREATE INDEX task_live ON task (share) WHERE state IN ('queued', 'running', 'waiting')",
        ];
        run(manager, &indexes).await
    }
}
