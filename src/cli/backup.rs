//! `backup` and `restore`: backups from the command line.

use std::{process::ExitCode, sync::Arc};

use clap::{Args, Subcommand};

use super::say;
use crate::{
    app::StartError,
    backup::{BackupError, Backups, Identity, Manifest, Target, Watcher},
    config::{Database, Secret, Settings},
    domain::{Entropy, SystemClock, entropy::secret_bytes, keyring::hex},
    telemetry::Meters,
};

#[derive(Subcommand)]
pub enum Action {
    /// Makes a backup and tries it.
    Now {
        /// Does not try it.
        #[arg(long)]
        unverified: bool,
    },
    /// Shows what backups there are, the newest first.
    List,
    /// Restores a backup into a scratch database and compares every table.
    Verify {
        /// Its name.
        #[arg(default_value = "latest")]
        name: String,
    },
    /// Removes the backups that nothing keeps, and what crashes have left.
    Prune,
    /// Prints a new key for `BACKUP_KEY`. Keep it apart from the backups: without it they cannot be opened.
    Key,
}

#[derive(Args)]
pub struct Restore {
    /// The backup's name, or `latest`.
    name: String,
    /// Another database than the service's own: postgres://… or sqlite://…
    #[arg(long, value_name = "URL")]
    into: Option<String>,
    /// Puts it in the place of a database that has tables, which is kept under another name.
    #[arg(long)]
    force: bool,
}

/// Says each step to the person at the terminal.
struct Terminal;

#[async_trait::async_trait]
impl Watcher for Terminal {
    async fn progress(&self, percent: u8, message: &str) -> Result<(), BackupError> {
        tracing::info!(percent, "{message}");
        Ok(())
    }
}

pub async fn run(settings: &Settings, action: Action) -> Result<ExitCode, StartError> {
    if let Action::Key = action {
        let identity = Identity::generate();
        say(&format!(
            "# public key: {}\n{}",
            identity.recipient(),
            identity.reveal()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let backups = open(settings)?;
    match action {
        Action::Now { unverified } => {
            // Its own, as another one may be at work.
            let origin = format!("command-line-{}", hex(&secret_bytes::<4>()));
            let mut backup = backups.take(&origin, &Terminal).await?;
            say(&line(&backup));
            if !unverified {
                backup = backups.verify(backup, &Terminal).await?;
                say(&verified(&backup));
            }
        }
        Action::List => {
            for backup in backups.list(usize::MAX).await? {
                say(&line(&backup));
            }
        }
        Action::Verify { name } => {
            let backup = backups.find(&name).await?;
            backups.clear("verification").await?;
            say(&verified(&backups.verify(backup, &Terminal).await?));
        }
        Action::Prune => {
            backups.clear("pruning").await?;
            for name in backups.prune().await? {
                say(&format!("{name}  removed"));
            }
        }
        Action::Key => {}
    }
    Ok(ExitCode::SUCCESS)
}

pub async fn restore(settings: &Settings, arguments: Restore) -> Result<ExitCode, StartError> {
    let backups = open(settings)?;
    let database = match arguments.into {
        None => settings.database.clone(),
        Some(url) if url.starts_with("sqlite:") => Database::Sqlite(url),
        Some(url) => Database::Postgres(Secret::new(url)),
    };
    let target = Target {
        database,
        is_forced: arguments.force,
    };
    let backup = backups.find(&arguments.name).await?;
    let restored = backups.restore(&backup, &target, &Terminal).await?;
    say(&format!(
        "{}  restored into {}: {} rows in {}, {} newer steps applied",
        backup.name,
        target.shown(),
        restored.rows,
        seconds(restored.took_millis),
        restored.steps,
    ));
    if let Some(kept) = restored.kept_as {
        say(&format!("what was there before is {kept} now"));
    }
    Ok(ExitCode::SUCCESS)
}

fn open(settings: &Settings) -> Result<Backups, StartError> {
    let clock = Arc::new(SystemClock);
    let entropy = Arc::new(Entropy::from_os());
    let backups = Backups::open(settings, clock, entropy, Arc::new(Meters::default()))?;
    Ok(backups.ok_or(BackupError::NoPlace)?)
}

fn line(backup: &Manifest) -> String {
    let state = match &backup.verification {
        None => "not tried",
        Some(tried) if tried.problem.is_none() => "good",
        Some(_) => "BAD",
    };
    let closed = if backup.encryption.is_some() {
        "encrypted"
    } else {
        "in clear"
    };
    format!(
        "{}  {}  {} rows  {}  {}  {closed}  {state}",
        backup.name,
        backup.database.name(),
        backup.rows(),
        size(backup.bytes),
        seconds(backup.took_millis),
    )
}

fn verified(backup: &Manifest) -> String {
    let took = backup
        .verification
        .as_ref()
        .map_or(0, |tried| tried.took_millis);
    format!(
        "{}  restored and compared: {} tables, {} rows in {}",
        backup.name,
        backup.tables.len(),
        backup.rows(),
        seconds(took),
    )
}

fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

/// Bytes, in the unit that leaves three digits or fewer.
fn size(bytes: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units.iter().find(|(_, shift)| bytes >> shift > 0);
    fits.map_or_else(
        || format!("{bytes} B"),
        |(unit, shift)| format!("{}.{} {unit}", bytes >> shift, ((bytes * 10) >> shift) % 10),
    )
}
