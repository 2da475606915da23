//! How a running process follows its settings: what is read once is restarted for, all else hangs on a dial.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use crate::{
    auth::Lives,
    config::{self, Configuration, Settings},
    domain::{ChangeKind, Clock, Dial},
    fleet::{Care, Mode},
    live::EventBus,
    queue::Retention,
    services::{Fleet, admission::Bounds},
    store::limits::Rate,
    telemetry,
};

/// What can be set anew while the process runs.
#[derive(Clone)]
pub(super) struct Dials {
    pub bounds: Dial<Bounds>,
    pub lives: Dial<Lives>,
    pub fleet: Dial<Fleet>,
    pub care: Dial<Care>,
    pub retention: Dial<Retention>,
    pub engine_rate: Dial<Option<Rate>>,
    pub longest: Dial<Duration>,
}

impl Dials {
    pub fn new(settings: &Settings) -> Self {
        Self {
            bounds: Dial::new(bounds(settings)),
            lives: Dial::new(lives(settings)),
            fleet: Dial::new(fleet(settings)),
            care: Dial::new(care(settings)),
            retention: Dial::new(retention(settings)),
            engine_rate: Dial::new(Rate::per_second(settings.engine_rate)),
            longest: Dial::new(settings.request),
        }
    }

    fn set(&self, settings: &Settings) {
        self.bounds.set(bounds(settings));
        self.lives.set(lives(settings));
        self.fleet.set(fleet(settings));
        self.care.set(care(settings));
        self.retention.set(retention(settings));
        self.engine_rate.set(Rate::per_second(settings.engine_rate));
        self.longest.set(settings.request);
    }
}

/// Follows the configuration database, and what processes tell each other of it, until `stop`.
pub(super) async fn run(
    configuration: Arc<Configuration>,
    dials: Dials,
    bus: Arc<dyn EventBus>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) {
    let mut changes = configuration.changes();
    let mut control = Control::of(&*bus);
    let pause = configuration
        .settings()
        .config_reload
        .filter(|_| configuration.stored().is_some());
    loop {
        let due = async {
            match pause {
                Some(pause) => clock.sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            settings = changes.next() => {
                let Some(settings) = settings else { return };
                dials.set(&settings);
                if let Err(error) = telemetry::set_filter(&settings.log) {
                    tracing::warn!(%error, "the log's filter stays as it is");
                }
                let told = &settings.telemetry;
                telemetry::slow::set_limits(told.slow_query, told.slow_operation);
            }
            is_open = control.hears(|change| change.kind == ChangeKind::ConfigurationChanged) => {
                if !is_open {
                    return;
                }
                reload(&configuration).await;
            }
            () = due => reload(&configuration).await,
        }
    }
}

/// Reads everything again and says what came of it.
pub(super) async fn reload(configuration: &Configuration) {
    match configuration.reload().await {
        Ok(found) => {
            if !found.applied.is_empty() {
                tracing::info!(settings = found.applied.join(" "), "settings have changed");
            }
            if !found.waiting.is_empty() {
                tracing::debug!(
                    settings = found.waiting.join(" "),
                    "settings wait for a restart"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the settings stay as they are"),
    }
}

const fn bounds(settings: &Settings) -> Bounds {
    Bounds {
        per_owner: settings.tasks_per_owner,
        total: settings.tasks_total,
    }
}

const fn lives(settings: &Settings) -> Lives {
    Lives {
        access: settings.access_token,
        refresh: settings.refresh_token,
    }
}

const fn fleet(settings: &Settings) -> Fleet {
    Fleet {
        containers_per_owner: settings.containers_per_owner,
        machines_per_owner: settings.machines.per_owner,
        patience: settings.container_drain,
        heartbeat: settings.heartbeat,
    }
}

const fn retention(settings: &Settings) -> Retention {
    Retention {
        ended: settings.ended_retention,
        failed: settings.dead_letter_retention,
        archived: settings.archive_retention,
        logs: settings.records.logs,
        logins: settings.records.logins,
        audit: settings.records.audit,
    }
}

fn care(settings: &Settings) -> Care {
    let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
    Care {
        mode: match settings.reconcile {
            config::Reconcile::On => Mode::Mend,
            config::Reconcile::DryRun => Mode::Show,
            config::Reconcile::Off => Mode::Off,
        },
        pause: settings.reconcile_pause,
        orphan_grace: delta(settings.orphan_grace),
        machine_grace: delta(settings.machines.orphan_grace),
        host_stale: delta(settings.host_stale),
        host_dead: delta(settings.host_dead),
        spare_idle: delta(settings.spare_idle),
        idle: settings.container_idle.map(delta),
        abandoned: settings.container_abandoned.map(delta),
    }
}
