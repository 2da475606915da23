//! Doing something about a finding: each is one transaction that changes nothing when the row has moved on, with its line in
//! the audit log.

use std::{collections::HashMap, time::Duration};

use serde_json::json;
use uuid::Uuid;

use super::{Action, Finding, Keeper, Kept, unless_overtaken};
use crate::{
    domain::policy::Viewer,
    error::{AppError, StoreError},
    providers::{Address, Engine, Instance, ProviderError},
    store::{Tx, audit, tasks},
};

/// What something that nobody wants gets to end by itself.
const GRACE: Duration = crate::tasks::create_container::GRACE;

#[derive(Debug, thiserror::Error)]
pub enum ActError {
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Does what a finding asks for; whether anything was done.
pub async fn act<T: Kept>(
    keeper: &Keeper,
    address: &Address,
    engine: &dyn Engine<T>,
    finding: &Finding<T>,
    instance: Option<&Instance<T>>,
    nodes: &HashMap<String, Uuid>,
) -> Result<bool, ActError> {
    let id = finding.id;
    match finding.action {
        Action::Wait => Ok(false),
        Action::Remove => {
            note(keeper, finding).await?;
            engine.remove(id, GRACE).await?;
            Ok(true)
        }
        Action::End => {
            note(keeper, finding).await?;
            T::end(keeper, address, id).await?;
            Ok(true)
        }
        Action::Fail => T::fail(keeper, address, id).await,
        Action::Recreate => {
            // Looked at once more: the list may have been made while it was being replaced.
            let there = engine.inspect(id).await?;
            let phase = T::when_so;
            let is_so = |instance: &Instance<T>| {
                let asked = phase(super::Phase::Running, instance.status);
                asked.is_some_and(|(_, action)| action == Action::Recreate)
            };
            if there.as_ref().is_some_and(|there| !is_so(there)) {
                return Ok(false);
            }
            change(keeper, finding, async |tx, row, _| {
                T::recreate(tx, row).await
            })
            .await
        }
        Action::Delete => {
            change(keeper, finding, async |tx, row, live| {
                T::delete(tx, row, live).await
            })
            .await
        }
        Action::Update | Action::Resume => {
            let Some(instance) = instance else {
                return Ok(false);
            };
            change(keeper, finding, async |tx, row, _| {
                T::update(tx, row, instance, nodes).await
            })
            .await
        }
        Action::Rest => change(keeper, finding, async |tx, row, _| T::rest(tx, row).await).await,
        Action::Enqueue => {
            change(keeper, finding, async |tx, row, live| {
                T::enqueue(tx, row, live).await
            })
            .await
        }
    }
}

/// Changes a row that is locked together with its tasks, and records it; whether it was still to be done.
pub(super) async fn change<T: Kept>(
    keeper: &Keeper,
    finding: &Finding<T>,
    work: impl AsyncFnOnce(&mut Tx<'_>, &T::Row, &[tasks::Model]) -> Result<(), AppError>,
) -> Result<bool, ActError> {
    let mut tx = keeper.store.begin().await?;
    let Some((live, row)) = T::locked(&tx, finding.id).await? else {
        return Ok(false);
    };
    if unless_overtaken(work(&mut tx, &row, &live).await)?.is_none() {
        return Ok(false);
    }
    record(&mut tx, finding).await?;
    tx.commit().await?;
    tracing::info!(subject = %finding.id, kind = ?finding.kind, action = ?finding.action, "reconciled");
    Ok(true)
}

async fn record<T: Kept>(tx: &mut Tx<'_>, finding: &Finding<T>) -> Result<(), StoreError> {
    let action = format!("reconcile.{:?}", finding.action).to_lowercase();
    let detail = json!({ "kind": finding.kind, "detail": finding.detail });
    audit::record(tx, Viewer::System, &action, finding.id, detail).await
}

/// Records what is going to be done to an engine first: what cannot be recorded is not done.
async fn note<T: Kept>(keeper: &Keeper, finding: &Finding<T>) -> Result<(), StoreError> {
    let mut tx = keeper.store.begin().await?;
    record(&mut tx, finding).await?;
    tx.commit().await?;
    tracing::warn!(subject = %finding.id, kind = ?finding.kind, action = ?finding.action, "an engine has what it should not");
    Ok(())
}
