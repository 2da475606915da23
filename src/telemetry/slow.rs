//! What takes long is told: statements and operations, by their shape and never with their values.

use std::{
    borrow::Cow,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

use super::{
    process,
    trace::{self, Attribute, Kind},
    work::OperationLabel,
};

/// Most characters of a statement's text in a line.
const LONGEST: usize = 2000;

/// From when on, in microseconds.
static STATEMENT: AtomicU64 = AtomicU64::new(u64::MAX);
static OPERATION: AtomicU64 = AtomicU64::new(u64::MAX);

/// Sets from when on a statement, and an operation, is slow; `None` is never.
pub fn set_limits(statement: Option<Duration>, operation: Option<Duration>) {
    for (place, limit) in [(&STATEMENT, statement), (&OPERATION, operation)] {
        let micros = limit.map_or(u64::MAX, |limit| {
            u64::try_from(limit.as_micros()).unwrap_or(u64::MAX)
        });
        place.store(micros, Ordering::Relaxed);
    }
}

fn is_beyond(limit: &AtomicU64, took: Duration) -> bool {
    took.as_micros() >= u128::from(limit.load(Ordering::Relaxed))
}

/// Whether an operation or a request that took so long was slow.
pub fn is_slow(took: Duration) -> bool {
    is_beyond(&OPERATION, took)
}

/// A statement has ended: it is counted, a part of what is traced and, when it was slow, told in the log.
///
/// `text` has placeholders where its values stand.
pub fn statement(text: &str, took: Duration, rows: Option<usize>, has_failed: bool) {
    let operation = first_word(text);
    process::meters().statement(operation, has_failed, took);
    if let Some(ended) = trace::now() {
        let began = ended.checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        trace::record(Kind::Client, (began, ended), || {
            let mut attributes = vec![
                Attribute::new("db.system.name", "sql"),
                Attribute::new("db.operation.name", operation),
                Attribute::new("db.query.text", shape(text).into_owned()),
            ];
            if let Some(rows) = rows {
                let rows = i64::try_from(rows).unwrap_or(i64::MAX);
                attributes.push(Attribute::new("db.response.returned_rows", rows));
            }
            if has_failed {
                attributes.push(Attribute::new("error.type", "DATABASE"));
            }
            (operation.into(), attributes)
        });
    }
    if is_beyond(&STATEMENT, took) {
        tracing::warn!(
            target: "slow",
            duration = nanos(took),
            "db.statement" = &*shape(text),
            "db.rows" = rows,
            failed = has_failed,
            "slow statement"
        );
    }
}

/// An operation has been answered; when it was slow, it is told in the log.
pub fn operation(label: &OperationLabel, code: &'static str, took: Duration) {
    if is_slow(took) {
        tracing::warn!(
            target: "slow",
            duration = nanos(took),
            "graphql.operation.type" = label.kind,
            "graphql.operation.name" = label.name.as_deref(),
            "graphql.field" = label.field,
            "graphql.document.hash" = label.hash,
            code,
            "slow operation"
        );
    }
}

/// The unit of Datadog's `duration`.
pub fn nanos(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(u64::MAX)
}

/// A statement's first word, of those there are.
fn first_word(text: &str) -> &'static str {
    let word = text.split_whitespace().next().unwrap_or_default();
    ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"]
        .into_iter()
        .find(|known| known.eq_ignore_ascii_case(word))
        .unwrap_or("OTHER")
}

/// The text of a statement on one line, without what stands in quotes: values are parameters, but whoever writes one into
/// a text all the same does not have it told.
fn shape(text: &str) -> Cow<'_, str> {
    let mut short = String::with_capacity(text.len().min(LONGEST) + 4);
    let (mut count, mut is_quoted, mut was_space) = (0, false, false);
    for c in text.chars() {
        if c == '\'' {
            is_quoted = !is_quoted;
            if is_quoted {
                short.push('?');
            }
            was_space = false;
            continue;
        }
        if is_quoted || (c.is_whitespace() && was_space) {
            continue;
        }
        was_space = c.is_whitespace();
        short.push(if was_space { ' ' } else { c });
        count += 1;
        if count >= LONGEST {
            short.push('…');
            break;
        }
    }
    short.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_has_no_values() {
        assert_eq!(
            shape("SELECT *\n   FROM t WHERE a = 'it''s me' AND b = $1"),
            "SELECT * FROM t WHERE a = ?? AND b = $1"
        );
        let long = "x".repeat(LONGEST * 2);
        assert_eq!(shape(&long).chars().count(), LONGEST + 1);
    }

    #[test]
    fn the_first_word_is_one_of_few() {
        assert_eq!(first_word("  select 1"), "SELECT");
        assert_eq!(first_word("WITH a AS (SELECT 1) SELECT 2"), "WITH");
        assert_eq!(first_word("VACUUM"), "OTHER");
        assert_eq!(first_word(""), "OTHER");
    }
}
