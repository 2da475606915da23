//! The database's tables, one reversible step after the other.
//!
//! To add one: a new file `mYYYYMMDD_NNNNNN_<what>.rs` with `up` and `down`, its line in [`Migrator::migrations`], and lines
//! for its tables and columns in `dictionary.txt`.
//! A step that has been released is never edited: expand, deploy, contract. The binaries of the version before go on
//! while a step is done, and after it: so a step adds, and holds no lock on a table with rows for longer than a moment.
//! What takes things away is a step of a later version, whose file is named `…_contract`. `tests/processes/migrations`
//! sees to both.

/// For who makes steps of their own, as the tests do.
pub use sea_orm_migration;
pub use sea_orm_migration::prelude::MigratorTrait;
use sea_orm_migration::prelude::*;

pub mod dictionary;
mod m20261124_000001_accounts;
mod m20261124_000002_catalogue;
mod m20261124_000003_tasks;
mod m20261124_000004_containers;
mod m20261124_000005_engine;
mod m20261124_000006_lighter_tasks;
mod m20261124_000007_lists;
mod m20261127_000008_fleet;
mod m20261128_000009_machines;
mod m20261128_000010_traces;
mod m20261128_000012_connection_logs;
mod m20261128_000013_usage;
mod m20261128_000014_indexes;
pub mod statements;

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
            Box::new(m20261128_000010_traces::Migration),
            Box::new(m20261128_000012_connection_logs::Migration),
            Box::new(m20261128_000013_usage::Migration),
            Box::new(m20261128_000014_indexes::Migration),
        ]
    }
}
