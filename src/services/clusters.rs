//! Clusters: making, changing, emptying and removing them, and telling their hosts what to do.

use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::{ActiveValue::Set, JsonValue};
use serde_json::json;

use super::{Services, endpoints::endpoint_of, may_with_all, signed_in};
use crate::{
    auth::SecretToken,
    domain::{
        Id,
        cluster::{ClusterEvent, ClusterStatus, Placement},
        host::{HostEvent, HostStatus},
        id::{Cluster, Host},
        policy::{Action, Resource, Viewer},
        value::Slug,
    },
    error::{AppError, InField as _},
    store::{
        audit,
        clusters::{self, ActiveModel, Model, NewCluster},
        hosts, registrations,
        tasks::{self, TaskInput as _},
    },
    tasks::{clusters as kinds, drain_host, reconcile},
};

const NO_CLUSTER: AppError = AppError::NotFound { what: "cluster" };
const NO_HOST: AppError = AppError::NotFound { what: "host" };
/// Most containers a cluster may be allowed to have.
const MOST: i32 = 1_000_000;

/// A cluster somebody wants.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub region: &'a str,
    pub provider: &'a str,
    pub endpoint: Option<&'a str>,
    pub min_containers: i32,
    pub max_containers: i32,
    pub placement: Placement,
}

/// What is to be different about a cluster.
#[derive(Default)]
pub struct Changes {
    pub min_containers: Option<i32>,
    pub max_containers: Option<i32>,
    pub placement: Option<Placement>,
}

/// What hosts can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostCommandKind {
    /// Fetch an image, named by the argument.
    PullImage,
    /// Remove images nothing uses.
    PruneImages,
    /// Say how the engine is.
    Diagnose,
}

crate::domain::machine::named!(HostCommandKind {
    PullImage = "pull_image",
    PruneImages = "prune_images",
    Diagnose = "diagnose",
});

impl Services {
    /// Records a cluster and the task that looks whether its engine can be used.
    pub async fn create_cluster(
        &self,
        viewer: Viewer,
        wanted: Wanted<'_>,
    ) -> Result<(Model, tasks::Model), AppError> {
        may_with_all(viewer, Action::Create, Resource::Cluster)?;
        let name = Slug::parse(wanted.name).in_field("name")?;
        let region = self.open_region(viewer, wanted.region).await?;
        if !kinds::ENGINES.contains(&wanted.provider) {
            let known = kinds::ENGINES.join(", ");
            return Err(AppError::Invalid {
                field: "provider",
                reason: format!("one of {known} is expected"),
            });
        }
        bounds(wanted.min_containers, wanted.max_containers)?;
        let cluster = NewCluster {
            name: name.as_str().to_owned(),
            region: region.id(),
            provider: wanted.provider.to_owned(),
            endpoint: wanted
                .endpoint
                .map(|text| endpoint_of(wanted.provider, text))
                .transpose()?,
            min_containers: wanted.min_containers,
            max_containers: wanted.max_containers,
            placement: wanted.placement,
        };
        let mut tx = self.store.begin().await?;
        let row = clusters::insert(&mut tx, cluster).await?;
        let task = tasks::insert(&mut tx, kinds::Create::task_of(&row)?).await?;
        let detail = json!({ "name": row.name, "provider": row.provider });
        audit::record(&mut tx, viewer, "cluster.create", row.id(), detail).await?;
        tx.commit().await?;
        Ok((row, task.task))
    }

    /// Changes how many containers a cluster has, and how they are placed.
    pub async fn update_cluster(
        &self,
        viewer: Viewer,
        id: Id<Cluster>,
        changes: Changes,
    ) -> Result<Model, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Cluster)?;
        let mut tx = self.store.begin().await?;
        let row = clusters::lock(&tx, id).await?.ok_or(NO_CLUSTER)?;
        let min = changes.min_containers.unwrap_or(row.min_containers);
        let max = changes.max_containers.unwrap_or(row.max_containers);
        bounds(min, max)?;
        let mut patch = ActiveModel {
            min_containers: Set(min),
            max_containers: Set(max),
            ..Default::default()
        };
        if let Some(placement) = changes.placement {
            patch.placement = Set(placement.as_str().to_owned());
        }
        let row = clusters::change(&mut tx, &row, patch).await?;
        let detail = json!({ "min": min, "max": max, "placement": row.placement });
        audit::record(&mut tx, viewer, "cluster.update", id, detail).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Takes no more containers into a cluster, and lets those it has finish.
    pub async fn drain_cluster(
        &self,
        viewer: Viewer,
        id: Id<Cluster>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let patience = self.fleet.get().patience;
        let event = ClusterEvent::Drain;
        self.move_cluster(viewer, Action::Operate, id, event, |row| {
            kinds::Drain::task_of(row, patience)
        })
        .await
    }

    /// Uses a drained or a failed cluster again, once its engine answers.
    pub async fn activate_cluster(
        &self,
        viewer: Viewer,
        id: Id<Cluster>,
    ) -> Result<(Model, tasks::Model), AppError> {
        may_with_all(viewer, Action::Operate, Resource::Cluster)?;
        let mut tx = self.store.begin().await?;
        let row = clusters::lock(&tx, id).await?.ok_or(NO_CLUSTER)?;
        crate::domain::Machine::after(row.status()?, ClusterEvent::Activate)?;
        let task = tasks::insert(&mut tx, kinds::Create::task_of(&row)?).await?;
        audit::record(&mut tx, viewer, "cluster.activate", id, json!({})).await?;
        tx.commit().await?;
        Ok((row, task.task))
    }

    /// Removes a cluster with all that is in it. Deleting what is being deleted gives the task that does it.
    pub async fn delete_cluster(
        &self,
        viewer: Viewer,
        id: Id<Cluster>,
    ) -> Result<(Model, tasks::Model), AppError> {
        let event = ClusterEvent::Delete;
        self.move_cluster(viewer, Action::Delete, id, event, kinds::Delete::task_of)
            .await
    }

    async fn move_cluster(
        &self,
        viewer: Viewer,
        action: Action,
        id: Id<Cluster>,
        event: ClusterEvent,
        task: impl FnOnce(&Model) -> Result<tasks::NewTask, AppError>,
    ) -> Result<(Model, tasks::Model), AppError> {
        may_with_all(viewer, action, Resource::Cluster)?;
        let mut tx = self.store.begin().await?;
        let row = clusters::lock(&tx, id).await?.ok_or(NO_CLUSTER)?;
        let is_asked_already =
            event == ClusterEvent::Delete && row.status()? == ClusterStatus::Deleting;
        let row = if is_asked_already {
            row
        } else {
            let what = format!("cluster.{event:?}").to_lowercase();
            audit::record(&mut tx, viewer, &what, id, json!({})).await?;
            clusters::transition(&mut tx, &row, event, <ActiveModel as Default>::default()).await?
        };
        let task = tasks::insert(&mut tx, task(&row)?).await?;
        tx.commit().await?;
        Ok((row, task.task))
    }

    /// Records the task that has every host of a cluster do something.
    pub async fn send_cluster_command(
        &self,
        viewer: Viewer,
        id: Id<Cluster>,
        command: HostCommandKind,
        argument: Option<String>,
    ) -> Result<tasks::Model, AppError> {
        let owner = signed_in(viewer)?;
        may_with_all(viewer, Action::Operate, Resource::Cluster)?;
        let needs_argument = command == HostCommandKind::PullImage;
        let is_name = |text: &String| (1..=256).contains(&text.len()) && !text.contains('\0');
        if needs_argument != argument.is_some() || !argument.iter().all(is_name) {
            let reason = if needs_argument {
                "the name of an image is expected"
            } else {
                "this command takes none"
            };
            return Err(AppError::Invalid {
                field: "argument",
                reason: reason.to_owned(),
            });
        }
        let mut tx = self.store.begin().await?;
        let row = clusters::unscoped_by_id(&tx, id).await?.ok_or(NO_CLUSTER)?;
        let detail = json!({ "command": command.as_str(), "argument": argument });
        let input = kinds::Command {
            cluster: row.id,
            command: command.as_str().to_owned(),
            argument,
        };
        let task = input.into_task(Some(owner), Some(row.id))?;
        let task = tasks::insert(&mut tx, task).await?;
        audit::record(&mut tx, viewer, "cluster.command", id, detail).await?;
        tx.commit().await?;
        Ok(task.task)
    }

    /// A token that makes one machine a host of a cluster, and when it ends. It is told this once.
    pub async fn create_registration_token(
        &self,
        viewer: Viewer,
        id: Id<Cluster>,
        life: Duration,
    ) -> Result<(String, chrono::DateTime<chrono::Utc>), AppError> {
        let by = signed_in(viewer)?;
        may_with_all(viewer, Action::Create, Resource::Host)?;
        let token = SecretToken::generate();
        let mut tx = self.store.begin().await?;
        let row = clusters::unscoped_by_id(&tx, id).await?.ok_or(NO_CLUSTER)?;
        if matches!(
            row.status()?,
            ClusterStatus::Deleting | ClusterStatus::Deleted
        ) {
            return Err(NO_CLUSTER);
        }
        if kinds::runs_machines(&row.provider) {
            return Err(AppError::Invalid {
                field: "cluster",
                reason: "virtual machines run beside the workers, whose hosts have no agents"
                    .to_owned(),
            });
        }
        let ends = tx.now() + TimeDelta::from_std(life).unwrap_or(TimeDelta::MAX);
        registrations::insert(&mut tx, id, token.hash, by, ends).await?;
        audit::record(&mut tx, viewer, "host.invite", id, json!({})).await?;
        tx.commit().await?;
        Ok((token.token, ends))
    }

    /// Takes no more containers onto a host, and lets those it has finish.
    pub async fn drain_host(
        &self,
        viewer: Viewer,
        id: Id<Host>,
    ) -> Result<(hosts::Model, tasks::Model), AppError> {
        may_with_all(viewer, Action::Operate, Resource::Host)?;
        let mut tx = self.store.begin().await?;
        let row = hosts::lock(&tx, id).await?.ok_or(NO_HOST)?;
        let patch = hosts::ActiveModel {
            cordoned: Set(true),
            ..Default::default()
        };
        // One that is about to go by itself, or is not heard of, is held to it.
        let is_going = matches!(row.status()?, HostStatus::Draining | HostStatus::Dead);
        if is_going && row.cordoned {
            crate::domain::Machine::after(row.status()?, HostEvent::Drain)?;
        }
        let row = hosts::change(&mut tx, &row, patch).await?;
        let drained = if is_going {
            let task = drain_host::again(&mut tx, &row, self.fleet.get().patience).await?;
            (row, task)
        } else {
            drain_host::request(&mut tx, &row, self.fleet.get().patience).await?
        };
        audit::record(&mut tx, viewer, "host.drain", id, json!({})).await?;
        tx.commit().await?;
        Ok(drained)
    }

    /// Puts a host that somebody has taken out of service back into it; one that is gone comes back when it is heard of.
    pub async fn activate_host(
        &self,
        viewer: Viewer,
        id: Id<Host>,
    ) -> Result<hosts::Model, AppError> {
        may_with_all(viewer, Action::Operate, Resource::Host)?;
        let mut tx = self.store.begin().await?;
        let row = hosts::lock(&tx, id).await?.ok_or(NO_HOST)?;
        let patch = hosts::ActiveModel {
            cordoned: Set(false),
            ..Default::default()
        };
        let row = match row.status()? {
            HostStatus::Draining => {
                hosts::transition(&mut tx, &row, HostEvent::Returned, patch).await?
            }
            HostStatus::Registered | HostStatus::Healthy | HostStatus::Stale | HostStatus::Dead => {
                hosts::change(&mut tx, &row, patch).await?
            }
        };
        audit::record(&mut tx, viewer, "host.activate", id, json!({})).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Takes a host's credential away: its agent is refused from now on.
    pub async fn revoke_host(
        &self,
        viewer: Viewer,
        id: Id<Host>,
    ) -> Result<hosts::Model, AppError> {
        may_with_all(viewer, Action::Delete, Resource::Host)?;
        let mut tx = self.store.begin().await?;
        let row = hosts::lock(&tx, id).await?.ok_or(NO_HOST)?;
        let row = hosts::revoke(&mut tx, &row).await?;
        audit::record(&mut tx, viewer, "host.revoke", id, JsonValue::Null).await?;
        tx.commit().await?;
        Ok(row)
    }

    /// Records the task that looks at every engine and mends what differs, or only says what it would mend.
    pub async fn reconcile(&self, viewer: Viewer, dry_run: bool) -> Result<tasks::Model, AppError> {
        let owner = signed_in(viewer)?;
        may_with_all(viewer, Action::Operate, Resource::Engine)?;
        let task = reconcile::Input { dry_run }.into_task(Some(owner), None)?;
        Ok(self.enqueuer.enqueue(task).await?.task)
    }

    /// How much a cluster has and how much of it is taken.
    pub async fn cluster_use(
        &self,
        viewer: Viewer,
        id: Id<Cluster>,
    ) -> Result<clusters::Use, AppError> {
        may_with_all(viewer, Action::Read, Resource::Cluster)?;
        Ok(clusters::usage(self.store.db(), id).await?)
    }
}

fn bounds(min: i32, max: i32) -> Result<(), AppError> {
    if (0..=max).contains(&min) && (1..=MOST).contains(&max) {
        return Ok(());
    }
    Err(AppError::Invalid {
        field: "maxContainers",
        reason: format!("0 <= minContainers <= maxContainers <= {MOST} is expected"),
    })
}
