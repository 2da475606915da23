//! Ends what nobody uses, and keeps the warm pools full.

use super::{Keeper, unless_overtaken};
use crate::{
    domain::{container::ContainerState, policy::Viewer},
    error::StoreError,
    store::{audit, containers, pools},
    tasks::{delete_container, locked, refill_pool},
};

/// Removes somebody's containers whose client is gone for too long, or never came.
pub async fn end_unused(keeper: &Keeper) -> Result<(), StoreError> {
    let now = keeper.store.now();
    let (idle, abandoned) = (
        keeper.care.get().idle.map(|after| now - after),
        keeper.care.get().abandoned.map(|after| now - after),
    );
    for row in containers::unscoped_unused(keeper.store.db(), idle, abandoned).await? {
        let mut tx = keeper.store.begin().await?;
        let Some((live, row)) = locked(&tx, row.id()).await? else {
            continue;
        };
        let is_used = row.state()? != ContainerState::Running
            || row
                .last_ping_at
                .is_some_and(|seen| idle.is_none_or(|idle| seen >= idle));
        if is_used {
            continue;
        }
        let detail = serde_json::json!({ "lastPingAt": row.last_ping_at });
        let asked = delete_container::request(&mut tx, &row, &live, None).await;
        if unless_overtaken(asked)?.is_some() {
            let action = "container.expire";
            audit::record(&mut tx, Viewer::System, action, row.id(), detail).await?;
            tx.commit().await?;
            tracing::info!(container = %row.id(), "nobody used it; it is removed");
        }
    }
    Ok(())
}

/// Has the pools filled that have not as many containers as they should, whatever became of these.
pub async fn fill_pools(keeper: &Keeper) -> Result<(), StoreError> {
    for pool in pools::unscoped_unfilled(keeper.store.db()).await? {
        let room = refill_pool::may_make(keeper.store.db(), &pool, keeper.store.now()).await?;
        if room == 0 {
            continue;
        }
        let mut tx = keeper.store.begin().await?;
        if unless_overtaken(refill_pool::request(&mut tx, &pool).await)?.is_some() {
            tx.commit().await?;
        }
    }
    Ok(())
}
