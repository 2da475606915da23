//! `sql-role`: logins for people who look at the tables by a client of their own.

use std::process::ExitCode;

use clap::Subcommand;

use super::say;
use crate::{
    app::StartError,
    config::Settings,
    store::{connection, sql_roles},
};

#[derive(Subcommand)]
pub enum Action {
    /// Makes a login that reads all but secrets and writes nothing; prints its password once.
    Create {
        /// Its name.
        name: String,
    },
    /// Removes such a login and ends its sessions.
    Revoke {
        /// Its name.
        name: String,
    },
    /// Shows those there are.
    List,
}

pub async fn run(settings: &Settings, action: Action) -> Result<ExitCode, StartError> {
    let connections = connection::open(settings).await?;
    let db = connections.people;
    match action {
        Action::Create { name } => {
            let password = sql_roles::create(&db, &name).await?;
            say(&format!("{name}  password {password}  (shown this once)"));
        }
        Action::Revoke { name } => {
            sql_roles::revoke(&db, &name).await?;
            say(&format!("{name}  removed"));
        }
        Action::List => {
            for name in sql_roles::list(&db).await? {
                say(&name);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
