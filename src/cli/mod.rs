//! The command line: one file a subcommand that does more than start.

mod agent;
mod backup;
mod config;
mod doctor;
mod healthcheck;
mod migrate;
mod serve;
mod sql_role;
mod user;

use std::{path::PathBuf, process::ExitCode, sync::Arc};

use clap::{Parser, Subcommand};

use crate::{
    app::{Role, StartError},
    config::{Configuration, Given, Pairs},
    telemetry,
};

/// GraphQL backend that manages app containers and virtual machines, with durable tasks and live updates.
#[derive(Parser)]
#[command(version, after_help = settings_help())]
struct Arguments {
    /// Overrides a setting; may be given more than once.
    #[arg(long = "set", short, value_name = "NAME=VALUE", global = true, value_parser = pair)]
    set: Vec<(String, String)>,
    /// Reads settings from this file, below the environment.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "docker/.env",
        global = true
    )]
    env_file: PathBuf,
    #[command(subcommand)]
    command: Option<Commands>,
}

#[derive(Subcommand)]
enum Commands {
    /// Starts web server and worker in one process (the default).
    Serve,
    /// Starts the web server alone; needs `REDIS_URL`.
    Web,
    /// Starts a worker alone; needs `REDIS_URL`.
    Worker,
    /// Runs on a host beside its Docker engine: tells the server of it and of its containers.
    Agent(agent::Arguments),
    /// Changes or shows the state of the database's tables.
    Migrate {
        #[command(subcommand)]
        action: migrate::Action,
    },
    /// Prints the GraphQL schema.
    Schema,
    /// Shows the effective configuration, each value with its origin and secrets masked; writes the configuration database.
    Config {
        #[command(subcommand)]
        action: Option<config::Action>,
    },
    /// Manages accounts.
    User {
        #[command(subcommand)]
        action: user::Action,
    },
    /// Logins of PostgreSQL that read the tables and write nothing.
    SqlRole {
        #[command(subcommand)]
        action: sql_role::Action,
    },
    /// Makes, shows, tries and removes backups.
    Backup {
        #[command(subcommand)]
        action: backup::Action,
    },
    /// Restores a backup into a database, beside what is there, and puts it in its place when all of it is right.
    Restore(backup::Restore),
    /// Checks everything the service depends on and says how to mend it.
    Doctor,
    /// Asks the process beside it whether it can do its work; for an image without a shell.
    Healthcheck(healthcheck::Arguments),
}

impl Commands {
    /// What the process is in its traces.
    const fn name(&self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Web => "web",
            Self::Worker => "worker",
            Self::Agent(_) => "agent",
            Self::Migrate { .. } => "migrate",
            Self::Schema => "schema",
            Self::Config { .. } => "config",
            Self::User { .. } => "user",
            Self::SqlRole { .. } => "sql-role",
            Self::Backup { .. } => "backup",
            Self::Restore(_) => "restore",
            Self::Doctor => "doctor",
            Self::Healthcheck(_) => "healthcheck",
        }
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn settings_help() -> String {
    let rows = crate::config::KEYS
        .iter()
        .map(|key| format!("  {:<22} {}; {}\n", key.name, key.what, key.expected()));
    format!(
        "Settings, from --set, the environment, the env file or the configuration database; NAME_FILE names a file with the value:\n{}",
        rows.collect::<String>()
    )
}

/// Runs the command of this process' arguments.
pub async fn run() -> ExitCode {
    let arguments = Arguments::parse();
    match Box::pin(perform(arguments)).await {
        Ok(code) => code,
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn perform(arguments: Arguments) -> Result<ExitCode, StartError> {
    if let Some(Commands::Schema) = arguments.command {
        say(crate::graphql::sdl().trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let command_line: Pairs = arguments.set.into_iter().collect();
    let file = arguments.env_file;
    let given = Given::Process { command_line, file };
    // What it shows or mends may be what keeps the others from starting.
    if let Some(Commands::Config { action }) = arguments.command {
        return config::run(given, action.unwrap_or_default()).await;
    }
    let configuration = Configuration::open(given).await?;
    let command = arguments.command.unwrap_or(Commands::Serve);
    telemetry::start(&configuration.settings(), command.name());
    let done = Box::pin(carry_out(command, &configuration)).await;
    telemetry::flush().await;
    done
}

async fn carry_out(
    command: Commands,
    configuration: &Arc<Configuration>,
) -> Result<ExitCode, StartError> {
    let settings = &*configuration.settings();
    match command {
        Commands::Serve => serve::run(configuration, Role::WebAndWorker).await,
        Commands::Web => serve::run(configuration, Role::Web).await,
        Commands::Worker => serve::run(configuration, Role::Worker).await,
        Commands::Agent(arguments) => Box::pin(agent::run(settings, arguments)).await,
        Commands::Migrate { action } => migrate::run(settings, action).await,
        Commands::User { action } => user::run(settings, action).await,
        Commands::SqlRole { action } => sql_role::run(settings, action).await,
        Commands::Backup { action } => backup::run(settings, action).await,
        Commands::Restore(arguments) => backup::restore(settings, arguments).await,
        Commands::Doctor => Ok(doctor::run(settings).await),
        Commands::Healthcheck(arguments) => Ok(healthcheck::run(settings, &arguments).await),
        Commands::Schema | Commands::Config { .. } => Ok(ExitCode::SUCCESS),
    }
}

/// A line for the person at the terminal.
#[expect(clippy::print_stdout, reason = "the command line's own output")]
fn say(line: &str) {
    println!("{line}");
}

fn say_error(error: &dyn std::fmt::Display) {
    eprintln!("error: {error}");
}
