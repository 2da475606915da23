//! What lists are ordered and filtered by is found by an index, for one owner and for all.

use sea_orm_migration::{prelude::*, sea_orm::DbBackend};

use crate::statements::run;

#[derive(DeriveMigrationName)]
pub struct Migration;

const INDEXES: [(&str, &str); 8] = [
    (
        "container_owner_state",
        "ON container (owner_id, state, id)",
    ),
    ("container_state", "ON container (state, id)"),
    (
        "container_owner_updated",
        "ON container (owner_id, updated_at, id)",
    ),
    ("container_updated", "ON container (updated_at, id)"),
    (
        "container_owner_running",
        "ON container (owner_id, running_at, id)",
    ),
    ("container_running", "ON container (running_at, id)"),
    ("container_app", "ON container (app_id, id)"),
    ("container_region", "ON container (region_id, id)"),
];

/// Texts are in the order of their bytes on both databases.
const TEXTS: [(&str, &str); 2] = [("account_email", "email"), ("account_name", "name")];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (name, over) in INDEXES {
            run(manager, &[&format!("CREATE INDEX {name} {over}")]).await?;
        }
        let by_bytes = match manager.get_database_backend() {
            DbBackend::Postgres => "COLLATE \"C\"",
            _ => "",
        };
        for (name, column) in TEXTS {
            let sql = format!("CREATE INDEX {name} ON account ({column} {by_bytes}, id)");
            run(manager, &[&sql]).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let names = INDEXES.iter().map(|(name, _)| name);
        for name in names.chain(TEXTS.iter().map(|(name, _)| name)) {
            run(manager, &[&format!("DROP INDEX {name}")]).await?;
        }
        Ok(())
    }
}
