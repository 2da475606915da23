//! The lists below rows: each level of them is read by one statement, whatever the number of rows above.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use async_graphql::{
    Name, ServerResult, Value, Variables,
    parser::types::{Field, VariableDefinition},
};
use futures_util::future::{BoxFuture, try_join_all};
use uuid::Uuid;

use super::{
    cell::Cell,
    connection::Compiled,
    found::Found,
    noun::Noun,
    read::{Asked, Part, Rows},
    select::{Columns, Nested},
};
use crate::{domain::policy::Viewer, error::AppError, store::Store};

/// The values of an operation's variables.
pub struct Given<'a> {
    variables: &'a Variables,
    definitions: Vec<&'a VariableDefinition>,
}

impl<'a> Given<'a> {
    pub fn new(
        variables: &'a Variables,
        definitions: impl IntoIterator<Item = &'a VariableDefinition>,
    ) -> Self {
        Self {
            variables,
            definitions: definitions.into_iter().collect(),
        }
    }

    fn value_of(&self, name: &Name) -> Value {
        let given = self.variables.get(name).cloned();
        let default = || {
            let mut all = self.definitions.iter();
            let definition = all.find(|definition| definition.name.node == *name)?;
            let default = definition.default_value.as_ref()?;
            Some(default.node.clone())
        };
        given.or_else(default).unwrap_or_default()
    }

    /// The values of a field's arguments.
    pub fn values_of<'f>(&'f self, field: &'f Field) -> impl Iterator<Item = (&'f Name, Value)> {
        field.arguments.iter().map(|(name, value)| {
            let value = value.node.clone();
            let value: ServerResult<Value> = value.into_const_with(|name| Ok(self.value_of(&name)));
            (&name.node, value.unwrap_or_default())
        })
    }

    /// The arguments of a list's field.
    pub fn arguments_of(&self, field: &Field, noun: &'static Noun) -> Result<Asked, AppError> {
        let mut asked = Asked::default();
        for (name, value) in self.values_of(field) {
            asked.read(noun, name, value)?;
        }
        Ok(asked)
    }
}

/// What is read of a list below rows, within the bounds and the policy.
pub struct Plan {
    nested: Arc<Nested>,
    part: Part,
    deeper: Vec<Arc<Plan>>,
}

/// Checks what is asked of the lists below rows.
pub fn plan(
    columns: &Columns,
    viewer: Viewer,
    given: &Given<'_>,
) -> Result<Vec<Arc<Plan>>, AppError> {
    let plan = |nested: &Arc<Nested>| {
        let noun = (nested.many.noun)();
        let asked = given.arguments_of(&nested.field, noun)?;
        Ok(Arc::new(Plan {
            nested: Arc::clone(nested),
            part: Part::in_reach(noun, asked, viewer)?,
            deeper: plan(&nested.compiled.columns, viewer, given)?,
        }))
    };
    columns.nested.iter().map(plan).collect()
}

/// A list below rows, as it was read for all of them.
pub struct Below {
    plan: Arc<Plan>,
    found: Option<Found>,
    /// Rows of each whole list, where nothing else was asked for.
    totals: HashMap<Uuid, i64>,
    deeper: Vec<Below>,
}

/// Reads the lists below `rows`.
pub fn read<'a>(
    store: &'a Store,
    plans: &'a [Arc<Plan>],
    rows: &[&[Cell<'_>]],
) -> BoxFuture<'a, Result<Vec<Below>, AppError>> {
    let each = plans.iter().map(|plan| {
        let ids = rows.iter().filter_map(|row| match row[plan.nested.at] {
            Cell::Uuid(id) => Some(id),
            _ => None,
        });
        // More than one row may stand below the same.
        let ids: HashSet<Uuid> = ids.collect();
        Below::read(store, Arc::clone(plan), ids.into_iter().collect())
    });
    Box::pin(try_join_all(each.collect::<Vec<_>>()))
}

impl Below {
    async fn read(store: &Store, plan: Arc<Plan>, ids: Vec<Uuid>) -> Result<Self, AppError> {
        let (column, compiled) = (plan.nested.many.column, &plan.nested.compiled);
        let (mut found, mut totals, mut deeper) = (None, HashMap::new(), Vec::new());
        if compiled.wants_rows() {
            let columns = &compiled.columns;
            let statement = (columns, column, &*ids);
            let fetched = plan
                .part
                .fetch_below(store, statement, compiled.wants_total());
            let all = fetched.await?;
            if !plan.deeper.is_empty() {
                let each = plan
                    .part
                    .rows_below(&all, columns, compiled.wants_total())?;
                let rows: Vec<&[Cell<'_>]> = each.values().flat_map(Rows::each).collect();
                let reading = read(store, &plan.deeper, &rows);
                deeper = reading.await?;
            }
            found = Some(all);
        } else if compiled.wants_total() {
            totals = plan.part.totals_below(store, column, &ids).await?;
        }
        Ok(Self {
            plan,
            found,
            totals,
            deeper,
        })
    }

    /// About how many bytes all of it has as text.
    pub fn size(&self) -> usize {
        let deeper: usize = self.deeper.iter().map(Self::size).sum();
        self.found.as_ref().map_or(64, |found| 64 + found.size()) + deeper
    }

    /// Its rows, below each of the rows above.
    fn written(&self) -> Result<Written<'_>, AppError> {
        let compiled = &self.plan.nested.compiled;
        let (columns, with_total) = (&compiled.columns, compiled.wants_total());
        let rows = self.found.as_ref();
        let rows = rows.map(|found| self.plan.part.rows_below(found, columns, with_total));
        Ok(Written {
            compiled,
            rows: rows.transpose()?,
            none: self.plan.part.no_rows(),
            totals: &self.totals,
            deeper: written(&self.deeper)?,
        })
    }
}

/// The rows of lists, ready to be written.
pub fn written(below: &[Below]) -> Result<Vec<Written<'_>>, AppError> {
    below.iter().map(Below::written).collect()
}

/// A list below rows that is written from its rows.
pub struct Written<'a> {
    compiled: &'a Compiled,
    /// By the row above; `None` where nothing but their number was asked for.
    rows: Option<HashMap<Uuid, Rows<'a>>>,
    none: Rows<'a>,
    totals: &'a HashMap<Uuid, i64>,
    deeper: Vec<Written<'a>>,
}

impl Written<'_> {
    /// Writes the list below the row `above`.
    pub fn write(&self, out: &mut String, above: Uuid) {
        let rows = self.rows.as_ref();
        let rows = rows.map(|each| each.get(&above).unwrap_or(&self.none));
        let total = match rows {
            Some(rows) => rows.total.unwrap_or(0),
            None => self.totals.get(&above).copied().unwrap_or(0),
        };
        self.compiled.write(out, rows, Some(total), &self.deeper);
    }
}
