//! What the service says about itself while it runs: logs, traces, meters and reports of faults.

pub mod build;
mod export;
pub mod filter;
mod logs;
pub mod meters;
mod panics;
mod post;
pub mod process;
mod redact;
mod reports;
mod resources;
pub mod slow;
pub mod trace;
pub mod work;

use std::time::Duration;

pub use filter::{override_filter, set_filter};
pub use meters::Meters;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing_subscriber::{fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    config::{LogFormat, Settings},
    domain::{Clock as _, SystemClock},
};

/// Longest time the last traces and reports get at the end.
const FLUSH: Duration = Duration::from_secs(3);

/// Starts what a process says of itself, `role` being what it is started for. A second start in the same process changes
/// nothing.
pub fn start(settings: &Settings, role: &'static str) {
    process::started();
    let told = &settings.telemetry;
    let registry = tracing_subscriber::registry()
        .with(filter::layer(&settings.log))
        .with(reports::Reports::new(settings));
    let _ = match settings.log_format {
        LogFormat::Pretty => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_target(false))
            .try_init(),
        LogFormat::Json => registry
            .with(
                fmt::layer()
                    .event_format(logs::Json::new(settings))
                    .with_writer(std::io::stderr),
            )
            .try_init(),
    };
    panics::log(settings.log_format == LogFormat::Pretty);
    slow::set_limits(told.slow_query, told.slow_operation);
    reports::start(told);
    export::start(settings, role);
}

/// Sends what has not been sent yet, within a limit.
pub async fn flush() {
    tokio::join!(export::flush(FLUSH), reports::flush(FLUSH));
}

/// Asks whoever takes from `queue` to be done with all that is in it; whether that was so within the limit.
async fn flushed<T>(
    queue: Option<&mpsc::Sender<T>>,
    ask: impl FnOnce(oneshot::Sender<()>) -> T,
    limit: Duration,
) -> bool {
    let Some(queue) = queue else {
        return true;
    };
    let (done, is_done) = oneshot::channel();
    let flush = async {
        if queue.send(ask(done)).await.is_ok() {
            let _ = is_done.await;
        }
    };
    timeout(limit, flush).await.is_ok()
}

/// Lets some of the machine's time pass: what is sent elsewhere has nothing to do with the service's own clock.
async fn pause(duration: Duration) {
    SystemClock.sleep(duration).await;
}
