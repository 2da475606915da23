//! A batch of rows as parameters that a statement reads like a table, on both databases.
//!
//! PostgreSQL gets an array a column, which costs it a tenth of what reading the same rows from JSON does; SQLite one
//! JSON list. One prepared statement serves every size of batch, and what works for one row works for a thousand.

use chrono::{DateTime, SecondsFormat};
use sea_orm::{
    ConnectionTrait, DbBackend, JsonValue, Statement, Value, entity::prelude::DateTimeUtc,
    sea_query::ArrayType,
};
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

/// A column of a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Col {
    name: &'static str,
    cell: Cell,
    may_be_null: bool,
}

impl Col {
    pub const fn name(&self) -> &'static str {
        self.name
    }
}

/// A column that has a value in every row.
pub(super) const fn col(name: &'static str, cell: Cell) -> Col {
    Col {
        name,
        cell,
        may_be_null: false,
    }
}

/// One that may have none.
pub(super) const fn maybe(name: &'static str, cell: Cell) -> Col {
    Col {
        name,
        cell,
        may_be_null: true,
    }
}

impl Cell {
    /// PostgreSQL's name of it.
    const fn postgres(self) -> &'static str {
        match self {
            Self::Uuid => "uuid",
            Self::Int => "bigint",
            Self::Text => "text",
            Self::Time => "timestamptz",
            Self::Json => "jsonb",
        }
    }

    const fn array(self) -> ArrayType {
        match self {
            Self::Uuid => ArrayType::Uuid,
            Self::Int => ArrayType::BigInt,
            Self::Text => ArrayType::String,
            Self::Time => ArrayType::ChronoDateTimeUtc,
            Self::Json => ArrayType::Json,
        }
    }

    /// What stands in an array for no value, since the driver's arrays have no null, and the same in SQL. None of them
    /// occurs as a value: times lie in the present, and no text is a lone control character.
    fn nothing(self) -> (Value, &'static str) {
        match self {
            Self::Uuid => (Uuid::max().into(), "'ffffffff-ffff-ffff-ffff-ffffffffffff'"),
            Self::Int => (i64::MIN.into(), "'-9223372036854775808'"),
            Self::Text => ("\u{1}".into(), r"E'\x01'"),
            Self::Time => (DateTimeUtc::from(DateTime::UNIX_EPOCH).into(), "'epoch'"),
            Self::Json => (JsonValue::Null.into(), "'null'"),
        }
    }
}

/// A row of a batch.
pub(super) trait Row {
    const COLUMNS: &'static [Col];
    /// A value for each column, in their order.
    fn cells(&self) -> Vec<Value>;
}

/// What a write on PostgreSQL reads from, so that its commit does not wait for the disk: for what may be lost with the
/// machine.
pub(super) const RELAXED: &str =
    "(SELECT set_config('synchronous_commit', 'off', TRUE)) AS relaxed";

/// A statement's parameters, in the order they are named in.
pub(super) struct Parameters {
    backend: DbBackend,
    values: Vec<Value>,
}

impl Parameters {
    pub const fn new(backend: DbBackend) -> Self {
        Self {
            backend,
            values: Vec::new(),
        }
    }

    pub fn of(db: &impl ConnectionTrait) -> Self {
        Self::new(db.get_database_backend())
    }

    pub const fn is_postgres(&self) -> bool {
        matches!(self.backend, DbBackend::Postgres)
    }

    /// Adds a value; its name in the statement.
    pub fn put(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    /// Adds rows; the text of the table `x` that has them.
    pub fn rows<R: Row>(&mut self, rows: &[R]) -> String {
        if self.is_postgres() {
            self.arrays(rows)
        } else {
            self.json(rows)
        }
    }

    fn arrays<R: Row>(&mut self, rows: &[R]) -> String {
        let mut arrays: Vec<Vec<Value>> = R::COLUMNS
            .iter()
            .map(|_| Vec::with_capacity(rows.len()))
            .collect();
        for row in rows {
            for ((array, cell), column) in arrays.iter_mut().zip(row.cells()).zip(R::COLUMNS) {
                let is_nothing = column.may_be_null && cell == cell.as_null();
                array.push(if is_nothing {
                    column.cell.nothing().0
                } else {
                    cell
                });
            }
        }
        let (mut unnested, mut names, mut picked) = (Vec::new(), Vec::new(), Vec::new());
        for (array, column) in arrays.into_iter().zip(R::COLUMNS) {
            let value = self.put(Value::Array(column.cell.array(), Some(Box::new(array))));
            unnested.push(format!("{value}::{}[]", column.cell.postgres()));
            names.push(column.name);
            picked.push(if column.may_be_null {
                let nothing = column.cell.nothing().1;
                format!("NULLIF(u.{0}, {nothing}) AS {0}", column.name)
            } else {
                format!("u.{}", column.name)
            });
        }
        let (unnested, names) = (unnested.join(", "), names.join(", "));
        if R::COLUMNS.iter().any(|column| column.may_be_null) {
            let picked = picked.join(", ");
            format!("(SELECT {picked} FROM unnest({unnested}) AS u({names})) AS x")
        } else {
            format!("unnest({unnested}) AS x({names})")
        }
    }

    fn json<R: Row>(&mut self, rows: &[R]) -> String {
        let object = |row: &R| -> JsonValue {
            let cells = R::COLUMNS.iter().zip(row.cells());
            let named = cells.map(|(column, cell)| (column.name.to_owned(), to_json(cell)));
            JsonValue::Object(named.collect())
        };
        let list = JsonValue::Array(rows.iter().map(object).collect());
        let value = self.put(list.to_string());
        let picked: Vec<String> = R::COLUMNS
            .iter()
            .map(|Col { name, cell, .. }| match cell {
                Cell::Uuid => format!("unhex(value->>'{name}') AS {name}"),
                // No result and the result `null` are the same.
                Cell::Json => format!("NULLIF(value->'{name}', 'null') AS {name}"),
                Cell::Int | Cell::Text | Cell::Time => format!("value->>'{name}' AS {name}"),
            })
            .collect();
        format!(
            "(SELECT {} FROM json_each({value})) AS x",
            picked.join(", ")
        )
    }

    /// The statement `sql` with these parameters.
    pub fn statement(self, sql: impl Into<String>) -> Statement {
        Statement::from_sql_and_values(self.backend, sql, self.values)
    }
}

/// A cell as SQLite reads it from JSON.
fn to_json(cell: Value) -> JsonValue {
    match cell {
        Value::Uuid(Some(id)) => id.simple().to_string().into(),
        Value::ChronoDateTimeUtc(Some(at)) => stamp(at).into(),
        Value::Json(Some(json)) => *json,
        Value::String(Some(text)) => text.into(),
        Value::BigInt(Some(number)) => number.into(),
        _ => JsonValue::Null,
    }
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

/// A row that is only an id.
impl Row for Uuid {
    const COLUMNS: &'static [Col] = &[col("id", Cell::Uuid)];
    fn cells(&self) -> Vec<Value> {
        vec![(*self).into()]
    }
}
