//! Orders: an input type an entity, the cursor that stands for a place in a list, and the condition of what comes after it.
//!
//! A cursor holds the values a row is ordered by and its id (keyset pagination), so pages stay put while rows come and go.

use std::{borrow::Cow, marker::PhantomData};

use async_graphql::{
    Enum, InputType, InputValueError, InputValueResult, Value,
    registry::{Deprecation, MetaEnumValue, MetaType, MetaTypeId, Registry},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, SecondsFormat, Utc};
use uuid::Uuid;

use super::{
    cell::{Cell, Storage},
    filter::{argument, input_object},
    noun::{Audience, Noun},
    row::Shown,
    statement::Sql,
};
use crate::{domain::policy::Viewer, error::AppError, store::keeps_text};

/// Most keys of an order.
const KEYS: usize = 4;

/// Which way a list runs.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The smallest, or the oldest, first.
    Asc,
    /// The largest, or the newest, first.
    Desc,
}

/// Where missing values stand.
#[derive(Enum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nulls {
    /// Before all others.
    First,
    /// After all others.
    Last,
}

/// One key of an order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Key {
    pub column: &'static str,
    pub storage: Storage,
    pub is_nullable: bool,
    pub is_desc: bool,
    pub nulls_first: bool,
    audience: Audience,
}

impl Key {
    /// The key that decides between equals, and the order of a list that asks for none: the newest first.
    const fn id(is_desc: bool) -> Self {
        Self {
            column: "id",
            storage: Storage::Uuid,
            is_nullable: false,
            is_desc,
            nulls_first: false,
            audience: Audience::Everyone,
        }
    }

    const fn reversed(self) -> Self {
        Self {
            is_desc: !self.is_desc,
            nulls_first: !self.nulls_first,
            ..self
        }
    }
}

/// The keys of a list, the last of them its id.
#[derive(Clone, Debug, PartialEq)]
pub struct Order(pub Vec<Key>);

impl Order {
    /// Completes the keys asked for.
    pub fn of(asked: impl IntoIterator<Item = Key>, viewer: Viewer) -> Result<Self, AppError> {
        let mut keys: Vec<Key> = Vec::new();
        for key in asked {
            if !key.audience.has(viewer) {
                return Err(AppError::Forbidden);
            }
            // A second key of the same column decides nothing.
            if keys.iter().all(|known| known.column != key.column) {
                keys.push(key);
            }
        }
        if keys.len() > KEYS {
            return Err(AppError::Invalid {
                field: "orderBy",
                reason: format!("{KEYS} keys at most"),
            });
        }
        let by_id = keys.iter().position(|key| key.column == "id");
        match by_id {
            // Nothing can come after what is unique.
            Some(at) => keys.truncate(at + 1),
            None => keys.push(Key::id(keys.last().is_none_or(|key| key.is_desc))),
        }
        Ok(Self(keys))
    }

    #[must_use]
    pub fn reversed(&self) -> Self {
        Self(self.0.iter().map(|key| key.reversed()).collect())
    }

    /// Which order a cursor is of.
    fn mark(&self) -> String {
        let mut mark = String::new();
        for key in &self.0 {
            mark.push_str(key.column);
            mark.push(if key.is_desc { '-' } else { '+' });
            mark.push(if key.nulls_first { '<' } else { '>' });
        }
        mark
    }

    /// The cursor of a row with these values of the keys.
    pub fn cursor<'a>(&self, values: impl IntoIterator<Item = &'a Cell<'a>>) -> String {
        let mut values = values.into_iter().peekable();
        if let ([_], Some(Cell::Uuid(id))) = (&*self.0, values.peek()) {
            return id.simple().to_string();
        }
        let values = values.map(|value| match value {
            Cell::Null => serde_json::Value::Null,
            Cell::Uuid(uuid) => uuid.simple().to_string().into(),
            Cell::Text(text) => text.as_ref().into(),
            Cell::Int(number) => (*number).into(),
            Cell::Bool(yes) => (*yes).into(),
            Cell::Time(at) => at.to_rfc3339_opts(SecondsFormat::Nanos, true).into(),
            Cell::Json(json) => json.clone(),
        });
        let parts: Vec<serde_json::Value> =
            std::iter::once(self.mark().into()).chain(values).collect();
        URL_SAFE_NO_PAD.encode(serde_json::Value::Array(parts).to_string())
    }

    /// The values a cursor of this order stands for.
    pub fn read(&self, cursor: &str) -> Result<Vec<Cell<'static>>, AppError> {
        self.try_read(cursor).ok_or_else(|| AppError::Invalid {
            field: "cursor",
            reason: "not one of this list's cursors".to_owned(),
        })
    }

    fn try_read(&self, cursor: &str) -> Option<Vec<Cell<'static>>> {
        if let [_] = &*self.0 {
            let id = Uuid::try_parse(cursor)
                .ok()
                .filter(|_| cursor.len() == 32)?;
            return Some(vec![Cell::Uuid(id)]);
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let parts: Vec<serde_json::Value> = serde_json::from_slice(&bytes).ok()?;
        let (mark, values) = parts.split_first()?;
        if mark.as_str() != Some(&self.mark()) || values.len() != self.0.len() {
            return None;
        }
        let read = |(key, value): (&Key, &serde_json::Value)| {
            if value.is_null() {
                return key.is_nullable.then_some(Cell::Null);
            }
            Some(match key.storage {
                Storage::Uuid => Cell::Uuid(Uuid::try_parse(value.as_str()?).ok()?),
                Storage::Text => {
                    let text = value.as_str().filter(|text| keeps_text(text))?;
                    Cell::Text(text.to_owned().into())
                }
                Storage::Small | Storage::Int | Storage::Big => Cell::Int(value.as_i64()?),
                Storage::Bool => Cell::Bool(value.as_bool()?),
                Storage::Time => Cell::Time(
                    DateTime::parse_from_rfc3339(value.as_str()?)
                        .ok()?
                        .with_timezone(&Utc),
                ),
                Storage::Json => return None,
            })
        };
        self.0.iter().zip(values).map(read).collect()
    }

    /// Writes `ORDER BY`.
    pub fn write(&self, sql: &mut Sql, row: &str) {
        for (index, key) in self.0.iter().enumerate() {
            sql.text
                .push_str(if index == 0 { " ORDER BY " } else { ", " });
            write_column(sql, row, key);
            sql.text
                .push_str(if key.is_desc { " DESC" } else { " ASC" });
            if key.is_nullable {
                sql.text.push_str(if key.nulls_first {
                    " NULLS FIRST"
                } else {
                    " NULLS LAST"
                });
            }
        }
    }

    /// Writes the condition that a row comes after these values.
    pub fn write_after(&self, sql: &mut Sql, row: &str, values: &[Cell]) {
        // Says nothing the rest does not say, but lets an index begin at the place.
        if let ([key, _, ..], [value, ..]) = (&*self.0, values)
            && !key.is_nullable
        {
            write_side(
                sql,
                row,
                key,
                if key.is_desc { " <= " } else { " >= " },
                value,
            );
            sql.text.push_str(" AND ");
        }
        sql.text.push('(');
        for (index, (key, value)) in self.0.iter().zip(values).enumerate() {
            sql.text.push_str(if index == 0 { "(" } else { " OR (" });
            for (before, value) in self.0.iter().zip(values).take(index) {
                if *value == Cell::Null {
                    write_column(sql, row, before);
                    sql.text.push_str(" IS NULL");
                } else {
                    write_side(sql, row, before, " = ", value);
                }
                sql.text.push_str(" AND ");
            }
            match (value, key.nulls_first) {
                // Whatever is there comes after what is missing.
                (Cell::Null, true) => {
                    write_column(sql, row, key);
                    sql.text.push_str(" IS NOT NULL");
                }
                (Cell::Null, false) => sql.text.push_str("FALSE"),
                (value, nulls_first) => {
                    sql.text.push('(');
                    write_side(
                        sql,
                        row,
                        key,
                        if key.is_desc { " < " } else { " > " },
                        value,
                    );
                    if key.is_nullable && !nulls_first {
                        sql.text.push_str(" OR ");
                        write_column(sql, row, key);
                        sql.text.push_str(" IS NULL");
                    }
                    sql.text.push(')');
                }
            }
            sql.text.push(')');
        }
        sql.text.push(')');
    }
}

fn write_column(sql: &mut Sql, row: &str, key: &Key) {
    sql.push(&[row, ".", key.column]);
    if key.storage == Storage::Text && sql.is_postgres() {
        sql.text.push_str(" COLLATE \"C\"");
    }
}

fn write_side(sql: &mut Sql, row: &str, key: &Key, operator: &str, value: &Cell) {
    write_column(sql, row, key);
    let value = sql.put(value.parameter());
    sql.push(&[operator, &value]);
}

/// A key of the orders of `E`, as a client asks for it.
pub struct OrderBy<E>(pub Key, PhantomData<fn() -> E>);

fn fields_name(noun: &Noun) -> String {
    format!("{}OrderField", noun.name)
}

impl<E: Shown> InputType for OrderBy<E> {
    type RawValueType = Self;

    fn type_name() -> Cow<'static, str> {
        format!("{}Order", E::noun().name).into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_input_type::<Self, _>(MetaTypeId::InputObject, |registry| {
            let noun = E::noun();
            let ordered = noun.fields.iter().filter(|field| field.order.is_some());
            let names = ordered.map(|field| (field.constant(), field.doc));
            let name = fields_name(noun);
            let ty = enum_type(
                &name,
                format!("What `{}`s can be ordered by.", noun.name),
                names,
            );
            registry.types.insert(name.clone(), ty);
            let direction = <Option<Direction> as InputType>::create_type_info(registry);
            let nulls = <Option<Nulls> as InputType>::create_type_info(registry);
            let mut direction = argument("direction", direction, "Which way.");
            direction.default_value = Some("ASC".to_owned());
            let fields = [
                argument("field", format!("{name}!"), "By what."),
                direction,
                argument(
                    "nulls",
                    nulls,
                    "Where missing values stand; by default they are the largest.",
                ),
            ];
            let doc = format!("A key `{}`s are ordered by.", noun.name);
            input_object(Self::type_name().into_owned(), doc, fields)
        })
    }

    fn parse(value: Option<Value>) -> InputValueResult<Self> {
        let key = parse(E::noun(), &value.unwrap_or_default());
        key.map(|key| Self(key, PhantomData))
            .map_err(InputValueError::custom)
    }

    fn to_value(&self) -> Value {
        Value::Null
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }
}

/// Reads one key.
pub fn parse(noun: &'static Noun, value: &Value) -> Result<Key, String> {
    let Value::Object(object) = value else {
        return Err("a key of an order is an object".to_owned());
    };
    let name = |key: &str| match object.get(key) {
        Some(Value::Enum(name)) => Some(name.as_str()),
        Some(Value::String(name)) => Some(name.as_str()),
        _ => None,
    };
    let asked = name("field").ok_or("an order needs a field")?;
    let field = noun
        .fields
        .iter()
        .find(|field| field.order.is_some() && field.constant() == asked)
        .ok_or_else(|| format!("nothing is ordered by {asked}"))?;
    let (column, storage) = field.order.unwrap_or(field.columns[0]);
    let known = ["field", "direction", "nulls"];
    if let Some(other) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!("an order has no {other}"));
    }
    let is_desc = match (object.get("direction"), name("direction")) {
        (None, _) | (_, Some("ASC")) => false,
        (_, Some("DESC")) => true,
        _ => return Err("the direction is ASC or DESC".to_owned()),
    };
    Ok(Key {
        column,
        storage,
        is_nullable: field.is_nullable && column == field.column(),
        is_desc,
        nulls_first: match (object.get("nulls"), name("nulls")) {
            (_, Some("FIRST")) => true,
            (_, Some("LAST")) => false,
            (None | Some(Value::Null), _) => is_desc,
            _ => return Err("nulls stand FIRST or LAST".to_owned()),
        },
        audience: field.audience,
    })
}

/// An enum's type, of names and what they mean.
pub fn enum_type(
    name: &str,
    doc: String,
    values: impl IntoIterator<Item = (String, &'static str)>,
) -> MetaType {
    let values = values.into_iter().map(|(name, doc)| {
        let value = MetaEnumValue {
            name: name.clone(),
            description: Some(doc.to_owned()),
            deprecation: Deprecation::NoDeprecated,
            visible: None,
            inaccessible: false,
            tags: Vec::new(),
            directive_invocations: Vec::new(),
        };
        (name, value)
    });
    MetaType::Enum {
        name: name.to_owned(),
        description: Some(doc),
        enum_values: values.collect(),
        visible: None,
        inaccessible: false,
        tags: Vec::new(),
        rust_typename: None,
        directive_invocations: Vec::new(),
        requires_scopes: Vec::new(),
    }
}
