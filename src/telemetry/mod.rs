//! What the service says about itself while it runs: logs and meters.

pub mod meters;

pub use meters::Meters;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogFormat, Settings};

/// Libraries that at their lowest levels log whole messages, secrets with them: credentials on sockets, and the environment
/// of containers. Not even a log of everything has these.
const DISCREET: [&str; 2] = ["tungstenite=warn", "bollard=warn"];

/// Starts logging to standard error; a second start in the same process changes nothing.
pub fn start(settings: &Settings) {
    let filter =
        DISCREET.iter().fold(
            EnvFilter::new(&settings.log),
            |filter, directive| match directive.parse() {
                Ok(directive) => filter.add_directive(directive),
                Err(_) => filter,
            },
        );
    let registry = tracing_subscriber::registry().with(filter);
    let _ = match settings.log_format {
        LogFormat::Pretty => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_target(false))
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .json()
                    .flatten_event(true)
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
}
