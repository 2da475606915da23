//! The command line: one file a subcommand that does more than start.

mod agent;
mod doctor;
mod migrate;
mod serve;
mod user;

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{
    app::{Role, StartError},
    config::{Settings, Sources},
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
    /// Manages accounts.
    User {
        #[command(subcommand)]
        action: user::Action,
    },
    /// Checks everything the service depends on and says how to mend it.
    Doctor,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("NAME=VALUE is expected")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn settings_help() -> String {
    let rows = crate::config::KEYS
        .iter()
        .map(|(name, accepts, what)| format!("  {name:<22} {what}; {accepts}\n"));
    format!(
        "Settings, from --set, the environment or the env file:\n{}",
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
    let command_line: BTreeMap<String, String> = arguments.set.into_iter().collect();
    let settings = Settings::load(&Sources::gather(command_line, &arguments.env_file)?)?;
    telemetry::start(&settings);
    match arguments.command.unwrap_or(Commands::Serve) {
        Commands::Serve => serve::run(&settings, Role::WebAndWorker).await,
        Commands::Web => serve::run(&settings, Role::Web).await,
        Commands::Worker => serve::run(&settings, Role::Worker).await,
        Commands::Agent(arguments) => agent::run(&settings, arguments).await,
        Commands::Migrate { action } => migrate::run(&settings, action).await,
        Commands::User { action } => user::run(&settings, action).await,
        Commands::Doctor => Ok(doctor::run(&settings).await),
        Commands::Schema => Ok(ExitCode::SUCCESS),
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
