//! A page of a list: read by one statement, and written out as text.

use super::{
    connection::Compiled,
    found::Found,
    noun::Noun,
    read::{Asked, Part},
};
use crate::{domain::policy::Viewer, error::AppError, store::Store};

/// What a compiled page is written from.
pub struct Page<'a> {
    compiled: &'a Compiled,
    part: Part,
    found: Option<Found>,
    /// Rows of the whole list, where nothing else was asked for.
    total: Option<i64>,
}

impl<'a> Page<'a> {
    /// Reads what is selected, of the part that is asked for.
    pub async fn read(
        store: &Store,
        noun: &'static Noun,
        compiled: &'a Compiled,
        asked: Asked,
        viewer: Viewer,
    ) -> Result<Self, AppError> {
        let part = Part::new(noun, asked, viewer)?;
        let wants_total = compiled.wants_total();
        let (mut found, mut total) = (None, None);
        if compiled.wants_rows() {
            // One statement: what is counted are the rows that are shown.
            let read = part.fetch(store, &compiled.columns, wants_total);
            found = Some(read.await?);
        } else if wants_total {
            total = Some(part.total(store).await?);
        }
        Ok(Self {
            compiled,
            part,
            found,
            total,
        })
    }

    /// About how many bytes it has as text.
    pub fn size(&self) -> usize {
        self.found.as_ref().map_or(64, |found| 64 + found.size())
    }

    pub fn write(&self, out: &mut String) -> Result<(), AppError> {
        let Some(found) = &self.found else {
            self.compiled.write(out, None, self.total);
            return Ok(());
        };
        let (columns, wants_total) = (&self.compiled.columns, self.compiled.wants_total());
        let rows = self.part.rows(found, columns, wants_total)?;
        self.compiled.write(out, Some(&rows), rows.total);
        Ok(())
    }

    pub fn text(&self) -> Result<String, AppError> {
        let mut text = String::with_capacity(self.size());
        self.write(&mut text)?;
        Ok(text)
    }
}
