//! Reading a part of a list: what was asked for, checked, and the one statement it is read by.

use async_graphql::Value;
use sea_orm::Statement;

use super::{
    cell::{Cell, Storage},
    filter::{self, Tree},
    noun::{Audience, Noun},
    order::{self, Key, Order},
    select::Columns,
    statement::Sql,
};
use crate::{
    domain::policy::{Action, Scope, Viewer, scope},
    error::AppError,
    store::Store,
};

/// Rows of a page that asks for no number.
pub const DEFAULT: u16 = 20;
/// Most rows of a page.
pub const MOST: u16 = 100;

/// The arguments of a list, as they were given.
#[derive(Default)]
pub struct Asked {
    pub first: Option<i64>,
    pub after: Option<String>,
    pub last: Option<i64>,
    pub before: Option<String>,
    pub filter: Option<Tree>,
    pub order: Vec<Key>,
}

impl Asked {
    /// Reads one argument; one without a value is as if it were not there.
    pub fn read(&mut self, noun: &'static Noun, name: &str, value: Value) -> Result<(), AppError> {
        let refused = |field, reason: &str| AppError::Invalid {
            field,
            reason: reason.to_owned(),
        };
        let number = |field, value: &Value| match value {
            Value::Number(number) => number
                .as_i64()
                .ok_or_else(|| refused(field, "a whole number is expected")),
            _ => Err(refused(field, "a whole number is expected")),
        };
        let cursor = |value: Value| match value {
            Value::String(text) => Ok(text),
            _ => Err(refused("cursor", "a text is expected")),
        };
        match (name, value) {
            (_, Value::Null) => {}
            ("first", value) => self.first = Some(number("first", &value)?),
            ("last", value) => self.last = Some(number("last", &value)?),
            ("after", value) => self.after = Some(cursor(value)?),
            ("before", value) => self.before = Some(cursor(value)?),
            ("filter", value) => {
                let tree = filter::parse(noun, value);
                self.filter = Some(tree.map_err(|reason| refused("filter", &reason))?);
            }
            ("orderBy", value) => {
                let items = match value {
                    Value::List(items) => items,
                    one => vec![one],
                };
                let keys = items.iter().map(|item| order::parse(noun, item));
                let keys: Result<_, _> = keys.collect();
                self.order = keys.map_err(|reason| refused("orderBy", &reason))?;
            }
            _ => return Err(refused("arguments", "there is no such argument")),
        }
        Ok(())
    }
}

/// A part of a list, within the bounds and the policy.
pub struct Part {
    pub noun: &'static Noun,
    viewer: Viewer,
    filter: Option<Tree>,
    order: Order,
    after: Option<Vec<Cell>>,
    before: Option<Vec<Cell>>,
    is_backward: bool,
    count: u16,
}

/// What was read.
pub struct Rows {
    /// The columns asked for, then the values of the order's keys.
    pub rows: Vec<Vec<Cell>>,
    pub has_previous: bool,
    pub has_next: bool,
    order: Order,
}

impl Rows {
    pub fn cursor(&self, row: &[Cell]) -> String {
        let keys = row.len() - self.order.0.len();
        self.order.cursor(&row[keys..])
    }
}

/// Refuses somebody who is not logged in where only what is theirs could be shown.
pub fn check_access(noun: &Noun, viewer: Viewer) -> Result<(), AppError> {
    if scope(viewer, Action::Read, noun.resource) == Scope::Nothing {
        crate::services::signed_in(viewer)?;
    }
    Ok(())
}

impl Part {
    pub fn new(noun: &'static Noun, asked: Asked, viewer: Viewer) -> Result<Self, AppError> {
        check_access(noun, viewer)?;
        let is_backward = asked.last.is_some();
        if is_backward && asked.first.is_some() {
            return Err(AppError::Invalid {
                field: "last",
                reason: "first and last exclude each other".to_owned(),
            });
        }
        let count = match (asked.first, asked.last) {
            (Some(first), _) => count("first", first)?,
            (None, Some(last)) => count("last", last)?,
            (None, None) => DEFAULT,
        };
        if let Some(tree) = &asked.filter {
            tree.check(viewer)?;
        }
        let order = Order::of(asked.order, viewer)?;
        let read = |cursor: Option<String>| cursor.map(|cursor| order.read(&cursor)).transpose();
        Ok(Self {
            noun,
            viewer,
            after: read(asked.after)?,
            before: read(asked.before)?,
            filter: asked.filter,
            order,
            is_backward,
            count,
        })
    }

    /// The one statement that reads the columns of the part's rows.
    pub fn statement(&self, store: &Store, columns: &Columns) -> Statement {
        let order = if self.is_backward {
            self.order.reversed()
        } else {
            self.order.clone()
        };
        let mut sql = Sql::new(store, self.viewer);
        write_columns(&mut sql, columns);
        for (at, key) in self.order.0.iter().enumerate() {
            sql.push(&[if at == 0 { "t." } else { ", t." }, key.column]);
        }
        write_from(&mut sql, self.noun, columns);
        self.write_where(&mut sql);
        if let Some(after) = &self.after {
            sql.text.push_str(" AND ");
            self.order.write_after(&mut sql, "t", after);
        }
        if let Some(before) = &self.before {
            sql.text.push_str(" AND ");
            self.order.reversed().write_after(&mut sql, "t", before);
        }
        order.write(&mut sql, "t");
        // One more than asked for tells whether there is more.
        sql.push(&[" LIMIT ", &(u32::from(self.count) + 1).to_string()]);
        sql.finish()
    }

    /// Reads the columns of the part's rows.
    pub async fn fetch(&self, store: &Store, columns: &Columns) -> Result<Rows, AppError> {
        let found = store.read(self.statement(store, columns)).await?;
        let has_more = found.len() > usize::from(self.count);
        let keys = self.order.0.iter().map(|key| key.storage);
        let mut rows = found
            .iter()
            .take(self.count.into())
            .map(|row| read_cells(row, columns, self.viewer, keys.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        if self.is_backward {
            rows.reverse();
        }
        let (has_previous, has_next) = if self.is_backward {
            (has_more, self.before.is_some())
        } else {
            (self.after.is_some(), has_more)
        };
        Ok(Rows {
            rows,
            has_previous,
            has_next,
            order: self.order.clone(),
        })
    }

    /// Counts the whole list.
    pub async fn total(&self, store: &Store) -> Result<i64, AppError> {
        let mut sql = Sql::new(store, self.viewer);
        sql.push(&["SELECT count(*) FROM ", self.noun.table, " AS t"]);
        self.write_where(&mut sql);
        let rows = store.read(sql.finish()).await?;
        let total = rows
            .first()
            .map(|row| row.try_get_by_index(0))
            .transpose()?;
        Ok(total.unwrap_or_default())
    }

    fn write_where(&self, sql: &mut Sql) {
        write_where(sql, self.noun, self.filter.as_ref());
    }
}

/// Writes the condition that a row is in reach and fits.
pub fn write_where(sql: &mut Sql, noun: &'static Noun, filter: Option<&Tree>) {
    sql.text.push_str(" WHERE ");
    sql.scope(noun, "t");
    if let Some(listed) = noun.listed {
        sql.push(&[" AND t.", listed, " = TRUE"]);
    }
    if let Some(tree) = filter {
        sql.text.push_str(" AND ");
        tree.write(sql, "t");
    }
}

fn row_name(row: usize) -> String {
    if row == 0 {
        "t".to_owned()
    } else {
        format!("j{row}")
    }
}

fn write_columns(sql: &mut Sql, columns: &Columns) {
    let sees_all = Audience::Admins.has(sql.viewer());
    sql.text.push_str("SELECT ");
    for (at, (row, column, _)) in columns.columns.iter().enumerate() {
        if !sees_all && columns.guarded.contains(&at) {
            sql.text.push_str("NULL, ");
        } else {
            sql.push(&[&row_name(*row), ".", column, ", "]);
        }
    }
}

fn write_from(sql: &mut Sql, noun: &Noun, columns: &Columns) {
    sql.push(&[" FROM ", noun.table, " AS t"]);
    for (at, (from, link)) in columns.joins.iter().enumerate() {
        let (there, name) = ((link.noun)(), row_name(at + 1));
        sql.push(&[
            " LEFT JOIN ",
            there.table,
            " AS ",
            &name,
            " ON ",
            &name,
            ".id = ",
            &row_name(*from),
            ".",
            link.column,
            " AND ",
        ]);
        sql.scope(there, &name);
    }
}

fn read_cells(
    row: &sea_orm::QueryResult,
    columns: &Columns,
    viewer: Viewer,
    keys: impl Iterator<Item = Storage>,
) -> Result<Vec<Cell>, sea_orm::DbErr> {
    let sees_all = Audience::Admins.has(viewer);
    let count = columns.columns.len();
    let mut cells = Vec::with_capacity(count + 2);
    for (at, (_, _, storage)) in columns.columns.iter().enumerate() {
        cells.push(if !sees_all && columns.guarded.contains(&at) {
            Cell::Null
        } else {
            Cell::read(row, at, *storage)?
        });
    }
    for (at, storage) in keys.enumerate() {
        cells.push(Cell::read(row, count + at, storage)?);
    }
    Ok(cells)
}

/// Reads the rows in reach among `ids`, each behind its id.
pub async fn by_ids(
    store: &Store,
    viewer: Viewer,
    noun: &'static Noun,
    ids: &[Cell],
    columns: &Columns,
) -> Result<Vec<Vec<Cell>>, AppError> {
    let mut sql = Sql::new(store, viewer);
    write_columns(&mut sql, columns);
    sql.text.push_str("t.id");
    write_from(&mut sql, noun, columns);
    sql.text.push_str(" WHERE ");
    sql.among("t.id", false, ids, Storage::Uuid);
    sql.text.push_str(" AND ");
    sql.scope(noun, "t");
    let found = store.read(sql.finish()).await?;
    let rows = found
        .iter()
        .map(|row| read_cells(row, columns, viewer, [Storage::Uuid].into_iter()));
    Ok(rows.collect::<Result<_, _>>()?)
}

fn count(field: &'static str, asked: i64) -> Result<u16, AppError> {
    u16::try_from(asked)
        .ok()
        .filter(|count| *count <= MOST)
        .ok_or_else(|| AppError::Invalid {
            field,
            reason: format!("0 to {MOST} rows are expected"),
        })
}
