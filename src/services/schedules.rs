//! Tasks that recur.

use sea_orm::{ColumnTrait as _, JsonValue, QueryFilter as _};

use super::{Services, may_with_all};
use crate::{
    domain::{
        Id,
        cadence::Cadence,
        id::Schedule,
        policy::{Action, Resource, Viewer},
        value::Slug,
    },
    error::{AppError, InField as _},
    store::{
        schedules::{self, Entity, Model, NewSchedule},
        scoped::Scoped as _,
    },
    tasks::open,
};

const NO_SCHEDULE: AppError = AppError::NotFound { what: "schedule" };

/// A schedule somebody wants.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub kind: &'a str,
    pub input: JsonValue,
    pub cron: &'a str,
    pub time_zone: &'a str,
    pub enabled: bool,
}

impl Services {
    /// Adds a schedule, or puts it in the place of the one with its name.
    pub async fn put_schedule(
        &self,
        viewer: Viewer,
        wanted: Wanted<'_>,
    ) -> Result<Model, AppError> {
        may_with_all(viewer, Action::Create, Resource::Schedule)?;
        let name = Slug::parse(wanted.name).in_field("name")?;
        let cadence = Cadence::parse(wanted.cron, wanted.time_zone).in_field("cron")?;
        let next_at = cadence
            .next(self.store.now())
            .ok_or_else(|| AppError::Invalid {
                field: "cron",
                reason: "it never comes round".to_owned(),
            })?;
        let task = open::task(wanted.kind, wanted.input)?;
        let schedule = NewSchedule {
            name: name.as_str().to_owned(),
            template: task.into(),
            cron: wanted.cron.to_owned(),
            time_zone: wanted.time_zone.to_owned(),
            enabled: wanted.enabled,
            next_at,
        };
        let mut tx = self.store.begin().await?;
        let schedule = schedules::put(&mut tx, schedule).await?;
        tx.commit().await?;
        Ok(schedule)
    }

    /// Removes a schedule; the tasks it has made stay.
    pub async fn delete_schedule(
        &self,
        viewer: Viewer,
        id: Id<Schedule>,
    ) -> Result<Model, AppError> {
        may_with_all(viewer, Action::Delete, Resource::Schedule)?;
        let reached =
            Entity::visible_to(viewer, Action::Delete).filter(schedules::Column::Id.eq(id.uuid()));
        let schedule = reached.one(self.store.db()).await?.ok_or(NO_SCHEDULE)?;
        let mut tx = self.store.begin().await?;
        if !schedules::remove(&mut tx, id).await? {
            return Err(NO_SCHEDULE);
        }
        tx.commit().await?;
        Ok(schedule)
    }
}
