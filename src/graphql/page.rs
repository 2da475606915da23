//! Connections (the Relay cursor connections specification) over a table's time-ordered ids, newest first.
//!
//! The cursor is the row's id, so pages stay put while rows come and go.

use async_graphql::{
    Context, OutputType, SimpleObject,
    connection::{Connection, CursorType, Edge, EmptyFields},
};
use sea_orm::{
    ColumnTrait as _, EntityTrait, PaginatorTrait as _, QueryFilter as _, QueryOrder as _,
    QuerySelect as _, Select,
};
use uuid::Uuid;

use crate::{error::AppError, store::Store};

/// Rows of a page that asks for no number.
const DEFAULT: u16 = 20;
/// Most rows of a page.
const MOST: u16 = 100;

/// A place in a list.
pub struct Cursor(pub Uuid);

impl CursorType for Cursor {
    type Error = AppError;

    fn decode_cursor(text: &str) -> Result<Self, AppError> {
        let parsed = Uuid::try_parse(text).ok().filter(|_| text.len() == 32);
        parsed.map(Self).ok_or_else(|| AppError::Invalid {
            field: "cursor",
            reason: "not one of this list's cursors".to_owned(),
        })
    }

    fn encode_cursor(&self) -> String {
        self.0.simple().to_string()
    }
}

/// Which part of a list.
#[derive(Default)]
pub struct Window {
    pub first: Option<i32>,
    pub after: Option<String>,
    pub last: Option<i32>,
    pub before: Option<String>,
}

/// What a connection says of the whole list.
#[derive(SimpleObject)]
pub struct Whole {
    /// Rows of the whole list; counted only when asked for.
    total_count: Option<i32>,
}

/// A page of `T`s.
pub type Page<T> = Connection<Cursor, T, Whole, EmptyFields>;

/// Reads the part of `rows` that `window` names.
pub async fn page<E, T>(
    ctx: &Context<'_>,
    store: &Store,
    rows: Select<E>,
    id: E::Column,
    window: Window,
    wrap: impl Fn(E::Model) -> (Uuid, T),
) -> Result<Page<T>, AppError>
where
    E: EntityTrait<Model: Send + Sync>,
    T: OutputType,
{
    let is_backward = window.last.is_some();
    if is_backward && window.first.is_some() {
        return Err(AppError::Invalid {
            field: "last",
            reason: "first and last exclude each other".to_owned(),
        });
    }
    let count = count(if is_backward {
        ("last", window.last)
    } else {
        ("first", window.first)
    })?;
    let total_count = if ctx.look_ahead().field("totalCount").exists() {
        Some(i32::try_from(rows.clone().count(store.db()).await?).unwrap_or(i32::MAX))
    } else {
        None
    };
    let mut part = rows;
    if let Some(after) = &window.after {
        part = part.filter(id.lt(Cursor::decode_cursor(after)?.0));
    }
    if let Some(before) = &window.before {
        part = part.filter(id.gt(Cursor::decode_cursor(before)?.0));
    }
    part = if is_backward {
        part.order_by_asc(id)
    } else {
        part.order_by_desc(id)
    };
    // One more than asked for tells whether there is more.
    let mut found = part.limit(u64::from(count) + 1).all(store.db()).await?;
    let has_more = found.len() > usize::from(count);
    found.truncate(count.into());
    if is_backward {
        found.reverse();
    }
    let (has_previous, has_next) = if is_backward {
        (has_more, window.before.is_some())
    } else {
        (window.after.is_some(), has_more)
    };
    let mut page =
        Connection::with_additional_fields(has_previous, has_next, Whole { total_count });
    page.edges.extend(
        found
            .into_iter()
            .map(wrap)
            .map(|(id, node)| Edge::new(Cursor(id), node)),
    );
    Ok(page)
}

fn count((field, asked): (&'static str, Option<i32>)) -> Result<u16, AppError> {
    let Some(asked) = asked else {
        return Ok(DEFAULT);
    };
    let refused = || AppError::Invalid {
        field,
        reason: format!("0 to {MOST} rows are expected"),
    };
    u16::try_from(asked)
        .ok()
        .filter(|count| *count <= MOST)
        .ok_or_else(refused)
}
