//! Indexes over what is looked through again and again: by retention, by reports, and by who looks for an address' logins.

use sea_orm_migration::prelude::*;

use crate::statements::{build_index, run};

#[derive(DeriveMigrationName)]
pub struct Migration;

const INDEXES: [(&str, &str); 3] = [
    // Every look of retention, twice a minute, read all lines for those that are old.
    ("log_line_at", "ON log_line (at)"),
    // A report of a day read every container there ever was for those that ended in it.
    (
        "container_ended",
        "ON container (ended_at) WHERE ended_at IS NOT NULL",
    ),
    ("login_event_ip", "ON login_event (ip, id)"),
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    fn use_transaction(&self) -> Option<bool> {
        Some(false)
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (name, over) in INDEXES {
            build_index(manager, name, over).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let statements = INDEXES.map(|(name, _)| format!("DROP INDEX IF EXISTS {name}"));
        run(manager, &statements).await
    }
}
