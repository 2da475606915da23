//! What can be started and where: apps with their images, regions, warm pools, and who is on which release channel.

use std::collections::BTreeMap;

use sea_orm::{ActiveValue::Set, ColumnTrait as _, EntityTrait as _, QueryFilter as _};
use serde_json::json;

use super::{Services, may_with_all};
use crate::{
    domain::{
        Id,
        id::{Region, User},
        policy::{Action, Resource, Viewer},
        value::{DisplayName, Slug},
    },
    error::{AppError, InField as _},
    store::{accounts, apps, audit, pools, regions, tasks},
    tasks::refill_pool,
};

/// Most containers a warm pool may have.
const LARGEST_POOL: i32 = 10_000;

/// An app as it is to be.
pub struct App<'a> {
    pub slug: &'a str,
    pub name: &'a str,
    pub category: &'a str,
    pub description: &'a str,
    pub image: &'a str,
    /// Images of release channels with one of their own.
    pub images: BTreeMap<String, String>,
    pub command: Vec<String>,
    pub ports: Vec<i32>,
    pub cpu_millis: i32,
    pub memory_mebibytes: i32,
    pub active: bool,
}

pub(super) fn invalid(field: &'static str, reason: &str) -> AppError {
    AppError::Invalid {
        field,
        reason: reason.to_owned(),
    }
}

pub(super) fn text(field: &'static str, text: &str, most: usize) -> Result<String, AppError> {
    let text = text.trim();
    if text.chars().count() <= most && !text.contains('\0') {
        return Ok(text.to_owned());
    }
    Err(invalid(
        field,
        &format!("at most {most} characters are expected"),
    ))
}

pub(super) fn ports(ports: &[i32]) -> Result<Vec<u16>, AppError> {
    let ports = ports.iter().map(|port| u16::try_from(*port).ok());
    let ports: Option<Vec<u16>> = ports.map(|port| port.filter(|port| *port > 0)).collect();
    ports
        .filter(|ports| ports.len() <= 50)
        .ok_or_else(|| invalid("ports", "at most 50 of 1 to 65535 are expected"))
}

fn image(field: &'static str, name: &str) -> Result<String, AppError> {
    let is_name = (1..=255).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._-/:@".contains(&b));
    if is_name {
        return Ok(name.to_owned());
    }
    Err(invalid(
        field,
        "the name of an image is expected, such as app:1.2",
    ))
}

impl Services {
    /// Adds an app to the catalogue, or changes the one with its slug. Containers that run keep what they were made from.
    pub async fn put_app(&self, viewer: Viewer, app: App<'_>) -> Result<apps::Model, AppError> {
        may_with_all(viewer, Action::Create, Resource::App)?;
        let slug = Slug::parse(app.slug).in_field("slug")?;
        let name = DisplayName::parse(app.name).in_field("name")?;
        let mut images = BTreeMap::new();
        for (channel, of_channel) in &app.images {
            let channel = Slug::parse(channel).in_field("images")?;
            images.insert(channel.as_str().to_owned(), image("images", of_channel)?);
        }
        let ports = ports(&app.ports)?;
        if !(0..=1_000_000).contains(&app.cpu_millis) {
            return Err(invalid(
                "cpuMillis",
                "0 to 1000000 is expected; 0 sets no limit",
            ));
        }
        if !(0..=16_777_216).contains(&app.memory_mebibytes) {
            return Err(invalid(
                "memoryMebibytes",
                "0 to 16777216 is expected; 0 sets no limit",
            ));
        }
        if app.command.len() > 100
            || app
                .command
                .iter()
                .any(|word| word.len() > 4096 || word.contains('\0'))
        {
            return Err(invalid(
                "command",
                "at most 100 words of 4096 bytes are expected",
            ));
        }
        let new = apps::NewApp {
            slug: slug.as_str().to_owned(),
            name: name.as_str().to_owned(),
            category: text("category", app.category, 64)?,
            description: text("description", app.description, 4000)?,
            image: image("image", app.image)?,
            images,
            command: app.command,
            ports,
            cpu_millis: app.cpu_millis,
            memory_bytes: i64::from(app.memory_mebibytes) << 20,
        };
        let mut tx = self.store.begin().await?;
        let known = apps::Entity::find().filter(apps::Column::Slug.eq(&*new.slug));
        let row = match known.one(&tx).await? {
            None => apps::insert(&mut tx, new).await?,
            Some(known) => apps::change(&mut tx, &known, new.into_patch()).await?,
        };
        let row = if row.active == app.active {
            row
        } else {
            let patch = apps::ActiveModel {
                active: Set(app.active),
                ..Default::default()
            };
            apps::change(&mut tx, &row, patch).await?
        };
        let detail = json!({ "slug": row.slug, "image": row.image, "images": row.images });
        audit::record(&mut tx, viewer, "app.put", row.id(), detail).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Opens or closes a region, and chooses the engine of what has no cluster there.
    pub async fn update_region(
        &self,
        viewer: Viewer,
        id: Id<Region>,
        enabled: Option<bool>,
        provider: Option<Option<String>>,
    ) -> Result<regions::Model, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Region)?;
        let mut patch = <regions::ActiveModel as Default>::default();
        if let Some(enabled) = enabled {
            patch.enabled = Set(enabled);
        }
        if let Some(provider) = provider {
            let known = crate::tasks::clusters::ENGINES;
            if provider
                .as_deref()
                .is_some_and(|name| !known.contains(&name))
            {
                let known = known.join(", ");
                return Err(invalid("provider", &format!("one of {known} is expected")));
            }
            patch.provider = Set(provider);
        }
        let mut tx = self.store.begin().await?;
        let row = if enabled.is_some() || patch.provider.is_set() {
            regions::change(&mut tx, id, patch).await?
        } else {
            regions::unscoped_by_id(&tx, id).await?
        };
        let row = row.ok_or(AppError::NotFound { what: "region" })?;
        let detail = json!({ "enabled": row.enabled, "provider": row.provider });
        audit::record(&mut tx, viewer, "region.update", id, detail).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// How many containers of an app are kept running for nobody in a region; 0 ends it.
    pub async fn set_warm_pool(
        &self,
        viewer: Viewer,
        app: &str,
        region: &str,
        size: i32,
    ) -> Result<(pools::Model, tasks::Model), AppError> {
        may_with_all(viewer, Action::Create, Resource::Pool)?;
        if !(0..=LARGEST_POOL).contains(&size) {
            return Err(invalid("size", &format!("0 to {LARGEST_POOL} is expected")));
        }
        let app = self.offered_app(viewer, app).await?;
        let region = self.open_region(viewer, region).await?;
        let mut tx = self.store.begin().await?;
        let pool = pools::put(&mut tx, app.id(), region.id(), size).await?;
        let task = refill_pool::request(&mut tx, &pool).await?;
        let detail = json!({ "app": app.slug, "region": region.name, "size": size });
        audit::record(&mut tx, viewer, "pool.set", pool.id(), detail).await?;
        tx.commit().await?;
        Ok((pool, task))
    }

    /// Moves somebody to another release channel; their next containers are made from its images.
    pub async fn set_release_channel(
        &self,
        viewer: Viewer,
        user: Id<User>,
        channel: &str,
    ) -> Result<accounts::Model, AppError> {
        may_with_all(viewer, Action::Operate, Resource::User)?;
        let channel = Slug::parse(channel).in_field("channel")?;
        let mut tx = self.store.begin().await?;
        let row = accounts::set_release_channel(&mut tx, user, channel.as_str()).await?;
        let row = row.ok_or(AppError::NotFound { what: "user" })?;
        let detail = json!({ "channel": channel.as_str() });
        audit::record(&mut tx, viewer, "user.channel", user, detail).await?;
        tx.commit().await?;
        Ok(row)
    }
}
