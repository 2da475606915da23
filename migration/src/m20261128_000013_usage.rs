//! What reports are made from: when containers and machines ran and for whom, and who tried to log in.

use sea_orm_migration::{prelude::*, schema::*};

use crate::statements::run;

#[derive(DeriveMigrationName)]
pub struct Migration;

/// What ran or runs already, as far as its row tells: of one that was made anew only the last time.
const PAST: [&str; 2] = [
    "INSERT INTO running_period (id, subject, subject_id, owner_id, product_id, region_id, cluster_id, release_channel, began_at, ended_at)
     SELECT id, 'container', id, owner_id, app_id, region_id, cluster_id, release_channel, running_at, ended_at
     FROM container WHERE running_at IS NOT NULL AND (ended_at IS NOT NULL OR state IN ('running', 'draining', 'unknown'))
       AND (ended_at IS NULL OR ended_at > running_at)",
    "INSERT INTO running_period (id, subject, subject_id, owner_id, product_id, region_id, cluster_id, release_channel, began_at, ended_at)
     SELECT id, 'machine', id, owner_id, image_id, region_id, cluster_id, NULL, running_at, ended_at
     FROM virtual_machine WHERE running_at IS NOT NULL AND (ended_at IS NOT NULL OR state IN ('running', 'stopping', 'unknown'))
       AND (ended_at IS NULL OR ended_at > running_at)",
];

const INDEXES: [&str; 4] = [
    "CREATE UNIQUE INDEX running_period_open ON running_period (subject_id) WHERE ended_at IS NULL",
    "CREATE INDEX running_period_ended ON running_period (ended_at)",
    "CREATE INDEX login_event_at ON login_event (at)",
    "CREATE INDEX login_event_owner ON login_event (owner_id, id)",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let period = Table::create()
            .table("running_period")
            .col(uuid("id").primary_key())
            .col(string_len("subject", 16))
            .col(uuid("subject_id"))
            .col(uuid_null("owner_id"))
            .col(uuid("product_id"))
            .col(uuid("region_id"))
            .col(uuid_null("cluster_id"))
            .col(string_len_null("release_channel", 63))
            .col(timestamp_with_time_zone("began_at"))
            .col(timestamp_with_time_zone_null("ended_at"))
            .to_owned();
        let login = Table::create()
            .table("login_event")
            .col(uuid("id").primary_key())
            .col(uuid_null("owner_id"))
            .col(string_len("outcome", 16))
            .col(string_len_null("ip", 64))
            .col(string_len_null("user_agent", 512))
            .col(timestamp_with_time_zone("at"))
            .to_owned();
        for table in [period, login] {
            manager.create_table(table).await?;
        }
        run(manager, &PAST).await?;
        run(manager, &INDEXES).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in ["login_event", "running_period"] {
            manager
                .drop_table(Table::drop().table(table).to_owned())
                .await?;
        }
        Ok(())
    }
}
