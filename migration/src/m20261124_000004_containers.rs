//! Containers: what is wanted, and what an engine made of it.

use sea_orm_migration::{prelude::*, schema::*};

#[derive(DeriveMigrationName)]
pub struct Migration;

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .create_table(
                Table::create()
                    .table("container")
                    .col(uuid("id").primary_key())
                    .col(uuid_null("owner_id"))
                    .col(uuid("app_id"))
                    .col(uuid("region_id"))
                    .col(string_len("state", 16))
                    .col(big_integer("version"))
                    .col(small_integer("dpi"))
                    .col(string_len_null("provider", 32))
                    .col(string_len_null("handle", 128))
                    .col(string_len_null("ip", 64))
                    .col(json_binary("ports"))
                    .col(string_len_null("failure_code", 32))
                    .col(text_null("failure_reason"))
                    .col(timestamp_with_time_zone("created_at"))
                    .col(timestamp_with_time_zone("updated_at"))
                    .col(timestamp_with_time_zone_null("running_at"))
                    .col(timestamp_with_time_zone_null("ended_at"))
                    .foreign_key(
                        ForeignKey::create()
                            .from("container", "app_id")
                            .to("app", "id"),
                    )
                    .foreign_key(
                        ForeignKey::create()
                            .from("container", "region_id")
                            .to("region", "id"),
                    )
                    .foreign_key(
                        ForeignKey::create()
                            .from("container", "owner_id")
                            .to("account", "id"),
                    )
                    .to_owned(),
            )
            .await?;
        manager
            .create_index(
                Index::create()
                    .name("container_owner")
                    .table("container")
                    .col("owner_id")
                    .col("id")
                    .to_owned(),
            )
            .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("container").to_owned())
            .await
    }
}
