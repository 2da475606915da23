//! The tables' version: brought up by whoever is first, and taken as it is by an older binary.

use std::collections::BTreeSet;

use migration::{Migrator, MigratorTrait as _};
use sea_orm::{
    ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr,
    IntoDatabaseExecutor, TransactionTrait as _,
};

use super::connection;
use crate::error::is_lock_timeout;

/// How often a step that did not get its lock in time is tried again, before the start is given up.
const TRIES: u32 = 30;

/// How the tables stand to this binary, by the names of the steps.
pub struct Standing {
    pub applied: Vec<String>,
    pub pending: Vec<String>,
    /// What a newer binary has done. It has only added: every version works on the tables of the next.
    pub newer: Vec<String>,
}

/// Compares the steps that this binary knows with those that were done.
pub async fn standing(db: &impl ConnectionTrait) -> Result<Standing, DbErr> {
    let done: BTreeSet<String> = Migrator::get_migration_models(db)
        .await?
        .into_iter()
        .map(|step| step.version)
        .collect();
    let known: Vec<String> = Migrator::migrations()
        .iter()
        .map(|step| step.name().to_owned())
        .collect();
    let newer = done
        .iter()
        .filter(|name| !known.contains(name))
        .cloned()
        .collect();
    let (applied, pending) = known.into_iter().partition(|name| done.contains(name));
    Ok(Standing {
        applied,
        pending,
        newer,
    })
}

/// Brings the tables up to this version; processes that start together take turns.
pub async fn migrate(db: &DatabaseConnection) -> Result<(), DbErr> {
    if db.get_database_backend() != DbBackend::Postgres {
        // One transaction, and so one connection: another may not know yet which tables and indexes there are.
        let turn = connection::begin(db).await?;
        up(&turn).await?;
        return turn.commit().await;
    }
    // The lock lives as long as this transaction, on a connection of its own; the steps run on others.
    let turn = turn(db).await?;
    let mut tries = 0;
    loop {
        match up(db).await {
            // Whoever waits for a table holds up all who come after: so nobody waits long, and tries again.
            Err(error) if is_lock_timeout(&error) && tries < TRIES => tries += 1,
            done => {
                if done? {
                    migration::dictionary::describe(db).await?;
                    super::sql_roles::refresh(db).await?;
                }
                break;
            }
        }
    }
    turn.commit().await
}

/// Waits until no other process is at it.
async fn turn(db: &DatabaseConnection) -> Result<DatabaseTransaction, DbErr> {
    loop {
        let turn = db.begin().await?;
        turn.execute_unprepared("SET LOCAL idle_in_transaction_session_timeout = 0")
            .await?;
        // Many short waits instead of a long one: who builds an index concurrently waits for every statement that was
        // there before it, and would wait for ever for one that waits for its turn.
        turn.execute_unprepared("SET LOCAL lock_timeout = '1s'")
            .await?;
        match turn
            .execute_unprepared("SELECT pg_advisory_xact_lock(7730)")
            .await
        {
            Ok(_) => return Ok(turn),
            Err(error) if is_lock_timeout(&error) => turn.rollback().await?,
            Err(error) => return Err(error),
        }
    }
}

/// Does the steps that are missing; whether there were any. An older binary has none, and the library would take the newer ones for a mistake.
async fn up<'c, C>(db: &'c C) -> Result<bool, DbErr>
where
    C: ConnectionTrait,
    &'c C: IntoDatabaseExecutor<'c>,
{
    let standing = standing(db).await?;
    if standing.pending.is_empty() {
        if let Some(newest) = standing.newer.last() {
            tracing::warn!(%newest, "the tables are those of a newer version");
        }
        return Ok(false);
    }
    Migrator::up(db, None).await?;
    Ok(true)
}
