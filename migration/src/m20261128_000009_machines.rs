//! Virtual machines: what they start from, the machines, their snapshots, and the tokens that open a console.

use sea_orm_migration::{prelude::*, schema::*};

use crate::statements::run;

#[derive(DeriveMigrationName)]
pub struct Migration;

const INDEXES: [(&str, &str); 8] = [
    ("virtual_machine_owner", "ON virtual_machine (owner_id, id)"),
    (
        "virtual_machine_region",
        "ON virtual_machine (region_id, id)",
    ),
    ("virtual_machine_image", "ON virtual_machine (image_id, id)"),
    (
        "virtual_machine_cluster",
        "ON virtual_machine (cluster_id, id)",
    ),
    ("virtual_machine_host", "ON virtual_machine (host_id, id)"),
    (
        "virtual_machine_live",
        "ON virtual_machine (provider, id) WHERE state <> 'deleted'",
    ),
    ("snapshot_machine", "ON snapshot (machine_id, id)"),
    ("snapshot_owner", "ON snapshot (owner_id, id)"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [image(), virtual_machine(), snapshot(), console_token()] {
            manager.create_table(table).await?;
        }
        for (name, over) in INDEXES {
            run(manager, &[format!("CREATE INDEX {name} {over}")]).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["console_token", "snapshot", "virtual_machine", "image"] {
            manager
                .drop_table(Table::drop().table(table).to_owned())
                .await?;
        }
        Ok(())
    }
}

fn references(
    from: &'static str,
    column: &'static str,
    to: &'static str,
) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .from(from, column)
        .to(to, "id")
        .to_owned()
}

fn image() -> TableCreateStatement {
    Table::create()
        .table("image")
        .col(uuid("id").primary_key())
        .col(string_len_uniq("slug", 63))
        .col(string_len("name", 100))
        .col(text("description"))
        .col(string_len_null("disk", 512))
        .col(string_len_null("kernel", 512))
        .col(string_len_null("initrd", 512))
        .col(text("command_line"))
        .col(string_len_null("ready_text", 256))
        .col(json_binary("ports"))
        .col(small_integer("cpus"))
        .col(big_integer("memory_bytes"))
        .col(big_integer("disk_bytes"))
        .col(boolean("active"))
        .col(big_integer("version"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .to_owned()
}

fn virtual_machine() -> TableCreateStatement {
    Table::create()
        .table("virtual_machine")
        .col(uuid("id").primary_key())
        .col(uuid("owner_id"))
        .col(uuid("image_id"))
        .col(uuid("region_id"))
        .col(uuid_null("cluster_id"))
        .col(uuid_null("host_id"))
        .col(string_len("name", 63))
        .col(string_len("state", 16))
        .col(big_integer("version"))
        .col(small_integer("cpus"))
        .col(big_integer("memory_bytes"))
        .col(big_integer("disk_bytes"))
        .col(json_binary("ssh_keys"))
        .col(integer("generation"))
        .col(string_len_null("provider", 32))
        .col(string_len_null("endpoint", 256))
        .col(string_len_null("node", 128))
        .col(string_len_null("handle", 128))
        .col(string_len_null("ip", 64))
        .col(json_binary("ports"))
        .col(big_integer_null("cpu_used_micros"))
        .col(big_integer_null("memory_used_bytes"))
        .col(big_integer_null("disk_used_bytes"))
        .col(timestamp_with_time_zone_null("measured_at"))
        .col(string_len_null("failure_code", 64))
        .col(text_null("failure_reason"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .col(timestamp_with_time_zone_null("running_at"))
        .col(timestamp_with_time_zone_null("ended_at"))
        .foreign_key(&mut references("virtual_machine", "owner_id", "account"))
        .foreign_key(&mut references("virtual_machine", "image_id", "image"))
        .foreign_key(&mut references("virtual_machine", "region_id", "region"))
        .foreign_key(&mut references("virtual_machine", "cluster_id", "cluster"))
        .foreign_key(&mut references("virtual_machine", "host_id", "host"))
        .to_owned()
}

fn snapshot() -> TableCreateStatement {
    Table::create()
        .table("snapshot")
        .col(uuid("id").primary_key())
        .col(uuid("owner_id"))
        .col(uuid("machine_id"))
        .col(string_len("name", 100))
        .col(string_len("state", 16))
        .col(big_integer("version"))
        .col(string_len_null("failure_code", 64))
        .col(text_null("failure_reason"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .foreign_key(&mut references("snapshot", "machine_id", "virtual_machine"))
        .to_owned()
}

/// Kept as hashes, spent once.
fn console_token() -> TableCreateStatement {
    Table::create()
        .table("console_token")
        .col(uuid("id").primary_key())
        .col(string_len_uniq("hash", 64))
        .col(uuid("machine_id"))
        .col(uuid("created_by"))
        .col(uuid("session_id"))
        .col(string_len("kind", 16))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("expires_at"))
        .col(timestamp_with_time_zone_null("used_at"))
        .foreign_key(&mut references(
            "console_token",
            "machine_id",
            "virtual_machine",
        ))
        .to_owned()
}
