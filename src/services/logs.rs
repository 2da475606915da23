//! Reading what containers and virtual machines write.

use std::time::Duration;

use uuid::Uuid;

use super::Services;
use crate::{
    domain::{
        Id,
        id::{Container, VirtualMachine},
        policy::Viewer,
    },
    error::AppError,
    store::logs::{self, Model},
};

/// How long one who reads is taken to go on reading.
pub const LIFE: Duration = Duration::from_secs(30);
/// Longest wait for the lines that are there.
const PATIENCE: Duration = Duration::from_secs(8);
/// Time between two looks whether they have come.
const LOOK: Duration = Duration::from_millis(50);

/// Whose log is read.
#[derive(Clone, Copy, Debug)]
pub enum Subject {
    Container(Id<Container>),
    Machine(Id<VirtualMachine>),
}

impl Subject {
    pub const fn uuid(self) -> Uuid {
        match self {
            Self::Container(id) => id.uuid(),
            Self::Machine(id) => id.uuid(),
        }
    }
}

impl Services {
    /// The last lines somebody's container or machine has written, the oldest first.
    pub async fn logs(
        &self,
        viewer: Viewer,
        subject: Subject,
        last: u64,
    ) -> Result<Vec<Model>, AppError> {
        self.want_logs(viewer, subject).await?;
        let give_up = self.store.now() + PATIENCE;
        while !logs::is_followed(&self.store, subject.uuid()).await? {
            if self.store.now() > give_up {
                return Err(AppError::Unavailable { what: "its log" });
            }
            self.store.clock.sleep(LOOK).await;
        }
        Ok(logs::last(&self.store, subject.uuid(), last).await?)
    }

    /// Says that somebody who may read a log does.
    pub async fn want_logs(&self, viewer: Viewer, subject: Subject) -> Result<(), AppError> {
        match subject {
            Subject::Container(id) => self.container(viewer, id).await.map(|_| ())?,
            Subject::Machine(id) => self.machine(viewer, id).await.map(|_| ())?,
        }
        Ok(logs::want(&self.store, subject.uuid(), LIFE).await?)
    }
}
