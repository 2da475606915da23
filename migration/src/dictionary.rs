//! What every table and column is for: the comments a client for SQL shows, and which columns nobody reads by it.
//!
//! `dictionary.txt` has a line for each table and, indented, for each of its columns. A column marked `(secret)` holds a
//! hash or something encrypted; one without a line is treated as one.

use sea_orm_migration::{
    prelude::*,
    sea_orm::{DbBackend, Statement},
};

const TEXT: &str = include_str!("dictionary.txt");

/// A table, what it is for, and its columns.
#[derive(Debug, PartialEq, Eq)]
pub struct TableEntry {
    pub name: &'static str,
    pub doc: &'static str,
    pub columns: Vec<ColumnEntry>,
}

/// A column, what it holds, and whether nobody but the service reads it.
#[derive(Debug, PartialEq, Eq)]
pub struct ColumnEntry {
    pub name: &'static str,
    pub doc: &'static str,
    pub is_secret: bool,
}

/// Every table that is described.
pub fn tables() -> Vec<TableEntry> {
    let mut tables: Vec<TableEntry> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.trim().is_empty()) {
        let Some((name, doc)) = line.split_once(": ") else {
            continue;
        };
        match (line.starts_with(' '), tables.last_mut()) {
            (true, Some(table)) => {
                let name = name.trim();
                let open = name.trim_end_matches(" (secret)");
                table.columns.push(ColumnEntry {
                    name: open,
                    doc,
                    is_secret: open != name,
                });
            }
            _ => tables.push(TableEntry {
                name,
                doc,
                columns: Vec::new(),
            }),
        }
    }
    tables
}

/// Puts the comments on the tables and columns there are; on PostgreSQL, as SQLite keeps none.
///
/// Only those that are new or have changed are written, so that a start of many processes locks nothing.
pub async fn describe(db: &impl ConnectionTrait) -> Result<(), DbErr> {
    const FOUND: &str = "SELECT c.relname::text AS name, a.attname::text AS part, \
        coalesce(CASE WHEN a.attnum IS NULL THEN obj_description(c.oid) ELSE col_description(c.oid, a.attnum) END, '') AS doc \
        FROM pg_class c LEFT JOIN LATERAL ( \
            SELECT attname, attnum FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped \
            UNION ALL SELECT NULL, NULL) a ON TRUE \
        WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema()::regnamespace";
    if db.get_database_backend() != DbBackend::Postgres {
        return Ok(());
    }
    let wanted = tables();
    let found = db
        .query_all_raw(Statement::from_string(DbBackend::Postgres, FOUND))
        .await?;
    for row in found {
        let (name, part, doc): (String, Option<String>, String) = (
            row.try_get("", "name")?,
            row.try_get("", "part")?,
            row.try_get("", "doc")?,
        );
        let Some(table) = wanted.iter().find(|table| table.name == name) else {
            continue;
        };
        let (what, wanted) = match &part {
            None => (format!("TABLE \"{name}\""), Some(table.doc)),
            Some(part) => {
                let column = table.columns.iter().find(|column| column.name == part);
                let doc = column.map(|column| column.doc);
                (format!("COLUMN \"{name}\".\"{part}\""), doc)
            }
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != doc) {
            let text = wanted.replace('\'', "''");
            db.execute_unprepared(&format!("COMMENT ON {what} IS '{text}'"))
                .await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_table_or_a_column_of_one() {
        let tables = tables();
        let lines = TEXT.lines().filter(|line| !line.trim().is_empty()).count();
        let entries: usize = tables.iter().map(|table| 1 + table.columns.len()).sum();
        assert_eq!(lines, entries);
        let account = tables.iter().find(|table| table.name == "account");
        let secret: Vec<&str> = account
            .into_iter()
            .flat_map(|table| &table.columns)
            .filter(|column| column.is_secret)
            .map(|column| column.name)
            .collect();
        assert_eq!(secret, ["password_hash"]);
    }
}
