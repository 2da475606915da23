//! Asking for containers and giving them up.

use sea_orm::{ColumnTrait as _, QueryFilter as _, QuerySelect as _};

use super::{BEING_USED, REUSED, Services, idempotency_key, replayed, signed_in};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        id::Container,
        policy::{Action, Viewer},
        value::{Dpi, Slug},
    },
    error::{AppError, InField as _},
    store::{
        apps,
        containers::{self, ActiveModel, Model},
        regions,
        scoped::Scoped as _,
        tasks::{self, TaskInput as _},
    },
    tasks::{create_container, delete_container},
};

/// What somebody wants.
pub struct Create<'a> {
    pub app: &'a str,
    pub region: &'a str,
    pub dpi: i32,
    pub idempotency_key: Option<&'a str>,
}

/// A container that has been asked for.
pub struct Created {
    pub container: Model,
    pub task: tasks::Model,
    /// What the container shows to prove which one it is; `None` when the request is a repeated one.
    pub secret_key: Option<String>,
}

const NO_CONTAINER: AppError = AppError::NotFound { what: "container" };

impl Services {
    /// Records a container and the task that makes it.
    pub async fn create_container(
        &self,
        viewer: Viewer,
        wanted: Create<'_>,
    ) -> Result<Created, AppError> {
        let owner = signed_in(viewer)?;
        let dpi = Dpi::parse(wanted.dpi).in_field("dpi")?;
        let key = idempotency_key(wanted.idempotency_key)?;
        let (app, region) = (
            self.offered_app(viewer, wanted.app).await?,
            self.open_region(viewer, wanted.region).await?,
        );
        let db = self.store.db();
        if let Some(task) = replayed(db, owner, key.as_ref(), create_container::Input::KIND).await?
        {
            let container = match task.subject_id {
                Some(id) => containers::unscoped_by_id(db, Id::new(id)).await?,
                None => None,
            };
            let same = |row: &Model| {
                row.app_id == app.id
                    && row.region_id == region.id
                    && row.dpi == dpi.get().cast_signed()
            };
            let container = container.filter(same).ok_or(REUSED)?;
            return Ok(Created {
                container,
                task,
                secret_key: None,
            });
        }
        self.admission.admit(&self.store, owner, 1).await?;
        let mut tx = self.store.begin().await?;
        let container =
            containers::insert(&mut tx, Some(owner), app.id(), region.id(), dpi).await?;
        let input = create_container::Input {
            container: container.id,
        };
        let task = input
            .into_task(Some(owner), Some(container.id))?
            .with_key(key);
        let task = tasks::insert(&mut tx, task).await?;
        // Somebody else's request with the same key was first after all.
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        tx.commit().await?;
        let secret_key = Some(self.keyring.container_key(container.id()));
        Ok(Created {
            container,
            task,
            secret_key,
        })
    }

    /// Marks a container as unwanted, stops its creation, and records the task that removes it.
    ///
    /// Deleting what is being deleted gives the task that does it.
    pub async fn delete_container(
        &self,
        viewer: Viewer,
        id: Id<Container>,
        key: Option<&str>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(key)?;
        let mut tx = self.store.begin().await?;
        let reached = containers::Entity::visible_to(viewer, Action::Delete)
            .filter(containers::Column::Id.eq(id.uuid()));
        reached.clone().one(&tx).await?.ok_or(NO_CONTAINER)?;
        // Both locked, so that two deletions at once take turns, and a creation's last write comes before or after.
        let live = tasks::lock_live_of(&tx, id.uuid()).await?;
        let container = reached
            .lock_exclusive()
            .one(&tx)
            .await?
            .ok_or(NO_CONTAINER)?;
        if let Some(task) =
            replayed(&tx, owner, key.as_ref(), delete_container::Input::KIND).await?
        {
            return if task.subject_id == Some(container.id) {
                Ok((container, task))
            } else {
                Err(REUSED)
            };
        }
        let container = if container.state()? == ContainerState::Deleting {
            let live = tasks::unscoped_live_of(&tx, container.id).await?;
            if let Some(task) = live
                .into_iter()
                .find(|task| task.kind == delete_container::Input::KIND)
            {
                return Ok((container, task));
            }
            container
        } else {
            containers::transition(
                &mut tx,
                &container,
                ContainerEvent::Delete,
                ActiveModel::default(),
            )
            .await?
        };
        for task in live
            .iter()
            .filter(|task| task.kind == create_container::Input::KIND)
        {
            tasks::request_cancel(&mut tx, task).await?;
        }
        let input = delete_container::Input {
            container: container.id,
        };
        let task = input
            .into_task(container.owner_id.map(Id::new), Some(container.id))?
            .with_key(key);
        let task = tasks::insert(&mut tx, task).await?;
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        tx.commit().await?;
        Ok((container, task))
    }

    /// One container the viewer may see.
    pub async fn container(&self, viewer: Viewer, id: Id<Container>) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let reached = containers::Entity::visible_to(viewer, Action::Read)
            .filter(containers::Column::Id.eq(id.uuid()));
        reached.one(self.store.db()).await?.ok_or(NO_CONTAINER)
    }

    async fn offered_app(&self, viewer: Viewer, slug: &str) -> Result<apps::Model, AppError> {
        let slug = Slug::parse(slug).in_field("app")?;
        let offered = apps::Entity::visible_to(viewer, Action::Read)
            .filter(apps::Column::Slug.eq(slug.as_str()))
            .filter(apps::Column::Active.eq(true));
        let unknown = || AppError::Invalid {
            field: "app",
            reason: format!("there is no app '{}'", slug.as_str()),
        };
        offered.one(self.store.db()).await?.ok_or_else(unknown)
    }

    async fn open_region(&self, viewer: Viewer, name: &str) -> Result<regions::Model, AppError> {
        let name = Slug::parse(name).in_field("region")?;
        let named = regions::Entity::visible_to(viewer, Action::Read)
            .filter(regions::Column::Name.eq(name.as_str()));
        let refused = |what| AppError::Invalid {
            field: "region",
            reason: format!("region '{}' {what}", name.as_str()),
        };
        let region = named
            .one(self.store.db())
            .await?
            .ok_or_else(|| refused("does not exist"))?;
        if region.enabled {
            Ok(region)
        } else {
            Err(refused("takes no containers now"))
        }
    }
}
