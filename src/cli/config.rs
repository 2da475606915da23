//! `config`: the effective configuration, and the configuration database from the command line.

use std::{fmt::Write as _, io::Read as _, process::ExitCode};

use clap::Subcommand;

use super::say;
use crate::{
    app::StartError,
    config::{ConfigError, Configuration, Given, Level, Secret, Shown, Stored, key, storable},
    domain::{Clock as _, SystemClock},
};

/// Longest value read from standard input, in bytes.
const LONGEST: u64 = 1 << 20;

#[derive(Subcommand, Default)]
pub enum Action {
    /// Shows every setting that is not at its default, with where its value comes from (the default action).
    #[default]
    Show,
    /// Shows every setting with its value, its origin and what it accepts.
    All,
    /// Prints what an environment gets from the configuration database, secrets included, as lines for docker/.env.
    Env {
        /// The environment: dev, staging or prod.
        #[arg(long, value_parser = level)]
        environment: Level,
    },
    /// Makes the configuration database's table.
    Init,
    /// Lists what stands in the configuration database.
    List,
    /// Stores a value there; a secret is encrypted.
    Set {
        /// The setting.
        name: String,
        /// Its value; without one it is read from standard input, which keeps a secret out of the shell's history.
        value: Option<String>,
        /// Where it is to be the default: all, dev, staging or prod.
        #[arg(long, default_value = "all", value_parser = level)]
        environment: Level,
    },
    /// Removes a value from there.
    Unset {
        /// The setting.
        name: String,
        /// Where it is the default: all, dev, staging or prod.
        #[arg(long, default_value = "all", value_parser = level)]
        environment: Level,
    },
    /// Encrypts every secret there anew: under the key in `NEW_CONFIG_KEY`, in the file that `NEW_CONFIG_KEY_FILE` names, or
    /// read from standard input.
    Rotate,
}

/// Where a new key is given, as the present one is by its own name.
const NEW_KEY: &str = "NEW_CONFIG_KEY";

fn level(text: &str) -> Result<Level, String> {
    Level::parse(text).ok_or_else(|| "all, dev, staging or prod is expected".to_owned())
}

pub async fn run(given: Given, action: Action) -> Result<ExitCode, StartError> {
    match action {
        Action::Show => {
            let shown = Configuration::open(given).await?.shown();
            for shown in shown.iter().filter(|shown| shown.value.is_some()) {
                say(&line(shown));
            }
        }
        Action::All => {
            for shown in Configuration::open(given).await?.shown() {
                let secret = if shown.key.is_secret { "; secret" } else { "" };
                let reloads = if shown.key.reloads {
                    "; followed while running"
                } else {
                    ""
                };
                say(&format!(
                    "{}\n    {}; {}{secret}{reloads}",
                    line(&shown),
                    shown.key.what,
                    shown.key.expected()
                ));
            }
        }
        Action::Env { environment } => {
            say(lines(&stored(&given).await?, environment).await?.trim_end());
        }
        Action::Init => {
            stored(&given).await?.init().await?;
            say("the table of settings is there");
        }
        Action::List => {
            for entry in stored(&given).await?.entries().await? {
                say(&format!(
                    "{:<8} {:<30} {:<30} {} by {}",
                    entry.level.name(),
                    entry.name,
                    entry.shown().unwrap_or("(encrypted)"),
                    entry.updated_at.format("%Y-%m-%d %H:%M"),
                    entry.updated_by
                ));
            }
        }
        Action::Set {
            name,
            value,
            environment,
        } => {
            set(&given, &name, value, environment).await?;
        }
        Action::Unset { name, environment } => {
            if !stored(&given).await?.remove(environment, &name).await? {
                let problem = format!("{name}: nothing is stored for {}", environment.name());
                return Err(StartError::Refused(problem));
            }
            say(&format!(
                "{name} is stored for {} no more",
                environment.name()
            ));
        }
        Action::Rotate => rotate(&given).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn set(
    given: &Given,
    name: &str,
    value: Option<String>,
    environment: Level,
) -> Result<(), StartError> {
    let value = match value {
        Some(value) => value,
        None => from_input()?,
    };
    let key = storable(name, &value).map_err(|(field, problem)| {
        let problem = match field {
            "name" => format!("{name}: {problem}"),
            _ => format!("{name}: the value is not usable, {problem}"),
        };
        StartError::Refused(problem)
    })?;
    let by = std::env::var("USER").unwrap_or_else(|_| "command line".to_owned());
    let stored = stored(given).await?;
    stored
        .put(environment, key, &value, &by, SystemClock.now())
        .await?;
    let news = if key.reloads {
        "running processes follow within CONFIG_RELOAD_SECONDS"
    } else {
        "it holds from each process' next start on"
    };
    say(&format!(
        "{name} is stored for {}; {news}",
        environment.name()
    ));
    Ok(())
}

async fn rotate(given: &Given) -> Result<(), StartError> {
    let stored = stored(given).await?;
    let new = new_key()?;
    let refused = |problem: &str| StartError::Refused(format!("{NEW_KEY}: {problem}"));
    if let Some(key) = key("CONFIG_KEY") {
        key.check(&new)
            .map_err(|problem| refused(&format!("{problem}; {} is expected", key.expected())))?;
    }
    let count = stored.rotate(&Secret::new(new)).await?;
    say(&format!(
        "{count} encrypted values are those of the new key; start every process with it as CONFIG_KEY, and until then store \
         no secret by one that runs"
    ));
    Ok(())
}

/// The new key from the environment, from the file that it names, or from standard input.
fn new_key() -> Result<String, StartError> {
    let given = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    match (given(NEW_KEY), given(&format!("{NEW_KEY}_FILE"))) {
        (Some(_), Some(_)) => {
            let key = NEW_KEY.to_owned();
            Err(ConfigError::Twice { key }.into())
        }
        (Some(text), None) => Ok(text),
        (None, Some(path)) => match std::fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => Err(StartError::File { path, error }),
        },
        (None, None) => from_input(),
    }
}

fn line(shown: &Shown) -> String {
    let value = shown.value.as_deref().unwrap_or(&shown.key.usual);
    format!("{:<32} {value:<40} {}", shown.key.name, shown.origin)
}

async fn stored(given: &Given) -> Result<Stored, ConfigError> {
    let stored = Configuration::stored_of(given).await?;
    stored.ok_or_else(|| ConfigError::Missing {
        key: "CONFIG_DB_URL",
        problem: "needed for this; it names the configuration database".to_owned(),
    })
}

/// What an environment gets, as an env file: the environment's own name, and each value in quotes.
async fn lines(stored: &Stored, level: Level) -> Result<String, StartError> {
    let Level::Of(environment) = level else {
        let problem = "--environment: dev, staging or prod is expected".to_owned();
        return Err(StartError::Refused(problem));
    };
    let mut values = std::collections::BTreeMap::new();
    // The weakest first.
    for (_, pairs) in stored.layers(environment).await?.into_iter().rev() {
        values.extend(pairs);
    }
    let mut text = format!("ENVIRONMENT={}\n", environment.as_str());
    for (name, value) in values {
        if value.contains(['\'', '\n', '\r']) {
            let problem =
                format!("{name}: a value with a quote or a line's end cannot stand in an env file");
            return Err(StartError::Refused(problem));
        }
        // Bare where every reader agrees: those of shells and of compose differ about quotes.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-.:/@,+=%".contains(c);
        let quote = if value.chars().all(is_plain) { "" } else { "'" };
        let _ = writeln!(text, "{name}={quote}{value}{quote}");
        debug_assert!(key(&name).is_some());
    }
    Ok(text)
}

fn from_input() -> Result<String, StartError> {
    let mut text = String::new();
    std::io::stdin()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| StartError::File {
            path: "standard input".to_owned(),
            error,
        })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
