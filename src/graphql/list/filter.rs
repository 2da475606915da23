//! Filters: an input type an entity, read into a tree.

use std::{borrow::Cow, marker::PhantomData};

use async_graphql::{
    InputType, InputValueError, InputValueResult, Value,
    registry::{Deprecation, MetaInputValue, MetaType, MetaTypeId, Registry},
};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    cell::Cell,
    noun::{Field, Kind, Link, Noun},
    pattern::Pattern,
    row::Shown,
};
use crate::store::{keeps_text, keeps_time};

/// Most values of an `in`, most tests of a filter, and its deepest nesting.
const VALUES: usize = 500;
const TESTS: usize = 100;
const DEPTH: usize = 8;

/// What a row has to be like.
#[derive(Clone, Debug)]
pub enum Tree {
    All(Vec<Tree>),
    Any(Vec<Tree>),
    Not(Box<Tree>),
    Test(&'static Field, Test),
    /// The row the link points at is in reach and fits.
    Across(&'static Link, Box<Tree>),
}

#[derive(Clone, Debug)]
pub enum Test {
    Eq(Cell<'static>),
    Neq(Cell<'static>),
    In(Vec<Cell<'static>>),
    NotIn(Vec<Cell<'static>>),
    Lt(Cell<'static>),
    Lte(Cell<'static>),
    Gt(Cell<'static>),
    Gte(Cell<'static>),
    Like(Pattern),
    Ilike(Pattern),
    IsNull(bool),
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// What can be asked of a kind: the name of its filter's type, the type of its values, and the tests.
fn tests(
    field: &Field,
) -> (
    Cow<'static, str>,
    Cow<'static, str>,
    &'static [&'static str],
) {
    const EQUAL: &[&str] = &["eq", "neq", "in", "notIn", "isNull"];
    const ORDERED: &[&str] = &[
        "eq", "neq", "in", "notIn", "lt", "lte", "gt", "gte", "isNull",
    ];
    const TEXT: &[&str] = &[
        "eq", "neq", "in", "notIn", "lt", "lte", "gt", "gte", "isNull", "like", "ilike", "prefix",
    ];
    match &field.kind {
        Kind::Id(_) => ("IdFilter".into(), "ID".into(), EQUAL),
        Kind::Text => ("TextFilter".into(), "String".into(), TEXT),
        Kind::Int => ("IntFilter".into(), "Int".into(), ORDERED),
        Kind::Time => ("TimeFilter".into(), "DateTime".into(), ORDERED),
        Kind::Bool => (
            "BoolFilter".into(),
            "Boolean".into(),
            &["eq", "neq", "isNull"],
        ),
        Kind::Word(words) => {
            let name = (words.name)();
            (format!("{name}Filter").into(), name, EQUAL)
        }
        Kind::Json | Kind::Made(_) => unreachable!("nothing is asked of JSON"),
    }
}

fn test_doc(test: &str) -> &'static str {
    match test {
        "eq" => "It is this.",
        "neq" => "It is not this, or missing.",
        "in" => "It is one of these; at most 500.",
        "notIn" => "It is none of these, or missing; at most 500.",
        "lt" => "It is less than this, or before it.",
        "lte" => "It is at most this, or not after it.",
        "gt" => "It is more than this, or after it.",
        "gte" => "It is at least this, or not before it.",
        "isNull" => "It is missing, or it is there.",
        "like" => {
            "It fits this pattern: `%` for anything, `_` for one character, a backslash before either for itself."
        }
        "ilike" => "The same with small and capital ASCII letters alike.",
        _ => "It begins with this.",
    }
}

pub fn argument(
    name: impl Into<String>,
    ty: impl Into<String>,
    doc: impl Into<String>,
) -> MetaInputValue {
    MetaInputValue {
        name: name.into(),
        description: Some(doc.into()),
        ty: ty.into(),
        deprecation: Deprecation::NoDeprecated,
        default_value: None,
        visible: None,
        inaccessible: false,
        tags: Vec::new(),
        is_secret: false,
        directive_invocations: Vec::new(),
    }
}

pub fn input_object(
    name: String,
    doc: String,
    fields: impl IntoIterator<Item = MetaInputValue>,
) -> MetaType {
    let fields = fields.into_iter().map(|field| (field.name.clone(), field));
    MetaType::InputObject {
        name,
        description: Some(doc),
        input_fields: fields.collect(),
        visible: None,
        inaccessible: false,
        tags: Vec::new(),
        rust_typename: None,
        oneof: false,
        directive_invocations: Vec::new(),
    }
}

/// Registers the filter of a kind; its name.
fn register_tests(registry: &mut Registry, field: &Field) -> String {
    let (name, of, tests) = tests(field);
    match &field.kind {
        Kind::Time => drop(<DateTime<Utc> as InputType>::create_type_info(registry)),
        Kind::Id(_) => drop(<async_graphql::ID as InputType>::create_type_info(registry)),
        Kind::Word(words) => drop((words.register)(registry)),
        _ => {}
    }
    if !registry.types.contains_key(&*name) {
        let arguments = tests.iter().map(|test| {
            let ty = match *test {
                "isNull" => "Boolean".to_owned(),
                "in" | "notIn" => format!("[{of}!]"),
                _ => of.to_string(),
            };
            argument(*test, ty, test_doc(test))
        });
        let doc =
            format!("What a value of the type `{of}` has to be like; all that is given holds.");
        let ty = input_object(name.to_string(), doc, arguments);
        registry.types.insert(name.to_string(), ty);
    }
    name.into_owned()
}

/// The filter of the lists of `E`.
pub struct Filter<E>(pub Tree, PhantomData<fn() -> E>);

impl<E: Shown> InputType for Filter<E> {
    type RawValueType = Self;

    fn type_name() -> Cow<'static, str> {
        format!("{}Filter", E::noun().name).into()
    }

    fn create_type_info(registry: &mut Registry) -> String {
        registry.create_input_type::<Self, _>(MetaTypeId::InputObject, |registry| {
            let (noun, own) = (E::noun(), Self::type_name());
            let mut fields = vec![
                argument("and", format!("[{own}!]"), "All of these hold."),
                argument("or", format!("[{own}!]"), "One of these holds."),
                argument("not", own.to_string(), "This does not hold."),
            ];
            for field in noun.fields.iter().filter(|field| field.is_filtered) {
                fields.push(argument(
                    field.name,
                    register_tests(registry, field),
                    field.doc,
                ));
            }
            for link in noun.links.iter().filter(|link| link.is_filtered) {
                fields.push(argument(
                    link.name,
                    (link.register_filter)(registry),
                    link.doc,
                ));
            }
            let doc = format!(
                "What a `{}` has to be like; all that is given holds.",
                noun.name
            );
            input_object(own.into_owned(), doc, fields)
        })
    }

    fn parse(value: Option<Value>) -> InputValueResult<Self> {
        let tree = parse(E::noun(), value.unwrap_or_default());
        tree.map(|tree| Self(tree, PhantomData))
            .map_err(InputValueError::custom)
    }

    fn to_value(&self) -> Value {
        Value::Null
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }
}

/// Reads a filter of `noun`; null asks for nothing.
pub fn parse(noun: &'static Noun, value: Value) -> Result<Tree, String> {
    let mut tests = 0;
    read(noun, value, 0, &mut tests)
}

fn read(
    noun: &'static Noun,
    value: Value,
    depth: usize,
    tests: &mut usize,
) -> Result<Tree, String> {
    let object = match value {
        Value::Null => return Ok(Tree::All(Vec::new())),
        Value::Object(object) => object,
        _ => return Err("a filter is an object".to_owned()),
    };
    if depth > DEPTH {
        return Err(format!("a filter is nested {DEPTH} deep at most"));
    }
    let mut all = Vec::new();
    let before = *tests;
    for (name, value) in object {
        if value == Value::Null {
            continue;
        }
        let mut each = |value| {
            let items = match value {
                Value::List(items) => items,
                one => vec![one],
            };
            let trees = items
                .into_iter()
                .map(|item| read(noun, item, depth + 1, tests));
            trees.collect::<Result<Vec<_>, _>>()
        };
        match name.as_str() {
            "and" => all.extend(each(value)?),
            "or" => all.push(Tree::Any(each(value)?)),
            "not" => all.push(Tree::Not(Box::new(read(noun, value, depth + 1, tests)?))),
            name => {
                if let Some(field) = noun.field(name).filter(|field| field.is_filtered) {
                    read_tests(field, value, &mut all, tests)?;
                } else if let Some(link) = noun.link(name).filter(|link| link.is_filtered) {
                    let there = read((link.noun)(), value, depth + 1, tests)?;
                    all.push(Tree::Across(link, Box::new(there)));
                } else {
                    return Err(format!("nothing can be asked of {name}"));
                }
            }
        }
    }
    // What asks for nothing is a part of the statement all the same.
    *tests += usize::from(*tests == before);
    if *tests > TESTS {
        return Err(format!("a filter has {TESTS} tests at most"));
    }
    Ok(Tree::All(all))
}

fn read_tests(
    field: &'static Field,
    value: Value,
    all: &mut Vec<Tree>,
    tests: &mut usize,
) -> Result<(), String> {
    let Value::Object(object) = value else {
        return Err(format!("{}: an object of tests is expected", field.name));
    };
    for (name, value) in object {
        if value == Value::Null {
            continue;
        }
        *tests += 1;
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            _ => Err(format!("{}: a text is expected", field.name)),
        };
        let test = match name.as_str() {
            "eq" => Test::Eq(cell(field, value)?),
            "neq" => Test::Neq(cell(field, value)?),
            "in" => Test::In(cells(field, value)?),
            "notIn" => Test::NotIn(cells(field, value)?),
            "lt" => Test::Lt(cell(field, value)?),
            "lte" => Test::Lte(cell(field, value)?),
            "gt" => Test::Gt(cell(field, value)?),
            "gte" => Test::Gte(cell(field, value)?),
            "isNull" => Test::IsNull(value == Value::Boolean(true)),
            "like" => Test::Like(Pattern::parse(&text(&value)?)?),
            "ilike" => Test::Ilike(Pattern::parse(&text(&value)?)?),
            "prefix" => Test::Like(Pattern::prefix(&text(&value)?)?),
            other => return Err(format!("{}: there is no test {other}", field.name)),
        };
        all.push(Tree::Test(field, test));
    }
    Ok(())
}

fn cells(field: &Field, value: Value) -> Result<Vec<Cell<'static>>, String> {
    let items = match value {
        Value::List(items) => items,
        one => vec![one],
    };
    if items.len() > VALUES {
        return Err(format!("{}: {VALUES} values at most", field.name));
    }
    items.into_iter().map(|item| cell(field, item)).collect()
}

/// Reads a value to compare the field with.
fn cell(field: &Field, value: Value) -> Result<Cell<'static>, String> {
    let refused = || format!("{}: not a value of its type", field.name);
    let id = |text: &str, prefix: &str| {
        let hex = text.strip_prefix(prefix)?.strip_prefix('_')?;
        Uuid::try_parse(hex).ok().filter(|_| hex.len() == 32)
    };
    Ok(match (&field.kind, &value) {
        // An id of something else is one that no row has.
        (Kind::Id(prefix), Value::String(text)) => {
            Cell::Uuid(id(text, prefix).unwrap_or(Uuid::nil()))
        }
        (Kind::Text, Value::String(text)) if keeps_text(text) => Cell::Text(text.clone().into()),
        (Kind::Int, Value::Number(number)) => Cell::Int(number.as_i64().ok_or_else(refused)?),
        (Kind::Bool, Value::Boolean(yes)) => Cell::Bool(*yes),
        (Kind::Time, Value::String(_)) => {
            let at = <DateTime<Utc> as InputType>::parse(Some(value)).map_err(|_| refused())?;
            Cell::Time(Some(at).filter(|at| keeps_time(*at)).ok_or_else(refused)?)
        }
        (Kind::Word(words), Value::Enum(_) | Value::String(_)) => {
            let name = match &value {
                Value::Enum(name) => name.to_string(),
                Value::String(name) => name.clone(),
                _ => return Err(refused()),
            };
            if !(words.has)(&name) {
                return Err(refused());
            }
            match words.ranks.iter().find(|(_, word)| *word == name) {
                Some((rank, _)) => Cell::Int(*rank),
                None => Cell::Text(name.to_lowercase().into()),
            }
        }
        _ => return Err(refused()),
    })
}
