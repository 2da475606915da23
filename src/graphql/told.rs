//! What is told of operations: counted by their first field, a part of what is traced, and slow ones in the log.

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
    time::Duration,
};

use async_graphql::{
    Response, Value,
    parser::types::{ExecutableDocument, OperationType, Selection},
};
use futures_util::{Stream, StreamExt as _};
use tokio::time::Instant;

use super::{access, follow, limits, operations::hash};
use crate::telemetry::{
    Meters, slow,
    trace::{Kind, Span},
    work::{self, OperationLabel},
};

/// The fields at the top, which are few: what names a meter may not be what anybody likes.
static FIELDS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let operations = access::operations().into_iter();
    operations.map(|known| known.name.into_owned()).collect()
});

/// Longest name of an operation that is told, in bytes.
const NAME: usize = 128;

/// What may be told of the operation `name` of a document.
pub(super) fn label(
    document: &ExecutableDocument,
    text: &str,
    name: Option<&str>,
) -> OperationLabel {
    let known = document
        .operations
        .iter()
        .find(|(known, _)| name.is_none() || known.map(async_graphql::Name::as_str) == name);
    let operation = limits::chosen(document, name);
    let kind = match operation.map(|operation| operation.ty) {
        Some(OperationType::Mutation) => "mutation",
        Some(OperationType::Subscription) => "subscription",
        Some(OperationType::Query) | None => "query",
    };
    let first = operation.and_then(|operation| operation.selection_set.node.items.first());
    let field = match first.map(|first| &first.node) {
        Some(Selection::Field(field)) => field_of(field.node.name.node.as_str()),
        Some(Selection::FragmentSpread(_) | Selection::InlineFragment(_)) | None => "other",
    };
    let name = known.and_then(|(name, _)| name);
    OperationLabel {
        kind,
        name: name
            .map(ToString::to_string)
            .filter(|name| name.len() <= NAME),
        field,
        hash: hash(text),
    }
}

fn field_of(name: &str) -> &'static str {
    if name.starts_with("__") {
        return "introspection";
    }
    FIELDS.get(name).map_or("other", String::as_str)
}

/// An operation under way.
pub(super) struct Told {
    label: Arc<OperationLabel>,
    meters: Arc<Meters>,
    span: Span,
    began: Instant,
}

impl Told {
    /// It begins, as a part of what is under way, or as something of its own.
    pub fn begin(label: Arc<OperationLabel>, meters: Arc<Meters>) -> Self {
        work::executes(&label);
        let name = || match &label.name {
            Some(name) => format!("{} {name}", label.kind).into(),
            None => label.kind.into(),
        };
        let span = Span::part_or_first(Kind::Internal, name);
        if span.is_recorded() {
            span.set("graphql.operation.type", label.kind);
            span.set("graphql.field", label.field);
            span.set("graphql.document.hash", label.hash.clone());
            if let Some(name) = &label.name {
                span.set("graphql.operation.name", name.clone());
            }
        }
        Self {
            label,
            meters,
            span,
            began: Instant::now(),
        }
    }

    /// Does its work as a part of it.
    pub fn around<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        self.span.around(work)
    }

    /// It has been answered, with the code of its first error.
    pub fn end(self, code: &'static str) {
        let took: Duration = self.began.elapsed();
        if code != OK {
            self.span.fail(code);
            work::failed(code);
        }
        self.meters.answered(&self.label, code, took);
        slow::operation(&self.label, code, took);
    }

    /// The answers as they come; it ends with the first of them.
    pub fn until_first(
        self,
        answers: impl Stream<Item = follow::Answer> + Send + 'static,
    ) -> impl Stream<Item = follow::Answer> + Send + 'static {
        let answers = self.span.over(answers);
        let mut told = Some(self);
        answers.inspect(move |answer| {
            if let Some(told) = told.take() {
                told.end(match answer {
                    follow::Answer::Response(_) => OK,
                    follow::Answer::Refused(_) => "REFUSED",
                });
            }
        })
    }
}

/// The code of an answer without errors.
pub(super) const OK: &str = "OK";

/// The code of an answer: that of its first error, of those there are.
pub(super) fn code(answer: &Response) -> &'static str {
    let Some(error) = answer.errors.first() else {
        return OK;
    };
    let code = error.extensions.as_ref().and_then(|more| more.get("code"));
    let Some(Value::String(code)) = code else {
        return "BAD_USER_INPUT";
    };
    crate::error::CODES
        .into_iter()
        .find(|known| known == code)
        .unwrap_or("INTERNAL")
}
