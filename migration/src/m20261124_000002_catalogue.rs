//! What can be started, and where.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("app")
                    .col(uuid("id").primary_key())
                    .col(string_len_uniq("slug", 63))
                    .col(string_len("name", 200))
                    .col(string_len("category", 64))
                    .col(text("description"))
                    .col(string("image"))
                    .col(json_binary("command"))
                    .col(json_binary("ports"))
                    .col(integer("cpu_millis"))
                    .col(big_integer("memory_bytes"))
                    .col(boolean("active"))
                    .col(big_integer("version"))
                    .col(timestamp_with_time_zone("created_at"))
                    .col(timestamp_with_time_zone("updated_at"))
                    .to_owned(),
            )
            .await?;
        manager
            .create_table(
                Table::create()
                    .table("region")
                    .col(uuid("id").primary_key())
                    .col(string_len_uniq("name", 63))
                    .col(boolean("enabled"))
                    .col(string_len_null("provider", 32))
                    .col(timestamp_with_time_zone("created_at"))
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["region", "app"] {
            manager
                .drop_table(Table::drop().table(table).to_owned())
                .await?;
        }
        Ok(())
    }
}
