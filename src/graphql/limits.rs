//! What the executor does not look at before it begins: aliases, directives, fields at the top, missing variables, and how
//! much the fragments make of a short text.
//!
//! Aliases and directives are counted in the text, where a fragment stands once. The executor follows every spread of a
//! fragment anew and by recursion, so what the spreads add up to is known before it does.

use std::collections::HashMap;

use async_graphql::{
    Name, Value, Variables,
    parser::types::{ExecutableDocument, OperationDefinition, Selection, SelectionSet},
};

use super::list::select::Fragments;
use crate::error::AppError;

/// Longest text of a document, in bytes.
const LONGEST: usize = 100 * 1024;
/// Most aliases of a document.
const ALIASES: usize = 50;
/// Most directives of a document.
const DIRECTIVES: usize = 50;
/// Most fields of an operation's top level: each can be a statement of its own.
const ROOTS: usize = 30;
/// Most fields and fragments of a document, and of an operation once its fragments are put in.
const SELECTIONS: usize = 10_000;
/// Deepest nesting of fields and fragments in each other.
const NESTING: usize = 64;
/// Lists of types and fields in each other that introspection goes round in circles with (the rule
/// `MaxIntrospectionDepthRule` of graphql-js).
const CIRCLES: usize = 3;

#[derive(Default)]
struct Count {
    aliases: usize,
    directives: usize,
    selections: usize,
}

impl Count {
    fn add(&mut self, set: &SelectionSet) {
        self.selections += set.items.len();
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

/// What a selection set is with its fragments put in.
#[derive(Clone, Copy, Default)]
struct Extent {
    selections: usize,
    /// Introspection's lists in each other.
    circles: usize,
}

/// Measures selection sets, each fragment once.
struct Measure<'a> {
    fragments: &'a Fragments,
    /// What is known of fragments; nothing yet of one that is being measured.
    known: HashMap<&'a Name, Option<Extent>>,
}

impl<'a> Measure<'a> {
    fn set(&mut self, set: &'a SelectionSet, depth: usize) -> Result<Extent, AppError> {
        within("levels of fields and fragments", depth, NESTING)?;
        let mut all = Extent::default();
        for selection in &set.items {
            let below = match &selection.node {
                Selection::Field(field) => {
                    let name = field.node.name.node.as_str();
                    let mut below = self.set(&field.node.selection_set.node, depth + 1)?;
                    if matches!(
                        name,
                        "fields" | "inputFields" | "interfaces" | "possibleTypes"
                    ) {
                        below.circles += 1;
                    }
                    if matches!(name, "__schema" | "__type") {
                        within("lists of types in each other", below.circles, CIRCLES - 1)?;
                    }
                    below
                }
                Selection::InlineFragment(fragment) => {
                    self.set(&fragment.node.selection_set.node, depth + 1)?
                }
                Selection::FragmentSpread(spread) => {
                    self.fragment(&spread.node.fragment_name.node, depth + 1)?
                }
            };
            all.selections = all
                .selections
                .saturating_add(below.selections)
                .saturating_add(1);
            all.circles = all.circles.max(below.circles);
        }
        Ok(all)
    }

    fn fragment(&mut self, name: &Name, depth: usize) -> Result<Extent, AppError> {
        let Some((name, fragment)) = self.fragments.get_key_value(name) else {
            return Ok(Extent::default());
        };
        match self.known.get(name) {
            Some(Some(extent)) => return Ok(*extent),
            // The executor has a word for fragments in circles, but looks for them by recursion.
            Some(None) => return Err(refused(format!("the fragment {name} is a part of itself"))),
            None => {}
        }
        self.known.insert(name, None);
        let extent = self.set(&fragment.node.selection_set.node, depth)?;
        self.known.insert(name, Some(extent));
        Ok(extent)
    }
}

/// Checks the text of a document, before it is read.
pub fn check_text(text: &str) -> Result<(), AppError> {
    within("bytes", text.len(), LONGEST)
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
    within("directives", count.directives, DIRECTIVES)?;
    within("fields", count.selections, SELECTIONS)?;
    let mut measure = Measure {
        fragments: &document.fragments,
        known: HashMap::new(),
    };
    // Those that no operation uses are looked at by the executor too.
    for name in document.fragments.keys() {
        measure.fragment(name, 0)?;
    }
    for (_, operation) in document.operations.iter() {
        let extent = measure.set(&operation.node.selection_set.node, 0)?;
        within("fields with its fragments", extent.selections, SELECTIONS)?;
    }
    Ok(())
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
    Err(refused(format!(
        "it has {count} {what}, {most} are allowed"
    )))
}

fn refused(reason: String) -> AppError {
    AppError::Invalid {
        field: "query",
        reason,
    }
}
