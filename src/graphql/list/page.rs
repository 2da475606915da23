//! A page of a list: read by one statement, and written out as text.

use std::sync::Arc;

use super::{
    below::{self, Below, Plan},
    cell::Cell,
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
    /// The lists below its rows.
    below: Vec<Below>,
}

impl<'a> Page<'a> {
    /// Reads what is selected, of the part that is asked for, with the lists below its rows.
    pub async fn read(
        store: &Store,
        noun: &'static Noun,
        compiled: &'a Compiled,
        (asked, plans): (Asked, Vec<Arc<Plan>>),
        viewer: Viewer,
    ) -> Result<Self, AppError> {
        let part = Part::new(noun, asked, viewer)?;
        let wants_total = compiled.wants_total();
        let (mut found, mut total, mut below) = (None, None, Vec::new());
        if compiled.wants_rows() {
            // One statement: what is counted are the rows that are shown.
            let read = part.fetch(store, &compiled.columns, wants_total);
            let all = read.await?;
            if !plans.is_empty() {
                let rows = part.rows(&all, &compiled.columns, wants_total)?;
                let rows: Vec<&[Cell<'_>]> = rows.each().collect();
                let reading = below::read(store, &plans, &rows);
                below = reading.await?;
            }
            found = Some(all);
        } else if wants_total {
            total = Some(part.total(store).await?);
        }
        Ok(Self {
            compiled,
            part,
            found,
            total,
            below,
        })
    }

    /// About how many bytes it has as text.
    pub fn size(&self) -> usize {
        let below: usize = self.below.iter().map(Below::size).sum();
        self.found.as_ref().map_or(64, |found| 64 + found.size()) + below
    }

    pub fn write(&self, out: &mut String) -> Result<(), AppError> {
        let Some(found) = &self.found else {
            self.compiled.write(out, None, self.total, &[]);
            return Ok(());
        };
        let (columns, wants_total) = (&self.compiled.columns, self.compiled.wants_total());
        let rows = self.part.rows(found, columns, wants_total)?;
        let below = below::written(&self.below)?;
        self.compiled.write(out, Some(&rows), rows.total, &below);
        Ok(())
    }

    pub fn text(&self) -> Result<String, AppError> {
        let mut text = String::with_capacity(self.size());
        self.write(&mut text)?;
        Ok(text)
    }
}
