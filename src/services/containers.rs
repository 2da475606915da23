//! Asking for containers, changing them, and giving them up.

use std::time::Duration;

use sea_orm::{ActiveValue::Set, ColumnTrait as _, QueryFilter as _};
use serde_json::json;
use uuid::Uuid;

use super::{BEING_USED, REUSED, Services, idempotency_key, replayed, signed_in};
use crate::{
    domain::{
        Id,
        cluster::ClusterStatus,
        container::{ContainerEvent, ContainerState},
        id::{Cluster, Container, User},
        policy::{Action, Viewer},
        value::{Dpi, IdempotencyKey, Slug},
    },
    error::{AppError, InField as _},
    store::{
        Tx, accounts, apps, audit, clusters,
        containers::{self, ActiveModel, Model, NewContainer},
        regions,
        scoped::Scoped as _,
        tasks::{self, Enqueued, TaskInput as _},
    },
    tasks::{assign_container, create_container, delete_container, drain_container},
};

/// What somebody wants.
pub struct Wanted<'a> {
    pub app: &'a str,
    pub region: &'a str,
    pub cluster: Option<Id<Cluster>>,
    pub dpi: i32,
    pub stun: bool,
    pub idempotency_key: Option<&'a str>,
}

/// A container that has been asked for.
pub struct Created {
    pub container: Model,
    pub task: tasks::Model,
    /// What the container shows to prove which one it is; `None` when the request is a repeated one.
    pub secret_key: Option<String>,
    /// Whether it was there already, running for nobody.
    pub is_warm: bool,
}

/// What is to be different about a container.
pub struct Changes {
    pub dpi: Option<i32>,
    pub stun: Option<bool>,
}

const NO_CONTAINER: AppError = AppError::NotFound { what: "container" };

impl Services {
    /// Records a container and the task that makes it.
    pub async fn create_container(
        &self,
        viewer: Viewer,
        wanted: Wanted<'_>,
    ) -> Result<Created, AppError> {
        self.obtain(viewer, wanted, false).await
    }

    /// Gives a running container that nobody has to the viewer; where there is none, makes one.
    pub async fn assign_container(
        &self,
        viewer: Viewer,
        wanted: Wanted<'_>,
    ) -> Result<Created, AppError> {
        self.obtain(viewer, wanted, true).await
    }

    async fn obtain(
        &self,
        viewer: Viewer,
        wanted: Wanted<'_>,
        may_be_warm: bool,
    ) -> Result<Created, AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(wanted.idempotency_key)?;
        let container = self.resolve(viewer, owner, &wanted).await?;
        let earlier = self.replayed_creation(owner, key.as_ref(), &container);
        if let Some(created) = earlier.await? {
            return Ok(created);
        }
        self.admission.admit(&self.store, owner, 1).await?;
        let mut tx = self.store.begin().await?;
        self.keep_quota(&tx, owner).await?;
        let warm = if may_be_warm {
            containers::assign_warm(&mut tx, &container, owner).await?
        } else {
            None
        };
        let created = if let Some(row) = warm {
            let input = assign_container::Input { container: row.id };
            let task = input.into_task(Some(owner), Some(row.id))?.with_key(key);
            let task = tasks::insert(&mut tx, task).await?;
            self.made((row, task), true)?
        } else {
            let made = create_container::request(&mut tx, container, key).await?;
            self.made(made, false)?
        };
        let action = if created.is_warm {
            "container.assign"
        } else {
            "container.create"
        };
        let detail = json!({ "app": wanted.app, "region": wanted.region });
        audit::record(&mut tx, viewer, action, created.container.id(), detail).await?;
        tx.commit().await?;
        Ok(created)
    }

    fn made(
        &self,
        (container, task): (Model, Enqueued),
        is_warm: bool,
    ) -> Result<Created, AppError> {
        // Somebody else's request with the same key was first after all.
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        let secret_key = Some(self.keyring.container_key(container.id()));
        Ok(Created {
            container,
            task,
            secret_key,
            is_warm,
        })
    }

    /// What an earlier request with the same key has got.
    async fn replayed_creation(
        &self,
        owner: Id<User>,
        key: Option<&IdempotencyKey>,
        wanted: &NewContainer,
    ) -> Result<Option<Created>, AppError> {
        let Some(key) = key else { return Ok(None) };
        let db = self.store.db();
        let Some(task) = tasks::by_idempotency_key(db, owner, key).await? else {
            return Ok(None);
        };
        let kinds = [create_container::Input::KIND, assign_container::Input::KIND];
        if !kinds.contains(&&*task.kind) {
            return Err(REUSED);
        }
        let container = match task.subject_id {
            Some(id) => containers::unscoped_by_id(db, Id::new(id)).await?,
            None => None,
        };
        let same = |row: &Model| {
            row.app_id == wanted.app.uuid()
                && row.region_id == wanted.region.uuid()
                && row.dpi == wanted.dpi.get().cast_signed()
        };
        Ok(Some(Created {
            container: container.filter(same).ok_or(REUSED)?,
            is_warm: task.kind == assign_container::Input::KIND,
            task,
            secret_key: None,
        }))
    }

    /// Refuses one more container than an owner may have. The owner's row stays locked until the transaction ends, so that
    /// those who count take turns.
    async fn keep_quota(&self, tx: &Tx<'_>, owner: Id<User>) -> Result<(), AppError> {
        accounts::lock(tx, owner).await?;
        if containers::unscoped_count_of(tx, owner).await? < self.fleet.get().containers_per_owner {
            return Ok(());
        }
        Err(AppError::QuotaExceeded {
            what: "containers",
            limit: self.fleet.get().containers_per_owner,
        })
    }

    /// Reads what is wanted: an app on offer, a region and perhaps a cluster that take containers.
    async fn resolve(
        &self,
        viewer: Viewer,
        owner: Id<User>,
        wanted: &Wanted<'_>,
    ) -> Result<NewContainer, AppError> {
        let dpi = Dpi::parse(wanted.dpi).in_field("dpi")?;
        let app = self.offered_app(viewer, wanted.app).await?;
        let region = self.open_region(viewer, wanted.region).await?;
        if let Some(id) = wanted.cluster {
            self.open_cluster(id, region.id).await?;
        }
        let account = accounts::unscoped_by_id(self.store.db(), owner).await?;
        let channel = account.map_or_else(|| "stable".to_owned(), |a| a.release_channel);
        Ok(NewContainer {
            owner: Some(owner),
            app: app.id(),
            region: region.id(),
            cluster: wanted.cluster,
            dpi,
            stun: wanted.stun,
            image: app.image_of(&channel).to_owned(),
            release_channel: channel,
            cpu_millis: app.cpu_millis.into(),
            memory_bytes: app.memory_bytes,
        })
    }

    /// Marks a container as unwanted, stops what works on it, and records the task that removes it.
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
        let (live, row) = reached(&tx, viewer, Action::Delete, id).await?;
        let kind = delete_container::Input::KIND;
        if let Some(task) = replayed_on(&tx, owner, key.as_ref(), kind, row.id).await? {
            return Ok((row, task));
        }
        let is_asked_already = row.state()? == ContainerState::Deleting;
        let (row, task) = delete_container::request(&mut tx, &row, &live, key).await?;
        if !task.is_new && !is_asked_already {
            return Err(BEING_USED);
        }
        if task.is_new {
            audit::record(&mut tx, viewer, "container.delete", id, json!({})).await?;
        }
        tx.commit().await?;
        Ok((row, task.task))
    }

    /// Lets a container's client finish, for `patience` at most, and then removes the container.
    pub async fn drain_container(
        &self,
        viewer: Viewer,
        id: Id<Container>,
        patience: Option<Duration>,
        key: Option<&str>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(key)?;
        let mut tx = self.store.begin().await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, id).await?;
        let kind = drain_container::Input::KIND;
        if let Some(task) = replayed_on(&tx, owner, key.as_ref(), kind, row.id).await? {
            return Ok((row, task));
        }
        let patience = patience.unwrap_or(self.fleet.get().patience);
        let (row, task) = drain_container::request(&mut tx, &row, patience, key).await?;
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        let detail = json!({ "patienceSeconds": patience.as_secs() });
        audit::record(&mut tx, viewer, "container.drain", id, detail).await?;
        tx.commit().await?;
        Ok((row, task))
    }

    /// Has a container made anew where it is, with what it is to have now.
    pub async fn restart_container(
        &self,
        viewer: Viewer,
        id: Id<Container>,
        key: Option<&str>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let owner = signed_in(viewer)?;
        let key = idempotency_key(key)?;
        let mut tx = self.store.begin().await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, id).await?;
        let kind = create_container::Input::KIND;
        if let Some(task) = replayed_on(&tx, owner, key.as_ref(), kind, row.id).await? {
            return Ok((row, task));
        }
        // One that failed did not count.
        if row.state()? == ContainerState::Failed
            && let Some(owner) = row.owner_id
        {
            self.keep_quota(&tx, Id::new(owner)).await?;
        }
        let event = ContainerEvent::Restart;
        let (row, task) = create_container::request_again(&mut tx, &row, event, key).await?;
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        audit::record(&mut tx, viewer, "container.restart", id, json!({})).await?;
        tx.commit().await?;
        Ok((row, task))
    }

    /// Changes how a container is shown and reached; whoever connects next is told so.
    pub async fn update_container(
        &self,
        viewer: Viewer,
        id: Id<Container>,
        changes: Changes,
    ) -> Result<Model, AppError> {
        signed_in(viewer)?;
        let dpi = changes.dpi.map(Dpi::parse).transpose().in_field("dpi")?;
        let mut tx = self.store.begin().await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, id).await?;
        let state = row.state()?;
        if !state.is_wanted() {
            return Err(AppError::Illegal(crate::domain::IllegalTransition {
                from: state.as_str().to_uppercase(),
                event: "update".to_owned(),
            }));
        }
        let mut patch = ActiveModel::default();
        if let Some(dpi) = dpi {
            patch.dpi = Set(dpi.get().cast_signed());
        }
        if let Some(stun) = changes.stun {
            patch.stun = Set(stun);
        }
        let row = containers::change(&mut tx, &row, patch).await?;
        let detail = json!({ "dpi": row.dpi, "stun": row.stun });
        audit::record(&mut tx, viewer, "container.update", id, detail).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// One container the viewer may see.
    pub async fn container(&self, viewer: Viewer, id: Id<Container>) -> Result<Model, AppError> {
        if !matches!(viewer, Viewer::Host { .. }) {
            signed_in(viewer)?;
        }
        let reached = containers::Entity::visible_to(viewer, Action::Read)
            .filter(containers::Column::Id.eq(id.uuid()));
        reached.one(self.store.db()).await?.ok_or(NO_CONTAINER)
    }

    pub(super) async fn open_cluster(&self, id: Id<Cluster>, region: Uuid) -> Result<(), AppError> {
        let refused = |reason: &str| AppError::Invalid {
            field: "cluster",
            reason: reason.to_owned(),
        };
        let cluster = clusters::unscoped_by_id(self.store.db(), id)
            .await?
            .filter(|cluster| cluster.region_id == region)
            .ok_or_else(|| refused("there is no such cluster in this region"))?;
        match cluster.status()? {
            ClusterStatus::Active => Ok(()),
            ClusterStatus::Creating
            | ClusterStatus::Draining
            | ClusterStatus::Deleting
            | ClusterStatus::Deleted
            | ClusterStatus::Failed => Err(refused("it takes no containers now")),
        }
    }

    pub(super) async fn offered_app(
        &self,
        viewer: Viewer,
        slug: &str,
    ) -> Result<apps::Model, AppError> {
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

    pub(super) async fn open_region(
        &self,
        viewer: Viewer,
        name: &str,
    ) -> Result<regions::Model, AppError> {
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

/// A container the viewer reaches, and its tasks that have not ended, all locked by this transaction.
async fn reached(
    tx: &Tx<'_>,
    viewer: Viewer,
    action: Action,
    id: Id<Container>,
) -> Result<(Vec<tasks::Model>, Model), AppError> {
    let reached =
        containers::Entity::visible_to(viewer, action).filter(containers::Column::Id.eq(id.uuid()));
    reached.one(tx).await?.ok_or(NO_CONTAINER)?;
    crate::tasks::locked(tx, id).await?.ok_or(NO_CONTAINER)
}

/// The task an earlier request with the same key enqueued for the same subject.
pub(super) async fn replayed_on(
    tx: &Tx<'_>,
    owner: Id<User>,
    key: Option<&IdempotencyKey>,
    kind: &'static str,
    subject: Uuid,
) -> Result<Option<tasks::Model>, AppError> {
    match replayed(tx, owner, key, kind).await? {
        Some(task) if task.subject_id == Some(subject) => Ok(Some(task)),
        Some(_) => Err(REUSED),
        None => Ok(None),
    }
}
