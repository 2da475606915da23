//! A batch of rows as one parameter: a JSON list that a statement reads like a table, the same on both databases.
//!
//! One prepared statement serves every size of batch, and a statement that works for one row works for a thousand.

use chrono::SecondsFormat;
use sea_orm::{ConnectionTrait, DbBackend, Statement, Value, entity::prelude::DateTimeUtc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// The type of a column of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cell {
    Uuid,
    Int,
    Text,
    Time,
    Json,
}

/// The text of a table `x` with `columns`, read from the parameter `$number`.
pub(super) fn rows(backend: DbBackend, number: usize, columns: &[(&str, Cell)]) -> String {
    let list = |each: &dyn Fn(&str, Cell) -> String| {
        let parts: Vec<String> = columns
            .iter()
            .map(|(name, cell)| each(name, *cell))
            .collect();
        parts.join(", ")
    };
    if backend == DbBackend::Postgres {
        let typed = list(&|name, cell| {
            let kind = match cell {
                Cell::Uuid => "uuid",
                Cell::Int => "bigint",
                Cell::Text => "text",
                Cell::Time => "timestamptz",
                Cell::Json => "jsonb",
            };
            format!("{name} {kind}")
        });
        format!("jsonb_to_recordset(${number}::jsonb) AS x({typed})")
    } else {
        let picked = list(&|name, cell| match cell {
            Cell::Uuid => format!("unhex(value->>'{name}') AS {name}"),
            Cell::Json => format!("value->'{name}' AS {name}"),
            Cell::Int | Cell::Text | Cell::Time => format!("value->>'{name}' AS {name}"),
        });
        format!("(SELECT {picked} FROM json_each(${number})) AS x")
    }
}

/// The rows as the parameter's value.
pub(super) fn batch(rows: &impl Serialize) -> Result<Value, sea_orm::DbErr> {
    serde_json::to_string(rows)
        .map(Value::from)
        .map_err(|error| sea_orm::DbErr::Json(error.to_string()))
}

/// A statement for the backend of `db`.
pub(super) fn statement(
    db: &impl ConnectionTrait,
    sql: impl Into<String>,
    values: impl IntoIterator<Item = Value>,
) -> Statement {
    Statement::from_sql_and_values(db.get_database_backend(), sql, values)
}

/// A time the way both databases read it.
pub(super) fn stamp(at: DateTimeUtc) -> String {
    at.to_rfc3339_opts(SecondsFormat::AutoSi, false)
}

/// For `#[serde(serialize_with)]`: an id as plain hex, which both databases read.
pub(super) fn hex<S: Serializer>(id: &Uuid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&id.simple())
}

/// The same for an id that may be missing.
#[expect(clippy::ref_option, reason = "serde's signature")]
pub(super) fn hex_or_null<S: Serializer>(
    id: &Option<Uuid>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => hex(id, serializer),
        None => serializer.serialize_none(),
    }
}

/// A row that is only an id.
#[derive(Serialize)]
pub(super) struct Only {
    #[serde(serialize_with = "hex")]
    pub id: Uuid,
}

/// A batch of ids, to be read with the one column `id`.
pub(super) fn ids(ids: impl IntoIterator<Item = Uuid>) -> Result<Value, sea_orm::DbErr> {
    batch(&ids.into_iter().map(|id| Only { id }).collect::<Vec<_>>())
}

/// The columns of [`ids`].
pub(super) const ID: &[(&str, Cell)] = &[("id", Cell::Uuid)];
