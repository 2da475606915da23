//! Which build this is. What the build is not told by its environment is not known.

use std::sync::OnceLock;

use serde::Serialize;

pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// This build, and this process of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Build {
    pub version: &'static str,
    /// `GIT_COMMIT` of the build's environment.
    pub commit: &'static str,
    /// `BUILD_TIME` of the build's environment, RFC 3339.
    pub built_at: &'static str,
}

static BUILD: OnceLock<Build> = OnceLock::new();

pub fn info() -> Build {
    *BUILD.get_or_init(|| Build {
        version: VERSION,
        commit: option_env!("GIT_COMMIT")
            .filter(|text| !text.is_empty())
            .unwrap_or("unknown"),
        built_at: option_env!("BUILD_TIME")
            .filter(|text| !text.is_empty())
            .unwrap_or("unknown"),
    })
}

/// The name of what is deployed, as Sentry has it: `main-webserver@version`, with the commit where it is known.
pub fn release() -> String {
    match info().commit {
        "unknown" => format!("main-webserver@{VERSION}"),
        commit => format!("main-webserver@{VERSION}+{commit}"),
    }
}
