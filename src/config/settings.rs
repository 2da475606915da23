//! Every setting, with its type, its default and what it is for.
//!
//! To add one: its two lines here, or in the group it belongs to. Where a value stands in a relation to another, [`checked`]
//! looks at both.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    Backup, ConfigError, Database, Environment, LogFormat, Place, ProviderChoice, Reconcile,
    Records, Secret, Sources,
    backup::Blobs,
    database::{CERTIFICATES, DatabaseUrl, POSTGRES_PORT, RedisUrl},
    key::settings,
    kinds::{
        DATA_DIR, Maybe, OneOf, address, days, long_secret, looked, maybe, maybe_path, number,
        one_of, seconds, seconds_or_never, secret, switch, text,
    },
    machines::Machines,
    telemetry::Telemetry,
};
use crate::domain::value::{Email, NewPassword};

/// What is logged unless `LOG` says otherwise: what this service says, and of the libraries only what is wrong.
const DEFAULT_LOG: &str = "info,sea_orm_migration=warn,sqlx=warn,poem=warn,fred=warn";

const ENVIRONMENTS: OneOf<Environment> = one_of(&[
    ("dev", Environment::Dev),
    ("staging", Environment::Staging),
    ("prod", Environment::Prod),
]);
const CONFIG_DB_URL: Maybe<Secret> = secret("postgres://… or sqlite://…", "none", |text| {
    Database::parse(text).map(|_| Secret::new(text.to_owned()))
});
const CONFIG_KEY: Maybe<Secret> = secret("32 characters or more", "", long_secret);

settings! {
    /// The effective configuration of one process.
    pub struct Settings {
        /// what this deployment is for, which chooses among the defaults of the configuration database
        ENVIRONMENT environment: Environment = ENVIRONMENTS, local;
        /// the database with the defaults of each environment
        CONFIG_DB_URL config_db: Option<Secret> = CONFIG_DB_URL, local;
        /// encrypts what is secret in the configuration database
        CONFIG_KEY config_key: Option<Secret> = CONFIG_KEY, local;
        /// time between two looks into the configuration database; 0 is never
        CONFIG_RELOAD_SECONDS config_reload: Option<Duration> = looked("0 to 86400", "60", reload_pause);
        /// address the web server listens on
        HOST host: IpAddr = address("127.0.0.1");
        /// port the web server listens on; 0 takes a free one
        PORT port: u16 = number(7730, 0..=65_535);
        /// SQLite file and generated key of an embedded start
        DATA_DIR data_dir: PathBuf = looked("a folder", DATA_DIR, |text| Ok(PathBuf::from(text)));
        /// the database
        DATABASE_URL database: Database = DatabaseUrl;
        /// most connections of one process
        DATABASE_CONNECTIONS database_connections: u32 = number(10, 1..=500);
        /// queue and events between processes
        REDIS_URL redis_url: Option<Secret> = RedisUrl;
        /// which certificates a rediss:// server may show; any takes those that nobody has signed
        REDIS_CERTIFICATE redis_takes_any: bool = CERTIFICATES;
        /// in front of every key and channel in Redis
        REDIS_PREFIX redis_prefix: String = text("text", "main-webserver");
        /// signs access tokens, derives containers' keys
        SECRET_KEY secret_key: Option<Secret> = secret("32 characters or more", "generated in DATA_DIR", long_secret);
        /// administrator made on an empty database
        ADMIN_EMAIL admin_email: String = looked("an e-mail address", "admin@localhost", |text| Email::parse(text).map(|email| email.as_str().to_owned()).map_err(|refused| refused.0));
        /// that administrator's password
        ADMIN_PASSWORD admin_password: Option<Secret> = secret("12 to 256 characters", "generated, printed once", |text| NewPassword::parse(text).map(|_| Secret::new(text.to_owned())).map_err(|refused| refused.0));
        /// life of an access token
        ACCESS_TOKEN_SECONDS access_token: Duration = seconds(900, 10..=86_400), reloads;
        /// life of an unused refresh token
        REFRESH_TOKEN_DAYS refresh_token: Duration = days(30, 1..=365), reloads;
        /// container engine of what has no cluster; auto takes Docker when its socket answers
        PROVIDER provider: ProviderChoice = one_of(&[("auto", ProviderChoice::Auto), ("docker", ProviderChoice::Docker), ("swarm", ProviderChoice::Swarm), ("simulated", ProviderChoice::Simulated)]);
        /// the Docker engine
        DOCKER_HOST docker_host: String = looked("unix://… or tcp://…", "unix:///var/run/docker.sock", docker_host);
        /// address containers' ports are published on
        PUBLISH_ADDRESS publish_address: IpAddr = address("127.0.0.1");
        /// tasks one worker runs at once
        WORKER_CONCURRENCY worker_concurrency: usize = number(16, 1..=1000);
        /// how long a silent worker keeps its tasks
        LEASE_SECONDS lease: Duration = seconds(30, 1..=3600);
        /// how long a stopping worker lets its tasks finish
        DRAIN_SECONDS drain: Duration = seconds(20, 0..=3600);
        /// how long a stopping web server still serves, while /readyz sends balancers away
        SHUTDOWN_DELAY_SECONDS shutdown_delay: Duration = seconds(0, 0..=300);
        /// most unfinished tasks of one owner
        TASKS_PER_OWNER tasks_per_owner: u64 = number(10_000, 1..=100_000_000), reloads;
        /// most unfinished tasks of all
        TASKS_TOTAL tasks_total: u64 = number(2_000_000, 1..=1_000_000_000), reloads;
        /// operations one engine is asked for per second, by all workers; 0 is no limit
        ENGINE_RATE engine_rate: u32 = number(0, 0..=10_000), reloads;
        /// most containers one owner has at once
        CONTAINERS_PER_OWNER containers_per_owner: u64 = number(100, 1..=1_000_000), reloads;
        /// how long a client may stay in a container that is drained
        CONTAINER_DRAIN_SECONDS container_drain: Duration = seconds(300, 0..=604_800), reloads;
        /// after how long without its client somebody's container is removed; 0 is never
        CONTAINER_IDLE_SECONDS container_idle: Option<Duration> = seconds_or_never(0..=31_536_000), reloads;
        /// after how long somebody's container is removed that no client came to; 0 is never
        CONTAINER_ABANDONED_SECONDS container_abandoned: Option<Duration> = seconds_or_never(0..=31_536_000), reloads;
        /// time between two heartbeats of a host
        HEARTBEAT_SECONDS heartbeat: Duration = seconds(5, 1..=3600), reloads;
        /// silence after which nobody knows how a host's containers are
        HOST_STALE_SECONDS host_stale: Duration = seconds(20, 1..=86_400), reloads;
        /// silence after which a host's containers are made anew elsewhere
        HOST_DEAD_SECONDS host_dead: Duration = seconds(120, 1..=604_800), reloads;
        /// how long a spare machine stays in service with nothing to do
        SPARE_IDLE_SECONDS spare_idle: Duration = seconds(600, 0..=604_800), reloads;
        /// whether differences between database and engines are mended, or only shown
        RECONCILE reconcile: Reconcile = one_of(&[("on", Reconcile::On), ("dry-run", Reconcile::DryRun), ("off", Reconcile::Off)]), reloads;
        /// time between two looks at an engine
        RECONCILE_SECONDS reconcile_pause: Duration = seconds(15, 1..=86_400), reloads;
        /// how long what no row knows is left on an engine
        ORPHAN_SECONDS orphan_grace: Duration = seconds(60, 0..=604_800), reloads;
        /// how long ended tasks stay before they are archived
        TASK_DAYS ended_retention: Duration = days(30, 1..=36_500), reloads;
        /// how long failed tasks stay before they are archived
        DEAD_LETTER_DAYS dead_letter_retention: Duration = days(90, 1..=36_500), reloads;
        /// how long archived tasks are kept
        ARCHIVE_DAYS archive_retention: Duration = days(365, 1..=36_500), reloads;
        /// port on which a worker alone serves /metrics and /healthz; 0 is none
        METRICS_PORT metrics_port: u16 = number(0, 0..=65_535);
        /// longest time of one request
        REQUEST_SECONDS request: Duration = seconds(30, 1..=3600), reloads;
        /// whether the schema answers questions about itself
        INTROSPECTION introspection: bool = switch(true);
        /// whether the console is served
        CONSOLE console: bool = switch(true);
        /// JSON object of names and operations, each also served below /api/rest/ by its name
        PERSISTED_OPERATIONS persisted_operations: Option<PathBuf> = maybe_path("a file", "none");
        /// whether only persisted operations are executed
        PERSISTED_ONLY persisted_only: bool = switch(false);
        /// where logs of connections are kept
        BLOB_URL blobs: Place = Blobs;
        /// what is logged, such as info,main_webserver=debug
        LOG log: String = looked("a tracing filter", DEFAULT_LOG, log_filter), reloads;
        /// form of the log on standard error
        LOG_FORMAT log_format: LogFormat = one_of(&[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)]);
    }
    also {
        /// with POSTGRES_DB, instead of DATABASE_URL
        POSTGRES_HOST = maybe("a host name", "", |text| Ok(text.to_owned()));
        /// port of POSTGRES_HOST
        POSTGRES_PORT = POSTGRES_PORT;
        /// database on POSTGRES_HOST
        POSTGRES_DB = text("a name", "postgres");
        /// user on POSTGRES_HOST
        POSTGRES_USER = text("a name", "postgres");
        /// password on POSTGRES_HOST
        POSTGRES_PASSWORD = secret("text", "", |text| Ok(Secret::new(text.to_owned())));
    }
    groups { machines: Machines, backup: Backup, records: Records, telemetry: Telemetry }
}

impl Settings {
    /// What the stored settings depend on, read before they are.
    pub(super) fn environment_of(sources: &Sources) -> Result<Environment, ConfigError> {
        sources.read("ENVIRONMENT", &ENVIRONMENTS)
    }

    /// The configuration database's URL and key.
    pub(super) fn of_the_store(
        sources: &Sources,
    ) -> Result<(Option<Secret>, Option<Secret>), ConfigError> {
        let url = sources.read("CONFIG_DB_URL", &CONFIG_DB_URL)?;
        Ok((url, sources.read("CONFIG_KEY", &CONFIG_KEY)?))
    }

    /// Reads every setting from `sources`.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        sources.refuse_unknown()?;
        checked(Self::read(sources)?, sources)
    }
}

/// Refuses settings that go together badly.
fn checked(settings: Settings, sources: &Sources) -> Result<Settings, ConfigError> {
    if settings.host_stale <= settings.heartbeat || settings.host_dead <= settings.host_stale {
        let problem =
            "HEARTBEAT_SECONDS < HOST_STALE_SECONDS < HOST_DEAD_SECONDS is expected".to_owned();
        return Err(sources.refuse("HOST_STALE_SECONDS", problem));
    }
    if settings.persisted_only && settings.persisted_operations.is_none() {
        let problem = "needs PERSISTED_OPERATIONS, or nothing could be asked for".to_owned();
        return Err(sources.refuse("PERSISTED_ONLY", problem));
    }
    Ok(settings)
}

fn reload_pause(text: &str) -> Result<Option<Duration>, String> {
    use super::key::Kind as _;
    seconds_or_never(0..=86_400).read(Some(text), &Sources::default())
}

fn docker_host(host: &str) -> Result<String, String> {
    if ["unix://", "tcp://", "http://"]
        .iter()
        .any(|scheme| host.starts_with(scheme))
    {
        Ok(host.to_owned())
    } else {
        Err(format!("'{host}' has another scheme"))
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    check_log_filter(text)?;
    Ok(text.to_owned())
}

/// Checks a filter: directives by commas, each a level, or a target and a level, as `info,main_webserver=debug`.
pub fn check_log_filter(text: &str) -> Result<(), String> {
    let bare = text.split(',').map(str::trim);
    for word in bare.filter(|word| !word.is_empty() && !word.contains(['=', '[', ']', '{', '}'])) {
        // The library would take a misspelt level for a target of which everything is wanted.
        if word.parse::<LevelFilter>().is_err() {
            return Err(format!(
                "'{word}' is no level; off, error, warn, info, debug or trace is expected"
            ));
        }
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
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
        assert!(
            line(&[("CONSOLE", "yes")]).ends_with("on or off [on] is expected"),
            "{}",
            line(&[("CONSOLE", "yes")])
        );
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
        for key in super::super::KEYS.iter().filter(|key| key.is_secret) {
            for text in ["hunter2hunter2", "x://u:hunter2@h:99999/", "hunter2://"] {
                let problem = key.check(text).err().unwrap_or_default();
                assert!(!problem.contains("hunter2"), "{}: {problem}", key.name);
            }
        }
    }

    #[test]
    fn every_default_is_what_its_setting_accepts() {
        for key in super::super::KEYS.iter() {
            let is_text = key.usual.is_empty() || key.usual.contains(' ') || key.usual == "none";
            if !is_text && !key.is_secret {
                assert_eq!(key.check(&key.usual), Ok(()), "{}", key.name);
            }
            assert!(
                !key.what.is_empty() && !key.accepts.is_empty(),
                "{}",
                key.name
            );
        }
    }
}
