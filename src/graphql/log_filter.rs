//! What is logged, for operators.

use async_graphql::{Context, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{services, viewer};
use crate::{store::log_filter::Model, telemetry::filter};

/// What every process logs.
#[derive(SimpleObject)]
pub struct LogFilter {
    /// The filter: directives by commas, each a level, or a target and its level, such as `info,main_webserver=debug`.
    filter: String,
    /// Until when it stands; null for the one of the settings.
    until: Option<DateTime<Utc>>,
}

impl LogFilter {
    fn of(wanted: Option<Model>) -> Self {
        match wanted {
            Some(wanted) => Self {
                filter: wanted.filter,
                until: Some(wanted.until),
            },
            None => Self {
                filter: filter::configured(),
                until: None,
            },
        }
    }
}

/// What is to be logged for a while.
#[derive(InputObject)]
pub struct SetLogFilterInput {
    /// The filter, such as `info,main_webserver=debug`; at most 1000 bytes.
    filter: String,
    /// For how long, 0 to 86400 seconds; then, and at once for 0, the settings say again what is logged.
    seconds: i32,
}

/// What is logged from now on.
#[derive(SimpleObject)]
pub struct SetLogFilterPayload {
    /// What every process logs.
    log_filter: LogFilter,
}

#[derive(Default)]
pub struct LogFilterQuery;

#[Object]
impl LogFilterQuery {
    /// What every process logs now. For administrators.
    async fn log_filter(&self, ctx: &Context<'_>) -> Result<LogFilter> {
        Ok(LogFilter::of(services(ctx).log_filter(viewer(ctx)?).await?))
    }
}

#[derive(Default)]
pub struct LogFilterMutation;

#[Object]
impl LogFilterMutation {
    /// Has every process log by another filter for a while. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT` for a filter that cannot be followed.
    async fn set_log_filter(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What is to be logged, and for how long.")] input: SetLogFilterInput,
    ) -> Result<SetLogFilterPayload> {
        let set = services(ctx).set_log_filter(viewer(ctx)?, &input.filter, input.seconds);
        let wanted = set.await?;
        let stands = input.seconds > 0;
        Ok(SetLogFilterPayload {
            log_filter: LogFilter::of(stands.then_some(wanted)),
        })
    }
}
