//! Durable tasks, their logs, the outbox, and who leads the jobs that run once.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Indexes over the few rows that can still run; the finished ones stay out of them.
const PARTIAL_INDEXES: [(&str, &str); 4] = [
    ("task_due", "ON task (run_at) WHERE state = 'queued'"),
    (
        "task_leased",
        "ON task (lease_until) WHERE state = 'running'",
    ),
    ("task_parked", "ON task (run_at) WHERE state = 'waiting'"),
    ("task_wake_on", "ON task (wake_on) WHERE state = 'waiting'"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.create_table(task()).await?;
        for (name, over) in PARTIAL_INDEXES {
            manager
                .get_connection()
                .execute_unprepared(&format!("CREATE INDEX {name} {over}"))
                .await?;
        }
        manager
            .create_index(
                Index::create()
                    .name("task_owner")
                    .table("task")
                    .col("owner_id")
                    .col("id")
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("task_subject")
                    .table("task")
                    .col("subject_id")
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("task_idempotency")
                    .table("task")
                    .col("owner_id")
                    .col("idempotency_key")
                    .unique()
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table("task_log")
                    .col(uuid("id").primary_key())
                    .col(uuid("task_id"))
                    .col(integer("attempt"))
                    .col(string_len("level", 8))
                    .col(text("message"))
                    .col(timestamp_with_time_zone("at"))
                    .foreign_key(
                        ForeignKey::create()
                            .from("task_log", "task_id")
                            .to("task", "id")
                            .on_delete(ForeignKeyAction::Cascade),
                    )
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("task_log_task")
                    .table("task_log")
                    .col("task_id")
                    .col("id")
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table("outbox")
                    .col(uuid("id").primary_key())
                    .col(json_binary("message"))
                    .col(timestamp_with_time_zone("created_at"))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table("leadership")
                    .col(string_len("job", 64).primary_key())
                    .col(uuid("holder"))
                    .col(big_integer("term"))
                    .col(timestamp_with_time_zone("until"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["leadership", "outbox", "task_log", "task"] {
            manager
                .drop_table(Table::drop().table(table).to_owned())
                .await?;
        }
        Ok(())
    }
}

fn task() -> TableCreateStatement {
    Table::create()
        .table("task")
        .col(uuid("id").primary_key())
        .col(string_len("kind", 64))
        .col(integer("input_version"))
        .col(json_binary("input"))
        .col(uuid_null("owner_id"))
        .col(uuid_null("subject_id"))
        .col(string_len("state", 16))
        .col(small_integer("priority"))
        .col(big_integer("version"))
        .col(integer("attempt"))
        .col(integer("failures"))
        .col(integer("max_attempts"))
        .col(timestamp_with_time_zone("run_at"))
        .col(timestamp_with_time_zone("deadline_at"))
        .col(timestamp_with_time_zone_null("announced_at"))
        .col(uuid_null("worker_id"))
        .col(timestamp_with_time_zone_null("lease_until"))
        .col(string_len_null("wake_on", 128))
        .col(timestamp_with_time_zone_null("cancel_requested_at"))
        .col(small_integer("progress"))
        .col(text_null("progress_message"))
        .col(json_binary_null("result"))
        .col(string_len_null("error_code", 32))
        .col(text_null("error_message"))
        .col(string_len_null("idempotency_key", 128))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone_null("started_at"))
        .col(timestamp_with_time_zone_null("finished_at"))
        .to_owned()
}
