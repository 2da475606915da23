//! Reading what containers write.

use std::time::Duration;

use super::Services;
use crate::{
    domain::{Id, id::Container, policy::Viewer},
    error::AppError,
    store::container_logs::{self, Model},
};

/// How long one who reads is taken to go on reading.
pub const LIFE: Duration = Duration::from_secs(30);
/// Longest wait for the lines that are there.
const PATIENCE: Duration = Duration::from_secs(8);
/// Time between two looks whether they have come.
const LOOK: Duration = Duration::from_millis(50);

impl Services {
    /// The last lines a container has written, the oldest first.
    pub async fn container_logs(
        &self,
        viewer: Viewer,
        id: Id<Container>,
        last: u64,
    ) -> Result<Vec<Model>, AppError> {
        self.container(viewer, id).await?;
        container_logs::want(&self.store, id, LIFE).await?;
        let give_up = self.store.now() + PATIENCE;
        while !container_logs::is_followed(&self.store, id).await? {
            if self.store.now() > give_up {
                return Err(AppError::Unavailable {
                    what: "the container's log",
                });
            }
            self.store.clock.sleep(LOOK).await;
        }
        Ok(container_logs::last(&self.store, id, last).await?)
    }
}
