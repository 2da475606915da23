//! What is logged, for operators.

use chrono::TimeDelta;
use serde_json::json;

use super::{Services, may_with_all};
use crate::{
    domain::policy::{Action, Resource, Viewer},
    error::AppError,
    store::{audit, keeps_text, log_filter},
    telemetry::filter,
};

/// Longest time somebody's filter stands, in seconds, and the longest filter, in bytes.
const LONGEST: i32 = 86_400;
const LENGTH: usize = 1000;

impl Services {
    /// What somebody wants logged now; `None` when it is what the settings say.
    pub async fn log_filter(&self, viewer: Viewer) -> Result<Option<log_filter::Model>, AppError> {
        may_with_all(viewer, Action::Read, Resource::Worker)?;
        Ok(log_filter::wanted(&self.store).await?)
    }

    /// Has every process log by `filter` for so many seconds; 0 ends what was wanted before.
    pub async fn set_log_filter(
        &self,
        viewer: Viewer,
        filter: &str,
        seconds: i32,
    ) -> Result<log_filter::Model, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Worker)?;
        let refuse = |field, reason: String| AppError::Invalid { field, reason };
        if !(0..=LONGEST).contains(&seconds) {
            let reason = format!("0 to {LONGEST} seconds are expected");
            return Err(refuse("seconds", reason));
        }
        if filter.len() > LENGTH || !keeps_text(filter) {
            let reason = format!("at most {LENGTH} bytes, none of them zero, are expected");
            return Err(refuse("filter", reason));
        }
        filter::check(filter).map_err(|error| refuse("filter", error.to_string()))?;
        let mut tx = self.store.begin().await?;
        let until = tx.now() + TimeDelta::seconds(seconds.into());
        let row = log_filter::put(&mut tx, filter, until, viewer.user()).await?;
        let detail = json!({ "filter": filter, "seconds": seconds });
        audit::record(&mut tx, viewer, "setLogFilter", log_filter::ID, detail).await?;
        tx.commit().await?;
        Ok(row)
    }
}
