//! What a list is meant to be, in memory: rows, filters that are true or false, orders, and random ones of each.

use std::cmp::Ordering;

use chrono::{DateTime, Utc};
use rand::{RngExt, seq::IndexedRandom as _};
use serde_json::{Value, json};
use uuid::Uuid;

/// The world's letters: those with a meaning in patterns, both cases, one outside of ASCII.
const LETTERS: [char; 10] = ['a', 'A', 'b', 'B', '%', '_', '*', '[', '\\', 'é'];
pub const STATES: [&str; 5] = ["REQUESTED", "CREATING", "RUNNING", "DELETED", "FAILED"];

#[derive(Clone, Debug)]
pub struct Row {
    pub id: Uuid,
    pub app_name: String,
    pub owner: usize,
    pub state: &'static str,
    pub dpi: i16,
    pub provider: Option<String>,
    pub updated_at: DateTime<Utc>,
    pub running_at: Option<DateTime<Utc>>,
}

#[derive(Clone, PartialEq, PartialOrd, Debug)]
pub enum Cell {
    Text(String),
    Int(i64),
    Time(DateTime<Utc>),
}

impl Cell {
    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Int(number) => json!(number),
            Self::Time(at) => json!(at.to_rfc3339()),
        }
    }
}

/// A field of the filter and what it is of a row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Field {
    Id,
    State,
    Dpi,
    Provider,
    UpdatedAt,
    RunningAt,
    AppName,
}

impl Field {
    const ALL: [Self; 7] = [
        Self::Id,
        Self::State,
        Self::Dpi,
        Self::Provider,
        Self::UpdatedAt,
        Self::RunningAt,
        Self::AppName,
    ];

    fn of(self, row: &Row) -> Option<Cell> {
        Some(match self {
            Self::Id => Cell::Text(format!("container_{}", row.id.simple())),
            Self::State => Cell::Text(row.state.to_owned()),
            Self::Dpi => Cell::Int(row.dpi.into()),
            Self::Provider => Cell::Text(row.provider.clone()?),
            Self::UpdatedAt => Cell::Time(row.updated_at),
            Self::RunningAt => Cell::Time(row.running_at?),
            Self::AppName => Cell::Text(row.app_name.clone()),
        })
    }

    fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Id | Self::State => &["eq", "neq", "in", "notIn", "isNull"],
            Self::Dpi | Self::UpdatedAt | Self::RunningAt => &[
                "eq", "neq", "in", "notIn", "lt", "lte", "gt", "gte", "isNull",
            ],
            Self::Provider | Self::AppName => &[
                "eq", "neq", "in", "notIn", "lt", "lte", "gt", "gte", "isNull", "like", "ilike",
                "prefix",
            ],
        }
    }
}

#[derive(Clone, Debug)]
pub enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    Not(Box<Filter>),
    Test(Field, &'static str, Vec<Cell>),
}

impl Filter {
    pub fn random(rng: &mut impl rand::Rng, rows: &[Row], depth: usize) -> Self {
        let some = |rng: &mut _, depth| {
            let count = RngExt::random_range(rng, 0..=3);
            (0..count).map(|_| Self::random(rng, rows, depth)).collect()
        };
        match rng.random_range(0..if depth == 0 { 6 } else { 9 }) {
            6 => Self::All(some(rng, depth - 1)),
            7 => Self::Any(some(rng, depth - 1)),
            8 => Self::Not(Box::new(Self::random(rng, rows, depth - 1))),
            _ => {
                let field = *Field::ALL.choose(rng).unwrap();
                let test = *field.tests().choose(rng).unwrap();
                let values = match test {
                    "isNull" => vec![Cell::Int(rng.random_range(0..=1))],
                    "in" | "notIn" => {
                        let count = rng.random_range(0..=4);
                        (0..count).filter_map(|_| value(rng, rows, field)).collect()
                    }
                    "like" | "ilike" => vec![Cell::Text(pattern(rng, rows, field))],
                    "prefix" => {
                        let text = text_of(rng, rows, field);
                        let count = rng.random_range(0..=3);
                        vec![Cell::Text(text.chars().take(count).collect())]
                    }
                    _ => value(rng, rows, field).into_iter().collect(),
                };
                if values.is_empty() && !["in", "notIn"].contains(&test) {
                    return Self::All(Vec::new());
                }
                Self::Test(field, test, values)
            }
        }
    }

    /// The same as a variable.
    pub fn json(&self) -> Value {
        let list = |filters: &[Self]| filters.iter().map(Self::json).collect::<Vec<_>>();
        match self {
            Self::All(filters) => json!({"and": list(filters)}),
            Self::Any(filters) => json!({"or": list(filters)}),
            Self::Not(filter) => json!({"not": filter.json()}),
            Self::Test(field, test, values) => {
                let asked = match *test {
                    "isNull" => json!(values[0] == Cell::Int(1)),
                    "in" | "notIn" => values.iter().map(Cell::json).collect(),
                    _ => values[0].json(),
                };
                let tests = json!({*test: asked});
                match field {
                    Field::Id => json!({"id": tests}),
                    Field::State => json!({"state": tests}),
                    Field::Dpi => json!({"dpi": tests}),
                    Field::Provider => json!({"provider": tests}),
                    Field::UpdatedAt => json!({"updatedAt": tests}),
                    Field::RunningAt => json!({"runningAt": tests}),
                    Field::AppName => json!({"app": {"name": tests}}),
                }
            }
        }
    }

    pub fn fits(&self, row: &Row) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.fits(row)),
            Self::Any(filters) => filters.iter().any(|filter| filter.fits(row)),
            Self::Not(filter) => !filter.fits(row),
            Self::Test(field, test, values) => {
                let own = field.of(row);
                let order = || own.as_ref()?.partial_cmp(values.first()?);
                let text = |cell: &Cell| match cell {
                    Cell::Text(text) => text.clone(),
                    _ => unreachable!("patterns are for texts"),
                };
                let like = |fold: fn(&str) -> String| {
                    let own = own.as_ref().map(&text);
                    own.is_some_and(|own| {
                        is_like(&letters(&fold(&own)), &letters(&fold(&text(&values[0]))))
                    })
                };
                match *test {
                    "isNull" => own.is_none() == (values[0] == Cell::Int(1)),
                    "eq" => own.as_ref() == values.first(),
                    "neq" => own.as_ref() != values.first(),
                    "in" => own.as_ref().is_some_and(|own| values.contains(own)),
                    "notIn" => !own.as_ref().is_some_and(|own| values.contains(own)),
                    "lt" => order() == Some(Ordering::Less),
                    "lte" => order().is_some_and(Ordering::is_le),
                    "gt" => order() == Some(Ordering::Greater),
                    "gte" => order().is_some_and(Ordering::is_ge),
                    "like" => like(str::to_owned),
                    "ilike" => like(str::to_ascii_lowercase),
                    "prefix" => own
                        .as_ref()
                        .is_some_and(|own| text(own).starts_with(&text(&values[0]))),
                    _ => unreachable!("no other test is made"),
                }
            }
        }
    }
}

fn letters(text: &str) -> Vec<char> {
    text.chars().collect()
}

/// `LIKE`, by its definition.
fn is_like(text: &[char], pattern: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|at| is_like(&text[at..], rest)),
        ['_', rest @ ..] => !text.is_empty() && is_like(&text[1..], rest),
        ['\\', letter, rest @ ..] | [letter, rest @ ..] => {
            text.first() == Some(letter) && is_like(&text[1..], rest)
        }
    }
}

fn text_of(rng: &mut impl rand::Rng, rows: &[Row], field: Field) -> String {
    match rows.choose(rng).and_then(|row| field.of(row)) {
        Some(Cell::Text(text)) => text,
        _ => text(rng),
    }
}

/// A pattern that often fits: a text of the world with some of its letters replaced.
fn pattern(rng: &mut impl rand::Rng, rows: &[Row], field: Field) -> String {
    let mut pattern = String::new();
    for letter in text_of(rng, rows, field).chars() {
        match rng.random_range(0..6) {
            0 => pattern.push('%'),
            1 => pattern.push('_'),
            _ if ['%', '_', '\\'].contains(&letter) => pattern.extend(['\\', letter]),
            2 if letter.is_ascii() => pattern.push(letter.to_ascii_uppercase()),
            _ => pattern.push(letter),
        }
    }
    pattern
}

fn value(rng: &mut impl rand::Rng, rows: &[Row], field: Field) -> Option<Cell> {
    rows.choose(rng).and_then(|row| field.of(row))
}

pub fn text(rng: &mut impl rand::Rng) -> String {
    let count = rng.random_range(0..=4);
    (0..count).map(|_| *LETTERS.choose(rng).unwrap()).collect()
}

/// A key of an order.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    name: &'static str,
    is_desc: bool,
    nulls_first: Option<bool>,
}

impl Key {
    pub fn random(rng: &mut impl rand::Rng) -> Self {
        Self {
            name: ["CREATED_AT", "UPDATED_AT", "RUNNING_AT"]
                .choose(rng)
                .unwrap(),
            is_desc: rng.random(),
            nulls_first: [None, Some(true), Some(false)]
                .choose(rng)
                .copied()
                .flatten(),
        }
    }

    pub fn json(self) -> Value {
        let mut key =
            json!({"field": self.name, "direction": if self.is_desc { "DESC" } else { "ASC" }});
        if let Some(first) = self.nulls_first {
            key["nulls"] = json!(if first { "FIRST" } else { "LAST" });
        }
        key
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let turn = |order: Ordering| if self.is_desc { order.reverse() } else { order };
        match self.name {
            "CREATED_AT" => turn(a.id.cmp(&b.id)),
            "UPDATED_AT" => turn(a.updated_at.cmp(&b.updated_at)),
            _ => match (a.running_at, b.running_at) {
                (Some(a), Some(b)) => turn(a.cmp(&b)),
                (a, b) => {
                    let order = a.is_some().cmp(&b.is_some());
                    if self.nulls_first.unwrap_or(self.is_desc) {
                        order
                    } else {
                        order.reverse()
                    }
                }
            },
        }
    }
}

/// Orders rows; the ids decide between equals, in the last key's direction, and without a key the newest is first.
pub fn sort(rows: &mut [&Row], keys: &[Key]) {
    let mut kept: Vec<Key> = Vec::new();
    for key in keys {
        // A second key of the same field decides nothing.
        if kept.iter().all(|known| known.name != key.name) {
            kept.push(*key);
        }
    }
    let is_desc = kept.last().is_none_or(|key| key.is_desc);
    rows.sort_by(|a, b| {
        let by_keys = kept.iter().map(|key| key.compare(a, b));
        let by_id = if is_desc {
            b.id.cmp(&a.id)
        } else {
            a.id.cmp(&b.id)
        };
        by_keys
            .chain([by_id])
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal)
    });
}
