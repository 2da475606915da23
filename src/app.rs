//! The application: built once from settings and seams, started as web, worker or both, and stopped in order.

mod control;
mod follow;
mod log_filter;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::follow::Dials;
use crate::{
    auth::Auth,
    backup::{BackupError, Backups},
    config::{ConfigError, Configuration, Database, Secret, Settings},
    domain::{Clock, Entropy, Keyring, SystemClock, entropy::secret_bytes, keyring::hex},
    error::{AppError, TransportError},
    fleet::{self, Keeper},
    graphql::{
        Api, Offer,
        operations::{BadOperations, Operations},
    },
    live::{EventBus, MemoryBus, RedisBus, Topic},
    objects::{Objects, PlaceDown},
    providers::{self, Engines, Hypervisor, Providers},
    queue::{
        Dispatcher, MemoryQueue, Outlook, RedisQueue, Sweeper, TaskQueue, Upkeep, Worker,
        WorkerSettings,
    },
    services::{Services, admission::Admission, connection_logs::Connections, seed::Seeded},
    store::{
        Store,
        connection::{self, DatabaseDown},
        migrate,
        sql_roles::RoleError,
        tasks::Enqueuer,
    },
    tasks::{self, Outside},
    telemetry::Meters,
    web::{self, Bound, Sample, Web},
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
            Self::WebAndWorker | Self::Web => &[Topic::Changes, Topic::Control],
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
    #[error(transparent)]
    Backup(#[from] BackupError),
    #[error(transparent)]
    Role(#[from] RoleError),
    #[error("BLOB_URL: {0}")]
    Blobs(#[from] PlaceDown),
    #[error("PERSISTED_OPERATIONS: {0}")]
    Operations(#[from] BadOperations),
    #[error("{path} cannot be used, {error}")]
    File { path: String, error: io::Error },
    /// What a command was asked for that it cannot do.
    #[error("{0}")]
    Refused(String),
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
    /// Where a worker alone serves its meters and its health.
    pub meters_address: Option<SocketAddr>,
    /// The administrator made on an empty database.
    pub seeded: Option<Seeded>,
    /// The worker's engines.
    pub providers: Option<Providers>,
    /// Cancelled first: balancers are told to look elsewhere.
    leaving: CancellationToken,
    /// How long they get to do so.
    shutdown_delay: Duration,
    intake: CancellationToken,
    relay: CancellationToken,
    frontline: TaskTracker,
    background: TaskTracker,
    server: Option<JoinHandle<io::Result<()>>>,
}

impl App {
    /// Connects, migrates, seeds and starts.
    pub async fn start(
        configuration: &Arc<Configuration>,
        seams: Seams,
        role: Role,
    ) -> Result<Self, StartError> {
        let settings = &*configuration.settings();
        refuse_lonely(settings, role)?;
        let keyring = Keyring::new(secret_key(settings)?.expose());
        let operations = operations(settings)?.with(&crate::agent::TEXTS);
        // The port first: the likeliest thing to be wrong, and nothing has been touched yet.
        let (bound, meters_bound) = ports(settings, role).await?;
        let connections = Box::pin(connection::open(settings)).await?;
        migrate::migrate(&connections.people)
            .await
            .map_err(StartError::Migration)?;
        let (store, posted) = Store::new(
            connections,
            Arc::clone(&seams.clock),
            Arc::clone(&seams.entropy),
        );
        let meters = Arc::new(Meters::default());
        let dials = Dials::new(settings);
        let auth = Auth::new(&store, &keyring, dials.lives.clone());
        let services = Services {
            store: store.clone(),
            auth: auth.clone(),
            keyring: keyring.clone(),
            enqueuer: Enqueuer::new(store.clone()),
            admission: Admission::new(dials.bounds.clone()),
            fleet: dials.fleet.clone(),
            configuration: Arc::clone(configuration),
            backups: backups(settings, &seams, &meters)?,
            connections: Connections {
                blobs: Objects::open_later(&settings.blobs)?,
                kept: settings.records.connections,
            },
        };
        if role.works() {
            services.keep_backup_schedule(&settings.backup).await?;
        }
        let seeded = services.seed(settings).await?;
        let (queue, bus) = Box::pin(transports(settings, role)).await?;
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
            address: bound.as_ref().map(|bound| bound.address),
            meters_address: meters_bound.as_ref().map(|bound| bound.address),
            seeded,
            providers: None,
            leaving: CancellationToken::new(),
            shutdown_delay: settings.shutdown_delay,
            intake: CancellationToken::new(),
            relay: CancellationToken::new(),
            frontline: TaskTracker::new(),
            background: TaskTracker::new(),
            server: None,
        };
        app.background
            .spawn(dispatcher.clone().run(posted, app.relay.clone()));
        app.follow(dials.clone());
        let (providers, machines) = engines(settings, seams, role).await;
        if let Some(providers) = providers {
            app.start_worker(settings, &dials, dispatcher, providers, keyring);
        }
        let offer = Offer {
            operations,
            introspection: settings.introspection,
            longest: dials.longest.clone(),
            meters: Arc::clone(&meters),
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
            environment: settings.environment,
            log_sample: Sample::of(settings.telemetry.log_sample),
            leaving: app.leaving.clone(),
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

    /// Follows what is set anew while the process runs.
    fn follow(&self, dials: Dials) {
        let (store, bus) = (self.store.clone(), Arc::clone(&self.bus));
        self.background.spawn(follow::run(
            Arc::clone(&self.services.configuration),
            dials,
            Arc::clone(&bus),
            Arc::clone(&store.clock),
            self.relay.clone(),
        ));
        self.background
            .spawn(log_filter::follow(store, bus, self.relay.clone()));
    }

    fn start_worker(
        &mut self,
        settings: &Settings,
        dials: &Dials,
        dispatcher: Dispatcher,
        providers: Providers,
        keyring: Keyring,
    ) {
        let store = self.store.clone();
        let keeper = Keeper {
            store: store.clone(),
            providers: providers.clone(),
            deployment: keyring.deployment(),
            care: dials.care.clone(),
            since: store.now(),
        };
        let outside = Outside {
            providers: providers.clone(),
            store: store.clone(),
            keyring,
            publish_address: settings.publish_address,
            engine_rate: dials.engine_rate.clone(),
            backups: self.services.backups.clone(),
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
        let upkeep = Upkeep::new(store.clone(), dials.retention.clone())
            .with_blobs(self.services.connections.blobs.clone());
        let clock = Arc::clone(&store.clock);
        let sweeper = Sweeper::new(dispatcher, clock, worker.id, Some(upkeep));
        let stop = self.intake.clone();
        self.frontline.spawn(worker.run(stop.clone()));
        self.frontline
            .spawn(keeper.clone().bring_logs(me, stop.clone()));
        self.frontline.spawn(keeper.clone().keep(me, stop));
        if let Some(backups) = self.services.backups.clone() {
            self.background
                .spawn(show_backups(backups, self.relay.clone()));
        }
        self.background.spawn(keeper.listen(self.relay.clone()));
        self.background.spawn(sweeper.run(self.relay.clone()));
        self.providers = Some(providers);
    }

    /// Whether the web server has ended by itself, which is a fault.
    pub fn has_failed(&self) -> bool {
        self.server.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Reads the settings again.
    pub async fn reload(&self) {
        follow::reload(&self.services.configuration).await;
    }

    /// Tells balancers, stops taking work, lets what runs finish or gives it back, then ends what carries the news of it.
    pub async fn stop(self) {
        self.leaving.cancel();
        if self.server.is_some() && !self.shutdown_delay.is_zero() {
            self.store.clock.sleep(self.shutdown_delay).await;
        }
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

/// Has the meters show the newest backup, as it was made before this process began.
async fn show_backups(backups: Arc<Backups>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        shown = backups.show_newest() => if let Err(error) = shown {
            tracing::warn!(%error, "backups cannot be looked at");
        }
    }
}

/// Processes with one part each have to hear of each other.
fn refuse_lonely(settings: &Settings, role: Role) -> Result<(), ConfigError> {
    if role == Role::WebAndWorker || settings.redis_url.is_some() {
        return Ok(());
    }
    let problem =
        "needed when web and worker are separate processes, so that they hear of each other";
    Err(ConfigError::Missing {
        key: "REDIS_URL",
        problem: problem.to_owned(),
    })
}

/// Where backups go, if they go anywhere.
fn backups(
    settings: &Settings,
    seams: &Seams,
    meters: &Arc<Meters>,
) -> Result<Option<Arc<Backups>>, StartError> {
    let opened = Backups::open(
        settings,
        Arc::clone(&seams.clock),
        Arc::clone(&seams.entropy),
        Arc::clone(meters),
    );
    Ok(opened?.map(Arc::new))
}

/// A worker's engines, and those whose consoles the web opens.
async fn engines(
    settings: &Settings,
    seams: Seams,
    role: Role,
) -> (Option<Providers>, Engines<dyn Hypervisor>) {
    let providers = match seams.providers {
        Some(providers) => providers.watched(),
        None if role.works() => {
            let providers = providers::from_settings(settings, seams.clock, seams.entropy);
            providers.await.watched()
        }
        None => {
            let machines = providers::of_machines(settings, seams.clock, seams.entropy).await;
            return (None, machines.watched());
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

/// How processes reach each other.
type Transports = (Arc<dyn TaskQueue>, Arc<dyn EventBus>);

async fn bind(settings: &Settings, port: u16) -> Result<Bound, StartError> {
    let address = SocketAddr::new(settings.host, port);
    web::bind(address)
        .await
        .map_err(|error| StartError::Port { address, error })
}

/// What a web server listens on, or what a worker alone shows its meters on.
async fn ports(
    settings: &Settings,
    role: Role,
) -> Result<(Option<Bound>, Option<Bound>), StartError> {
    match role {
        Role::WebAndWorker | Role::Web => Ok((Some(bind(settings, settings.port).await?), None)),
        Role::Worker if settings.metrics_port != 0 => {
            Ok((None, Some(bind(settings, settings.metrics_port).await?)))
        }
        Role::Worker => Ok((None, None)),
    }
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
