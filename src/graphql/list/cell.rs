//! A value of a row: from the database, into a GraphQL value, and into an answer's text.

use std::{borrow::Cow, fmt::Write as _};

use async_graphql::{Name, Value};
use chrono::{DateTime, Utc};
use sea_orm::{
    DbErr, QueryResult,
    sqlx::{
        Row as _,
        postgres::{PgRow, PgValueFormat},
    },
};
use uuid::Uuid;

use super::noun::{Field, Kind};

/// How a column keeps its values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Storage {
    Uuid,
    Text,
    /// 16, 32 and 64 bits.
    Small,
    Int,
    Big,
    Bool,
    Time,
    Json,
}

/// A value of a column; a text may be borrowed from what the driver has read.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell<'a> {
    Null,
    Uuid(Uuid),
    Text(Cow<'a, str>),
    Int(i64),
    Bool(bool),
    Time(DateTime<Utc>),
    Json(serde_json::Value),
}

impl<'a> Cell<'a> {
    pub fn read(row: &'a QueryResult, at: usize, storage: Storage) -> Result<Self, DbErr> {
        if let Some(row) = row.try_as_pg_row() {
            return Self::of_bytes(binary(row, at)?, storage).ok_or_else(|| unreadable(at));
        }
        Ok(match storage {
            Storage::Uuid => or_null(row.try_get_by_index(at)?, Self::Uuid),
            Storage::Text => or_null(row.try_get_by_index::<Option<String>>(at)?, |text| {
                Self::Text(text.into())
            }),
            Storage::Small => or_null(row.try_get_by_index::<Option<i16>>(at)?, |number| {
                Self::Int(number.into())
            }),
            Storage::Int => or_null(row.try_get_by_index::<Option<i32>>(at)?, |number| {
                Self::Int(number.into())
            }),
            Storage::Big => or_null(row.try_get_by_index(at)?, Self::Int),
            Storage::Bool => or_null(row.try_get_by_index(at)?, Self::Bool),
            Storage::Time => or_null(row.try_get_by_index(at)?, Self::Time),
            Storage::Json => or_null(row.try_get_by_index(at)?, Self::Json),
        })
    }

    /// Reads PostgreSQL's binary form of a value without asking each one whether its type is what it was before: in long
    /// lists that takes longer than all the rest of the reading.
    pub fn of_bytes(bytes: Option<&'a [u8]>, storage: Storage) -> Option<Self> {
        let Some(bytes) = bytes else {
            return Some(Self::Null);
        };
        let integer = || match *bytes {
            [a, b] => Some(i16::from_be_bytes([a, b]).into()),
            [a, b, c, d] => Some(i32::from_be_bytes([a, b, c, d]).into()),
            _ => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
        };
        match storage {
            Storage::Uuid => Uuid::from_slice(bytes).ok().map(Self::Uuid),
            Storage::Text => {
                let text = std::str::from_utf8(bytes).ok()?;
                Some(Self::Text(Cow::Borrowed(text)))
            }
            Storage::Small | Storage::Int | Storage::Big => integer().map(Self::Int),
            Storage::Bool => match bytes {
                [0] => Some(Self::Bool(false)),
                [1] => Some(Self::Bool(true)),
                _ => None,
            },
            Storage::Time => integer().and_then(time).map(Self::Time),
            // `jsonb` has the number of its version before the text, which none begins with.
            Storage::Json => serde_json::from_slice(bytes.strip_prefix(&[1]).unwrap_or(bytes))
                .ok()
                .map(Self::Json),
        }
    }

    /// The same, for longer than what was read stays.
    pub fn into_owned(self) -> Cell<'static> {
        match self {
            Self::Null => Cell::Null,
            Self::Uuid(uuid) => Cell::Uuid(uuid),
            Self::Text(text) => Cell::Text(Cow::Owned(text.into_owned())),
            Self::Int(number) => Cell::Int(number),
            Self::Bool(yes) => Cell::Bool(yes),
            Self::Time(at) => Cell::Time(at),
            Self::Json(json) => Cell::Json(json),
        }
    }

    /// What a model has of a column.
    pub fn of(value: sea_orm::Value) -> Self {
        use sea_orm::Value as V;
        match value {
            V::Uuid(Some(uuid)) => Self::Uuid(uuid),
            V::String(Some(text)) => Self::Text(text.into()),
            V::SmallInt(Some(number)) => Self::Int(number.into()),
            V::Int(Some(number)) => Self::Int(number.into()),
            V::BigInt(Some(number)) => Self::Int(number),
            V::Bool(Some(yes)) => Self::Bool(yes),
            V::ChronoDateTimeUtc(Some(at)) => Self::Time(at),
            V::Json(Some(json)) => Self::Json(*json),
            _ => Self::Null,
        }
    }

    /// The same as a statement's parameter.
    pub fn parameter(&self) -> sea_orm::Value {
        match self {
            Self::Null => sea_orm::Value::String(None),
            Self::Uuid(uuid) => (*uuid).into(),
            Self::Text(text) => text.as_ref().into(),
            Self::Int(number) => (*number).into(),
            Self::Bool(yes) => (*yes).into(),
            Self::Time(at) => (*at).into(),
            Self::Json(json) => json.clone().into(),
        }
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn or_null<'a, T>(value: Option<T>, wrap: impl FnOnce(T) -> Cell<'a>) -> Cell<'a> {
    value.map_or(Cell::Null, wrap)
}

/// The bytes of a value in PostgreSQL's binary form; `None` for NULL.
pub fn binary(row: &PgRow, at: usize) -> Result<Option<&[u8]>, DbErr> {
    let value = row.try_get_raw(at).map_err(|_| unreadable(at))?;
    match value.as_bytes() {
        Ok(bytes) if value.format() == PgValueFormat::Binary => Ok(Some(bytes)),
        Ok(_) => Err(unreadable(at)),
        Err(_) => Ok(None),
    }
}

/// The column holds something else than it is declared to.
pub fn unreadable(at: usize) -> DbErr {
    DbErr::Type(format!("column {at} holds what it should not"))
}

/// The time so many microseconds after the beginning of the year 2000, as PostgreSQL counts.
fn time(micros: i64) -> Option<DateTime<Utc>> {
    const EPOCH: i64 = 946_684_800_000_000;
    DateTime::from_timestamp_micros(micros.checked_add(EPOCH)?)
}

/// The GraphQL value of a field.
pub fn value(field: &Field, cells: &[Cell]) -> Value {
    if let Kind::Made(made) = &field.kind {
        return (made.make)(cells);
    }
    match (&cells[0], &field.kind) {
        (Cell::Uuid(uuid), Kind::Id(prefix)) => Value::from(id_text(prefix, *uuid)),
        (Cell::Uuid(uuid), _) => Value::from(uuid.simple().to_string()),
        (Cell::Text(text), Kind::Word(_)) => Value::Enum(Name::new(text.to_uppercase())),
        (Cell::Text(text), _) => Value::from(&**text),
        (Cell::Int(number), Kind::Word(words)) => {
            rank(words.ranks, *number).map_or(Value::Null, |word| Value::Enum(Name::new(word)))
        }
        (Cell::Int(number), _) => Value::from(*number),
        (Cell::Bool(yes), _) => Value::from(*yes),
        (Cell::Time(at), _) => Value::from(at.to_rfc3339()),
        (Cell::Json(json), _) => json_value(json.clone()),
        (Cell::Null, _) => Value::Null,
    }
}

pub fn json_value(json: serde_json::Value) -> Value {
    Value::from_json(json).unwrap_or_default()
}

pub fn id_text(prefix: &str, uuid: Uuid) -> String {
    format!("{prefix}_{}", uuid.simple())
}

pub fn rank(ranks: &'static [(i64, &'static str)], number: i64) -> Option<&'static str> {
    ranks
        .iter()
        .find(|(rank, _)| *rank == number)
        .map(|(_, word)| *word)
}

/// Writes the field's value into an answer's text; what is made by a function is made by [`value`].
pub fn write(out: &mut String, field: &Field, cells: &[Cell]) {
    match (&cells[0], &field.kind) {
        (_, Kind::Made(_)) => write_value(out, &value(field, cells)),
        (Cell::Null, _) => out.push_str("null"),
        (Cell::Uuid(uuid), kind) => {
            out.push('"');
            if let Kind::Id(prefix) = kind {
                out.push_str(prefix);
                out.push('_');
            }
            out.push_str(uuid.simple().encode_lower(&mut Uuid::encode_buffer()));
            out.push('"');
        }
        (Cell::Text(text), Kind::Word(_)) => {
            out.push('"');
            let begin = out.len();
            out.push_str(text);
            out[begin..].make_ascii_uppercase();
            out.push('"');
        }
        (Cell::Text(text), _) => write_text(out, text),
        (Cell::Int(number), Kind::Word(words)) => match rank(words.ranks, *number) {
            Some(word) => write_text(out, word),
            None => out.push_str("null"),
        },
        (Cell::Int(number), _) => write_number(out, *number),
        (Cell::Bool(yes), _) => out.push_str(if *yes { "true" } else { "false" }),
        (Cell::Time(at), _) => write_time(out, *at),
        (Cell::Json(json), _) => {
            let _ = write!(out, "{json}");
        }
    }
}

fn write_number(out: &mut String, number: i64) {
    let mut rest = number.unsigned_abs();
    let mut text = [b'0'; 20];
    let mut begin = text.len();
    loop {
        begin -= 1;
        // A digit is less than ten.
        text[begin] += (rest % 10).to_le_bytes()[0];
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push('-');
    }
    push_ascii(out, &text[begin..]);
}

/// The form of [`DateTime::to_rfc3339`], in a tenth of its time.
fn write_time(out: &mut String, at: DateTime<Utc>) {
    use chrono::{Datelike as _, Timelike as _};
    let year = at.year();
    let nanos = at.nanosecond();
    if !(1000..10_000).contains(&year) || nanos >= 1_000_000_000 {
        let _ = write!(out, "\"{}\"", at.to_rfc3339());
        return;
    }
    let mut text = *b"\"0000-00-00T00:00:00";
    write_digits(&mut text[1..5], year.unsigned_abs());
    for (place, number) in [
        (6, at.month()),
        (9, at.day()),
        (12, at.hour()),
        (15, at.minute()),
        (18, at.second()),
    ] {
        write_digits(&mut text[place..place + 2], number);
    }
    push_ascii(out, &text);
    if nanos != 0 {
        let mut text = *b".000000000";
        write_digits(&mut text[1..], nanos);
        let count = match nanos {
            nanos if nanos.is_multiple_of(1_000_000) => 3,
            nanos if nanos.is_multiple_of(1000) => 6,
            _ => 9,
        };
        push_ascii(out, &text[..=count]);
    }
    out.push_str("+00:00\"");
}

fn push_ascii(out: &mut String, text: &[u8]) {
    out.push_str(std::str::from_utf8(text).unwrap_or_default());
}

/// Fills the places with the last digits of the number.
fn write_digits(places: &mut [u8], mut number: u32) {
    for place in places.iter_mut().rev() {
        // A digit is less than ten.
        *place = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
}

/// Writes a JSON string.
pub fn write_text(out: &mut String, text: &str) {
    let is_special = |byte: u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    // To the end in any case: so many bytes are looked at together.
    let has_special = text.bytes().fold(false, |has, byte| has | is_special(byte));
    if has_special {
        let _ = write!(out, "{}", serde_json::Value::from(text));
    } else {
        out.push('"');
        out.push_str(text);
        out.push('"');
    }
}

pub fn write_value(out: &mut String, value: &Value) {
    match serde_json::to_string(value) {
        Ok(text) => out.push_str(&text),
        Err(_) => out.push_str("null"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_the_library_writes_it() {
        for nanos in [0, 1, 1000, 120_000_000, 123_456_000, 999_999_999] {
            for seconds in [-30_000_000_000, 0, 951_782_400, 1_795_000_000] {
                let at = DateTime::from_timestamp(seconds, nanos).unwrap();
                let mut text = String::new();
                write_time(&mut text, at);
                assert_eq!(text, format!("\"{}\"", at.to_rfc3339()));
            }
        }
    }

    #[test]
    fn a_number_is_written_as_the_library_writes_it() {
        for number in [0, 7, 10, -1, 1_234_567_890, i64::MAX, i64::MIN] {
            let mut text = String::new();
            write_number(&mut text, number);
            assert_eq!(text, number.to_string());
        }
    }

    #[test]
    fn a_text_is_written_as_json() {
        for text in [
            "",
            "plain",
            "ümläut",
            "quote\"",
            "back\\slash",
            "line\nend\u{1}",
        ] {
            let mut written = String::new();
            write_text(&mut written, text);
            assert_eq!(written, serde_json::to_string(text).unwrap());
        }
    }
}
