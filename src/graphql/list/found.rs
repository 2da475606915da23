//! Rows as the database hands them over, and the cells in them.
//!
//! PostgreSQL hands the rows of a list over in one value: to the driver a row is more work than to us all of its cells.

use sea_orm::{DbErr, QueryResult};

use super::cell::{Cell, Storage, binary, unreadable};
use crate::store::PACKED;

/// The rows of a statement, packed or one by one.
pub struct Found(Vec<QueryResult>);

/// What is read of a column; `None` for one whose values are not to be seen.
pub type Seen = Option<Storage>;

/// The text of a statement whose rows are packed, for PostgreSQL.
///
/// The values of a record stand one behind the other, each with its type and its length.
pub fn pack(text: &mut String) {
    text.insert_str(0, PACKED);
    text.push_str(") AS q");
}

impl Found {
    /// Takes the rows of a list's statement.
    pub const fn of(rows: Vec<QueryResult>) -> Self {
        Self(rows)
    }

    /// Whether the rows are packed, or none at all.
    pub fn is_packed(&self) -> bool {
        let first = self.0.first();
        first.is_none_or(|row| row.try_as_pg_row().is_some())
    }

    /// About how many bytes the rows have as text: most of them are their values.
    pub fn size(&self) -> usize {
        let row = self.0.first().and_then(QueryResult::try_as_pg_row);
        let packed = row.and_then(|row| binary(row, 0).ok().flatten());
        packed.map_or(self.0.len() * 256, |packed| packed.len() * 2)
    }

    /// The cells of one row after the other, all of whose columns are among `columns`.
    pub fn cells(&self, columns: &[Seen]) -> Result<Vec<Cell<'_>>, DbErr> {
        if let Some(Some(row)) = self.0.first().map(QueryResult::try_as_pg_row) {
            let packed = binary(row, 0)?.unwrap_or_default();
            return unpack(packed, columns).ok_or_else(|| unreadable(0));
        }
        let mut all = Vec::with_capacity(self.0.len() * columns.len());
        for row in &self.0 {
            all.append(&mut cells(row, columns)?);
        }
        Ok(all)
    }
}

/// The cells of one row.
pub fn cells<'a>(row: &'a QueryResult, columns: &[Seen]) -> Result<Vec<Cell<'a>>, DbErr> {
    let cell = |(at, seen): (usize, &Seen)| match seen {
        Some(storage) => Cell::read(row, at, *storage),
        None => Ok(Cell::Null),
    };
    columns.iter().enumerate().map(cell).collect()
}

/// Reads what `record_send` writes (PostgreSQL, `src/backend/utils/adt/rowtypes.c`), one record after the other.
fn unpack<'a>(mut packed: &'a [u8], columns: &[Seen]) -> Option<Vec<Cell<'a>>> {
    // A value with its type and its length is seldom shorter.
    let mut cells = Vec::with_capacity(packed.len() / 16);
    while !packed.is_empty() {
        if usize::try_from(number(&mut packed)?).ok()? != columns.len() {
            return None;
        }
        for seen in columns {
            let _type = number(&mut packed)?;
            let bytes = match number(&mut packed)? {
                -1 => None,
                length => {
                    let (bytes, rest) = packed.split_at_checked(usize::try_from(length).ok()?)?;
                    packed = rest;
                    Some(bytes)
                }
            };
            cells.push(match seen {
                Some(storage) => Cell::of_bytes(bytes, *storage)?,
                None => Cell::Null,
            });
        }
    }
    Some(cells)
}

fn number(bytes: &mut &[u8]) -> Option<i32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(i32::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Seen; 3] = [Some(Storage::Text), Some(Storage::Small), None];

    fn packed() -> Vec<u8> {
        let mut packed = Vec::new();
        for text in [Some("plain"), None] {
            packed.extend(3_i32.to_be_bytes());
            for bytes in [text.map(str::as_bytes), Some(&[1, 2]), Some(b"hidden")] {
                let length = bytes.map_or(-1, |bytes| i32::try_from(bytes.len()).unwrap());
                packed.extend(25_i32.to_be_bytes());
                packed.extend(length.to_be_bytes());
                packed.extend(bytes.unwrap_or_default());
            }
        }
        packed
    }

    #[test]
    fn packed_rows_are_read_one_after_the_other() {
        let packed = packed();
        let cells = unpack(&packed, &COLUMNS).unwrap();
        let first = [Cell::Text("plain".into()), Cell::Int(258), Cell::Null];
        assert_eq!(cells[..3], first);
        assert_eq!(cells[3..], [Cell::Null, Cell::Int(258), Cell::Null]);
        assert_eq!(unpack(&[], &COLUMNS), Some(Vec::new()));
    }

    #[test]
    fn what_is_cut_off_or_has_other_columns_is_refused() {
        let packed = packed();
        let whole = packed.len();
        let row = (0..whole).filter(|end| unpack(&packed[..*end], &COLUMNS).is_some());
        // Nothing at all, and the first row alone.
        assert_eq!(row.count(), 2);
        assert_eq!(unpack(&packed, &COLUMNS[..2]), None);
    }
}
