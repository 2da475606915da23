//! What is logged, and changing it while the service runs.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config;

/// Libraries that at their lowest levels log whole messages, secrets with them: credentials on sockets, the environment
/// of containers, passwords of Redis and PostgreSQL, the values of statements. Not even a log of everything has these.
const DISCREET: [&str; 6] = [
    "tungstenite=warn",
    "bollard=warn",
    "fred=info",
    "sqlx=info",
    "sea_orm=info",
    "hyper=info",
];

/// A filter nobody can follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFilter(String);

struct Logged {
    handle: Option<reload::Handle<EnvFilter, Registry>>,
    /// What the settings say.
    configured: String,
    /// What somebody wants for a while.
    wanted: Option<String>,
}

static LOGGED: OnceLock<Mutex<Logged>> = OnceLock::new();

fn logged() -> MutexGuard<'static, Logged> {
    let logged = LOGGED.get_or_init(|| {
        Mutex::new(Logged {
            handle: None,
            configured: "info".to_owned(),
            wanted: None,
        })
    });
    logged.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks a filter as [`config::check_log_filter`] does.
pub fn check(text: &str) -> Result<(), BadFilter> {
    config::check_log_filter(text).map_err(BadFilter)
}

fn parse(text: &str) -> Result<EnvFilter, BadFilter> {
    check(text)?;
    let is_discreet = |directive: &&str| {
        let target = directive
            .trim()
            .split(['=', '['])
            .next()
            .unwrap_or_default();
        let library = target.split("::").next().unwrap_or_default();
        DISCREET
            .iter()
            .any(|known| known.split('=').next() == Some(library))
    };
    // A quieter wish for these is theirs to have, a louder one nobody's: below, the last of a target stands.
    let (discreet, others): (Vec<&str>, Vec<&str>) = text.split(',').partition(is_discreet);
    let quiet = discreet.into_iter().filter(|directive| {
        let level = directive.rsplit('=').next().unwrap_or_default();
        let level = level.trim().parse::<LevelFilter>();
        level.is_ok_and(|level| level <= LevelFilter::WARN)
    });
    let directives: Vec<&str> = others.into_iter().chain(DISCREET).chain(quiet).collect();
    EnvFilter::builder()
        .parse(directives.join(","))
        .map_err(|error| BadFilter(error.to_string()))
}

/// The layer that keeps to the filter, at first the configured one.
pub(super) fn layer(configured: &str) -> reload::Layer<EnvFilter, Registry> {
    let filter = parse(configured).unwrap_or_else(|_| EnvFilter::new("info"));
    let (layer, handle) = reload::Layer::new(filter);
    let mut logged = logged();
    // The first of the process is the one that is installed.
    if logged.handle.is_none() {
        logged.handle = Some(handle);
        configured.clone_into(&mut logged.configured);
    }
    layer
}

/// What the settings want logged from now on; while somebody wants something else, from then on.
pub fn set_filter(text: &str) -> Result<(), BadFilter> {
    check(text)?;
    let mut logged = logged();
    text.clone_into(&mut logged.configured);
    apply(&logged)
}

/// What somebody wants logged instead; `None` goes back to what the settings say.
pub fn override_filter(text: Option<&str>) -> Result<(), BadFilter> {
    if let Some(text) = text {
        check(text)?;
    }
    let mut logged = logged();
    if logged.wanted.as_deref() == text {
        return Ok(());
    }
    logged.wanted = text.map(str::to_owned);
    apply(&logged)
}

/// What the settings want logged.
pub fn configured() -> String {
    logged().configured.clone()
}

fn apply(logged: &Logged) -> Result<(), BadFilter> {
    let filter = parse(logged.wanted.as_ref().unwrap_or(&logged.configured))?;
    if let Some(handle) = &logged.handle {
        // It fails only when the subscriber is gone.
        let _ = handle.reload(filter);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_level_is_refused_by_name() {
        for bad in ["inof", "info,main_webserver=debgu", "info,[", "a=b=c"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check("inof").unwrap_err().to_string().contains("'inof'"));
        for good in [
            "info",
            "off",
            "warn,main_webserver::queue=trace",
            "INFO",
            "",
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn nobody_hears_the_secrets_of_libraries() {
        let text = parse("trace,tungstenite=trace,fred::protocol=trace,sqlx[query]=trace").unwrap();
        let text = text.to_string();
        for known in DISCREET {
            assert!(text.contains(known), "{known} in {text}");
        }
        for wish in ["tungstenite=trace", "fred::protocol", "sqlx["] {
            assert!(!text.contains(wish), "{wish} in {text}");
        }
        assert!(parse("fred=off").unwrap().to_string().contains("fred=off"));
    }
}
