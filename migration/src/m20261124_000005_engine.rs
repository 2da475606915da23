//! What the task engine keeps beside a task's row: fair shares, families, steps, workers, schedules, limits, archive.

use sea_orm_migration::{prelude::*, schema::*, sea_orm::DbBackend};

use crate::statements::run;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// Indexes of before that this step replaces.
const OLD_INDEXES: [(&str, &str); 7] = [
    ("task_due", "ON task (run_at) WHERE state = 'queued'"),
    (
        "task_leased",
        "ON task (lease_until) WHERE state = 'running'",
    ),
    ("task_parked", "ON task (run_at) WHERE state = 'waiting'"),
    ("task_wake_on", "ON task (wake_on) WHERE state = 'waiting'"),
    ("task_owner", "ON task (owner_id, id)"),
    ("task_subject", "ON task (subject_id)"),
    ("task_idempotency", "ON task (owner_id, idempotency_key)"),
];

/// Each index holds only the rows its question is about, so that a finished task costs the engine nothing.
const INDEXES: [(&str, &str); 12] = [
    // The sweeper's and a lonely worker's look: per kind and share, the longest unheard first.
    (
        "INDEX task_ready",
        "ON task (kind, share, hint_at) WHERE state = 'queued'",
    ),
    // A lease's end is not in it, so that renewing touches no index.
    (
        "INDEX task_held",
        "ON task (worker_id) WHERE state = 'running'",
    ),
    (
        "INDEX task_parked",
        "ON task (run_at) WHERE state = 'waiting'",
    ),
    (
        "INDEX task_wake_on",
        "ON task (wake_on) WHERE wake_on IS NOT NULL",
    ),
    (
        "INDEX task_owner",
        "ON task (owner_id, id) WHERE owner_id IS NOT NULL",
    ),
    (
        "INDEX task_live",
        "ON task (share) WHERE state IN ('queued', 'running', 'waiting')",
    ),
    (
        "INDEX task_subject",
        "ON task (subject_id) WHERE subject_id IS NOT NULL",
    ),
    (
        "INDEX task_parent",
        "ON task (parent_id) WHERE parent_id IS NOT NULL",
    ),
    (
        "INDEX task_finished",
        "ON task (finished_at) WHERE finished_at IS NOT NULL",
    ),
    (
        "INDEX task_dead",
        "ON task (kind, id) WHERE state = 'failed'",
    ),
    (
        "UNIQUE INDEX task_idempotency",
        "ON task (share, idempotency_key) WHERE idempotency_key IS NOT NULL",
    ),
    (
        "UNIQUE INDEX task_unique",
        "ON task (unique_key) WHERE unique_key IS NOT NULL AND state IN ('queued', 'running', 'waiting')",
    ),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let (uuid_type, time_type, epoch, nil) = match manager.get_database_backend() {
            DbBackend::Postgres => (
                "uuid",
                "timestamptz",
                "'1970-01-01T00:00:00Z'",
                "'00000000-0000-0000-0000-000000000000'",
            ),
            _ => (
                "uuid_text",
                "timestamp_with_timezone_text",
                "'1970-01-01T00:00:00+00:00'",
                "x'00000000000000000000000000000000'",
            ),
        };
        let mut statements: Vec<String> = OLD_INDEXES
            .iter()
            .map(|(name, _)| format!("DROP INDEX {name}"))
            .collect();
        for column in [
            format!("share {uuid_type} NOT NULL DEFAULT {nil}"),
            format!("hint_at {time_type} NOT NULL DEFAULT {epoch}"),
            format!("parent_id {uuid_type} NULL"),
            "unique_key varchar(200) NULL".to_owned(),
            "signalled boolean NOT NULL DEFAULT FALSE".to_owned(),
        ] {
            statements.push(format!("ALTER TABLE task ADD COLUMN {column}"));
        }
        statements.push(format!(
            "UPDATE task SET share = COALESCE(owner_id, {nil}), hint_at = run_at"
        ));
        statements.push("ALTER TABLE task DROP COLUMN announced_at".to_owned());
        statements.extend(
            INDEXES
                .iter()
                .map(|(name, over)| format!("CREATE {name} {over}")),
        );
        run(manager, &statements).await?;
        for table in [
            steps(),
            workers(),
            kinds(),
            limits(),
            schedules(),
            statistics(),
            archive(),
        ] {
            manager.create_table(table).await?;
        }
        run(
            manager,
            &[
                "CREATE INDEX task_archive_owner ON task_archive (owner_id, id)".to_owned(),
                "CREATE INDEX task_archive_at ON task_archive (archived_at)".to_owned(),
                "CREATE INDEX task_schedule_next ON task_schedule (next_at) WHERE enabled"
                    .to_owned(),
            ],
        )
        .await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in [
            "task_archive",
            "task_statistics",
            "task_schedule",
            "rate_limit",
            "task_kind",
            "worker",
            "task_step",
        ] {
            manager
                .drop_table(Table::drop().table(table).to_owned())
                .await?;
        }
        let time_type = match manager.get_database_backend() {
            DbBackend::Postgres => "timestamptz",
            _ => "timestamp_with_timezone_text",
        };
        let mut statements: Vec<String> = INDEXES
            .iter()
            .filter_map(|(name, _)| name.rsplit(' ').next())
            .map(|name| format!("DROP INDEX {name}"))
            .collect();
        for column in ["share", "hint_at", "parent_id", "unique_key", "signalled"] {
            statements.push(format!("ALTER TABLE task DROP COLUMN {column}"));
        }
        statements.push(format!(
            "ALTER TABLE task ADD COLUMN announced_at {time_type} NULL"
        ));
        statements.extend(OLD_INDEXES.iter().map(|(name, over)| {
            let unique = if *name == "task_idempotency" {
                "UNIQUE "
            } else {
                ""
            };
            format!("CREATE {unique}INDEX {name} {over}")
        }));
        run(manager, &statements).await
    }
}

fn steps() -> TableCreateStatement {
    Table::create()
        .table("task_step")
        .col(uuid("task_id"))
        .col(string_len("name", 64))
        .col(integer("position"))
        .col(json_binary("output"))
        .col(timestamp_with_time_zone("at"))
        .col(timestamp_with_time_zone_null("compensated_at"))
        .primary_key(Index::create().col("task_id").col("name"))
        .foreign_key(
            ForeignKey::create()
                .from("task_step", "task_id")
                .to("task", "id")
                .on_delete(ForeignKeyAction::Cascade),
        )
        .to_owned()
}

fn workers() -> TableCreateStatement {
    Table::create()
        .table("worker")
        .col(uuid("id").primary_key())
        .col(string_len("host", 255))
        .col(integer("pid"))
        .col(string_len("version", 64))
        .col(json_binary("kinds"))
        .col(integer("concurrency"))
        .col(integer("running"))
        .col(boolean("draining"))
        .col(timestamp_with_time_zone("started_at"))
        .col(timestamp_with_time_zone("seen_at"))
        .to_owned()
}

fn kinds() -> TableCreateStatement {
    Table::create()
        .table("task_kind")
        .col(string_len("name", 64).primary_key())
        .col(timestamp_with_time_zone_null("paused_at"))
        .to_owned()
}

fn limits() -> TableCreateStatement {
    Table::create()
        .table("rate_limit")
        .col(string_len("name", 64).primary_key())
        .col(timestamp_with_time_zone("next_at"))
        .to_owned()
}

fn schedules() -> TableCreateStatement {
    Table::create()
        .table("task_schedule")
        .col(uuid("id").primary_key())
        .col(string_len_uniq("name", 63))
        .col(json_binary("template"))
        .col(string_len("cron", 128))
        .col(string_len("time_zone", 64))
        .col(boolean("enabled"))
        .col(timestamp_with_time_zone("next_at"))
        .col(timestamp_with_time_zone_null("last_at"))
        .col(uuid_null("last_task_id"))
        .col(big_integer("version"))
        .col(timestamp_with_time_zone("created_at"))
        .col(timestamp_with_time_zone("updated_at"))
        .to_owned()
}

fn statistics() -> TableCreateStatement {
    Table::create()
        .table("task_statistics")
        .col(integer("id").primary_key())
        .col(timestamp_with_time_zone("at"))
        .col(json_binary("document"))
        .to_owned()
}

fn archive() -> TableCreateStatement {
    Table::create()
        .table("task_archive")
        .col(uuid("id").primary_key())
        .col(string_len("kind", 64))
        .col(uuid_null("owner_id"))
        .col(string_len("state", 16))
        .col(timestamp_with_time_zone("finished_at"))
        .col(timestamp_with_time_zone("archived_at"))
        .col(json_binary("document"))
        .to_owned()
}
