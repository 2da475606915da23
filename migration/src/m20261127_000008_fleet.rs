//! The fleet: clusters of hosts, warm pools, what hosts are told to do, the state of the engines, and the audit log.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::DbBackend};

use crate::statements::run;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Columns added to tables that exist: table, name, type, and what they hold before anybody writes them.
const COLUMNS: [(&str, &str, &str, &str); 14] = [
    ("container", "cluster_id", "uuid", "REFERENCES cluster (id)"),
    ("container", "host_id", "uuid", "REFERENCES host (id)"),
    ("container", "endpoint", "varchar(256)", ""),
    ("container", "node", "varchar(128)", ""),
    ("container", "generation", "integer", "NOT NULL DEFAULT 1"),
    ("container", "stun", "boolean", "NOT NULL DEFAULT FALSE"),
    (
        "container",
        "release_channel",
        "varchar(63)",
        "NOT NULL DEFAULT 'stable'",
    ),
    ("container", "image", "text", ""),
    ("container", "cpu_millis", "bigint", "NOT NULL DEFAULT 0"),
    ("container", "memory_bytes", "bigint", "NOT NULL DEFAULT 0"),
    ("container", "assigned_at", "time", ""),
    ("container", "last_ping_at", "time", ""),
    ("container", "draining_at", "time", ""),
    (
        "account",
        "release_channel",
        "varchar(63)",
        "NOT NULL DEFAULT 'stable'",
    ),
];

const INDEXES: [(&str, &str); 9] = [
    ("container_cluster", "ON container (cluster_id, id)"),
    ("container_host", "ON container (host_id, id)"),
    // Those on an engine or on their way to it; an engine is looked at as a whole.
    (
        "container_live",
        "ON container (provider, id) WHERE state NOT IN ('deleted', 'failed')",
    ),
    (
        "container_warm",
        "ON container (app_id, region_id, state, id) WHERE owner_id IS NULL AND state NOT IN ('deleting', 'deleted', 'failed')",
    ),
    ("host_cluster", "ON host (cluster_id, id)"),
    (
        "host_command_pending",
        "ON host_command (host_id, id) WHERE state IN ('pending', 'sent')",
    ),
    ("host_command_task", "ON host_command (task_id)"),
    ("audit_event_object", "ON audit_event (object_id, id)"),
    ("audit_event_action", "ON audit_event (action, id)"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        let is_postgres = manager.get_database_backend() == DbBackend::Postgres;
        for (table, name, kind, rest) in COLUMNS {
            let kind = match (kind, is_postgres) {
                ("time", true) => "timestamp with time zone",
                ("time", false) => "timestamp_with_timezone_text",
                ("uuid", false) => "uuid_text",
                (other, _) => other,
            };
            // SQLite drops no column that refers to another table, and the step has to go back.
            let rest = if is_postgres || !rest.starts_with("REFERENCES") {
                rest
            } else {
                ""
            };
            let sql = format!("ALTER TABLE {table} ADD COLUMN {name} {kind} {rest}");
            run(manager, &[sql]).await?;
        }
        let images = if is_postgres { "jsonb" } else { "jsonb_text" };
        run(
            manager,
            &[format!(
                "ALTER TABLE app ADD COLUMN images {images} NOT NULL DEFAULT '{{}}'"
            )],
        )
        .await?;
        for (name, over) in INDEXES {
            run(manager, &[format!("CREATE INDEX {name} {over}")]).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (name, _) in INDEXES {
            run(manager, &[format!("DROP INDEX {name}")]).await?;
        }
        run(manager, &["ALTER TABLE app DROP COLUMN images"]).await?;
        for (table, name, ..) in COLUMNS {
            run(
                manager,
                &[format!("ALTER TABLE {table} DROP COLUMN {name}")],
            )
            .await?;
        }
        for table in [
            "log_line",
            "log_interest",
            "engine",
            "audit_event",
            "host_command",
            "registration_token",
            "warm_pool",
            "host",
            "cluster",
        ] {
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

fn tables() -> [TableCreateStatement; 9] {
    [
        cluster(),
        host(),
        warm_pool(),
        registration_token(),
        host_command(),
        audit_event(),
        engine(),
        log_interest(),
        log_line(),
    ]
}

fn cluster() -> TableCreateStatement {
    Table::create()
        .table("cluster")
        .col(uuid("id").primary_key())
        .col(string_len_uniq("name", 63))
        .col(uuid("region_id"))
        .col(string_len("provider", 32))
        .col(string_len_null("endpoint", 256))
        .col(string_len("status", 16))
        .col(big_integer("version"))
        .col(integer("min_containers"))
        .col(integer("max_containers"))
        .col(string_len("placement", 16))
        .col(text_null("failure_reason"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .foreign_key(&mut references("cluster", "region_id", "region"))
        .to_owned()
}

fn host() -> TableCreateStatement {
    Table::create()
        .table("host")
        .col(uuid("id").primary_key())
        .col(uuid("cluster_id"))
        .col(string_len("instance_id", 128))
        .col(string_len("instance_type", 64))
        .col(string_len_null("ip", 64))
        .col(string_len_null("endpoint", 256))
        .col(string_len("status", 16))
        .col(big_integer("version"))
        .col(big_integer("cpu_millis"))
        .col(big_integer("cpu_used_millis"))
        .col(big_integer("memory_bytes"))
        .col(big_integer("memory_available_bytes"))
        .col(integer("containers"))
        .col(big_integer("heartbeat"))
        .col(string_len_null("agent_version", 32))
        // Nothing for a host that is known from its engine and has no agent.
        .col(string_len_null("credential_hash", 64))
        .col(text("former_credential_hashes"))
        .col(timestamp_with_time_zone_null("former_credentials_until"))
        .col(integer("registrations"))
        .col(boolean("cordoned"))
        .col(timestamp_with_time_zone_null("last_seen_at"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .foreign_key(&mut references("host", "cluster_id", "cluster"))
        .index(
            Index::create()
                .unique()
                .name("host_instance")
                .col("cluster_id")
                .col("instance_id"),
        )
        .to_owned()
}

fn warm_pool() -> TableCreateStatement {
    Table::create()
        .table("warm_pool")
        .col(uuid("id").primary_key())
        .col(uuid("app_id"))
        .col(uuid("region_id"))
        .col(integer("size"))
        .col(big_integer("version"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .foreign_key(&mut references("warm_pool", "app_id", "app"))
        .foreign_key(&mut references("warm_pool", "region_id", "region"))
        .index(
            Index::create()
                .unique()
                .name("warm_pool_of")
                .col("app_id")
                .col("region_id"),
        )
        .to_owned()
}

fn registration_token() -> TableCreateStatement {
    Table::create()
        .table("registration_token")
        .col(uuid("id").primary_key())
        .col(uuid("cluster_id"))
        .col(string_len_uniq("hash", 64))
        .col(uuid("created_by"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("expires_at"))
        .col(timestamp_with_time_zone_null("used_at"))
        .col(uuid_null("host_id"))
        .foreign_key(&mut references(
            "registration_token",
            "cluster_id",
            "cluster",
        ))
        .to_owned()
}

fn host_command() -> TableCreateStatement {
    Table::create()
        .table("host_command")
        .col(uuid("id").primary_key())
        .col(uuid("host_id"))
        .col(uuid("task_id"))
        .col(string_len("command", 32))
        .col(text_null("argument"))
        .col(string_len("state", 16))
        .col(text_null("output"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone_null("finished_at"))
        .foreign_key(&mut references("host_command", "host_id", "host"))
        .to_owned()
}

fn audit_event() -> TableCreateStatement {
    Table::create()
        .table("audit_event")
        .col(uuid("id").primary_key())
        .col(string_len("actor", 16))
        .col(uuid_null("actor_id"))
        .col(string_len("action", 64))
        .col(string_len("object", 32))
        .col(uuid_null("object_id"))
        .col(json_binary("detail"))
        .col(timestamp_with_time_zone("at"))
        .to_owned()
}

fn engine() -> TableCreateStatement {
    Table::create()
        .table("engine")
        .col(uuid("id").primary_key())
        .col(string_len("provider", 32))
        .col(string_len("endpoint", 256))
        .col(string_len("state", 16))
        .col(string_len_null("engine_version", 128))
        .col(text_null("problem"))
        .col(integer("failures"))
        .col(integer("instances"))
        .col(json_binary("findings"))
        .col(timestamp_with_time_zone("since"))
        .col(timestamp_with_time_zone("looked_at"))
        .index(
            Index::create()
                .unique()
                .name("engine_address")
                .col("provider")
                .col("endpoint"),
        )
        .to_owned()
}

/// Who wants to read the log of a container or a machine, and which worker brings it.
fn log_interest() -> TableCreateStatement {
    Table::create()
        .table("log_interest")
        .col(uuid("subject_id").primary_key())
        .col(timestamp_with_time_zone("until"))
        .col(uuid_null("holder"))
        .col(timestamp_with_time_zone_null("held_until"))
        .col(boolean("followed"))
        .to_owned()
}

/// Numbered by whoever brings them, so that two that bring at once collide.
fn log_line() -> TableCreateStatement {
    Table::create()
        .table("log_line")
        .col(uuid("subject_id"))
        .col(big_integer("line"))
        .col(big_integer("mark"))
        .col(timestamp_with_time_zone("at"))
        .col(boolean("is_error"))
        .col(text("message"))
        .primary_key(Index::create().col("subject_id").col("line"))
        .to_owned()
}
