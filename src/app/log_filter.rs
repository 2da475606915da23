//! Keeps the log of this process to what somebody wants of all.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::control::Control;
use crate::{
    domain::Table,
    error::StoreError,
    live::EventBus,
    store::{Store, log_filter},
    telemetry,
};

/// When it is looked again while the database is away.
const AGAIN: Duration = Duration::from_secs(5);

/// Follows what is wanted until `stop`.
pub(super) async fn follow(store: Store, bus: Arc<dyn EventBus>, stop: CancellationToken) {
    let mut control = Control::of(&*bus);
    loop {
        let look_at = match apply(&store).await {
            Ok(until) => until,
            Err(error) => {
                tracing::debug!(%error, "what is to be logged is not known now");
                Some(store.now() + AGAIN)
            }
        };
        let is_time = async {
            match look_at {
                Some(at) => store.clock.sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            is_open = control.hears(|change| change.table == Table::LogFilter) => if !is_open { return },
            () = is_time => {}
        }
    }
}

/// Logs by what is wanted now; until when that is.
async fn apply(store: &Store) -> Result<Option<DateTime<Utc>>, StoreError> {
    let wanted = log_filter::wanted(store).await?;
    let filter = wanted.as_ref().map(|wanted| wanted.filter.as_str());
    if let Err(error) = telemetry::override_filter(filter) {
        // Another version's words.
        tracing::warn!(%error, "what somebody wants logged cannot be followed");
    }
    Ok(wanted.map(|wanted| wanted.until))
}
