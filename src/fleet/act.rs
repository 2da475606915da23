//! Doing something about a finding: each is one transaction that changes nothing when the row has moved on, with its line in
//! the audit log.

use std::collections::HashMap;

use sea_orm::ActiveValue::Set;
use serde_json::json;
use uuid::Uuid;

use super::{Action, Engine, Finding, Keeper, unless_overtaken};
use crate::{
    domain::{
        Id,
        container::{ContainerEvent, ContainerState},
        id::Container,
        policy::Viewer,
    },
    error::{AppError, StoreError},
    providers::{Instance, ProviderError, Status},
    store::{
        Tx, audit,
        containers::{self, ActiveModel, Model},
        tasks,
    },
    tasks::{
        create_container::{EXITED, GRACE, found, last_words, request_again},
        delete_container, locked,
    },
};

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Does what a finding asks for; whether anything was done.
pub async fn act(
    keeper: &Keeper,
    engine: &Engine,
    finding: &Finding,
    instance: Option<&Instance>,
    nodes: &HashMap<String, Uuid>,
) -> Result<bool, ActError> {
    let id = finding.container_id;
    match finding.action {
        Action::Wait => Ok(false),
        Action::Remove => remove(keeper, engine, finding).await,
        Action::Fail => fail(keeper, engine, id).await,
        Action::Recreate => {
            // Looked at once more: the list may have been made while it was being replaced.
            if engine.inspect(id).await?.is_some() {
                return Ok(false);
            }
            change(keeper, finding, async |tx, row, _| {
                let event = match row.state()? {
                    ContainerState::Unknown => ContainerEvent::Replace,
                    _ => ContainerEvent::Vanish,
                };
                request_again(tx, row, event, None).await.map(|_| ())
            })
            .await
        }
        Action::Delete => {
            change(keeper, finding, async |tx, row, live| {
                delete_container::request(tx, row, live, None)
                    .await
                    .map(|_| ())
            })
            .await
        }
        Action::Update | Action::Resume => {
            let Some(instance) = instance else {
                return Ok(false);
            };
            let mut patch = found(instance);
            if let Some(host) = instance.node.as_ref().and_then(|node| nodes.get(node)) {
                patch.host_id = Set(Some(*host));
            }
            let is_unknown = finding.action == Action::Resume;
            change(keeper, finding, async |tx, row, _| {
                if is_unknown {
                    containers::seen_again(tx, row, patch).await?;
                } else {
                    containers::change(tx, row, patch).await?;
                }
                Ok(())
            })
            .await
        }
        Action::Enqueue => {
            change(keeper, finding, async |tx, row, live| {
                enqueue(tx, row, live).await
            })
            .await
        }
    }
}

/// Changes a row that is locked together with its tasks, and records it; whether it was still to be done.
async fn change(
    keeper: &Keeper,
    finding: &Finding,
    work: impl AsyncFnOnce(&mut Tx<'_>, &Model, &[tasks::Model]) -> Result<(), AppError>,
) -> Result<bool, ActError> {
    let mut tx = keeper.store.begin().await?;
    let Some((live, row)) = locked(&tx, finding.container_id).await? else {
        return Ok(false);
    };
    if unless_overtaken(work(&mut tx, &row, &live).await)?.is_none() {
        return Ok(false);
    }
    record(&mut tx, finding).await?;
    tx.commit().await?;
    tracing::info!(container = %finding.container_id, kind = ?finding.kind, action = ?finding.action, "reconciled");
    Ok(true)
}

async fn record(tx: &mut Tx<'_>, finding: &Finding) -> Result<(), StoreError> {
    let action = format!("reconcile.{:?}", finding.action).to_lowercase();
    let detail = json!({ "kind": finding.kind, "detail": finding.detail });
    audit::record(tx, Viewer::System, &action, finding.container_id, detail).await
}

async fn remove(keeper: &Keeper, engine: &Engine, finding: &Finding) -> Result<bool, ActError> {
    // Recorded first: what cannot be recorded is not done.
    let mut tx = keeper.store.begin().await?;
    record(&mut tx, finding).await?;
    tx.commit().await?;
    engine.remove(finding.container_id, GRACE).await?;
    tracing::warn!(container = %finding.container_id, kind = ?finding.kind, "removed from its engine");
    Ok(true)
}

/// Marks a container as failed when it has ended by itself, and removes what is left of it.
///
/// Two workers that notice at once do no harm: the row changes once.
async fn fail(keeper: &Keeper, engine: &Engine, id: Id<Container>) -> Result<bool, ActError> {
    let status = engine.inspect(id).await?.map(|instance| instance.status);
    let Some(Status::Exited { code }) = status else {
        return Ok(false);
    };
    let said = last_words(&**engine, id).await;
    let finding = Finding {
        container_id: id,
        kind: super::Kind::Ended,
        action: Action::Fail,
        detail: format!("it ended by itself with code {code}{said}"),
    };
    let has_changed = change(keeper, &finding, async |tx, row, _| {
        if !matches!(
            row.state()?,
            ContainerState::Running | ContainerState::Draining
        ) {
            return Err(AppError::Conflict("it has moved on"));
        }
        let patch = ActiveModel {
            failure_code: Set(Some(EXITED.to_owned())),
            failure_reason: Set(Some(finding.detail.clone())),
            ended_at: Set(Some(tx.now())),
            ..ActiveModel::default()
        };
        containers::transition(tx, row, ContainerEvent::Fail, patch).await?;
        Ok(())
    })
    .await?;
    if has_changed {
        engine.remove(id, GRACE).await?;
    }
    Ok(has_changed)
}

/// Adds the task that a container on its way has to have.
async fn enqueue(tx: &mut Tx<'_>, row: &Model, live: &[tasks::Model]) -> Result<(), AppError> {
    use ContainerState as S;
    if !live.is_empty() {
        return Err(AppError::Conflict("it is worked on"));
    }
    match row.state()? {
        S::Requested | S::Creating => {
            let task = crate::tasks::create_container::task_of(row)?;
            tasks::insert(tx, task).await?;
        }
        S::Draining | S::Deleting => {
            delete_container::request(tx, row, live, None).await?;
        }
        S::Running | S::Stopped | S::Deleted | S::Failed | S::Unknown => {
            return Err(AppError::Conflict("it is not on its way any more"));
        }
    }
    Ok(())
}
