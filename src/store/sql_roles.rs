//! Roles of PostgreSQL for people who look at the tables by a client of their own: they read all but what is secret, and
//! write nothing.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use migration::dictionary;
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DbBackend, DbErr, Statement, TransactionTrait as _,
};

use crate::domain::{entropy::secret_bytes, keyring::hex};

/// Most connections of one role, and the longest statement.
const CONNECTIONS: u32 = 5;
const STATEMENT: &str = "30s";
/// Rounds of the password's hash (RFC 7677 asks for 4096 or more).
const ROUNDS: u32 = 4096;

/// Why a role was not made or removed.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    #[error("roles are PostgreSQL's; SQLite has none")]
    Sqlite,
    #[error(
        "'{0}' is no name for a role: 1 to 63 lower-case letters, digits and _ are expected, a letter first"
    )]
    Name(String),
    #[error("there is a role {0} already")]
    Taken(String),
    #[error("{0} is no role that sql-role has made for this database")]
    NotOurs(String),
    #[error(transparent)]
    Database(#[from] DbErr),
}

/// Makes a role that reads; its password, which is kept nowhere.
pub async fn create(db: &DatabaseConnection, name: &str) -> Result<String, RoleError> {
    is_postgres(db)?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !begins || name.len() > 63 || !name.bytes().all(is_plain) || name.starts_with("pg_") {
        return Err(RoleError::Name(name.to_owned()));
    }
    let found = db.query_one_raw(with(
        "SELECT 1 AS one FROM pg_roles WHERE rolname = $1",
        [name.into()],
    ));
    if found.await?.is_some() {
        return Err(RoleError::Taken(name.to_owned()));
    }
    let password = hex(&secret_bytes::<16>());
    let (database, mark) = this(db).await?;
    let tx = db.begin().await?;
    for sql in [
        // The server gets the hash, as a log of statements would keep the password.
        format!(
            "CREATE ROLE {name} LOGIN PASSWORD '{}' NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION \
             CONNECTION LIMIT {CONNECTIONS}",
            verifier(&password)
        ),
        format!("COMMENT ON ROLE {name} IS '{}'", mark.replace('\'', "''")),
        format!("ALTER ROLE {name} IN DATABASE {database} SET default_transaction_read_only = on"),
        format!("ALTER ROLE {name} IN DATABASE {database} SET statement_timeout = '{STATEMENT}'"),
        format!(
            "ALTER ROLE {name} IN DATABASE {database} SET idle_in_transaction_session_timeout = '60s'"
        ),
        format!("GRANT CONNECT ON DATABASE {database} TO {name}"),
        format!("GRANT USAGE ON SCHEMA public TO {name}"),
    ] {
        tx.execute_unprepared(&sql).await?;
    }
    grant(&tx, name).await?;
    tx.commit().await?;
    Ok(password)
}

/// Removes a role and ends its sessions.
pub async fn revoke(db: &DatabaseConnection, name: &str) -> Result<(), RoleError> {
    is_postgres(db)?;
    if !names(db).await?.iter().any(|known| known == name) {
        return Err(RoleError::NotOurs(name.to_owned()));
    }
    let (database, _) = this(db).await?;
    let tx = db.begin().await?;
    for sql in [
        // Nobody comes in while the rest goes.
        format!("ALTER ROLE {name} NOLOGIN"),
        format!("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM {name}"),
        format!("REVOKE ALL ON SCHEMA public FROM {name}"),
        format!("REVOKE ALL ON DATABASE {database} FROM {name}"),
    ] {
        tx.execute_unprepared(&sql).await?;
    }
    tx.query_all_raw(with(
        "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = $1",
        [name.into()],
    ))
    .await?;
    tx.execute_unprepared(&format!("DROP ROLE {name}")).await?;
    tx.commit().await?;
    Ok(())
}

/// The roles that were made for this database.
pub async fn list(db: &DatabaseConnection) -> Result<Vec<String>, RoleError> {
    is_postgres(db)?;
    Ok(names(db).await?)
}

/// Gives every role what has been added to the tables since it was made; after every change of the tables.
pub async fn refresh(db: &DatabaseConnection) -> Result<(), DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    for name in names(db).await? {
        grant(db, &name).await?;
    }
    Ok(())
}

/// Grants a role each column it lacks that is described and not secret.
async fn grant(db: &impl ConnectionTrait, role: &str) -> Result<(), DbErr> {
    const LACKING: &str = "SELECT c.relname::text AS name, a.attname::text AS part FROM pg_class c \
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace \
        AND NOT has_column_privilege($1, c.oid, a.attnum, 'SELECT') ORDER BY 1, a.attnum";
    let known = dictionary::tables();
    let mut lacking = std::collections::BTreeMap::<String, Vec<String>>::default();
    for row in db.query_all_raw(with(LACKING, [role.into()])).await? {
        let (name, part): (String, String) = (row.try_get("", "name")?, row.try_get("", "part")?);
        let column = known
            .iter()
            .find(|table| table.name == name)
            .and_then(|table| table.columns.iter().find(|column| column.name == part));
        if column.is_some_and(|column| !column.is_secret) {
            lacking.entry(name).or_default().push(format!("\"{part}\""));
        }
    }
    for (table, columns) in lacking {
        let columns = columns.join(", ");
        db.execute_unprepared(&format!(
            "GRANT SELECT ({columns}) ON \"{table}\" TO \"{role}\""
        ))
        .await?;
    }
    Ok(())
}

async fn names(db: &impl ConnectionTrait) -> Result<Vec<String>, DbErr> {
    let (_, mark) = this(db).await?;
    let rows = db.query_all_raw(with(
        "SELECT r.rolname::text AS name FROM pg_roles r \
         JOIN pg_shdescription d ON d.objoid = r.oid AND d.classoid = 'pg_authid'::regclass \
         WHERE d.description = $1 ORDER BY 1",
        [mark.into()],
    ));
    let rows = rows.await?;
    rows.iter().map(|row| row.try_get("", "name")).collect()
}

/// This database's name, quoted, and what its roles are marked with: roles belong to all of a server's databases.
async fn this(db: &impl ConnectionTrait) -> Result<(String, String), DbErr> {
    let row = db
        .query_one_raw(with(
            "SELECT quote_ident(current_database()) AS quoted, current_database()::text AS name",
            [],
        ))
        .await?
        .ok_or_else(|| DbErr::RecordNotFound("the database's name".to_owned()))?;
    let name: String = row.try_get("", "name")?;
    let mark = format!("reads {name} of main-webserver");
    Ok((row.try_get("", "quoted")?, mark))
}

fn with<const N: usize>(sql: &str, values: [sea_orm::Value; N]) -> Statement {
    Statement::from_sql_and_values(DbBackend::Postgres, sql, values)
}

fn is_postgres(db: &DatabaseConnection) -> Result<(), RoleError> {
    if db.get_database_backend() == DbBackend::Postgres {
        Ok(())
    } else {
        Err(RoleError::Sqlite)
    }
}

/// What PostgreSQL keeps of a password (SCRAM-SHA-256, RFC 5803).
fn verifier(password: &str) -> String {
    use ring::{digest, hmac, pbkdf2};
    let salt = secret_bytes::<16>();
    let mut salted = [0; 32];
    let rounds = std::num::NonZeroU32::new(ROUNDS).unwrap_or(std::num::NonZeroU32::MIN);
    pbkdf2::derive(
        pbkdf2::PBKDF2_HMAC_SHA256,
        rounds,
        &salt,
        password.as_bytes(),
        &mut salted,
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let client = hmac::sign(&key, b"Client Key");
    let stored = digest::digest(&digest::SHA256, client.as_ref());
    let server = hmac::sign(&key, b"Server Key");
    format!(
        "SCRAM-SHA-256${ROUNDS}:{}${}:{}",
        STANDARD.encode(salt),
        STANDARD.encode(stored),
        STANDARD.encode(server)
    )
}
