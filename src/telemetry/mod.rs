//! What the service says about itself while it runs: logs and meters.

pub mod meters;

pub use meters::Meters;
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::config::{LogFormat, Settings};

/// Starts logging to standard error; a second start in the same process changes nothing.
pub fn start(settings: &Settings) {
    let filter = EnvFilter::new(&settings.log);
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
