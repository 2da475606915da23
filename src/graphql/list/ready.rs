//! Whole operations that are nothing but lists: once the executor has found such a document to be valid, its answers are
//! written from their rows alone.
//!
//! What is checked by the executor of a document is checked once; what depends on the variables is checked here, every
//! time. Whatever is refused here goes the executor's way, which says why.

use async_graphql::{
    Variables,
    parser::types::{
        ExecutableDocument, Field, OperationType, Selection, SelectionSet, VariableDefinition,
    },
};
use futures_util::future::try_join_all;

use super::{
    below::{Given, plan},
    connection::Compiled,
    lists::entry_of_list,
    noun::Noun,
    page::Page,
    read::MOST,
    select::{collect, key_text, sets},
};
use crate::{domain::policy::Viewer, store::Store};

/// An operation that can be answered without the executor.
pub struct Ready {
    roots: Vec<Root>,
    variables: Vec<VariableDefinition>,
}

struct Root {
    key: Box<str>,
    noun: &'static Noun,
    compiled: Compiled,
    field: Field,
}

impl Ready {
    /// Compiles a document's only operation; `None` when it has anything but lists, or could cost more than `cost`.
    pub fn compile(document: &ExecutableDocument, cost: usize) -> Option<Self> {
        let mut operations = document.operations.iter();
        let (Some((_, operation)), None) = (operations.next(), operations.next()) else {
            return None;
        };
        let operation = &operation.node;
        let mut all = document.fragments.values().map(|fragment| &fragment.node);
        let top = &operation.selection_set.node;
        if operation.ty != OperationType::Query
            || !operation.directives.is_empty()
            || has_directives(top)
            || all.any(|fragment| has_directives(&fragment.selection_set.node))
        {
            return None;
        }
        let mut roots = Vec::new();
        for (key, fields) in collect(&document.fragments, "Query", [top])? {
            let first = fields.first()?;
            let noun = (entry_of_list(first.name.node.as_str())?.noun)();
            let compiled = Compiled::compile(&document.fragments, noun, sets(&fields))?;
            roots.push(Root {
                key: key_text(key),
                noun,
                compiled,
                field: (*first).clone(),
            });
        }
        let cells = roots.iter().map(|root| root.compiled.columns.cells());
        if cells.sum::<usize>() * usize::from(MOST) > cost {
            return None;
        }
        let variables = operation.variable_definitions.iter();
        Some(Self {
            roots,
            variables: variables.map(|variable| variable.node.clone()).collect(),
        })
    }

    /// The answer; `None` when anything is not as it should be.
    pub async fn answer(
        &self,
        store: &Store,
        viewer: Viewer,
        variables: &Variables,
    ) -> Option<String> {
        let given = Given::new(variables, &self.variables);
        let each = self.roots.iter().map(|root| {
            let asked = given.arguments_of(&root.field, root.noun).ok()?;
            let plans = plan(&root.compiled.columns, viewer, &given).ok()?;
            let (noun, compiled) = (root.noun, &root.compiled);
            Some(Page::read(store, noun, compiled, (asked, plans), viewer))
        });
        let pages = try_join_all(each.collect::<Option<Vec<_>>>()?).await.ok()?;
        let size: usize = pages.iter().map(|page| page.size() + 32).sum();
        let mut text = String::with_capacity(size + 16);
        text.push_str("{\"data\":{");
        for (index, (root, page)) in self.roots.iter().zip(pages).enumerate() {
            if index > 0 {
                text.push(',');
            }
            text.push_str(&root.key);
            page.write(&mut text).ok()?;
        }
        text.push_str("}}");
        Some(text)
    }
}

fn has_directives(set: &SelectionSet) -> bool {
    set.items.iter().any(|selection| match &selection.node {
        Selection::Field(field) => {
            !field.node.directives.is_empty() || has_directives(&field.node.selection_set.node)
        }
        Selection::InlineFragment(fragment) => {
            !fragment.node.directives.is_empty()
                || has_directives(&fragment.node.selection_set.node)
        }
        Selection::FragmentSpread(spread) => !spread.node.directives.is_empty(),
    })
}
