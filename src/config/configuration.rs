//! A process' settings while it runs: where they are from, and what has changed since.

use std::{path::PathBuf, sync::Arc};

use tokio::sync::{Mutex, watch};

use super::{ConfigError, Entry, KEYS, Key, Origin, Pairs, Settings, Sources, Stored};

/// What a process was given.
#[derive(Debug, Clone)]
pub enum Given {
    /// The pairs of its command line and the name of its file; its environment is read beside them.
    Process { command_line: Pairs, file: PathBuf },
    /// These alone.
    Pairs(Sources),
}

impl Given {
    fn read(&self) -> Result<Sources, ConfigError> {
        match self {
            Self::Process { command_line, file } => Sources::gather(command_line, file),
            Self::Pairs(sources) => Ok(sources.clone()),
        }
    }
}

/// The settings of this process.
pub struct Configuration {
    given: Given,
    stored: Option<Stored>,
    /// As they were at the start, which is how what does not reload still is.
    started: Sources,
    now: watch::Sender<Arc<State>>,
    /// One reload at a time.
    turn: Mutex<()>,
}

/// The settings at one time.
struct State {
    sources: Sources,
    settings: Arc<Settings>,
}

/// What a reload has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reloaded {
    /// These hold now.
    pub applied: Vec<&'static str>,
    /// These hold after a restart.
    pub waiting: Vec<&'static str>,
}

/// A setting as it is shown, without what is secret.
#[derive(Clone)]
pub struct Shown {
    pub key: &'static Key,
    /// What holds in this process; `None` for the default.
    pub value: Option<String>,
    pub origin: Origin,
    /// Whether another value waits for a restart.
    pub needs_restart: bool,
}

impl Configuration {
    /// Reads everything, the configuration database included.
    pub async fn open(given: Given) -> Result<Arc<Self>, ConfigError> {
        let local = given.read()?;
        let stored = Self::store(&local).await?;
        let (sources, settings) = assemble(local, stored.as_ref()).await?;
        let state = State {
            sources: sources.clone(),
            settings: Arc::new(settings),
        };
        Ok(Arc::new(Self {
            given,
            stored,
            started: sources,
            now: watch::Sender::new(Arc::new(state)),
            turn: Mutex::new(()),
        }))
    }

    /// The configuration database that `given` names, whatever is in it.
    pub async fn stored_of(given: &Given) -> Result<Option<Stored>, ConfigError> {
        Self::store(&given.read()?).await
    }

    async fn store(local: &Sources) -> Result<Option<Stored>, ConfigError> {
        local.refuse_unknown()?;
        // Only these two are read, so that a value the database is to give may be missing still.
        let (url, key) = Settings::of_the_store(local)?;
        match url {
            Some(url) => Stored::open(&url, key.as_ref()).await.map(Some),
            None => Ok(None),
        }
    }

    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.now.borrow().settings)
    }

    pub const fn stored(&self) -> Option<&Stored> {
        self.stored.as_ref()
    }

    /// Tells of every change from now on.
    pub fn changes(&self) -> Changes {
        Changes(self.now.subscribe())
    }

    /// Reads everything again. A wrong value changes nothing: what held goes on to hold.
    pub async fn reload(&self) -> Result<Reloaded, ConfigError> {
        let _turn = self.turn.lock().await;
        let (sources, settings) = assemble(self.given.read()?, self.stored.as_ref()).await?;
        let before = Arc::clone(&self.now.borrow());
        let differ = |a: &Sources, b: &Sources, key: &Key| a.text(key.name) != b.text(key.name);
        let mut found = Reloaded::default();
        for key in KEYS.iter() {
            if key.reloads && differ(&before.sources, &sources, key) {
                found.applied.push(key.name);
            } else if !key.reloads && differ(&self.started, &sources, key) {
                found.waiting.push(key.name);
            }
        }
        let is_news = !found.applied.is_empty();
        let state = State {
            sources,
            settings: Arc::new(settings),
        };
        self.now.send_if_modified(|now| {
            *now = Arc::new(state);
            is_news
        });
        Ok(found)
    }

    /// Every setting as it holds in this process.
    pub fn shown(&self) -> Vec<Shown> {
        let now = Arc::clone(&self.now.borrow());
        let show = |key: &'static Key| {
            let holds = if key.reloads {
                &now.sources
            } else {
                &self.started
            };
            let found = holds.find(key.name);
            Shown {
                key,
                value: found.map(|(_, text)| key.shown(text)),
                origin: found.map_or(Origin::Default, |(origin, _)| origin.clone()),
                needs_restart: !key.reloads
                    && self.started.text(key.name) != now.sources.text(key.name),
            }
        };
        KEYS.iter().map(show).collect()
    }

    /// Every row of the configuration database; none without one.
    pub async fn entries(&self) -> Result<Vec<Entry>, ConfigError> {
        match &self.stored {
            Some(stored) => stored.entries().await,
            None => Ok(Vec::new()),
        }
    }

    /// The configuration database, for who wants to write to it.
    pub fn needed(&self) -> Result<&Stored, ConfigError> {
        self.stored.as_ref().ok_or_else(|| ConfigError::Missing {
            key: "CONFIG_DB_URL",
            problem: "not set, so there is nowhere to store settings".to_owned(),
        })
    }
}

async fn assemble(
    local: Sources,
    stored: Option<&Stored>,
) -> Result<(Sources, Settings), ConfigError> {
    let mut sources = local;
    if let Some(stored) = stored {
        for (origin, pairs) in stored.layers(Settings::environment_of(&sources)?).await? {
            sources = sources.over(origin, pairs);
        }
    }
    let settings = Settings::load(&sources)?;
    Ok((sources, settings))
}

/// The end that hears of changes.
pub struct Changes(watch::Receiver<Arc<State>>);

impl Changes {
    /// The settings after the next change; `None` when there will be none any more.
    pub async fn next(&mut self) -> Option<Arc<Settings>> {
        self.0.changed().await.ok()?;
        Some(Arc::clone(&self.0.borrow_and_update().settings))
    }
}
