//! The catalogue: apps and regions.

use async_graphql::{Context, ID, Object, Result};
use sea_orm::{ColumnTrait as _, QueryFilter as _};

use super::{
    page::{Page, Window, page},
    services, viewer,
};
use crate::{
    domain::policy::Action,
    store::{apps, regions, scoped::Scoped as _},
};

/// Something a person can start.
pub struct App(pub apps::Model);

/// Something a person can start.
#[Object]
impl App {
    async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// The name to ask for it by.
    async fn slug(&self) -> &str {
        &self.0.slug
    }
    /// The name to show.
    async fn name(&self) -> &str {
        &self.0.name
    }
    /// The shelf it stands on.
    async fn category(&self) -> &str {
        &self.0.category
    }
    /// What it is, in a sentence or two.
    async fn description(&self) -> &str {
        &self.0.description
    }
    /// The container image it runs from.
    async fn image(&self) -> &str {
        &self.0.image
    }
    /// The TCP ports it listens on inside its container.
    async fn ports(&self) -> &[u16] {
        &self.0.ports.0
    }
    /// Its share of processors, in thousandths of one.
    async fn cpu_millis(&self) -> i32 {
        self.0.cpu_millis
    }
    /// Its memory, in MiB.
    async fn memory_mebibytes(&self) -> i32 {
        i32::try_from(self.0.memory_bytes / (1024 * 1024)).unwrap_or(i32::MAX)
    }
}

/// A place things run in.
pub struct Region(pub regions::Model);

/// A place things run in.
#[Object]
impl Region {
    async fn id(&self) -> ID {
        self.0.id().to_string().into()
    }
    /// The name to ask for it by.
    async fn name(&self) -> &str {
        &self.0.name
    }
    /// Whether it takes new containers now.
    async fn enabled(&self) -> bool {
        self.0.enabled
    }
}

#[derive(Default)]
pub struct AppQuery;

#[Object]
impl AppQuery {
    /// The apps on offer, the newest first.
    async fn apps(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many, from the start; 0 to 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "At most so many, from the end; 0 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Page<App>> {
        let offered = apps::Entity::visible_to(viewer(ctx)?, Action::Read)
            .filter(apps::Column::Active.eq(true));
        let window = Window {
            first,
            after,
            last,
            before,
        };
        Ok(page(
            ctx,
            &services(ctx).store,
            offered,
            apps::Column::Id,
            window,
            |row| (row.id, App(row)),
        )
        .await?)
    }

    /// The regions, the newest first.
    async fn regions(
        &self,
        ctx: &Context<'_>,
        #[graphql(desc = "At most so many, from the start; 0 to 100.")] first: Option<i32>,
        #[graphql(desc = "Only what comes after this cursor.")] after: Option<String>,
        #[graphql(desc = "At most so many, from the end; 0 to 100.")] last: Option<i32>,
        #[graphql(desc = "Only what comes before this cursor.")] before: Option<String>,
    ) -> Result<Page<Region>> {
        let all = regions::Entity::visible_to(viewer(ctx)?, Action::Read);
        let window = Window {
            first,
            after,
            last,
            before,
        };
        Ok(page(
            ctx,
            &services(ctx).store,
            all,
            regions::Column::Id,
            window,
            |row| (row.id, Region(row)),
        )
        .await?)
    }
}
