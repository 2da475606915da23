//! What clients and hosts report of streaming connections.

use sea_orm_migration::{prelude::*, schema::*};

use crate::statements::run;

#[derive(DeriveMigrationName)]
pub struct Migration;

const INDEXES: [(&str, &str); 4] = [
    ("connection_log_owner", "ON connection_log (owner_id, id)"),
    (
        "connection_log_container",
        "ON connection_log (container_id, id)",
    ),
    (
        "connection_log_machine",
        "ON connection_log (machine_id, id)",
    ),
    (
        "connection_log_expiry",
        "ON connection_log (expires_at) WHERE bookmarked = FALSE",
    ),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        // What it is about may be gone before it is, so only its owner is a key.
        let table = Table::create()
            .table("connection_log")
            .col(uuid("id").primary_key())
            .col(uuid("owner_id"))
            .col(uuid_null("container_id"))
            .col(uuid_null("machine_id"))
            .col(string_len("client_version", 64))
            .col(boolean("bookmarked"))
            .col(string_len_null("client_blob", 128))
            .col(big_integer_null("client_bytes"))
            .col(string_len_null("server_blob", 128))
            .col(big_integer_null("server_bytes"))
            .col(big_integer("version"))
            .col(timestamp_with_time_zone("created_at"))
            .col(timestamp_with_time_zone("updated_at"))
            .col(timestamp_with_time_zone("expires_at"))
            .foreign_key(
                &mut ForeignKey::create()
                    .from("connection_log", "owner_id")
                    .to("account", "id")
                    .to_owned(),
            )
            .to_owned();
        manager.create_table(table).await?;
        for (name, over) in INDEXES {
            run(manager, &[format!("CREATE INDEX {name} {over}")]).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager
            .drop_table(Table::drop().table("connection_log").to_owned())
            .await
    }
}
