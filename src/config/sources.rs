//! Where settings come from, strongest first: command line, environment, `docker/.env`, defaults.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, path::Path, str::FromStr};

use super::{ConfigError, KEYS};

/// Named values with where they came from.
#[derive(Debug, Default)]
pub struct Sources {
    layers: Vec<(&'static str, BTreeMap<String, String>)>,
}

impl Sources {
    /// The command line's pairs, this process' environment, and `file` when it exists.
    pub fn gather(
        command_line: BTreeMap<String, String>,
        file: &Path,
    ) -> Result<Self, ConfigError> {
        let known = |(key, _): &(String, String)| KEYS.iter().any(|(name, ..)| name == key);
        let environment = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .filter(known);
        let mut layers = vec![
            ("command line", command_line),
            ("environment", environment.collect()),
        ];
        if file.exists() {
            let refuse = |error: dotenvy::Error| ConfigError::File {
                path: file.display().to_string(),
                problem: error.to_string(),
            };
            let pairs: Result<Vec<_>, _> = dotenvy::from_path_iter(file).map_err(refuse)?.collect();
            // The compose stack keeps settings of its own in the same file.
            layers.push((
                "docker/.env",
                pairs.map_err(refuse)?.into_iter().filter(known).collect(),
            ));
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
            layers: vec![("command line", pairs)],
        }
    }

    pub(super) fn refuse_unknown(&self) -> Result<(), ConfigError> {
        for key in self.layers.iter().flat_map(|(_, pairs)| pairs.keys()) {
            if !KEYS.iter().any(|(name, ..)| name == key) {
                return Err(ConfigError::UnknownKey {
                    key: key.clone(),
                    nearest: nearest(key),
                });
            }
        }
        Ok(())
    }

    /// The strongest value of `key`; an empty one counts as not set.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.find(key).map(|(_, value)| value.to_owned())
    }

    fn find(&self, key: &str) -> Option<(&'static str, &str)> {
        self.layers
            .iter()
            .find_map(|(origin, pairs)| Some((*origin, pairs.get(key)?.as_str())))
            .filter(|(_, value)| !value.is_empty())
    }

    pub(super) fn refuse(&self, key: &str, problem: String) -> ConfigError {
        let (key, accepts, _) = KEYS
            .iter()
            .find(|(name, ..)| *name == key)
            .unwrap_or(&("?", "?", "?"));
        ConfigError::Value {
            key,
            problem,
            origin: self.find(key).map_or("defaults", |(origin, _)| origin),
            accepts,
        }
    }

    pub(super) fn parse<T: FromStr<Err: Display>>(
        &self,
        key: &'static str,
        default: &str,
    ) -> Result<T, ConfigError> {
        let text = self.text(key).unwrap_or_else(|| default.to_owned());
        text.trim()
            .parse()
            .map_err(|error| self.refuse(key, format!("'{text}' is not usable, {error}")))
    }

    pub(super) fn number<T>(
        &self,
        key: &'static str,
        default: &T,
        range: RangeInclusive<T>,
    ) -> Result<T, ConfigError>
    where
        T: FromStr<Err: Display> + Display + PartialOrd,
    {
        let number: T = self.parse(key, &default.to_string())?;
        if range.contains(&number) {
            Ok(number)
        } else {
            Err(self.refuse(key, format!("{number} is out of range")))
        }
    }

    /// One of the named choices; the first is the default.
    pub(super) fn one_of<T: Copy>(
        &self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let Some(text) = self.text(key) else {
            return Ok(choices[0].1);
        };
        choices
            .iter()
            .find(|(name, _)| *name == text)
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.refuse(key, format!("'{text}' is not known")))
    }
}

/// The known key that takes the fewest edits to reach, when that is few.
fn nearest(key: &str) -> Option<&'static str> {
    let wanted = key.to_uppercase();
    KEYS.iter()
        .map(|(name, ..)| (edits(&wanted, name), *name))
        .min()
        .filter(|(distance, _)| *distance <= 3.max(key.len() / 3))
        .map(|(_, name)| name)
}

/// Levenshtein distance, by rows.
fn edits(from: &str, to: &str) -> usize {
    let to = to.as_bytes();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
