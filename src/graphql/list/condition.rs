//! What a filter becomes in a statement.
//!
//! Conditions are true or false and never unknown: a comparison with a missing value is false, `neq` and `notIn` hold for it,
//! and `not` turns each into its opposite. Both databases compare texts by their bytes and ignore the case of ASCII only.

use super::{
    cell::Storage,
    filter::{Test, Tree},
    noun::Field,
    statement::Sql,
};
use crate::{domain::policy::Viewer, error::AppError};

impl Tree {
    /// Refuses what asks of fields the viewer does not see.
    pub fn check(&self, viewer: Viewer) -> Result<(), AppError> {
        match self {
            Self::All(trees) | Self::Any(trees) => {
                trees.iter().try_for_each(|tree| tree.check(viewer))
            }
            Self::Not(tree) | Self::Across(_, tree) => tree.check(viewer),
            Self::Test(field, _) if field.audience.has(viewer) => Ok(()),
            Self::Test(..) => Err(AppError::Forbidden),
        }
    }

    /// Writes the condition for the row called `row` in the statement.
    pub fn write(&self, sql: &mut Sql, row: &str) {
        match self {
            Self::All(trees) => join(sql, row, trees, " AND ", "TRUE"),
            Self::Any(trees) => join(sql, row, trees, " OR ", "FALSE"),
            Self::Not(tree) => {
                sql.text.push_str("NOT ");
                tree.write(sql, row);
            }
            Self::Test(field, test) => write_test(sql, row, field, test),
            Self::Across(link, tree) => {
                let noun = (link.noun)();
                let there = sql.name();
                sql.push(&[
                    "EXISTS (SELECT 1 FROM ",
                    noun.table,
                    " AS ",
                    &there,
                    " WHERE ",
                    &there,
                    ".id = ",
                    row,
                    ".",
                    link.column,
                    " AND ",
                ]);
                sql.scope(noun, &there);
                sql.text.push_str(" AND ");
                tree.write(sql, &there);
                sql.text.push(')');
            }
        }
    }
}

fn join(sql: &mut Sql, row: &str, trees: &[Tree], word: &str, empty: &str) {
    match trees {
        [] => sql.text.push_str(empty),
        [one] => one.write(sql, row),
        many => {
            for (index, tree) in many.iter().enumerate() {
                sql.text.push_str(if index == 0 { "(" } else { word });
                tree.write(sql, row);
            }
            sql.text.push(')');
        }
    }
}

fn write_test(sql: &mut Sql, row: &str, field: &Field, test: &Test) {
    let column = format!("{row}.{}", field.column());
    // Collation "C" is the order of bytes.
    let ordered = if field.storage() == Storage::Text && sql.is_postgres() {
        format!("{column} COLLATE \"C\"")
    } else {
        column.clone()
    };
    let is_negative = matches!(test, Test::Neq(_) | Test::NotIn(_));
    let may_be_null = field.is_nullable && !matches!(test, Test::IsNull(_));
    if may_be_null {
        let (check, word) = if is_negative {
            ("NULL", "OR")
        } else {
            ("NOT NULL", "AND")
        };
        sql.push(&["(", &column, " IS ", check, " ", word, " "]);
    }
    match test {
        Test::Eq(value) => sql.compare(&column, "=", value),
        Test::Neq(value) => sql.compare(&column, "<>", value),
        Test::Lt(value) => sql.compare(&ordered, "<", value),
        Test::Lte(value) => sql.compare(&ordered, "<=", value),
        Test::Gt(value) => sql.compare(&ordered, ">", value),
        Test::Gte(value) => sql.compare(&ordered, ">=", value),
        Test::In(values) => sql.among(&column, false, values, field.storage()),
        Test::NotIn(values) => sql.among(&column, true, values, field.storage()),
        Test::IsNull(yes) => {
            sql.push(&[
                "(",
                &column,
                if *yes { " IS NULL)" } else { " IS NOT NULL)" },
            ]);
        }
        Test::Like(pattern) if sql.is_postgres() => {
            let text = sql.put(pattern.like(false));
            sql.push(&["(", &ordered, " LIKE ", &text, ")"]);
        }
        Test::Like(pattern) => {
            let text = sql.put(pattern.glob());
            sql.push(&["(", &column, " GLOB ", &text, ")"]);
        }
        Test::Ilike(pattern) => {
            let text = sql.put(pattern.like(true));
            let (from, to) = if sql.is_postgres() {
                ("lower(", ")")
            } else {
                ("", "")
            };
            let escape = if sql.is_postgres() {
                ""
            } else {
                " ESCAPE '\\'"
            };
            sql.push(&["(", from, &ordered, to, " LIKE ", &text, escape, ")"]);
        }
    }
    if may_be_null {
        sql.text.push(')');
    }
}
