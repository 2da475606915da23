//! Where settings come from, strongest first: command line, environment, `docker/.env`, the configuration database, defaults.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use super::{
    ConfigError, Secret,
    key::{KEYS, Kind, key, nearest},
};

/// What the compose stack and the agent keep in the same file.
const NEIGHBOURS: [&str; 8] = [
    "WEB_PORT",
    "REDIS_PORT",
    "PROMETHEUS_PORT",
    "GRAFANA_PORT",
    "GRAFANA_PASSWORD",
    "DOCKER_SOCKET",
    "DOCKER_GID",
    "HOT_RELOAD",
];
const NEIGHBOURS_BEGIN: [&str; 2] = ["AGENT_", "COMPOSE_"];
/// And what it is built from: `IMAGE`, `BUILD_IMAGE` and so on, and `BINARY`.
const NEIGHBOURS_END: [&str; 2] = ["IMAGE", "BINARY"];
/// A setting with this ending names a file that has the value, as orchestrators give secrets.
const IN_FILE: &str = "_FILE";

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    CommandLine,
    Environment,
    File(PathBuf),
    /// The configuration database, for all environments or for this one.
    Stored {
        environment: &'static str,
    },
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("command line"),
            Self::Environment => f.write_str("environment"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stored { environment } => {
                write!(f, "the configuration database, {environment}")
            }
            Self::Default => f.write_str("defaults"),
        }
    }
}

/// Named values.
pub type Pairs = BTreeMap<String, String>;

/// Named values with where they came from.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    layers: Vec<(Origin, Pairs)>,
}

impl Sources {
    /// The command line's pairs, this process' environment, and `file` when it exists.
    pub fn gather(command_line: &Pairs, file: &Path) -> Result<Self, ConfigError> {
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| is_known(name));
        let mut layers = vec![
            (Origin::CommandLine, command_line.clone()),
            (Origin::Environment, environment.collect()),
        ];
        if file.exists() {
            let pairs: Result<Pairs, _> = dotenvy::from_path_iter(file)
                .and_then(Iterator::collect)
                .map_err(|error| refuse_file(file, &error));
            let is_neighbour = |name: &str| {
                NEIGHBOURS.contains(&name)
                    || NEIGHBOURS_BEGIN.iter().any(|begin| name.starts_with(begin))
                    || NEIGHBOURS_END.iter().any(|end| name.ends_with(end))
            };
            let mut pairs = pairs?;
            pairs.retain(|name, _| !is_neighbour(name));
            layers.push((Origin::File(file.to_owned()), pairs));
        }
        for (_, pairs) in &mut layers {
            read_files(pairs)?;
        }
        Ok(Self { layers })
    }

    /// Pairs as if typed on the command line.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Self {
        let pairs = pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            layers: vec![(Origin::CommandLine, pairs)],
        }
    }

    /// The same with a weaker layer below.
    #[must_use]
    pub fn over(mut self, origin: Origin, pairs: Pairs) -> Self {
        self.layers.push((origin, pairs));
        self
    }

    pub(super) fn refuse_unknown(&self) -> Result<(), ConfigError> {
        for name in self.layers.iter().flat_map(|(_, pairs)| pairs.keys()) {
            if key(name).is_none() {
                return Err(ConfigError::UnknownKey {
                    key: name.clone(),
                    nearest: nearest(name),
                });
            }
        }
        Ok(())
    }

    /// The strongest value of `key`; an empty one counts as not set.
    pub fn text(&self, key: &str) -> Option<String> {
        self.find(key).map(|(_, value)| value.to_owned())
    }

    /// The strongest value of `key` with where it is from.
    pub fn find(&self, key: &str) -> Option<(&Origin, &str)> {
        self.layers
            .iter()
            .filter_map(|(origin, pairs)| Some((origin, pairs.get(key)?.as_str())))
            .find(|(_, value)| !value.is_empty())
    }

    pub(super) fn refuse(&self, name: &'static str, problem: String) -> ConfigError {
        ConfigError::Value {
            key: name,
            problem,
            origin: self
                .find(name)
                .map_or(Origin::Default, |(origin, _)| origin.clone()),
            accepts: key(name).map(super::key::Key::expected).unwrap_or_default(),
        }
    }

    pub(super) fn read<K: Kind>(
        &self,
        name: &'static str,
        kind: &K,
    ) -> Result<K::Value, ConfigError> {
        let given = self.find(name).map(|(_, text)| text);
        kind.read(given, self).map_err(|problem| {
            // A URL that stands in the wrong place may have a password.
            let problem = match given {
                Some(text) if text.contains("://") => {
                    problem.replace(text, &Secret::new(text.to_owned()).without_password())
                }
                Some(_) | None => problem,
            };
            self.refuse(name, problem)
        })
    }
}

/// Whether a name of the environment is one of ours.
fn is_known(name: &str) -> bool {
    KEYS.iter()
        .any(|key| name == key.name || name.strip_suffix(IN_FILE) == Some(key.name))
}

fn refuse_file(path: &Path, error: &dyn fmt::Display) -> ConfigError {
    ConfigError::File {
        path: path.display().to_string(),
        problem: error.to_string(),
    }
}

/// Puts what the files named by `NAME_FILE` have in the place of those names.
fn read_files(pairs: &mut Pairs) -> Result<(), ConfigError> {
    let named: Vec<String> = pairs
        .keys()
        .filter(|name| key(name).is_none() && is_known(name))
        .cloned()
        .collect();
    for name in named {
        let path = pairs.remove(&name).unwrap_or_default();
        if path.is_empty() {
            continue;
        }
        let text = std::fs::read_to_string(&path)
            .map_err(|error| refuse_file(Path::new(&path), &format!("{name}, {error}")))?;
        let plain = name.trim_end_matches(IN_FILE).to_owned();
        if pairs.get(&plain).is_some_and(|value| !value.is_empty()) {
            return Err(ConfigError::Twice { key: plain });
        }
        pairs.insert(plain, text.trim_end_matches(['\r', '\n']).to_owned());
    }
    Ok(())
}
