//! Reading a part of a list: what was asked for, checked, and the one statement it is read by.

use std::collections::HashMap;

use async_graphql::Value;
use sea_orm::Statement;
use uuid::Uuid;

use super::{
    cell::{Cell, Storage},
    filter::{self, Tree},
    found::{self, Found, Seen},
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
    after: Option<Vec<Cell<'static>>>,
    before: Option<Vec<Cell<'static>>>,
    is_backward: bool,
    count: u16,
    /// The row it is below: its id, and the column that has it.
    within: Option<(&'static str, Uuid)>,
}

/// What was read.
pub struct Rows<'a> {
    /// Of one row after the other: the columns asked for, then those of the order's keys that are not among them.
    cells: Vec<Cell<'a>>,
    /// How many belong to a row.
    width: usize,
    /// Rows of the whole list, if they were counted.
    pub total: Option<i64>,
    pub has_previous: bool,
    pub has_next: bool,
    order: Order,
    /// Where the values of the order's keys are in a row.
    keys: Vec<usize>,
}

impl<'a> Rows<'a> {
    pub fn each(&self) -> std::slice::ChunksExact<'_, Cell<'a>> {
        self.cells.chunks_exact(self.width)
    }

    pub fn cursor(&self, row: &[Cell]) -> String {
        self.order.cursor(self.keys.iter().map(|at| &row[*at]))
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
        Self::in_reach(noun, asked, viewer)
    }

    /// The same for whoever reaches none of its rows, and is shown none.
    pub fn in_reach(noun: &'static Noun, asked: Asked, viewer: Viewer) -> Result<Self, AppError> {
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
            within: None,
        })
    }

    /// Those of its rows that have the id of a row in `column`.
    #[must_use]
    pub const fn within(mut self, column: &'static str, id: Uuid) -> Self {
        self.within = Some((column, id));
        self
    }

    /// Where the values of the order's keys are, and those whose columns are read behind the ones asked for.
    fn keys<'a>(&'a self, columns: &Columns) -> (Vec<usize>, Vec<&'a Key>) {
        let mut more = Vec::new();
        let place = |key: &'a Key| {
            let known = columns.place(0, key.column);
            known.unwrap_or_else(|| {
                more.push(key);
                columns.columns.len() + more.len() - 1
            })
        };
        let places = self.order.0.iter().map(place).collect();
        (places, more)
    }

    /// The one statement that finds the columns of the part's rows; `with_total` it counts the whole list as well, in the
    /// last column of every row, and has a row without anything else when there is no other.
    pub fn statement(&self, store: &Store, columns: &Columns, with_total: bool) -> Statement {
        let mut sql = Sql::new(store, self.viewer);
        if with_total {
            sql.text.push_str("SELECT p.*, c.total FROM (");
            self.write_total(&mut sql);
            sql.text.push_str(") AS c LEFT JOIN (");
        }
        self.write_page(&mut sql, columns, None);
        if with_total {
            sql.text.push_str(") AS p ON TRUE");
        }
        sql.finish_packed()
    }

    /// Writes what finds the part's rows: all of them, or those that have the id of the row `p` in the column `above`.
    fn write_page(&self, sql: &mut Sql, columns: &Columns, above: Option<&str>) {
        self.write_columns(sql, columns);
        write_from(sql, self.noun, columns);
        self.write_where(sql);
        if let Some(column) = above {
            sql.push(&[" AND t.", column, " = p.id"]);
        }
        self.write_bounds(sql);
        self.forward().write(sql, "t");
        sql.push(&[" LIMIT ", &self.limit()]);
    }

    /// The order in which its rows are found.
    fn forward(&self) -> Order {
        if self.is_backward {
            self.order.reversed()
        } else {
            self.order.clone()
        }
    }

    /// One more than asked for tells whether there is more.
    fn limit(&self) -> String {
        (u32::from(self.count) + 1).to_string()
    }

    /// Writes the columns asked for, and those of the order's keys that are not among them.
    fn write_columns(&self, sql: &mut Sql, columns: &Columns) {
        write_columns(sql, columns);
        let mut is_first = columns.columns.is_empty();
        for key in self.keys(columns).1 {
            sql.push(&[if is_first { "t." } else { ", t." }, key.column]);
            is_first = false;
        }
    }

    /// Writes the conditions of what is after and before the cursors.
    fn write_bounds(&self, sql: &mut Sql) {
        if let Some(after) = &self.after {
            sql.text.push_str(" AND ");
            self.order.write_after(sql, "t", after);
        }
        if let Some(before) = &self.before {
            sql.text.push_str(" AND ");
            self.order.reversed().write_after(sql, "t", before);
        }
    }

    /// The one statement that finds the part's rows below each of the rows `ids`, which stand in their `column`.
    ///
    /// The last column is the row above; `with_total` the one before it is the number of rows of its whole list, and one
    /// without anything else comes where there is no other.
    pub fn statement_below(
        &self,
        store: &Store,
        (columns, column, ids): (&Columns, &str, &[Uuid]),
        with_total: bool,
    ) -> Statement {
        let mut sql = Sql::new(store, self.viewer);
        let total = if with_total { ", c.total" } else { "" };
        if sql.is_postgres() {
            sql.push(&["SELECT q.*", total, ", p.id FROM "]);
            sql.rows_of(ids);
            if with_total {
                sql.text.push_str(" CROSS JOIN LATERAL (");
                self.write_total(&mut sql);
                sql.push(&[" AND t.", column, " = p.id) AS c LEFT JOIN LATERAL ("]);
            } else {
                sql.text.push_str(" CROSS JOIN LATERAL (");
            }
            self.write_page(&mut sql, columns, Some(column));
            sql.text.push_str(if with_total {
                ") AS q ON TRUE"
            } else {
                ") AS q"
            });
            return sql.finish_packed();
        }
        let from = if with_total { "c" } else { "q" };
        sql.push(&["SELECT q.*", total, ", ", from, ".above FROM ("]);
        if with_total {
            self.write_totals(&mut sql, column, ids);
            sql.text.push_str(") AS c LEFT JOIN (");
        }
        self.write_columns(&mut sql, columns);
        sql.push(&[
            ", t.",
            column,
            " AS above, row_number() OVER (PARTITION BY t.",
            column,
        ]);
        self.forward().write(&mut sql, "t");
        sql.text.push_str(") AS place");
        write_from(&mut sql, self.noun, columns);
        self.write_where(&mut sql);
        write_above(&mut sql, column, ids);
        self.write_bounds(&mut sql);
        sql.text.push_str(if with_total {
            ") AS q ON q.above = c.above AND q.place <= "
        } else {
            ") AS q WHERE q.place <= "
        });
        sql.push(&[&self.limit(), " ORDER BY ", from, ".above, q.place"]);
        sql.finish()
    }

    /// Finds the part's rows below rows, for [`Self::rows_below`] with the same arguments.
    pub async fn fetch_below(
        &self,
        store: &Store,
        what: (&Columns, &str, &[Uuid]),
        with_total: bool,
    ) -> Result<Found, AppError> {
        if what.2.is_empty() {
            return Ok(Found::of(Vec::new()));
        }
        let statement = self.statement_below(store, what, with_total);
        Ok(Found::of(store.read(statement).await?))
    }

    /// Reads the part's rows below each row out of what was found.
    pub fn rows_below<'a>(
        &self,
        found: &'a Found,
        columns: &Columns,
        with_total: bool,
    ) -> Result<HashMap<Uuid, Rows<'a>>, AppError> {
        let (keys, more) = self.keys(columns);
        let mut seen = seen(columns, self.viewer);
        seen.extend(more.iter().map(|key| Some(key.storage)));
        if !found.is_packed() {
            // The row above and the place below it, as SQLite needs them.
            seen.extend([None, None]);
        }
        seen.extend(with_total.then_some(Some(Storage::Big)));
        seen.push(Some(Storage::Uuid));
        let width = seen.len();
        let mut groups: HashMap<Uuid, (Vec<Cell<'a>>, Option<i64>)> = HashMap::new();
        let mut cells = found.cells(&seen)?.into_iter();
        while !cells.as_slice().is_empty() {
            let row: Vec<Cell<'a>> = cells.by_ref().take(width).collect();
            let Some(Cell::Uuid(above)) = row.last() else {
                continue;
            };
            let (below, total) = groups.entry(*above).or_default();
            if let (true, Cell::Int(number)) = (with_total, &row[width - 2]) {
                *total = Some(*number);
            }
            // The last of the keys is the id, which no row is without.
            if keys.last().is_some_and(|id| row[*id] != Cell::Null) {
                below.extend(row);
            }
        }
        let rows = groups.into_iter().map(|(above, (cells, total))| {
            let rows = self.page(cells, width, total, keys.clone());
            (above, rows)
        });
        Ok(rows.collect())
    }

    /// The rows of a list that has none.
    pub fn no_rows(&self) -> Rows<'static> {
        self.page(Vec::new(), 1, Some(0), Vec::new())
    }

    /// Counts the whole list below each of the rows `ids`, which stand in their `column`; none of a list without rows.
    pub async fn totals_below(
        &self,
        store: &Store,
        column: &str,
        ids: &[Uuid],
    ) -> Result<HashMap<Uuid, i64>, AppError> {
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let mut sql = Sql::new(store, self.viewer);
        self.write_totals(&mut sql, column, ids);
        let rows = store.read(sql.finish()).await?;
        let each = rows
            .iter()
            .map(|row| Ok((row.try_get_by_index(0)?, row.try_get_by_index(1)?)));
        each.collect()
    }

    /// Finds the columns of the part's rows, for [`Self::rows`] with the same arguments.
    pub async fn fetch(
        &self,
        store: &Store,
        columns: &Columns,
        with_total: bool,
    ) -> Result<Found, AppError> {
        let statement = self.statement(store, columns, with_total);
        Ok(Found::of(store.read(statement).await?))
    }

    /// Reads the part's rows out of what was found.
    pub fn rows<'a>(
        &self,
        found: &'a Found,
        columns: &Columns,
        with_total: bool,
    ) -> Result<Rows<'a>, AppError> {
        let (keys, more) = self.keys(columns);
        let mut seen = seen(columns, self.viewer);
        seen.extend(more.iter().map(|key| Some(key.storage)));
        seen.extend(with_total.then_some(Some(Storage::Big)));
        let width = seen.len();
        let mut cells = found.cells(&seen)?;
        let mut total = None;
        if with_total {
            total = match cells.get(width - 1) {
                Some(Cell::Int(total)) => Some(*total),
                _ => None,
            };
            // The last of the keys is the id, which no row is without.
            if keys.last().and_then(|id| cells.get(*id)) == Some(&Cell::Null) {
                cells.clear();
            }
        }
        Ok(self.page(cells, width, total, keys))
    }

    /// The rows in their order, without the one that only tells whether there is more.
    fn page<'a>(
        &self,
        mut cells: Vec<Cell<'a>>,
        width: usize,
        total: Option<i64>,
        keys: Vec<usize>,
    ) -> Rows<'a> {
        let most = usize::from(self.count) * width;
        let has_more = cells.len() > most;
        cells.truncate(most);
        if self.is_backward {
            let rows = cells.chunks_exact(width).rev();
            cells = rows.flatten().cloned().collect();
        }
        let (has_previous, has_next) = if self.is_backward {
            (has_more, self.before.is_some())
        } else {
            (self.after.is_some(), has_more)
        };
        Rows {
            cells,
            width,
            total,
            has_previous,
            has_next,
            order: self.order.clone(),
            keys,
        }
    }

    /// Counts the whole list.
    pub async fn total(&self, store: &Store) -> Result<i64, AppError> {
        let mut sql = Sql::new(store, self.viewer);
        self.write_total(&mut sql);
        let rows = store.read(sql.finish()).await?;
        let total = rows
            .first()
            .map(|row| row.try_get_by_index(0))
            .transpose()?;
        Ok(total.unwrap_or_default())
    }

    fn write_total(&self, sql: &mut Sql) {
        sql.push(&["SELECT count(*) AS total FROM ", self.noun.table, " AS t"]);
        self.write_where(sql);
    }

    /// Writes what counts the whole lists below the rows `ids`: each of these rows, and the number of those below it.
    fn write_totals(&self, sql: &mut Sql, column: &str, ids: &[Uuid]) {
        sql.push(&["SELECT t.", column, " AS above, count(*) AS total FROM "]);
        sql.push(&[self.noun.table, " AS t"]);
        self.write_where(sql);
        write_above(sql, column, ids);
        sql.push(&[" GROUP BY t.", column]);
    }

    fn write_where(&self, sql: &mut Sql) {
        write_where(sql, self.noun, self.filter.as_ref());
        if let Some((column, id)) = self.within {
            sql.text.push_str(" AND ");
            sql.compare(&format!("t.{column}"), "=", &Cell::Uuid(id));
        }
    }
}

/// Writes the further condition that a row is below one of the rows `ids`.
fn write_above(sql: &mut Sql, column: &str, ids: &[Uuid]) {
    let above: Vec<Cell> = ids.iter().map(|id| Cell::Uuid(*id)).collect();
    sql.text.push_str(" AND ");
    sql.among(&format!("t.{column}"), false, &above, Storage::Uuid);
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

fn write_columns(sql: &mut Sql, columns: &Columns) {
    let sees_all = Audience::Admins.has(sql.viewer());
    sql.text.push_str("SELECT ");
    for (at, (row, column, _)) in columns.columns.iter().enumerate() {
        if at > 0 {
            sql.text.push_str(", ");
        }
        if !sees_all && columns.guarded.contains(&at) {
            sql.text.push_str("NULL");
        } else {
            sql.row(*row);
            sql.push(&[".", column]);
        }
    }
}

fn write_columns_and_id(sql: &mut Sql, columns: &Columns) {
    write_columns(sql, columns);
    sql.text.push_str(if columns.columns.is_empty() {
        "t.id"
    } else {
        ", t.id"
    });
}

fn write_from(sql: &mut Sql, noun: &Noun, columns: &Columns) {
    sql.push(&[" FROM ", noun.table, " AS t"]);
    for (at, (from, link)) in columns.joins.iter().enumerate() {
        let there = (link.noun)();
        sql.push(&[" LEFT JOIN ", there.table, " AS "]);
        let name = sql.row(at + 1);
        sql.push(&[" ON ", &name, ".id = "]);
        sql.row(*from);
        sql.push(&[".", link.column, " AND "]);
        sql.scope(there, &name);
    }
}

/// What the viewer sees of the columns.
fn seen(columns: &Columns, viewer: Viewer) -> Vec<Seen> {
    let sees_all = Audience::Admins.has(viewer);
    let each = columns.columns.iter().enumerate();
    each.map(|(at, (_, _, storage))| {
        (sees_all || !columns.guarded.contains(&at)).then_some(*storage)
    })
    .collect()
}

/// Reads the rows in reach among `ids`, each behind its id.
pub async fn by_ids(
    store: &Store,
    viewer: Viewer,
    noun: &'static Noun,
    ids: &[Cell<'_>],
    columns: &Columns,
) -> Result<Vec<Vec<Cell<'static>>>, AppError> {
    let mut sql = Sql::new(store, viewer);
    write_columns_and_id(&mut sql, columns);
    write_from(&mut sql, noun, columns);
    sql.text.push_str(" WHERE ");
    match ids {
        // Such statements are read together.
        [id] => sql.compare("t.id", "=", id),
        ids => sql.among("t.id", false, ids, Storage::Uuid),
    }
    sql.text.push_str(" AND ");
    sql.scope(noun, "t");
    with_ids(store, sql, columns).await
}

/// Reads the oldest rows in reach whose ids are greater than `after.0` and not in `after.1`, each behind its id.
pub async fn added(
    store: &Store,
    viewer: Viewer,
    noun: &'static Noun,
    filter: Option<&Tree>,
    after: (Uuid, &[Uuid]),
    columns: &Columns,
) -> Result<Vec<Vec<Cell<'static>>>, AppError> {
    let mut sql = Sql::new(store, viewer);
    write_columns_and_id(&mut sql, columns);
    write_from(&mut sql, noun, columns);
    write_where(&mut sql, noun, filter);
    sql.text.push_str(" AND ");
    sql.compare("t.id", ">", &Cell::Uuid(after.0));
    sql.text.push_str(" AND ");
    let but: Vec<Cell> = after.1.iter().map(|id| Cell::Uuid(*id)).collect();
    sql.among("t.id", true, &but, Storage::Uuid);
    sql.push(&[" ORDER BY t.id LIMIT ", &MOST.to_string()]);
    with_ids(store, sql, columns).await
}

/// The rows of a statement whose last column is the id.
async fn with_ids(
    store: &Store,
    sql: Sql,
    columns: &Columns,
) -> Result<Vec<Vec<Cell<'static>>>, AppError> {
    let mut seen = seen(columns, sql.viewer());
    seen.push(Some(Storage::Uuid));
    let found = store.read(sql.finish()).await?;
    let owned = |cells: Vec<Cell<'_>>| cells.into_iter().map(Cell::into_owned).collect();
    let rows = found.iter().map(|row| found::cells(row, &seen).map(owned));
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
