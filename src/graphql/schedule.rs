//! Tasks that recur.

use async_graphql::{
    Context, ID, InputObject, Json as JsonScalar, Object, Result, SimpleObject, Value,
};
use chrono::{DateTime, Utc};

use super::{
    id,
    list::{
        cell::{
            Cell,
            Storage::{Bool, Json, Text, Time},
            json_value,
        },
        noun::{self, Kind, Noun, created_at, field, link, made, version},
        row::{Row, Shown},
    },
    services, viewer,
};
use crate::{
    domain::policy::Resource,
    services::schedules::Wanted,
    store::{schedules, tasks},
};

/// A task that recurs: each time once, whatever the number of workers.
pub type Schedule = Row<schedules::Entity>;

static SCHEDULE: Noun = Noun {
    name: "Schedule",
    doc: "A task that recurs: each time once, whatever the number of workers. Only administrators see any.",
    table: "task_schedule",
    resource: Resource::Schedule,
    owner: None,
    host: None,
    listed: None,
    fields: &[
        noun::id("schedule"),
        field("name", &[("name", Text)], Kind::Text, "Its name.")
            .filtered()
            .ordered(),
        field(
            "kind",
            &[("template", Json)],
            made::<String>(|cells| part(cells, "kind")),
            "The kind of its tasks.",
        ),
        field(
            "input",
            &[("template", Json)],
            made::<JsonScalar<serde_json::Value>>(|cells| part(cells, "input")),
            "The input of its tasks.",
        ),
        field(
            "cron",
            &[("cron", Text)],
            Kind::Text,
            "When, as a cron expression.",
        ),
        field(
            "timeZone",
            &[("time_zone", Text)],
            Kind::Text,
            "The time zone the expression is meant in.",
        )
        .filtered(),
        field(
            "enabled",
            &[("enabled", Bool)],
            Kind::Bool,
            "Whether it makes tasks.",
        )
        .filtered(),
        field(
            "nextAt",
            &[("next_at", Time), ("enabled", Bool)],
            made::<Option<DateTime<Utc>>>(|cells| match cells {
                [Cell::Time(at), Cell::Bool(true), ..] => Value::from(at.to_rfc3339()),
                _ => Value::Null,
            }),
            "When it makes the next one.",
        )
        .nullable(),
        field(
            "lastAt",
            &[("last_at", Time)],
            Kind::Time,
            "The time it last made one for.",
        )
        .nullable()
        .filtered(),
        version(),
        created_at("When it was made."),
    ],
    links: &[link::<tasks::Entity>(
        "lastTask",
        "last_task_id",
        "The task it last made; null when there is none any more.",
    )],
    many: &[],
};

impl Shown for schedules::Entity {
    fn noun() -> &'static Noun {
        &SCHEDULE
    }
}

/// A part of the template its tasks are made from.
fn part(cells: &[Cell], name: &str) -> Value {
    let Some(Cell::Json(template)) = cells.first() else {
        return Value::Null;
    };
    json_value(template.get(name).cloned().unwrap_or_default())
}

/// A schedule to make, or to put in the place of the one with its name.
#[derive(InputObject)]
pub struct PutScheduleInput {
    /// Its name: 1 to 63 lower-case letters, digits and dashes.
    name: String,
    /// The kind of its tasks: `demo` or `noop`.
    kind: String,
    /// The input of its tasks.
    #[graphql(default_with = "JsonScalar(serde_json::json!({}))")]
    input: JsonScalar<serde_json::Value>,
    /// When: minute, hour, day of the month, month, day of the week; six fields begin with the second.
    cron: String,
    /// The time zone the expression is meant in, by its IANA name.
    #[graphql(default = "UTC")]
    time_zone: String,
    /// Whether it makes tasks.
    #[graphql(default = true)]
    enabled: bool,
}

/// The schedule as it is now.
#[derive(SimpleObject)]
pub struct PutSchedulePayload {
    /// The schedule.
    schedule: Schedule,
}

/// A schedule to remove.
#[derive(InputObject)]
pub struct DeleteScheduleInput {
    /// The schedule.
    id: ID,
}

/// The schedule that was removed.
#[derive(SimpleObject)]
pub struct DeleteSchedulePayload {
    /// The schedule as it was.
    schedule: Schedule,
}

#[derive(Default)]
pub struct ScheduleMutation;

#[Object]
impl ScheduleMutation {
    /// Makes a schedule, or changes the one with that name. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `BAD_USER_INPUT`.
    async fn put_schedule(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The schedule as it is to be.")] input: PutScheduleInput,
    ) -> Result<PutSchedulePayload> {
        let wanted = Wanted {
            name: &input.name,
            kind: &input.kind,
            input: input.input.0,
            cron: &input.cron,
            time_zone: &input.time_zone,
            enabled: input.enabled,
        };
        let schedule = services(ctx).put_schedule(viewer(ctx)?, wanted).await?;
        Ok(PutSchedulePayload {
            schedule: Schedule::of(&schedule),
        })
    }

    /// Removes a schedule; the tasks it has made stay. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`.
    async fn delete_schedule(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "The schedule to remove.")] input: DeleteScheduleInput,
    ) -> Result<DeleteSchedulePayload> {
        let schedule = services(ctx)
            .delete_schedule(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(DeleteSchedulePayload {
            schedule: Schedule::of(&schedule),
        })
    }
}
