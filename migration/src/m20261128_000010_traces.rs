//! The trace a task belongs to, so that its runs are parts of what asked for it; and what somebody wants logged for a while.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let mut task = Table::alter();
        task.table("task").add_column(text_null("trace_context"));
        manager.alter_table(task).await?;
        let mut log_filter = Table::create();
        log_filter
            .table("log_filter")
            .col(uuid("id").primary_key())
            .col(text("filter"))
            .col(timestamp_with_time_zone("until"))
            .col(uuid_null("set_by"))
            .col(timestamp_with_time_zone("set_at"));
        manager.create_table(log_filter).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let log_filter = Table::drop().table("log_filter").to_owned();
        manager.drop_table(log_filter).await?;
        let mut task = Table::alter();
        task.table("task").drop_column("trace_context");
        manager.alter_table(task).await
    }
}
