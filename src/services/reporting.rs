//! Reports over time, for administrators.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Services, may_with_all};
pub use crate::store::reports::{Logins, Made, Part, Subject, Usage};
use crate::{
    domain::{
        calendar::{Span, Spans},
        policy::{Action, Resource, Viewer},
    },
    error::{AppError, InField as _},
    store::reports,
};

/// What a report is about when nothing is said: the last thirty days.
const USUAL: TimeDelta = TimeDelta::days(30);

/// The time a report is about.
#[derive(Clone, Copy)]
pub struct Over<'a> {
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    pub every: Span,
    pub time_zone: &'a str,
}

impl Services {
    pub async fn login_report(
        &self,
        viewer: Viewer,
        over: Over<'_>,
    ) -> Result<Vec<Logins>, AppError> {
        let spans = self.spans(viewer, over)?;
        Ok(reports::logins(&self.store, &spans).await?)
    }

    pub async fn container_report(
        &self,
        viewer: Viewer,
        over: Over<'_>,
        by: Option<Part>,
    ) -> Result<Vec<Made>, AppError> {
        let spans = self.spans(viewer, over)?;
        Ok(reports::made(&self.store, by, &spans).await?)
    }

    pub async fn usage_report(
        &self,
        viewer: Viewer,
        over: Over<'_>,
        subject: Subject,
        by: Option<Part>,
    ) -> Result<Vec<Usage>, AppError> {
        let spans = self.spans(viewer, over)?;
        Ok(reports::usage(&self.store, subject, by, &spans).await?)
    }

    /// The spans of a report: none of them lies ahead.
    fn spans(&self, viewer: Viewer, over: Over<'_>) -> Result<Spans, AppError> {
        may_with_all(viewer, Action::Read, Resource::Report)?;
        let now = self.store.now();
        let to = over.to.unwrap_or(now).min(now);
        let from = over.from.unwrap_or(to - USUAL);
        Spans::cut(from, to, over.every, over.time_zone).in_field("input")
    }
}
