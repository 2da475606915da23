//! `user`: accounts from the command line.

use std::{process::ExitCode, sync::Arc};

use clap::Subcommand;

use super::say;
use crate::{
    app::StartError,
    auth::{Passwords, generate_password},
    config::Settings,
    domain::{
        Entropy, SystemClock,
        policy::Role,
        value::{DisplayName, Email, NewPassword},
    },
    error::{AppError, InField as _},
    store::{Store, accounts, connection, migrate, sessions},
};

#[derive(Subcommand)]
pub enum Action {
    /// Makes an account and prints its password once.
    Create {
        /// The address to log in with.
        email: String,
        /// What to be called.
        #[arg(long, default_value = "Administrator")]
        name: String,
        /// Makes an administrator.
        #[arg(long)]
        admin: bool,
    },
    /// Gives an account a new password, prints it once and ends the account's sessions.
    ResetPassword {
        /// The account's address.
        email: String,
    },
}

pub async fn run(settings: &Settings, action: Action) -> Result<ExitCode, StartError> {
    let connections = connection::open(settings).await?;
    let db = connections.people.clone();
    migrate::migrate(&db).await.map_err(StartError::Migration)?;
    let (store, _posted) = Store::new(
        connections,
        Arc::new(SystemClock),
        Arc::new(Entropy::from_os()),
    );
    perform(&store, action).await.map_err(StartError::Account)?;
    Ok(ExitCode::SUCCESS)
}

async fn perform(store: &Store, action: Action) -> Result<(), AppError> {
    let password = generate_password();
    let hash = Passwords::default()
        .hash(&NewPassword::parse(&password).in_field("password")?)
        .await?;
    let mut tx = store.begin().await?;
    let account = match action {
        Action::Create { email, name, admin } => {
            let (email, name) = (
                Email::parse(&email).in_field("email")?,
                DisplayName::parse(&name).in_field("name")?,
            );
            accounts::insert(
                &mut tx,
                &email,
                &name,
                hash,
                if admin { Role::Admin } else { Role::User },
            )
            .await?
        }
        Action::ResetPassword { email } => {
            let email = Email::parse(&email).in_field("email")?;
            let account = accounts::unscoped_by_email(&tx, &email)
                .await?
                .ok_or(AppError::NotFound { what: "account" })?;
            accounts::set_password_hash(&mut tx, account.id(), hash).await?;
            sessions::end_all(&mut tx, account.id(), "password_reset").await?;
            account
        }
    };
    tx.commit().await?;
    say(&format!(
        "{} ({})  password {password}  (shown this once)",
        account.email, account.role
    ));
    Ok(())
}
