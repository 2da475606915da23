//! A service of the test's own, and people who use it over real HTTP and real WebSockets.

pub mod agent;
pub mod client;
pub mod directory;
pub mod fleet;
pub mod machines;
pub mod process;
pub mod receiver;
pub mod servers;
pub mod socket;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

pub use client::{Person, Reply};
use main_webserver::{
    app::{App, Role, Seams},
    config::{Configuration, Given, Settings, Sources},
    domain::{Clock as _, Entropy, Id, Keyring, SystemClock, id},
    providers::{Faults, Providers, Simulated, SimulatedMachines},
    store::{Store, apps, containers},
};
use sea_orm::{ConnectionTrait as _, Database};
use tempfile::TempDir;

/// How long a test waits for what has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// An engine quick enough for tests.
pub const QUICK: Faults = Faults {
    delay: Duration::from_millis(4),
    boot: Duration::from_millis(20),
    lost_calls: 0,
    lost_answers: 0,
};

/// Where a test's rows and messages live: a database of its own, a Redis prefix of its own.
pub struct Ground {
    folder: TempDir,
    pub settings: Vec<(String, String)>,
    /// The PostgreSQL server and the test's database on it.
    postgres: Option<(String, String)>,
}

impl Ground {
    /// PostgreSQL and Redis when the environment names them, else SQLite and the memory of the process.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let name = format!("t_{}", Entropy::from_os().uuid(SystemClock.now()).simple());
        let mut settings = vec![
            ("PORT".to_owned(), "0".to_owned()),
            ("DATA_DIR".to_owned(), folder.path().display().to_string()),
            (
                "SECRET_KEY".to_owned(),
                // Its own: it tells a deployment's containers from another's.
                format!("a secret of thirty-two characters or more, {name}"),
            ),
            ("ADMIN_PASSWORD".to_owned(), ADMIN_PASSWORD.to_owned()),
            ("PROVIDER".to_owned(), "simulated".to_owned()),
            ("DATABASE_CONNECTIONS".to_owned(), "8".to_owned()),
            ("LEASE_SECONDS".to_owned(), "2".to_owned()),
            ("DRAIN_SECONDS".to_owned(), "5".to_owned()),
        ];
        let postgres = match std::env::var("TEST_DATABASE_URL") {
            Ok(server) => {
                let db = Database::connect(&server).await.unwrap();
                db.execute_unprepared(&format!("CREATE DATABASE {name}"))
                    .await
                    .unwrap();
                db.close().await.unwrap();
                let (base, _) = server.rsplit_once('/').unwrap();
                settings.push(("DATABASE_URL".to_owned(), format!("{base}/{name}")));
                Some((server, name.clone()))
            }
            Err(_) => None,
        };
        if let Ok(redis) = std::env::var("TEST_REDIS_URL") {
            settings.push(("REDIS_URL".to_owned(), redis));
            settings.push(("REDIS_PREFIX".to_owned(), name));
        }
        Self {
            folder,
            settings,
            postgres,
        }
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn setting(&self, key: &str) -> &str {
        let found = self.settings.iter().find(|(known, _)| known == key);
        found.map(|(_, value)| value.as_str()).unwrap()
    }

    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    pub fn load(&self) -> Settings {
        Settings::load(&self.sources()).unwrap()
    }

    pub async fn configuration(&self) -> Arc<Configuration> {
        let given = Given::Pairs(self.sources());
        Configuration::open(given).await.unwrap()
    }

    fn sources(&self) -> Sources {
        let pairs: Vec<(&str, &str)> = self
            .settings
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        Sources::from_pairs(&pairs)
    }

    /// Removes the test's database.
    pub async fn clear(self) {
        if let Some((server, name)) = self.postgres {
            let db = Database::connect(&server).await.unwrap();
            db.execute_unprepared(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                .await
                .unwrap();
        }
    }
}

pub const ADMIN_PASSWORD: &str = "the administrator's password";

/// One service of one or more processes' worth of parts, with an engine the test can look into.
pub struct World {
    pub ground: Ground,
    pub engine: Arc<Simulated>,
    pub machines: Arc<SimulatedMachines>,
    pub apps: Vec<App>,
}

impl World {
    /// Web and worker in one, on a quick engine.
    pub async fn start() -> Self {
        Self::with(QUICK, &[Role::WebAndWorker]).await
    }

    /// The same, and nobody looks at the engine by themselves.
    pub async fn quiet() -> Self {
        let ground = Ground::new().await.with("RECONCILE_SECONDS", "3600");
        let world = Self::on(ground, QUICK, &[Role::WebAndWorker]).await;
        let admin = world.admin().await;
        // The first look is over before anything is there to be seen.
        until("both engines have been looked at", async || {
            let engines = admin.ask("{ engines { totalCount } }").await;
            (engines.ok("/engines/totalCount") == 2).then_some(())
        })
        .await;
        world
    }

    /// Looks at every engine and mends what differs; what was found, engine by engine.
    pub async fn reconcile(&self) -> serde_json::Value {
        let admin = self.admin().await;
        let asked = admin.ask("mutation { reconcile(input: {}) { task { id } } }");
        let task = asked.await.text("/reconcile/task/id");
        admin.task_in(&task, "SUCCEEDED").await["result"]["engines"].clone()
    }

    /// Has a client be seen in a container, now.
    pub async fn ping(&self, container: &str) {
        self.ping_ago(container, 0).await;
    }

    /// The same, so many seconds ago.
    pub async fn ping_ago(&self, container: &str, seconds: i64) {
        let then = self.store().now() - chrono::TimeDelta::seconds(seconds);
        self.set(container, containers::Column::LastPingAt, then)
            .await;
    }

    async fn set(
        &self,
        container: &str,
        column: containers::Column,
        at: chrono::DateTime<chrono::Utc>,
    ) {
        use sea_orm::{ColumnTrait as _, EntityTrait as _, QueryFilter as _, sea_query::Expr};
        let id: Id<id::Container> = Id::parse(container).unwrap();
        containers::Entity::update_many()
            .col_expr(column, Expr::value(at))
            .filter(containers::Column::Id.eq(id.uuid()))
            .exec(self.store().db())
            .await
            .unwrap();
    }

    /// Makes a container's last change so many seconds older.
    pub async fn age(&self, container: &str, seconds: i64) {
        let then = self.store().now() - chrono::TimeDelta::seconds(seconds);
        self.set(container, containers::Column::UpdatedAt, then)
            .await;
    }

    pub fn keyring(&self) -> Keyring {
        Keyring::new(self.ground.setting("SECRET_KEY"))
    }

    /// One part for each of `roles`, all on one database and one engine.
    pub async fn with(faults: Faults, roles: &[Role]) -> Self {
        Self::on(Ground::new().await, faults, roles).await
    }

    /// The same on a ground with settings of its own.
    pub async fn on(ground: Ground, faults: Faults, roles: &[Role]) -> Self {
        let engine = Arc::new(Simulated::new(
            Arc::new(SystemClock),
            Arc::new(Entropy::seeded(7)),
            faults,
        ));
        let machines = Arc::new(SimulatedMachines::new(
            Arc::new(SystemClock),
            Arc::new(Entropy::seeded(8)),
            faults,
        ));
        let mut world = Self {
            ground,
            engine,
            machines,
            apps: Vec::new(),
        };
        for role in roles {
            world.add(*role).await;
        }
        // A world without parts gets its own later.
        let images: &[&str] = if roles.is_empty() {
            &[]
        } else {
            &["missing/app", "exiting/app"]
        };
        for image in images {
            world.add_app(&image.replace('/', "-"), image).await;
        }
        if !roles.is_empty() {
            world.add_image("tiny", "tiny.qcow2").await;
        }
        world
    }

    pub async fn add(&mut self, role: Role) -> usize {
        let seams = Seams {
            providers: Some(Providers::of(self.engine.clone(), self.machines.clone())),
            ..Seams::default()
        };
        self.apps.push(
            App::start(&self.ground.configuration().await, seams, role)
                .await
                .unwrap(),
        );
        self.apps.len() - 1
    }

    pub async fn add_app(&self, slug: &str, image: &str) {
        let mut tx = self.store().begin().await.unwrap();
        let app = apps::NewApp {
            slug: slug.to_owned(),
            name: slug.to_owned(),
            category: "Tests".to_owned(),
            description: "For tests.".to_owned(),
            image: image.to_owned(),
            images: std::collections::BTreeMap::new(),
            command: Vec::new(),
            ports: vec![8080],
            cpu_millis: 100,
            memory_bytes: 32 << 20,
        };
        apps::insert(&mut tx, app).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub fn store(&self) -> &Store {
        &self.apps[0].store
    }

    /// The address of the first part that serves.
    pub fn address(&self) -> std::net::SocketAddr {
        self.apps.iter().find_map(|app| app.address).unwrap()
    }

    /// Somebody without an account.
    pub fn anonymous(&self) -> Person {
        Person::at(self.address())
    }

    /// Somebody with a new account.
    pub async fn person(&self, name: &str) -> Person {
        self.anonymous().sign_up(name).await
    }

    pub async fn admin(&self) -> Person {
        self.anonymous()
            .log_in("admin@localhost", ADMIN_PASSWORD)
            .await
    }

    /// Stops everything; a part that does not stop in time is a failure.
    pub async fn stop(self) {
        for app in self.apps {
            tokio::time::timeout(PATIENCE, app.stop())
                .await
                .expect("a part stops in time");
        }
        self.ground.clear().await;
    }
}

/// Waits until `check` gives something; panics with `what` when it does not in time.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, check: impl Fn() -> F) -> T {
    until_within(PATIENCE, what, check).await
}

pub async fn until_within<T, F: Future<Output = Option<T>>>(
    limit: Duration,
    what: &str,
    check: impl Fn() -> F,
) -> T {
    let wait = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            nap(20).await;
        }
    };
    tokio::time::timeout(limit, wait)
        .await
        .unwrap_or_else(|_| panic!("did not happen within {limit:?}: {what}"))
}

#[expect(
    clippy::disallowed_methods,
    reason = "tests that wait for real processes wait in real time"
)]
pub async fn nap(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// A variable that `tests/run.sh` sets for the part that needs it.
pub fn required(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} is not set; run this test by tests/run.sh"))
}

/// An HTTP client to be.
pub fn http() -> reqwest::ClientBuilder {
    // It has no cryptography of its own; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
}

/// One HTTP client for all of a test's people.
pub static HTTP: LazyLock<reqwest::Client> =
    LazyLock::new(|| http().timeout(Duration::from_secs(40)).build().unwrap());
