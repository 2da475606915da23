//! What the executor does not look at before it begins: aliases, directives, fields at the top, and missing variables.
//!
//! They are counted in the text, where a fragment stands once: what its uses add up to is bounded by the complexity.

use async_graphql::{
    Name, Value, Variables,
    parser::types::{ExecutableDocument, OperationDefinition, Selection, SelectionSet},
};

use crate::error::AppError;

/// Most aliases of a document.
const ALIASES: usize = 50;
/// Most directives of a document.
const DIRECTIVES: usize = 50;
/// Most fields of an operation's top level: each can be a statement of its own.
const ROOTS: usize = 30;

#[derive(Default)]
struct Count {
    aliases: usize,
    directives: usize,
}

impl Count {
    fn add(&mut self, set: &SelectionSet) {
        for selection in &set.items {
            match &selection.node {
                Selection::Field(field) => {
                    self.aliases += usize::from(field.node.alias.is_some());
                    self.directives += field.node.directives.len();
                    self.add(&field.node.selection_set.node);
                }
                Selection::InlineFragment(fragment) => {
                    self.directives += fragment.node.directives.len();
                    self.add(&fragment.node.selection_set.node);
                }
                Selection::FragmentSpread(spread) => {
                    self.directives += spread.node.directives.len();
                }
            }
        }
    }
}

/// Checks a document against the bounds.
pub fn check(document: &ExecutableDocument) -> Result<(), AppError> {
    let mut count = Count::default();
    for (_, operation) in document.operations.iter() {
        count.directives += operation.node.directives.len();
        within(
            "fields at the top",
            operation.node.selection_set.node.items.len(),
            ROOTS,
        )?;
        count.add(&operation.node.selection_set.node);
    }
    for fragment in document.fragments.values() {
        count.directives += fragment.node.directives.len();
        count.add(&fragment.node.selection_set.node);
    }
    within("aliases", count.aliases, ALIASES)?;
    within("directives", count.directives, DIRECTIVES)
}

/// The operation of `document` a request asks for, by its name or because it is the only one.
pub fn chosen<'a>(
    document: &'a ExecutableDocument,
    name: Option<&str>,
) -> Option<&'a OperationDefinition> {
    let mut operations = document.operations.iter();
    let chosen = operations.find(|(known, _)| name.is_none() || known.map(Name::as_str) == name);
    chosen.map(|(_, operation)| &operation.node)
}

/// Checks that every variable that has to be there is (the GraphQL specification, 6.1.2, Coercing Variable Values).
pub fn check_variables(
    operation: &OperationDefinition,
    variables: &Variables,
) -> Result<(), AppError> {
    for definition in &operation.variable_definitions {
        let definition = &definition.node;
        let is_given = variables
            .get(&definition.name.node)
            .is_some_and(|value| *value != Value::Null);
        if !definition.var_type.node.nullable && definition.default_value.is_none() && !is_given {
            return Err(AppError::Invalid {
                field: "variables",
                reason: format!(
                    "${} of the type {} is missing",
                    definition.name.node, definition.var_type.node
                ),
            });
        }
    }
    Ok(())
}

fn within(what: &str, count: usize, most: usize) -> Result<(), AppError> {
    if count <= most {
        return Ok(());
    }
    Err(AppError::Invalid {
        field: "query",
        reason: format!("it has {count} {what}, {most} are allowed"),
    })
}
