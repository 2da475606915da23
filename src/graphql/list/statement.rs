//! The text of a list's statement, with its parameters, for both databases.
//!
//! Names come from the declarations and values are always parameters, so nothing a client sends becomes text.

use std::borrow::Cow;

use sea_orm::{DbBackend, Statement, Value};
use uuid::Uuid;

use super::{
    cell::{Cell, Storage},
    found,
    noun::Noun,
};
use crate::{
    domain::policy::{Action, Scope, Viewer, scope},
    store::Store,
};

pub struct Sql {
    pub text: String,
    values: Vec<Value>,
    backend: DbBackend,
    viewer: Viewer,
    names: usize,
}

impl Sql {
    pub fn new(store: &Store, viewer: Viewer) -> Self {
        Self {
            text: String::with_capacity(512),
            values: Vec::new(),
            backend: store.db().get_database_backend(),
            viewer,
            names: 0,
        }
    }

    pub const fn viewer(&self) -> Viewer {
        self.viewer
    }

    pub const fn is_postgres(&self) -> bool {
        matches!(self.backend, DbBackend::Postgres)
    }

    pub fn push(&mut self, parts: &[&str]) {
        for part in parts {
            self.text.push_str(part);
        }
    }

    /// Writes the name of a row: of the list's own (0) or a joined one; the name.
    pub fn row(&mut self, row: usize) -> Cow<'static, str> {
        let name: Cow<str> = match row {
            0 => "t".into(),
            1 => "j1".into(),
            2 => "j2".into(),
            more => format!("j{more}").into(),
        };
        self.text.push_str(&name);
        name
    }

    /// Adds a parameter; its name.
    pub fn put(&mut self, value: impl Into<Value>) -> String {
        self.values.push(value.into());
        format!("${}", self.values.len())
    }

    /// A name for one more table.
    pub fn name(&mut self) -> String {
        self.names += 1;
        format!("x{}", self.names)
    }

    /// Writes the condition that the viewer reaches the row.
    pub fn scope(&mut self, noun: &Noun, row: &str) {
        let (column, id) = match scope(self.viewer, Action::Read, noun.resource) {
            Scope::Everything => return self.text.push_str("TRUE"),
            Scope::OwnedBy(user) => (noun.owner, user.uuid()),
            Scope::OnHost(host) => (noun.host, host.uuid()),
            Scope::Nothing => return self.text.push_str("FALSE"),
        };
        match column {
            None => self.text.push_str("FALSE"),
            Some(column) => {
                let id = self.put(id);
                self.push(&[row, ".", column, " = ", &id]);
            }
        }
    }

    pub fn compare(&mut self, column: &str, operator: &str, value: &Cell) {
        let value = self.put(value.parameter());
        self.push(&["(", column, " ", operator, " ", &value, ")"]);
    }

    pub fn among(&mut self, column: &str, is_not: bool, values: &[Cell], storage: Storage) {
        if values.is_empty() {
            self.text.push_str(if is_not { "TRUE" } else { "FALSE" });
        } else if let (true, Some(array)) = (self.is_postgres(), array(values, storage)) {
            // One statement for any number of them.
            let array = self.put(array);
            let (operator, quantifier) = if is_not { ("<>", "ALL") } else { ("=", "ANY") };
            self.push(&[
                "(", column, " ", operator, " ", quantifier, " (", &array, "))",
            ]);
        } else {
            self.push(&["(", column, if is_not { " NOT IN (" } else { " IN (" }]);
            for (index, value) in values.iter().enumerate() {
                let value = self.put(value.parameter());
                self.push(&[if index == 0 { "" } else { ", " }, &value]);
            }
            self.text.push_str("))");
        }
    }

    /// Writes the rows `p`, each with an id of `ids`, for PostgreSQL.
    ///
    /// The array is read by a sub-query, so that a plan is as dear for ten as for two, and one for any number is kept.
    pub fn rows_of(&mut self, ids: &[Uuid]) {
        let array = self.put(ids.to_vec());
        self.push(&["unnest((SELECT ", &array, "::uuid[])) AS p(id)"]);
    }

    /// The statement, whose rows `Found` reads.
    pub fn finish_packed(mut self) -> Statement {
        if self.is_postgres() {
            found::pack(&mut self.text);
        }
        self.finish()
    }

    pub fn finish(self) -> Statement {
        Statement::from_sql_and_values(self.backend, self.text, self.values)
    }
}

fn array(values: &[Cell], storage: Storage) -> Option<Value> {
    macro_rules! of {
        ($cell:ident as $plain:ty) => {
            values
                .iter()
                .map(|value| match value {
                    Cell::$cell(value) => Some(<$plain>::from(value.clone())),
                    _ => None,
                })
                .collect::<Option<Vec<_>>>()
                .map(Value::from)
        };
    }
    match storage {
        Storage::Uuid => of!(Uuid as Uuid),
        Storage::Text => of!(Text as String),
        Storage::Small | Storage::Int | Storage::Big => of!(Int as i64),
        Storage::Bool | Storage::Time | Storage::Json => None,
    }
}
