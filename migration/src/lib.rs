//! The database's tables, one reversible step after the other.
//!
//! To add one: a new file `mYYYYMMDD_NNNNNN_<what>.rs` with `up` and `down`, and its line in [`Migrator::migrations`].
//! A step that has been released is never edited: expand, deploy, contract.

pub use sea_orm_migration::prelude::MigratorTrait;
use sea_orm_migration::prelude::*;

mod m20261124_000001_accounts;
mod m20261124_000002_catalogue;
mod m20261124_000003_tasks;
mod m20261124_000004_containers;
mod m20261124_000005_engine;
mod m20261124_000006_lighter_tasks;
mod m20261124_000007_lists;
mod m20261127_000008_fleet;
mod m20261128_000009_machines;
mod statements;

#[derive(Debug)]
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m20261124_000001_accounts::Migration),
            Box::new(m20261124_000002_catalogue::Migration),
            Box::new(m20261124_000003_tasks::Migration),
            Box::new(m20261124_000004_containers::Migration),
            Box::new(m20261124_000005_engine::Migration),
            Box::new(m20261124_000006_lighter_tasks::Migration),
            Box::new(m20261124_000007_lists::Migration),
            Box::new(m20261127_000008_fleet::Migration),
            Box::new(m20261128_000009_machines::Migration),
        ]
    }
}
