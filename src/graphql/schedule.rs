//! Tasks that recur.

use async_graphql::{Context, ID, InputObject, Json, Object, Result, SimpleObject};
use chrono::{DateTime, Utc};

use super::{
    error::nullable,
    id,
    page::{Page, Window, page},
    services,
    task::Task,
    viewer,
};
use crate::{
    domain::{Id, policy::Action},
    services::schedules::Wanted,
    store::{schedules, scoped::Scoped as _},
};

/// A task that recurs: each time once, whatever the number of workers.
pub struct Schedule(schedules::Model);

/// A task that recurs: each time once, whatever the number of workers.
#[Object]
impl Schedule {
    async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// Its name.
    async fn name(&self) -> &str {
        &self.0.name
    }
    /// The kind of its tasks.
    async fn kind(&self) -> Result<String> {
        Ok(self.0.template()?.kind)
    }
    /// The input of its tasks.
    async fn input(&self) -> Result<Json<serde_json::Value>> {
        Ok(Json(self.0.template()?.input))
    }
    /// When, as a cron expression.
    async fn cron(&self) -> &str {
        &self.0.cron
    }
    /// The time zone the expression is meant in.
    async fn time_zone(&self) -> &str {
        &self.0.time_zone
    }
    /// Whether it makes tasks.
    async fn enabled(&self) -> bool {
        self.0.enabled
    }
    /// When it makes the next one.
    async fn next_at(&self) -> Option<DateTime<Utc>> {
        self.0.enabled.then_some(self.0.next_at)
    }
    /// The time it last made one for.
    async fn last_at(&self) -> Option<DateTime<Utc>> {
        self.0.last_at
    }
    /// The task it last made; null when there is none any more.
    async fn last_task(&self, ctx: &Context<'_>) -> Option<Task> {
        let id = Id::new(self.0.last_task_id?);
        let found = async {
            Ok::<_, async_graphql::Error>(Some(services(ctx).task(viewer(ctx)?, id).await?))
        };
        match found.await {
            Ok(task) => task.map(Task),
            Err(error) if is_not_found(&error) => None,
            Err(error) => nullable(ctx, Err::<Task, _>(error)),
        }
    }
    /// Grows by one with every change.
    async fn version(&self) -> i64 {
        self.0.version
    }
    /// When it was made.
    async fn created_at(&self) -> DateTime<Utc> {
        self.0.created_at
    }
}

fn is_not_found(error: &async_graphql::Error) -> bool {
    let code = error
        .extensions
        .as_ref()
        .and_then(|extensions| extensions.get("code"));
    code.is_some_and(|code| *code == async_graphql::Value::from("NOT_FOUND"))
}

/// A schedule to make, or to put in the place of the one with its name.
#[derive(InputObject)]
pub struct PutScheduleInput {
    /// Its name: 1 to 63 lower-case letters, digits and dashes.
    name: String,
    /// The kind of its tasks: `demo` or `noop`.
    kind: String,
    /// The input of its tasks.
    #[graphql(default_with = "Json(serde_json::json!({}))")]
    input: Json<serde_json::Value>,
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
pub struct ScheduleQuery;

#[Object]
impl ScheduleQuery {
    /// The schedules, the newest first. For administrators; nobody else sees any.
    async fn schedules(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many, from the start; 0 to 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "At most so many, from the end; 0 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Page<Schedule>> {
        let viewer = viewer(ctx)?;
        crate::services::signed_in(viewer)?;
        let window = Window {
            first,
            after,
            last,
            before,
        };
        Ok(page(
            ctx,
            &services(ctx).store,
            schedules::Entity::visible_to(viewer, Action::Read),
            schedules::Column::Id,
            window,
            |row| (row.id, Schedule(row)),
        )
        .await?)
    }
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
        input: PutScheduleInput,
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
            schedule: Schedule(schedule),
        })
    }

    /// Removes a schedule; the tasks it has made stay. For administrators.
    ///
    /// Errors: `UNAUTHENTICATED`, `FORBIDDEN`, `NOT_FOUND`.
    async fn delete_schedule(
        &self,
        ctx: &Context<'_>,
        input: DeleteScheduleInput,
    ) -> Result<DeleteSchedulePayload> {
        let schedule = services(ctx)
            .delete_schedule(viewer(ctx)?, id(&input.id)?)
            .await?;
        Ok(DeleteSchedulePayload {
            schedule: Schedule(schedule),
        })
    }
}
