//! Reports over time.

use async_graphql::{Context, Enum, InputObject, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{services, viewer};
use crate::{
    domain::calendar::Span,
    services::reporting::{self, Logins, Made, Over, Part, Usage},
};

/// The spans a report is cut into, as the calendar of its time zone has them.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "Span")]
pub enum ReportSpan {
    /// From full hour to full hour.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From Monday to Monday.
    Week,
    /// From the first to the first.
    Month,
}

/// What a report is told apart by.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "Part")]
pub enum ReportPart {
    /// The app of a container, the image of a virtual machine, by its slug.
    Product,
    /// The region, by its name.
    Region,
    /// The cluster, by its name.
    Cluster,
    /// The release channel; virtual machines have none.
    ReleaseChannel,
}

/// What usage is reported of.
#[derive(Enum, Clone, Copy, PartialEq, Eq)]
#[graphql(remote = "reporting::Subject")]
pub enum ReportSubject {
    /// Containers.
    Container,
    /// Virtual machines.
    Machine,
}

/// The time a report is about: at most 1000 spans.
#[derive(InputObject)]
pub struct ReportInput {
    /// Its beginning, which is taken back to that of its span; 30 days before its end unless given.
    from: Option<DateTime<Utc>>,
    /// Its end; now unless given, and no later.
    to: Option<DateTime<Utc>>,
    /// What it is cut into.
    #[graphql(default_with = "ReportSpan::Day")]
    every: ReportSpan,
    /// The time zone of the calendar, by its IANA name.
    #[graphql(default = "UTC")]
    time_zone: String,
}

impl ReportInput {
    fn over(&self) -> Over<'_> {
        Over {
            from: self.from,
            to: self.to,
            every: self.every.into(),
            time_zone: &self.time_zone,
        }
    }
}

/// A report on containers.
#[derive(InputObject)]
pub struct ContainerReportInput {
    /// The time it is about.
    over: ReportInput,
    /// What it is told apart by; nothing unless given.
    by: Option<ReportPart>,
}

/// A report on what ran.
#[derive(InputObject)]
pub struct UsageReportInput {
    /// The time it is about.
    over: ReportInput,
    /// What ran.
    #[graphql(default_with = "ReportSubject::Container")]
    of: ReportSubject,
    /// What it is told apart by; nothing unless given.
    by: Option<ReportPart>,
}

/// Who came in a span of time.
#[derive(SimpleObject)]
pub struct LoginReportRow {
    /// When the span begins.
    at: DateTime<Utc>,
    /// Logins.
    logins: i64,
    /// Tries that were refused.
    failures: i64,
    /// Different accounts that logged in.
    users: i64,
    /// New accounts.
    sign_ups: i64,
}

impl From<Logins> for LoginReportRow {
    fn from(row: Logins) -> Self {
        Self {
            at: row.at,
            logins: row.succeeded,
            failures: row.failed,
            users: row.users,
            sign_ups: row.signed_up,
        }
    }
}

/// What became of containers in a span of time.
#[derive(SimpleObject)]
pub struct ContainerReportRow {
    /// When the span begins.
    at: DateTime<Utc>,
    /// What it is told apart by; empty for all, and for what has none.
    part: String,
    /// Containers that were asked for.
    created: i64,
    /// Containers that failed.
    failed: i64,
    /// Containers that were removed.
    deleted: i64,
    /// Seconds until half of those asked for ran; null without any.
    seconds_to_running_p50: Option<f64>,
    /// Seconds until 95 in a hundred of them ran; null without any.
    seconds_to_running_p95: Option<f64>,
}

impl From<Made> for ContainerReportRow {
    fn from(row: Made) -> Self {
        Self {
            at: row.at,
            part: row.part,
            created: row.created,
            failed: row.failed,
            deleted: row.deleted,
            seconds_to_running_p50: row.wait_p50,
            seconds_to_running_p95: row.wait_p95,
        }
    }
}

/// What ran in a span of time.
#[derive(SimpleObject)]
pub struct UsageReportRow {
    /// When the span begins.
    at: DateTime<Utc>,
    /// What it is told apart by; empty for all, and for what has none.
    part: String,
    /// Hours that all of them together ran.
    hours: f64,
    /// Most that ran at one time.
    peak: i64,
    /// How many came up, one given to another owner counted again.
    began: i64,
    /// How many went down.
    ended: i64,
}

impl From<Usage> for UsageReportRow {
    fn from(row: Usage) -> Self {
        Self {
            at: row.at,
            part: row.part,
            hours: row.hours,
            peak: row.peak,
            began: row.began,
            ended: row.ended,
        }
    }
}

#[derive(Default)]
pub struct ReportQuery;

#[Object]
impl ReportQuery {
    /// Logins and sign-ups over time. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`.
    async fn login_report(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The time it is about.")] input: ReportInput,
    ) -> Result<Vec<LoginReportRow>> {
        let rows = services(ctx).login_report(viewer(ctx)?, input.over());
        Ok(rows.await?.into_iter().map(LoginReportRow::from).collect())
    }

    /// What became of containers over time; spans and parts in which nothing happened have zeros. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`.
    async fn container_report(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What it is about.")] input: ContainerReportInput,
    ) -> Result<Vec<ContainerReportRow>> {
        let by = input.by.map(Part::from);
        let rows = services(ctx).container_report(viewer(ctx)?, input.over.over(), by);
        Ok(rows
            .await?
            .into_iter()
            .map(ContainerReportRow::from)
            .collect())
    }

    /// How long and how many containers or virtual machines ran over time. One whose host is silent counts until it is
    /// known to have ended. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`.
    async fn usage_report(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "What it is about.")] input: UsageReportInput,
    ) -> Result<Vec<UsageReportRow>> {
        let (of, by) = (input.of.into(), input.by.map(Part::from));
        let rows = services(ctx).usage_report(viewer(ctx)?, input.over.over(), of, by);
        Ok(rows.await?.into_iter().map(UsageReportRow::from).collect())
    }
}
