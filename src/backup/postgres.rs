//! PostgreSQL: a dump of one moment, the rows of that moment counted, and databases made, filled and swapped.

use std::str::FromStr as _;

use bytes::Bytes;
use sea_orm::sqlx::{
    self, AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _,
    postgres::PgConnectOptions,
};
use tokio::sync::mpsc;
use url::Url;

use super::{BackupError, manifest::Table, program::Programs};
use crate::config::Secret;

/// What the client library knows of a URL's parameters; the others are this program's own library's.
const LIBPQ: [&str; 10] = [
    "host",
    "port",
    "user",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "options",
    "application_name",
];
/// How a value is written as text, the same in every session.
const PLAIN: [&str; 6] = [
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO, YMD'",
    "SET IntervalStyle = 'postgres'",
    "SET extra_float_digits = 1",
    "SET bytea_output = 'hex'",
    // The session waits for programs.
    "SET idle_in_transaction_session_timeout = 0",
];
/// Where a server is asked about its databases.
const MAINTENANCE: [&str; 2] = ["postgres", "template1"];

/// A database on a server.
#[derive(Clone)]
pub(super) struct Server {
    url: Url,
    options: PgConnectOptions,
}

impl Server {
    pub(super) fn parse(url: &Secret) -> Result<Self, BackupError> {
        let refuse =
            |problem: String| BackupError::Database(sqlx::Error::Configuration(problem.into()));
        Ok(Self {
            url: Url::parse(url.expose()).map_err(|error| refuse(error.to_string()))?,
            options: PgConnectOptions::from_str(url.expose())?,
        })
    }

    /// The database's name.
    pub(super) fn database(&self) -> &str {
        let named = self.options.get_database();
        named.unwrap_or_else(|| self.options.get_username())
    }

    /// Another database of the same server.
    pub(super) fn at(&self, database: &str) -> Self {
        let mut url = self.url.clone();
        url.set_path(database);
        let pairs: Vec<(String, String)> = self
            .url
            .query_pairs()
            .filter(|(name, _)| name != "dbname")
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        url.set_query(None);
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        Self {
            url,
            options: self.options.clone().database(database),
        }
    }

    /// Its URL, password and all.
    pub(super) fn secret(&self) -> Secret {
        Secret::new(self.url.to_string())
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        self.secret().without_password()
    }

    /// What a program connects by, and the password that is no part of it.
    fn way(&self) -> (String, Option<String>) {
        let decoded = |text: &str| {
            let text = format!("x={}", text.replace('+', "%2B"));
            let mut pairs = url::form_urlencoded::parse(text.as_bytes());
            pairs.next().map(|(_, value)| value.into_owned())
        };
        let asked = self.url.query_pairs();
        let in_query = asked.clone().find(|(name, _)| name == "password");
        let password = in_query
            .map(|(_, password)| password.into_owned())
            .or_else(|| self.url.password().and_then(decoded));
        let mut url = self.url.clone();
        let _ = url.set_password(None);
        let kept: Vec<_> = asked
            .filter(|(name, _)| LIBPQ.contains(&name.as_ref()))
            .collect();
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
        (url.to_string(), password)
    }

    pub(super) async fn connect(&self) -> Result<PgConnection, BackupError> {
        let mut connection =
            PgConnection::connect_with(&self.options.clone().disable_statement_logging()).await?;
        for setting in PLAIN {
            sqlx::query(setting).execute(&mut connection).await?;
        }
        Ok(connection)
    }

    /// Connects to a database that is not this one, to make, rename or drop this one.
    pub(super) async fn beside(&self) -> Result<PgConnection, BackupError> {
        let mut problem = None;
        for name in MAINTENANCE
            .into_iter()
            .filter(|name| *name != self.database())
        {
            match self.at(name).connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) => problem = Some(error),
            }
        }
        Err(problem.unwrap_or(BackupError::Database(sqlx::Error::PoolClosed)))
    }

    pub(super) async fn create(&self) -> Result<(), BackupError> {
        let mut beside = self.beside().await?;
        let sql = format!(
            "CREATE DATABASE {} TEMPLATE template0",
            quoted(self.database())
        );
        run(&mut beside, sql).await
    }

    /// Drops the database; nothing when there is none.
    pub(super) async fn discard(&self, is_forced: bool) -> Result<(), BackupError> {
        let mut beside = self.beside().await?;
        let force = if is_forced { " WITH (FORCE)" } else { "" };
        let sql = format!("DROP DATABASE IF EXISTS {}{force}", quoted(self.database()));
        run(&mut beside, sql).await
    }

    pub(super) async fn exists(&self) -> Result<bool, BackupError> {
        let mut beside = self.beside().await?;
        let found = sqlx::query("SELECT 1 FROM pg_database WHERE datname = $1")
            .bind(self.database())
            .fetch_optional(&mut beside)
            .await?;
        Ok(found.is_some())
    }

    /// Whether it has no table at all.
    pub(super) async fn is_empty(&self) -> Result<bool, BackupError> {
        Ok(names(&mut self.connect().await?).await?.is_empty())
    }

    /// Fills the database with a dump.
    pub(super) async fn load(
        &self,
        programs: &Programs,
        dump: mpsc::Receiver<Bytes>,
    ) -> Result<(), BackupError> {
        let (way, password) = self.way();
        let arguments = [
            format!("--dbname={way}"),
            "--format=custom".to_owned(),
            // The roles of another server are not here, and who restores owns what is restored.
            "--no-owner".to_owned(),
            "--no-privileges".to_owned(),
            "--exit-on-error".to_owned(),
        ];
        programs
            .write("pg_restore", &arguments, password.as_deref(), dump)
            .await
    }

    /// Every table of the database, as it is.
    pub(super) async fn tables(&self) -> Result<Vec<Table>, BackupError> {
        let mut connection = self.connect().await?;
        tables(&mut connection).await
    }

    /// Puts `new`, a database of the same server, in this one's place; this one is `aside` from then on, where there is one.
    ///
    /// Both change their names in one transaction. With `is_forced`, whoever is connected is cut off.
    pub(super) async fn swap(
        &self,
        new: &Self,
        aside: Option<&str>,
        is_forced: bool,
    ) -> Result<(), BackupError> {
        const TRIES: usize = 10;
        let mut beside = self.beside().await?;
        let rename = |from: &str, to: &str| {
            format!("ALTER DATABASE {} RENAME TO {}", quoted(from), quoted(to))
        };
        let mut tried = 0;
        loop {
            tried += 1;
            let swapped = async {
                let mut tx = beside.begin().await?;
                if let Some(aside) = aside {
                    if is_forced {
                        // Whoever comes back waits for the lock of the rename, and finds the new one.
                        sqlx::query(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
                        )
                        .bind(self.database())
                        .execute(&mut *tx)
                        .await?;
                    }
                    let sql = rename(self.database(), aside);
                    sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await?;
                }
                let sql = rename(new.database(), self.database());
                sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await?;
                tx.commit().await
            };
            match swapped.await {
                Ok(()) => return Ok(()),
                Err(error) if is_in_use(&error) && is_forced && tried < TRIES => {}
                Err(error) if is_in_use(&error) => {
                    return Err(BackupError::InUse {
                        target: self.shown(),
                    });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// One moment of a database, kept while the session lasts.
pub(super) struct Moment {
    connection: PgConnection,
    snapshot: String,
    pub(super) version: String,
    pub(super) major: u32,
    /// Bytes on disk, about.
    pub(super) size: u64,
}

impl Moment {
    pub(super) async fn take(server: &Server) -> Result<Self, BackupError> {
        let mut connection = server.connect().await?;
        sqlx::query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            .execute(&mut connection)
            .await?;
        let row = sqlx::query(
            "SELECT pg_export_snapshot(), current_setting('server_version'), \
             current_setting('server_version_num')::int / 10000, pg_database_size(current_database())",
        )
        .fetch_one(&mut connection)
        .await?;
        Ok(Self {
            snapshot: row.try_get(0)?,
            version: row.try_get(1)?,
            major: u32::try_from(row.try_get::<i32, _>(2)?).unwrap_or_default(),
            size: u64::try_from(row.try_get::<i64, _>(3)?).unwrap_or_default(),
            connection,
        })
    }

    pub(super) async fn migrations(&mut self) -> Result<Vec<String>, BackupError> {
        migrations(&mut self.connection).await
    }

    /// Sends a dump of this moment to `out`; gives every table of the same moment.
    pub(super) async fn dump(
        mut self,
        server: &Server,
        programs: &Programs,
        out: mpsc::Sender<Bytes>,
    ) -> Result<Vec<Table>, BackupError> {
        let (way, password) = server.way();
        let arguments = [
            format!("--dbname={way}"),
            "--format=custom".to_owned(),
            format!("--snapshot={}", self.snapshot),
            // A change of tables that goes on now is waited for, but not for ever.
            "--lock-wait-timeout=30000".to_owned(),
            "--no-password".to_owned(),
        ];
        let dump = programs.read("pg_dump", &arguments, password.as_deref(), out);
        let ((), tables) = tokio::try_join!(dump, tables(&mut self.connection))?;
        // The moment is held until the program has read it all.
        drop(self.connection);
        Ok(tables)
    }
}

/// The steps that were applied, in order; none in a database of somebody else.
pub(super) async fn migrations(connection: &mut PgConnection) -> Result<Vec<String>, BackupError> {
    let known: bool = sqlx::query_scalar("SELECT to_regclass('seaql_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await?;
    if !known {
        return Ok(Vec::new());
    }
    let steps = sqlx::query_scalar("SELECT version FROM seaql_migrations ORDER BY version");
    Ok(steps.fetch_all(connection).await?)
}

/// Schema and name of every table that is not the server's own.
async fn names(connection: &mut PgConnection) -> Result<Vec<(String, String)>, BackupError> {
    let rows = sqlx::query(
        "SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' \
         ORDER BY 1, 2",
    )
    .fetch_all(connection)
    .await?;
    let names = rows
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
    Ok(names.collect::<Result<_, sqlx::Error>>()?)
}

/// Every table with its rows and the sum of their hashes: the first 64 bits of each row's MD5.
async fn tables(connection: &mut PgConnection) -> Result<Vec<Table>, BackupError> {
    let mut tables = Vec::new();
    for (schema, name) in names(connection).await? {
        let sql = format!(
            "SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint::numeric), 0)::text \
             FROM ONLY {}.{} AS t",
            quoted(&schema),
            quoted(&name),
        );
        let row = sqlx::query(AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await?;
        tables.push(Table {
            name: if schema == "public" {
                name
            } else {
                format!("{schema}.{name}")
            },
            rows: u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or_default(),
            checksum: row.try_get(1)?,
        });
    }
    Ok(tables)
}

/// Databases whose name begins so, that nobody is connected to.
pub(super) async fn idle_databases(
    server: &Server,
    prefix: &str,
) -> Result<Vec<String>, BackupError> {
    let mut beside = server.beside().await?;
    let found = sqlx::query_scalar(
        "SELECT datname::text FROM pg_database d WHERE starts_with(datname, $1) \
         AND NOT EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.datid = d.oid)",
    )
    .bind(prefix);
    Ok(found.fetch_all(&mut beside).await?)
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), BackupError> {
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// 55006 is an object in use.
fn is_in_use(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sea_orm::sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "55006")
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_told_the_way_without_the_password() {
        let url =
            "postgres://u%20x:p%40ss%2Fw%2Bd@h:6000/d?sslmode=require&statement-cache-capacity=10";
        let server = Server::parse(&Secret::new(url.to_owned())).unwrap();
        let (way, password) = server.way();
        assert_eq!(way, "postgres://u%20x@h:6000/d?sslmode=require");
        assert_eq!(password.as_deref(), Some("p@ss/w+d"));
        assert_eq!(server.database(), "d");
        assert_eq!(server.at("other db").database(), "other db");
        assert!(
            server
                .at("e")
                .secret()
                .expose()
                .contains("p%40ss%2Fw%2Bd@h:6000/e?")
        );
    }
}
