//! Typed settings, read once at the start. A wrong one stops the start with one line that names it.
//!
//! To add one: a field of [`Settings`], its line in [`KEYS`], and its reading in [`Settings::load`].

mod keys;
mod machines;
mod secret;
mod sources;

use std::{net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

pub use keys::KEYS;
pub use secret::Secret;
pub use sources::Sources;
use url::Url;

/// What is logged unless `LOG` says otherwise: what this service says, and of the libraries only what is wrong.
const DEFAULT_LOG: &str = "info,sea_orm_migration=warn,sqlx=warn,poem=warn,fred=warn";

/// A switch, by default on or off.
const ON: [(&str, bool); 2] = [("on", true), ("off", false)];
const OFF: [(&str, bool); 2] = [("off", false), ("on", true)];

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{key}: {problem} (from {origin}); {accepts} is expected")]
    Value {
        key: &'static str,
        problem: String,
        origin: &'static str,
        accepts: &'static str,
    },
    #[error("{key}: no such setting{}", .nearest.map(|name| format!("; did you mean {name}?")).unwrap_or_default())]
    UnknownKey {
        key: String,
        nearest: Option<&'static str>,
    },
    #[error("{key}: {problem}")]
    Missing { key: &'static str, problem: String },
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
}

/// Where the rows live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A `sqlite:` URL.
    Sqlite(String),
    /// A `postgres:` URL with its password.
    Postgres(Secret),
}

/// Which engine containers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderChoice {
    Auto,
    Docker,
    Swarm,
    Simulated,
}

/// Which engine virtual machines run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachineProviderChoice {
    Auto,
    Qemu,
    Libvirt,
    Simulated,
}

/// Where QEMU or libvirt has its machines and images, and what it leaves to its host.
#[derive(Debug, Clone)]
pub struct Machines {
    pub provider: MachineProviderChoice,
    pub directory: PathBuf,
    pub images: PathBuf,
    /// The connection URI of libvirt, and the names of its pools of machines and of images.
    pub libvirt_uri: String,
    pub libvirt_pool: String,
    pub libvirt_image_pool: String,
    pub accel: AccelChoice,
    pub disk_reserve_bytes: u64,
    pub memory_reserve_bytes: u64,
    /// Most machines one owner has at once.
    pub per_owner: u64,
    /// How long one that no row knows is left on an engine.
    pub orphan_grace: Duration,
}

/// What runs a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelChoice {
    Auto,
    Kvm,
    Tcg,
}

/// What is done about differences between the database and the engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reconcile {
    /// They are mended.
    On,
    /// They are shown.
    DryRun,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Pretty,
    Json,
}

/// The effective configuration of one process; [`KEYS`] says what each is for.
#[derive(Debug, Clone)]
pub struct Settings {
    pub host: IpAddr,
    pub port: u16,
    pub data_dir: PathBuf,
    pub database: Database,
    pub database_connections: u32,
    pub redis_url: Option<Secret>,
    pub redis_prefix: String,
    /// `None` lets an embedded start generate one in `data_dir`.
    pub secret_key: Option<Secret>,
    pub admin_email: String,
    pub admin_password: Option<Secret>,
    pub access_token: Duration,
    pub refresh_token: Duration,
    pub provider: ProviderChoice,
    pub docker_host: String,
    pub machines: Machines,
    pub publish_address: IpAddr,
    pub worker_concurrency: usize,
    pub lease: Duration,
    pub drain: Duration,
    pub tasks_per_owner: u64,
    pub tasks_total: u64,
    /// Operations an engine is asked for per second; 0 is no limit.
    pub engine_rate: u32,
    /// Most containers one owner has at once.
    pub containers_per_owner: u64,
    /// How long a client may stay in a container that is drained.
    pub container_drain: Duration,
    /// After how long somebody's container without a client is removed: one that had a client, and one that never had.
    pub container_idle: Option<Duration>,
    pub container_abandoned: Option<Duration>,
    /// Time between two heartbeats of a host, and the silences after which it is stale and dead.
    pub heartbeat: Duration,
    pub host_stale: Duration,
    pub host_dead: Duration,
    /// How long a spare machine of a cluster stays in service with nothing to do.
    pub spare_idle: Duration,
    pub reconcile: Reconcile,
    /// Time between two looks at an engine.
    pub reconcile_pause: Duration,
    /// How long what nobody knows is left on an engine.
    pub orphan_grace: Duration,
    pub ended_retention: Duration,
    pub dead_letter_retention: Duration,
    pub archive_retention: Duration,
    /// Where a worker alone serves its meters; 0 is nowhere.
    pub metrics_port: u16,
    pub request: Duration,
    /// Whether the schema answers questions about itself.
    pub introspection: bool,
    /// Whether the console is served.
    pub console: bool,
    /// A JSON object of names and texts.
    pub persisted_operations: Option<PathBuf>,
    /// Whether no other operation is executed.
    pub persisted_only: bool,
    pub log: String,
    pub log_format: LogFormat,
}

impl Settings {
    /// Reads every setting from `sources`.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        sources.refuse_unknown()?;
        let data_dir = PathBuf::from(
            sources
                .text("DATA_DIR")
                .unwrap_or_else(|| ".data".to_owned()),
        );
        let machines = machines::read(sources, &data_dir)?;
        let settings = Self {
            host: sources.parse("HOST", "127.0.0.1")?,
            port: sources.parse("PORT", "7730")?,
            database: database(sources, &data_dir)?,
            data_dir,
            database_connections: sources.number("DATABASE_CONNECTIONS", &10, 1..=500)?,
            redis_url: redis_url(sources)?,
            redis_prefix: sources
                .text("REDIS_PREFIX")
                .unwrap_or_else(|| "main-webserver".to_owned()),
            secret_key: secret_key(sources)?,
            admin_email: email(sources)?,
            admin_password: admin_password(sources)?,
            access_token: Duration::from_secs(sources.number(
                "ACCESS_TOKEN_SECONDS",
                &900,
                10..=86_400,
            )?),
            refresh_token: Duration::from_secs(
                sources.number("REFRESH_TOKEN_DAYS", &30_u64, 1..=365)? * 86_400,
            ),
            provider: sources.one_of(
                "PROVIDER",
                &[
                    ("auto", ProviderChoice::Auto),
                    ("docker", ProviderChoice::Docker),
                    ("swarm", ProviderChoice::Swarm),
                    ("simulated", ProviderChoice::Simulated),
                ],
            )?,
            docker_host: docker_host(sources)?,
            machines,
            publish_address: sources.parse("PUBLISH_ADDRESS", "127.0.0.1")?,
            worker_concurrency: sources.number("WORKER_CONCURRENCY", &16, 1..=1000)?,
            lease: Duration::from_secs(sources.number("LEASE_SECONDS", &30, 1..=3600)?),
            drain: Duration::from_secs(sources.number("DRAIN_SECONDS", &20, 0..=3600)?),
            tasks_per_owner: sources.number("TASKS_PER_OWNER", &10_000, 1..=100_000_000)?,
            tasks_total: sources.number("TASKS_TOTAL", &2_000_000, 1..=1_000_000_000)?,
            engine_rate: sources.number("ENGINE_RATE", &0, 0..=10_000)?,
            containers_per_owner: sources.number("CONTAINERS_PER_OWNER", &100, 1..=1_000_000)?,
            container_drain: seconds(sources, "CONTAINER_DRAIN_SECONDS", 300, 0..=604_800)?,
            container_idle: some_seconds(sources, "CONTAINER_IDLE_SECONDS")?,
            container_abandoned: some_seconds(sources, "CONTAINER_ABANDONED_SECONDS")?,
            heartbeat: seconds(sources, "HEARTBEAT_SECONDS", 5, 1..=3600)?,
            host_stale: seconds(sources, "HOST_STALE_SECONDS", 20, 1..=86_400)?,
            host_dead: seconds(sources, "HOST_DEAD_SECONDS", 120, 1..=604_800)?,
            spare_idle: seconds(sources, "SPARE_IDLE_SECONDS", 600, 0..=604_800)?,
            reconcile: sources.one_of(
                "RECONCILE",
                &[
                    ("on", Reconcile::On),
                    ("dry-run", Reconcile::DryRun),
                    ("off", Reconcile::Off),
                ],
            )?,
            reconcile_pause: seconds(sources, "RECONCILE_SECONDS", 15, 1..=86_400)?,
            orphan_grace: seconds(sources, "ORPHAN_SECONDS", 60, 0..=604_800)?,
            ended_retention: days(sources, "TASK_DAYS", 30)?,
            dead_letter_retention: days(sources, "DEAD_LETTER_DAYS", 90)?,
            archive_retention: days(sources, "ARCHIVE_DAYS", 365)?,
            metrics_port: sources.parse("METRICS_PORT", "0")?,
            request: Duration::from_secs(sources.number("REQUEST_SECONDS", &30, 1..=3600)?),
            introspection: sources.one_of("INTROSPECTION", &ON)?,
            console: sources.one_of("CONSOLE", &ON)?,
            persisted_operations: sources.text("PERSISTED_OPERATIONS").map(PathBuf::from),
            persisted_only: sources.one_of("PERSISTED_ONLY", &OFF)?,
            log: sources
                .text("LOG")
                .unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            log_format: sources.one_of(
                "LOG_FORMAT",
                &[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)],
            )?,
        };
        if settings.host_stale <= settings.heartbeat || settings.host_dead <= settings.host_stale {
            let problem =
                "HEARTBEAT_SECONDS < HOST_STALE_SECONDS < HOST_DEAD_SECONDS is expected".to_owned();
            return Err(sources.refuse("HOST_STALE_SECONDS", problem));
        }
        if settings.persisted_only && settings.persisted_operations.is_none() {
            let problem = "needs PERSISTED_OPERATIONS, or nothing could be asked for".to_owned();
            return Err(sources.refuse("PERSISTED_ONLY", problem));
        }
        if let Err(error) = tracing_subscriber::EnvFilter::from_str(&settings.log) {
            return Err(sources.refuse("LOG", error.to_string()));
        }
        Ok(settings)
    }
}

fn seconds(
    sources: &Sources,
    key: &'static str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Duration, ConfigError> {
    Ok(Duration::from_secs(sources.number(key, &default, range)?))
}

/// A duration that is none by default, and for 0.
fn some_seconds(sources: &Sources, key: &'static str) -> Result<Option<Duration>, ConfigError> {
    let duration = seconds(sources, key, 0, 0..=31_536_000)?;
    Ok((!duration.is_zero()).then_some(duration))
}

fn days(sources: &Sources, key: &'static str, default: u64) -> Result<Duration, ConfigError> {
    let days = sources.number(key, &default, 1..=36_500)?;
    Ok(Duration::from_secs(days * 86_400))
}

fn database(sources: &Sources, data_dir: &std::path::Path) -> Result<Database, ConfigError> {
    if let Some(text) = sources.text("DATABASE_URL") {
        let refuse = |problem: &str| sources.refuse("DATABASE_URL", problem.to_owned());
        if text.starts_with("sqlite:") {
            return Ok(Database::Sqlite(text));
        }
        let url = Url::parse(&text).map_err(|error| refuse(&format!("not a URL, {error}")))?;
        return match url.scheme() {
            "postgres" | "postgresql" if url.host_str().is_some() || text.contains("host=") => {
                Ok(Database::Postgres(Secret::new(text)))
            }
            "postgres" | "postgresql" => Err(refuse("has no host")),
            _ => Err(refuse("neither PostgreSQL nor SQLite")),
        };
    }
    let Some(host) = sources.text("POSTGRES_HOST") else {
        return Ok(Database::Sqlite(format!(
            "sqlite://{}/main-webserver.sqlite3",
            data_dir.display()
        )));
    };
    let port: u16 = sources.number("POSTGRES_PORT", &5432, 1..=65_535)?;
    let or_postgres = |key| sources.text(key).unwrap_or_else(|| "postgres".to_owned());
    let build = || {
        let mut url = Url::parse("postgres://postgres").ok()?;
        url.set_host(Some(&host)).ok()?;
        url.set_port(Some(port)).ok()?;
        url.set_username(&or_postgres("POSTGRES_USER")).ok()?;
        url.set_password(sources.text("POSTGRES_PASSWORD").as_deref())
            .ok()?;
        url.set_path(&or_postgres("POSTGRES_DB"));
        Some(url.to_string())
    };
    build()
        .map(|url| Database::Postgres(Secret::new(url)))
        .ok_or_else(|| sources.refuse("POSTGRES_HOST", format!("'{host}' is not a host name")))
}

fn redis_url(sources: &Sources) -> Result<Option<Secret>, ConfigError> {
    let Some(text) = sources.text("REDIS_URL") else {
        return Ok(None);
    };
    // The client library takes any scheme; `-cluster` and `-sentinel` endings are its own.
    let scheme = text.split("://").next().unwrap_or_default();
    if !["redis", "rediss", "valkey", "valkeys"]
        .contains(&scheme.split('-').next().unwrap_or_default())
    {
        return Err(sources.refuse("REDIS_URL", format!("'{scheme}' is not Redis' scheme")));
    }
    fred::types::config::Config::from_url(&text)
        .map_err(|error| sources.refuse("REDIS_URL", error.details().to_owned()))?;
    Ok(Some(Secret::new(text)))
}

fn secret_key(sources: &Sources) -> Result<Option<Secret>, ConfigError> {
    match sources.text("SECRET_KEY") {
        Some(key) if key.chars().count() < 32 => {
            Err(sources.refuse("SECRET_KEY", "too short".to_owned()))
        }
        key => Ok(key.map(Secret::new)),
    }
}

fn email(sources: &Sources) -> Result<String, ConfigError> {
    let text = sources
        .text("ADMIN_EMAIL")
        .unwrap_or_else(|| "admin@localhost".to_owned());
    match crate::domain::value::Email::parse(&text) {
        Ok(email) => Ok(email.as_str().to_owned()),
        Err(refused) => Err(sources.refuse("ADMIN_EMAIL", refused.0)),
    }
}

fn admin_password(sources: &Sources) -> Result<Option<Secret>, ConfigError> {
    let Some(text) = sources.text("ADMIN_PASSWORD") else {
        return Ok(None);
    };
    match crate::domain::value::NewPassword::parse(&text) {
        Ok(_) => Ok(Some(Secret::new(text))),
        Err(refused) => Err(sources.refuse("ADMIN_PASSWORD", refused.0)),
    }
}

fn docker_host(sources: &Sources) -> Result<String, ConfigError> {
    let host = sources
        .text("DOCKER_HOST")
        .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
    if ["unix://", "tcp://", "http://"]
        .iter()
        .any(|scheme| host.starts_with(scheme))
    {
        Ok(host)
    } else {
        Err(sources.refuse("DOCKER_HOST", format!("'{host}' has another scheme")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(pairs: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        Settings::load(&Sources::from_pairs(pairs))
    }

    fn line(pairs: &[(&str, &str)]) -> String {
        load(pairs).expect_err("a wrong setting").to_string()
    }

    #[test]
    fn nothing_set_is_an_embedded_start_on_7730() {
        let settings = load(&[]).expect("the defaults are right");
        assert_eq!(settings.port, 7730);
        assert_eq!(
            settings.database,
            Database::Sqlite("sqlite://.data/main-webserver.sqlite3".to_owned())
        );
        assert!(settings.redis_url.is_none());
    }

    #[test]
    fn postgres_parts_are_escaped_into_a_url() {
        let settings = load(&[
            ("POSTGRES_HOST", "db"),
            ("POSTGRES_USER", "a b"),
            ("POSTGRES_PASSWORD", "p@ss/word"),
        ]);
        let Ok(Database::Postgres(url)) = settings.map(|s| s.database) else {
            panic!("PostgreSQL is expected")
        };
        assert_eq!(
            url.expose(),
            "postgres://a%20b:p%40ss%2Fword@db:5432/postgres"
        );
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_it_accepts() {
        assert_eq!(
            line(&[("PORT", "eighty")]),
            "PORT: 'eighty' is not usable, invalid digit found in string (from command line); 0 to 65535 [7730] is expected"
        );
        assert_eq!(
            line(&[("PROT", "1")]),
            "PROT: no such setting; did you mean PORT?"
        );
        assert!(line(&[("LEASE_SECONDS", "0")]).starts_with("LEASE_SECONDS: 0 is out of range"));
        assert!(line(&[("DATABASE_URL", "mysql://x/y")]).contains("neither PostgreSQL nor SQLite"));
        assert!(line(&[("REDIS_URL", "http://x")]).starts_with("REDIS_URL: "));
        assert!(line(&[("SECRET_KEY", "short")]).starts_with("SECRET_KEY: too short"));
        assert!(line(&[("LOG", "info,=,")]).starts_with("LOG: "));
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        let settings = load(&[
            ("DATABASE_URL", "postgres://u:hunter2@h/d"),
            ("SECRET_KEY", &"k".repeat(32)),
        ]);
        let shown = format!("{settings:?}");
        assert!(
            !shown.contains("hunter2") && !shown.contains("kkkk"),
            "{shown}"
        );
    }
}
