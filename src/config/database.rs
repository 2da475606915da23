//! Where the rows live, and where the queue is: the settings that are URLs with secrets in them.

use url::Url;

use super::{
    Secret, Sources,
    key::Kind,
    kinds::{self},
};

/// Where the rows live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A `sqlite:` URL.
    Sqlite(String),
    /// A `postgres:` URL with its password.
    Postgres(Secret),
}

impl Database {
    /// Reads a URL.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with("sqlite:") {
            return Ok(Self::Sqlite(text.to_owned()));
        }
        let url = Url::parse(text).map_err(|error| format!("not a URL, {error}"))?;
        match url.scheme() {
            "postgres" | "postgresql" if url.host_str().is_some() || text.contains("host=") => {
                Ok(Self::Postgres(Secret::new(text.to_owned())))
            }
            "postgres" | "postgresql" => Err("has no host".to_owned()),
            _ => Err("neither PostgreSQL nor SQLite".to_owned()),
        }
    }

    /// What may be shown of it.
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(url) => url.clone(),
            Self::Postgres(url) => url.without_password(),
        }
    }
}

/// `DATABASE_URL`, or what `POSTGRES_*` make of it, or the embedded file.
#[derive(Clone)]
pub(super) struct DatabaseUrl;

impl Kind for DatabaseUrl {
    type Value = Database;

    fn accepts(&self) -> String {
        "postgres://… or sqlite://…".to_owned()
    }

    fn usual(&self) -> String {
        "SQLite in DATA_DIR".to_owned()
    }

    fn read(&self, text: Option<&str>, sources: &Sources) -> Result<Database, String> {
        if let Some(text) = text {
            return Database::parse(text);
        }
        match sources.text("POSTGRES_HOST") {
            Some(host) => of_parts(&host, sources),
            None => Ok(Database::Sqlite(format!(
                "sqlite://{}/main-webserver.sqlite3",
                kinds::data_dir(sources).display()
            ))),
        }
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn shown(&self, text: &str) -> String {
        Secret::new(text.to_owned()).without_password()
    }
}

fn of_parts(host: &str, sources: &Sources) -> Result<Database, String> {
    let or_postgres = |key| sources.text(key).unwrap_or_else(|| "postgres".to_owned());
    let port = sources.text("POSTGRES_PORT");
    let port = POSTGRES_PORT
        .read(port.as_deref(), sources)
        .map_err(|problem| format!("POSTGRES_PORT: {problem}"))?;
    let build = || {
        let mut url = Url::parse("postgres://postgres").ok()?;
        url.set_host(Some(host)).ok()?;
        url.set_port(Some(port)).ok()?;
        url.set_username(&or_postgres("POSTGRES_USER")).ok()?;
        url.set_password(sources.text("POSTGRES_PASSWORD").as_deref())
            .ok()?;
        url.set_path(&or_postgres("POSTGRES_DB"));
        Some(url.to_string())
    };
    build()
        .map(|url| Database::Postgres(Secret::new(url)))
        .ok_or_else(|| format!("POSTGRES_HOST '{host}' is not a host name"))
}

pub(super) const POSTGRES_PORT: kinds::Number<u16> = kinds::number(5432, 1..=65_535);

/// Which certificates of Redis are taken: those that are verified, or any.
pub(super) const CERTIFICATES: kinds::OneOf<bool> =
    kinds::one_of(&[("verified", false), ("any", true)]);

/// How an address of Redis ends that takes any certificate.
pub const ANY_CERTIFICATE: &str = "#any-certificate";

/// Redis' URL as its client takes it, with `-cluster` and `-sentinel` endings of the scheme.
#[derive(Clone)]
pub(super) struct RedisUrl;

impl Kind for RedisUrl {
    type Value = Option<Secret>;

    fn accepts(&self) -> String {
        "redis://… or rediss://…".to_owned()
    }

    fn usual(&self) -> String {
        "in-process queue".to_owned()
    }

    fn read(&self, text: Option<&str>, sources: &Sources) -> Result<Option<Secret>, String> {
        let Some(text) = text else {
            return Ok(None);
        };
        // The client library takes any scheme.
        let scheme = text.split("://").next().unwrap_or_default();
        if !["redis", "rediss", "valkey", "valkeys"]
            .contains(&scheme.split('-').next().unwrap_or_default())
        {
            return Err("it has not Redis' scheme".to_owned());
        }
        fred::types::config::Config::from_url(text).map_err(|error| error.details().to_owned())?;
        // It goes along in the address, so that it is known wherever the address is.
        let certificates = sources.text("REDIS_CERTIFICATE");
        let takes_any = CERTIFICATES.read(certificates.as_deref(), sources);
        let ending = if takes_any.unwrap_or(false) {
            ANY_CERTIFICATE
        } else {
            ""
        };
        Ok(Some(Secret::new(format!("{text}{ending}"))))
    }

    fn is_secret(&self) -> bool {
        true
    }

    fn shown(&self, text: &str) -> String {
        Secret::new(text.to_owned()).without_password()
    }
}
