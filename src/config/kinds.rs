//! The types settings have.

use std::{
    fmt::Display,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use super::{Secret, Sources, key::Kind};

/// A number within bounds.
#[derive(Clone)]
pub(super) struct Number<T> {
    usual: T,
    range: RangeInclusive<T>,
}

pub(super) const fn number<T>(usual: T, range: RangeInclusive<T>) -> Number<T> {
    Number { usual, range }
}

impl<T: FromStr<Err: Display> + Display + PartialOrd + Copy> Kind for Number<T> {
    type Value = T;

    fn accepts(&self) -> String {
        format!("{} to {}", self.range.start(), self.range.end())
    }

    fn usual(&self) -> String {
        self.usual.to_string()
    }

    fn read(&self, text: Option<&str>, _: &Sources) -> Result<T, String> {
        let Some(text) = text else {
            return Ok(self.usual);
        };
        let number: T = parsed(text)?;
        if self.range.contains(&number) {
            Ok(number)
        } else {
            Err(format!("{number} is out of range"))
        }
    }
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.trim()
        .parse()
        .map_err(|error| format!("'{text}' is not usable, {error}"))
}

/// A number that is made into something else: a time of so many seconds, a size of so many mebibytes.
#[derive(Clone)]
pub(super) struct Made<N, T> {
    number: Number<N>,
    make: fn(N) -> T,
}

impl<N: FromStr<Err: Display> + Display + PartialOrd + Copy, T> Kind for Made<N, T> {
    type Value = T;

    fn accepts(&self) -> String {
        self.number.accepts()
    }

    fn usual(&self) -> String {
        self.number.usual()
    }

    fn read(&self, text: Option<&str>, sources: &Sources) -> Result<T, String> {
        self.number.read(text, sources).map(self.make)
    }
}

pub(super) const fn seconds(usual: u64, range: RangeInclusive<u64>) -> Made<u64, Duration> {
    Made {
        number: number(usual, range),
        make: Duration::from_secs,
    }
}

/// A time that is none for 0, as it is by default.
pub(super) const fn seconds_or_never(range: RangeInclusive<u64>) -> Made<u64, Option<Duration>> {
    Made {
        number: number(0, range),
        make: |seconds| (seconds > 0).then(|| Duration::from_secs(seconds)),
    }
}

/// A time in milliseconds that is none for 0.
pub(super) const fn millis_or_never(
    usual: u64,
    range: RangeInclusive<u64>,
) -> Made<u64, Option<Duration>> {
    Made {
        number: number(usual, range),
        make: |millis| (millis > 0).then(|| Duration::from_millis(millis)),
    }
}

pub(super) const fn days(usual: u64, range: RangeInclusive<u64>) -> Made<u64, Duration> {
    Made {
        number: number(usual, range),
        make: |days| Duration::from_secs(days * 86_400),
    }
}

/// A size in bytes, given in mebibytes.
pub(super) const fn mebibytes(usual: u64, range: RangeInclusive<u64>) -> Made<u64, u64> {
    Made {
        number: number(usual, range),
        make: |mebibytes| mebibytes << 20,
    }
}

/// One of some words; the first is the default.
#[derive(Clone)]
pub(super) struct OneOf<T: 'static>(&'static [(&'static str, T)]);

pub(super) const fn one_of<T>(choices: &'static [(&'static str, T)]) -> OneOf<T> {
    OneOf(choices)
}

/// A switch, by default on or off.
pub(super) const fn switch(is_on: bool) -> OneOf<bool> {
    const ON: &[(&str, bool)] = &[("on", true), ("off", false)];
    const OFF: &[(&str, bool)] = &[("off", false), ("on", true)];
    OneOf(if is_on { ON } else { OFF })
}

impl<T: Copy> Kind for OneOf<T> {
    type Value = T;

    fn accepts(&self) -> String {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        if names == ["off", "on"] {
            names.reverse();
        }
        match names.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, others)) => format!("{} or {last}", others.join(", ")),
            None => String::new(),
        }
    }

    fn usual(&self) -> String {
        self.0[0].0.to_owned()
    }

    fn read(&self, text: Option<&str>, _: &Sources) -> Result<T, String> {
        let Some(text) = text else {
            return Ok(self.0[0].1);
        };
        let chosen = self.0.iter().find(|(name, _)| *name == text.trim());
        chosen
            .map(|(_, choice)| *choice)
            .ok_or_else(|| format!("'{text}' is not known"))
    }
}

/// A text that is looked at, with a default.
#[derive(Clone)]
pub(super) struct Looked<T> {
    accepts: &'static str,
    usual: &'static str,
    look: fn(&str) -> Result<T, String>,
}

pub(super) const fn looked<T>(
    accepts: &'static str,
    usual: &'static str,
    look: fn(&str) -> Result<T, String>,
) -> Looked<T> {
    Looked {
        accepts,
        usual,
        look,
    }
}

pub(super) const fn address(usual: &'static str) -> Looked<std::net::IpAddr> {
    looked("an IP address", usual, parsed)
}

pub(super) fn text(accepts: &'static str, usual: &'static str) -> Looked<String> {
    looked(accepts, usual, |text| Ok(text.to_owned()))
}

impl<T> Kind for Looked<T> {
    type Value = T;

    fn accepts(&self) -> String {
        self.accepts.to_owned()
    }

    fn usual(&self) -> String {
        self.usual.to_owned()
    }

    fn read(&self, text: Option<&str>, _: &Sources) -> Result<T, String> {
        (self.look)(text.unwrap_or(self.usual))
    }
}

/// A text that is looked at and need not be there.
#[derive(Clone)]
pub(super) struct Maybe<T> {
    accepts: &'static str,
    /// What holds without it, for a person.
    without: &'static str,
    look: fn(&str) -> Result<T, String>,
    is_secret: bool,
}

pub(super) const fn maybe<T>(
    accepts: &'static str,
    without: &'static str,
    look: fn(&str) -> Result<T, String>,
) -> Maybe<T> {
    Maybe {
        accepts,
        without,
        look,
        is_secret: false,
    }
}

impl<T> Maybe<T> {
    /// The same as a secret.
    pub(super) const fn hidden(self) -> Self {
        Self {
            is_secret: true,
            accepts: self.accepts,
            without: self.without,
            look: self.look,
        }
    }
}

pub(super) const fn maybe_path(accepts: &'static str, without: &'static str) -> Maybe<PathBuf> {
    maybe(accepts, without, |text| Ok(PathBuf::from(text)))
}

/// A secret, of which `look` says no more than what it lacks.
pub(super) const fn secret(
    accepts: &'static str,
    without: &'static str,
    look: fn(&str) -> Result<Secret, String>,
) -> Maybe<Secret> {
    Maybe {
        accepts,
        without,
        look,
        is_secret: true,
    }
}

/// A secret that something is derived from, so long that it cannot be guessed.
pub(super) fn long_secret(text: &str) -> Result<Secret, String> {
    if text.chars().count() < 32 {
        return Err("too short".to_owned());
    }
    Ok(Secret::new(text.to_owned()))
}

impl<T> Kind for Maybe<T> {
    type Value = Option<T>;

    fn accepts(&self) -> String {
        self.accepts.to_owned()
    }

    fn usual(&self) -> String {
        self.without.to_owned()
    }

    fn read(&self, text: Option<&str>, _: &Sources) -> Result<Option<T>, String> {
        text.map(self.look).transpose()
    }

    fn is_secret(&self) -> bool {
        self.is_secret
    }

    fn shown(&self, text: &str) -> String {
        match (self.is_secret, text.contains("://")) {
            (false, _) => text.to_owned(),
            (true, true) => Secret::new(text.to_owned()).without_password(),
            (true, false) => "…".to_owned(),
        }
    }
}

/// A folder, by default one of this name in `DATA_DIR`.
#[derive(Clone)]
pub(super) struct InDataDir(pub &'static str);

impl Kind for InDataDir {
    type Value = PathBuf;

    fn accepts(&self) -> String {
        "a folder".to_owned()
    }

    fn usual(&self) -> String {
        format!("{} in DATA_DIR", self.0)
    }

    fn read(&self, text: Option<&str>, sources: &Sources) -> Result<PathBuf, String> {
        Ok(match text {
            Some(text) => PathBuf::from(text),
            None => data_dir(sources).join(self.0),
        })
    }
}

/// Where an embedded start keeps what is its own, before the settings are read.
pub(super) fn data_dir(sources: &Sources) -> PathBuf {
    Path::new(
        &sources
            .text("DATA_DIR")
            .unwrap_or_else(|| DATA_DIR.to_owned()),
    )
    .to_owned()
}

/// The default of `DATA_DIR`.
pub(super) const DATA_DIR: &str = ".data";
