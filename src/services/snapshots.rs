//! Keeping what a machine's disk has, giving it back, and forgetting it.

use sea_orm::{ColumnTrait as _, QueryFilter as _};
use serde_json::json;

use super::{
    BEING_USED, Services, idempotency_key,
    machines::{illegal, reached},
    signed_in,
};
use crate::{
    domain::{
        Id, IllegalTransition,
        id::{Snapshot, VirtualMachine},
        policy::{Action, Viewer},
        value::DisplayName,
        virtual_machine::{MachineState, SnapshotEvent, SnapshotState},
    },
    error::{AppError, InField as _},
    store::{
        Tx, audit, machines,
        scoped::Scoped as _,
        snapshots::{self, ActiveModel, Model},
        tasks,
    },
    tasks::snapshot_machine::{Input, Step},
};

/// Most snapshots of one machine.
const MOST: u64 = 20;

const NO_SNAPSHOT: AppError = AppError::NotFound { what: "snapshot" };

impl Services {
    /// Records a snapshot of a machine's disk and the task that takes it.
    pub async fn snapshot_machine(
        &self,
        viewer: Viewer,
        machine: Id<VirtualMachine>,
        name: &str,
    ) -> Result<(Model, tasks::Model), AppError> {
        signed_in(viewer)?;
        let name = DisplayName::parse(name).in_field("name")?;
        let mut tx = self.store.begin().await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, machine).await?;
        match row.state()? {
            MachineState::Running | MachineState::Stopped => {}
            state => return Err(illegal(state, "take a snapshot")),
        }
        if snapshots::unscoped_count_of(&tx, machine).await? >= MOST {
            return Err(AppError::QuotaExceeded {
                what: "snapshots of one machine",
                limit: MOST,
            });
        }
        let row = snapshots::insert(&mut tx, &row, name.as_str().to_owned()).await?;
        let task = tasks::insert(&mut tx, Input::task_of(&row, Step::Take)?).await?;
        let detail = json!({ "snapshot": row.id().to_string(), "name": row.name });
        audit::record(&mut tx, viewer, "machine.snapshot", machine, detail).await?;
        tx.commit().await?;
        Ok((row, task.task))
    }

    /// Records the task that gives a machine at rest back what a snapshot has kept of its disk.
    pub async fn restore_machine(
        &self,
        viewer: Viewer,
        id: Id<Snapshot>,
        key: Option<&str>,
    ) -> Result<(machines::Model, tasks::Model), AppError> {
        signed_in(viewer)?;
        let key = idempotency_key(key)?;
        let mut tx = self.store.begin().await?;
        let snapshot = found(&tx, viewer, Action::Operate, id).await?;
        let (_, row) = reached(&tx, viewer, Action::Operate, snapshot.machine()).await?;
        if snapshot.state()? != SnapshotState::Ready {
            return Err(AppError::Illegal(IllegalTransition {
                from: snapshot.state.to_uppercase(),
                event: "restore".to_owned(),
            }));
        }
        if !row.state()?.is_at_rest() {
            return Err(illegal(row.state()?, "restore"));
        }
        let task = Input::task_of(&snapshot, Step::Restore)?.with_key(key);
        let task = tasks::insert(&mut tx, task).await?;
        let task = task.is_new.then_some(task.task).ok_or(BEING_USED)?;
        let detail = json!({ "snapshot": id.to_string() });
        audit::record(&mut tx, viewer, "machine.restore", row.id(), detail).await?;
        tx.commit().await?;
        Ok((row, task))
    }

    /// Marks a snapshot as unwanted and records the task that removes it.
    pub async fn delete_snapshot(
        &self,
        viewer: Viewer,
        id: Id<Snapshot>,
    ) -> Result<(Model, tasks::Model), AppError> {
        signed_in(viewer)?;
        let mut tx = self.store.begin().await?;
        let row = found(&tx, viewer, Action::Delete, id).await?;
        // Locked, so that it is not given back at the same time.
        reached(&tx, viewer, Action::Operate, row.machine()).await?;
        let patch = <ActiveModel as Default>::default();
        let row = snapshots::transition(&mut tx, &row, SnapshotEvent::Delete, patch).await?;
        let task = tasks::insert(&mut tx, Input::task_of(&row, Step::Forget)?).await?;
        audit::record(&mut tx, viewer, "snapshot.delete", id, json!({})).await?;
        tx.commit().await?;
        Ok((row, task.task))
    }
}

async fn found(
    tx: &Tx<'_>,
    viewer: Viewer,
    action: Action,
    id: Id<Snapshot>,
) -> Result<Model, AppError> {
    let found =
        snapshots::Entity::visible_to(viewer, action).filter(snapshots::Column::Id.eq(id.uuid()));
    found.one(tx).await?.ok_or(NO_SNAPSHOT)
}
