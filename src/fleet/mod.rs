//! What workers do for the fleet beside the tasks: they listen to the engines, and the leading one compares what there is
//! with what is wanted, looks after hosts and pools, and ends what nobody uses.
//!
//! Everything here takes no input but the rows and the engines: an event may wake it, never steer it, so a restart, a lost
//! message and a second worker all take the same path.

mod act;
mod containers;
mod engines;
mod expiry;
mod hosts;
mod kept;
mod listen;
mod logs;
mod lost;
mod machines;
mod plan;
mod reconcile;
mod scale;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use kept::{Kept, Phase, Want};
pub use plan::{Action, Finding, Kind, Seen, plan};
pub use reconcile::{Reconcile, Reconciler};

use crate::{
    domain::{
        Dial,
        id::{Container, VirtualMachine},
    },
    error::StoreError,
    providers::Providers,
    store::{Store, leader},
};

const JOB: &str = "fleet";
/// Time between two rounds of the leader.
const TICK: Duration = Duration::from_secs(1);
/// How long the leader may be silent before another takes over.
const LEAD: Duration = Duration::from_secs(15);

/// How differences are dealt with, and when what is silent or unused ends.
#[derive(Clone, Copy, Debug)]
pub struct Care {
    pub mode: Mode,
    /// Time between two looks at an engine.
    pub pause: Duration,
    /// How long what no row knows is left on an engine.
    pub orphan_grace: TimeDelta,
    /// The same for a virtual machine, with whose disk all that is on it goes.
    pub machine_grace: TimeDelta,
    pub host_stale: TimeDelta,
    pub host_dead: TimeDelta,
    /// How long a spare machine stays in service with nothing to do.
    pub spare_idle: TimeDelta,
    pub idle: Option<TimeDelta>,
    pub abandoned: Option<TimeDelta>,
}

/// What is done about differences.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// They are mended.
    Mend,
    /// They are shown.
    Show,
    /// Nobody looks.
    Off,
}

/// A worker's part in it.
#[derive(Clone)]
pub struct Keeper {
    pub store: Store,
    pub providers: Providers,
    /// What tells this deployment's containers from another's on the same engine.
    pub deployment: String,
    pub care: Dial<Care>,
    /// When this worker began.
    pub since: DateTime<Utc>,
}

impl Keeper {
    /// Listens to every engine there is, until `stop`.
    pub async fn listen(self, stop: CancellationToken) {
        let machines = listen::run::<VirtualMachine>(self.clone(), stop.clone());
        tokio::join!(listen::run::<Container>(self, stop), machines);
    }

    /// Brings what containers and machines write to those who want to read it, until `stop`.
    pub async fn bring_logs(self, me: Uuid, stop: CancellationToken) {
        logs::run(self, me, stop).await;
    }

    /// Looks after the fleet while it leads, until `stop`; then gives the lead back.
    pub async fn keep(self, me: Uuid, stop: CancellationToken) {
        let mut containers = Reconciler::<Container>::new(self.clone());
        let mut machines = Reconciler::<VirtualMachine>::new(self.clone());
        let mut idle = scale::Idle::default();
        let mut is_hindered = false;
        while !stop.is_cancelled() {
            let turn = async {
                if leader::lead(&self.store, JOB, me, LEAD).await?.is_some() {
                    self.round(&mut idle).await?;
                    containers.due(&stop).await?;
                }
                // Each worker looks after its own host's machines: nobody else sees them.
                machines.due(&stop).await?;
                Ok::<_, StoreError>(())
            };
            match turn.await {
                Ok(()) => is_hindered = false,
                // Told once an outage, not once a second.
                Err(error) => {
                    if !std::mem::replace(&mut is_hindered, true) {
                        tracing::warn!(%error, "the fleet cannot be looked after for now");
                    }
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = self.store.clock.sleep(TICK) => {}
            }
        }
        if let Err(error) = leader::resign(&self.store, JOB, me).await {
            tracing::debug!(%error, "the lead ends by its lease");
        }
    }

    async fn round(&self, idle: &mut scale::Idle) -> Result<(), StoreError> {
        hosts::ask_engines(self, idle).await?;
        hosts::notice_silence(self).await?;
        lost::notice_silence(self).await?;
        expiry::end_unused(self).await?;
        expiry::fill_pools(self).await
    }

    fn mends(&self) -> bool {
        match self.care.get().mode {
            Mode::Mend => true,
            Mode::Show | Mode::Off => false,
        }
    }
}

/// A store's error that only says somebody was quicker.
fn is_overtaken(error: &crate::error::AppError) -> bool {
    use crate::error::AppError;
    matches!(error, AppError::Illegal(_) | AppError::Conflict(_))
}

/// Leaves an error that only says somebody was quicker.
fn unless_overtaken<T>(done: Result<T, crate::error::AppError>) -> Result<Option<T>, StoreError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if is_overtaken(&error) => Ok(None),
        Err(error) => Err(StoreError::Database(sea_orm::DbErr::Custom(
            error.to_string(),
        ))),
    }
}
