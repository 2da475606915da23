//! `migrate`: the database's tables, up, down, or only shown.

use std::process::ExitCode;

use clap::Subcommand;
use migration::{Migrator, MigratorTrait as _};

use super::say;
use crate::{
    app::StartError,
    config::Settings,
    store::{connection, migrate},
};

#[derive(Subcommand)]
pub enum Action {
    /// Applies every step that is missing.
    Up,
    /// Takes back the newest steps; what their tables hold is lost.
    Down {
        /// How many steps.
        #[arg(default_value_t = 1)]
        steps: u32,
    },
    /// Shows which steps are applied.
    Status,
}

pub async fn run(settings: &Settings, action: Action) -> Result<ExitCode, StartError> {
    let connections = connection::open(settings).await?;
    let db = connections.people.clone();
    match action {
        Action::Up => migrate::migrate(&db).await.map_err(StartError::Migration)?,
        Action::Down { steps } => Migrator::down(&db, Some(steps))
            .await
            .map_err(StartError::Migration)?,
        Action::Status => {}
    }
    let standing = migrate::standing(&db)
        .await
        .map_err(StartError::Migration)?;
    for (word, steps) in [
        ("applied", &standing.applied),
        ("pending", &standing.pending),
        ("newer", &standing.newer),
    ] {
        for step in steps {
            say(&format!("{word:<8} {step}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
