//! The application: built once from settings and seams, started as web, worker or both, and stopped in order.

use std::{io, net::SocketAddr, sync::Arc};

use chrono::TimeDelta;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    auth::Auth,
    config::{self, ConfigError, Database, Secret, Settings},
    domain::{Clock, Entropy, Keyring, SystemClock, entropy::secret_bytes, keyring::hex},
    error::{AppError, TransportError},
    fleet::{self, Care, Keeper, Mode},
    graphql::{
        Api, Offer,
        operations::{BadOperations, Operations},
    },
    live::{EventBus, MemoryBus, RedisBus, Topic},
    providers::{self, Engines, Hypervisor, Providers},
    queue::{
        Dispatcher, MemoryQueue, Outlook, RedisQueue, Retention, Sweeper, TaskQueue, Upkeep,
        Worker, WorkerSettings,
    },
    services::{Fleet, Services, admission::Admission, seed::Seeded},
    store::{
        Store,
        connection::{self, DatabaseDown},
        limits::Rate,
    },
    tasks::{self, Outside},
    telemetry::Meters,
    web::{self, Bound, Web},
};

/// Connections for Redis commands that do not block.
const REDIS_CONNECTIONS: usize = 2;

/// What a test puts in place of the real thing.
pub struct Seams {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<Entropy>,
    /// `None` takes the engine the settings choose.
    pub providers: Option<Providers>,
}

impl Default for Seams {
    fn default() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            entropy: Arc::new(Entropy::from_os()),
            providers: None,
        }
    }
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    WebAndWorker,
    Web,
    Worker,
}

impl Role {
    /// What it has to hear of on the bus.
    const fn topics(self) -> &'static [Topic] {
        match self {
            Self::WebAndWorker => &[Topic::Changes, Topic::Control],
            Self::Web => &[Topic::Changes],
            Self::Worker => &[Topic::Control],
        }
    }

    const fn works(self) -> bool {
        matches!(self, Self::WebAndWorker | Self::Worker)
    }
}

/// Why the application does not start, in one line for an operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Database(#[from] DatabaseDown),
    #[error("the tables could not be brought up to date: {0}")]
    Migration(sea_orm::DbErr),
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("PORT: {address} cannot be listened on, {error}")]
    Port {
        address: SocketAddr,
        error: io::Error,
    },
    #[error("PERSISTED_OPERATIONS: {0}")]
    Operations(#[from] BadOperations),
    #[error("{path} cannot be used, {error}")]
    File { path: String, error: io::Error },
    #[error("{0}")]
    Account(#[source] AppError),
    #[error("the first rows could not be written: {0}")]
    Seed(#[from] AppError),
}

/// A started application.
pub struct App {
    pub store: Store,
    pub services: Services,
    pub bus: Arc<dyn EventBus>,
    /// Where the web server listens.
    pub address: Option<SocketAddr>,
    /// The administrator made on an empty database.
    pub seeded: Option<Seeded>,
    /// The worker's engines.
    pub providers: Option<Providers>,
    intake: CancellationToken,
    relay: CancellationToken,
    frontline: TaskTracker,
    background: TaskTracker,
    server: Option<JoinHandle<io::Result<()>>>,
}

impl App {
    /// Connects, migrates, seeds and starts.
    pub async fn start(settings: &Settings, seams: Seams, role: Role) -> Result<Self, StartError> {
        if role != Role::WebAndWorker && settings.redis_url.is_none() {
            let problem = "needed when web and worker are separate processes, so that they hear of each other".to_owned();
            return Err(ConfigError::Missing {
                key: "REDIS_URL",
                problem,
            }
            .into());
        }
        let keyring = Keyring::new(secret_key(settings)?.expose());
        let operations = operations(settings)?.with(&crate::agent::TEXTS);
        // The port first: the likeliest thing to be wrong, and nothing has been touched yet.
        let bound = match role {
            Role::WebAndWorker | Role::Web => Some(bind(settings, settings.port).await?),
            Role::Worker => None,
        };
        let meters_bound = match role {
            Role::Worker if settings.metrics_port != 0 => {
                Some(bind(settings, settings.metrics_port).await?)
            }
            Role::WebAndWorker | Role::Web | Role::Worker => None,
        };
        let connections = Box::pin(connection::open(settings)).await?;
        connection::migrate(&connections.people)
            .await
            .map_err(StartError::Migration)?;
        let (store, posted) = Store::new(
            connections,
            Arc::clone(&seams.clock),
            Arc::clone(&seams.entropy),
        );
        let auth = Auth::new(
            &store,
            &keyring,
            settings.access_token,
            settings.refresh_token,
        );
        let services = Services::new(
            store.clone(),
            auth.clone(),
            keyring.clone(),
            Admission::new(settings.tasks_per_owner, settings.tasks_total),
            fleet(settings),
        );
        let seeded = services.seed(settings).await?;
        let (queue, bus) = Box::pin(transports(settings, role)).await?;
        let meters = Arc::new(Meters::default());
        let dispatcher = Dispatcher {
            truth: Arc::new(store.clone()),
            queue: Arc::clone(&queue),
            bus: Arc::clone(&bus),
            meters: Arc::clone(&meters),
        };
        let mut app = Self {
            store: store.clone(),
            services: services.clone(),
            bus: Arc::clone(&bus),
            address: bound
                .as_ref()
                .or(meters_bound.as_ref())
                .map(|bound| bound.address),
            seeded,
            providers: None,
            intake: CancellationToken::new(),
            relay: CancellationToken::new(),
            frontline: TaskTracker::new(),
            background: TaskTracker::new(),
            server: None,
        };
        app.background
            .spawn(dispatcher.clone().run(posted, app.relay.clone()));
        let (providers, machines) = engines(settings, seams, role).await;
        if let Some(providers) = providers {
            app.start_worker(settings, dispatcher, providers, keyring);
        }
        let offer = Offer {
            operations,
            introspection: settings.introspection,
            longest: settings.request,
        };
        let web = |api| Web {
            api,
            auth,
            store,
            bus: Arc::clone(&bus),
            services: services.clone(),
            machines,
            meters,
            console: settings.console,
            stop: app.intake.clone(),
        };
        if let Some(bound) = bound {
            let api = Api::new(services.clone(), Arc::clone(&bus), offer);
            app.server = Some(tokio::spawn(web(api).serve(bound)));
        } else if let Some(bound) = meters_bound {
            let api = Api::new(services.clone(), Arc::clone(&bus), offer);
            app.server = Some(tokio::spawn(web(api).serve_meters(bound)));
        }
        Ok(app)
    }

    fn start_worker(
        &mut self,
        settings: &Settings,
        dispatcher: Dispatcher,
        providers: Providers,
        keyring: Keyring,
    ) {
        let store = self.store.clone();
        let keeper = Keeper {
            store: store.clone(),
            providers: providers.clone(),
            deployment: keyring.deployment(),
            care: care(settings),
            since: store.now(),
        };
        let outside = Outside {
            providers: providers.clone(),
            store: store.clone(),
            keyring,
            publish_address: settings.publish_address,
            engine_rate: Rate::per_second(settings.engine_rate),
        };
        let worker_settings = WorkerSettings {
            concurrency: settings.worker_concurrency,
            lease: settings.lease,
            drain: settings.drain,
        };
        let outlook = Outlook {
            truth: Arc::clone(&dispatcher.truth),
            queue: Arc::clone(&dispatcher.queue),
            bus: Arc::clone(&dispatcher.bus),
            clock: Arc::clone(&store.clock),
            entropy: Arc::clone(&store.entropy),
            meters: Arc::clone(&dispatcher.meters),
            host: host_name(),
        };
        let worker = Arc::new(Worker::new(
            outlook,
            tasks::registry(&outside).with(fleet::Reconcile(keeper.clone())),
            worker_settings,
        ));
        let me = worker.id;
        let upkeep = Upkeep::new(
            store.clone(),
            Retention {
                ended: settings.ended_retention,
                failed: settings.dead_letter_retention,
                archived: settings.archive_retention,
            },
        );
        let clock = Arc::clone(&store.clock);
        let sweeper = Sweeper::new(dispatcher, clock, worker.id, Some(upkeep));
        let stop = self.intake.clone();
        self.frontline.spawn(worker.run(stop.clone()));
        self.frontline
            .spawn(keeper.clone().bring_logs(me, stop.clone()));
        self.frontline.spawn(keeper.clone().keep(me, stop));
        self.background.spawn(keeper.listen(self.relay.clone()));
        self.background.spawn(sweeper.run(self.relay.clone()));
        self.providers = Some(providers);
    }

    /// Whether the web server has ended by itself, which is a fault.
    pub fn has_failed(&self) -> bool {
        self.server.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Stops taking work, lets what runs finish or gives it back, then ends what carries the news of it.
    pub async fn stop(self) {
        self.intake.cancel();
        self.frontline.close();
        if let Some(server) = self.server
            && !matches!(server.await, Ok(Ok(())))
        {
            tracing::warn!("the web server did not end well");
        }
        self.frontline.wait().await;
        self.relay.cancel();
        self.background.close();
        self.background.wait().await;
        if let Err(error) = self.store.close().await {
            tracing::debug!(%error, "the database's connections did not close");
        }
    }
}

/// A worker's engines, and those whose consoles the web opens.
async fn engines(
    settings: &Settings,
    seams: Seams,
    role: Role,
) -> (Option<Providers>, Engines<dyn Hypervisor>) {
    let providers = match seams.providers {
        Some(providers) => providers,
        None if role.works() => {
            providers::from_settings(settings, seams.clock, seams.entropy).await
        }
        None => {
            let machines = providers::of_machines(settings, seams.clock, seams.entropy).await;
            return (None, machines);
        }
    };
    let machines = providers.machines.clone();
    (role.works().then_some(providers), machines)
}

fn operations(settings: &Settings) -> Result<Operations, BadOperations> {
    match &settings.persisted_operations {
        Some(path) => Operations::load(path, settings.persisted_only),
        None => Ok(Operations::default()),
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

/// How processes reach each other.
type Transports = (Arc<dyn TaskQueue>, Arc<dyn EventBus>);

async fn bind(settings: &Settings, port: u16) -> Result<Bound, StartError> {
    let address = SocketAddr::new(settings.host, port);
    web::bind(address)
        .await
        .map_err(|error| StartError::Port { address, error })
}

/// The machine's name, for people.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

async fn transports(settings: &Settings, role: Role) -> Result<Transports, StartError> {
    let Some(url) = &settings.redis_url else {
        return Ok((
            Arc::new(MemoryQueue::default()),
            Arc::new(MemoryBus::default()),
        ));
    };
    let (prefix, commands) = (
        &settings.redis_prefix,
        crate::redis::pool(url, REDIS_CONNECTIONS).await?,
    );
    let queue = RedisQueue::new(url, prefix, commands.clone()).await?;
    Ok((
        Arc::new(queue),
        Arc::new(RedisBus::new(url, prefix, commands, role.topics())?),
    ))
}

/// The deployment's secret: the configured one, or for an embedded start one kept in the data directory.
fn secret_key(settings: &Settings) -> Result<Secret, StartError> {
    if let Some(key) = &settings.secret_key {
        return Ok(key.clone());
    }
    if let Database::Postgres(_) = settings.database {
        let problem = "needed with PostgreSQL, so that every process signs alike; 32 characters or more, \
            such as the output of: openssl rand -hex 32";
        return Err(ConfigError::Missing {
            key: "SECRET_KEY",
            problem: problem.to_owned(),
        }
        .into());
    }
    let path = settings.data_dir.join("secret.key");
    let refuse = |error| StartError::File {
        path: path.display().to_string(),
        error,
    };
    std::fs::create_dir_all(&settings.data_dir).map_err(refuse)?;
    match std::fs::read_to_string(&path) {
        Ok(key) if key.trim().len() >= 32 => return Ok(Secret::new(key.trim().to_owned())),
        Ok(_) => {
            return Err(refuse(io::Error::other(
                "it is too short; remove it to get a new one",
            )));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(refuse(error)),
    }
    let key = hex(&secret_bytes::<32>());
    write_private(&path, &key).map_err(refuse)?;
    Ok(Secret::new(key))
}

/// Writes a file only its owner can read.
fn write_private(path: &std::path::Path, text: &str) -> io::Result<()> {
    use io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}
