//! What a line of the log, a slow statement or a report belongs to: a request, or a run of a task.

use std::sync::{Arc, OnceLock};

use opentelemetry::{Context, context::FutureExt as _};
use uuid::Uuid;

use super::trace::Span;
use crate::domain::id::written;

/// A run of a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TaskRun {
    pub id: Uuid,
    pub kind: String,
    pub attempt: i32,
}

/// An operation of GraphQL, by what may be told of it: not its text, and not its variables.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OperationLabel {
    /// `query`, `mutation` or `subscription`.
    pub kind: &'static str,
    /// The name its author has given it.
    pub name: Option<String>,
    /// The first field at its top; `other` for what the schema has not.
    pub field: &'static str,
    /// The SHA-256 of its text, in hexadecimal.
    pub hash: String,
}

/// What is worked on, filled as it becomes known.
#[derive(Debug, Default)]
pub struct Work {
    pub request: Option<Arc<str>>,
    pub task: Option<TaskRun>,
    user: OnceLock<Uuid>,
    operation: OnceLock<Arc<OperationLabel>>,
    failure: OnceLock<&'static str>,
}

impl Work {
    /// A request with its id.
    pub fn request(id: impl Into<Arc<str>>) -> Arc<Self> {
        Arc::new(Self {
            request: Some(id.into()),
            ..Self::default()
        })
    }

    /// A run of a task, and whose task it is.
    pub fn task(run: TaskRun, owner: Option<Uuid>) -> Arc<Self> {
        let work = Self {
            task: Some(run),
            ..Self::default()
        };
        if let Some(owner) = owner {
            let _ = work.user.set(owner);
        }
        Arc::new(work)
    }

    /// An operation on a socket that was opened by a request.
    pub fn on_socket(request: Option<Arc<str>>, user: Option<Uuid>) -> Arc<Self> {
        let work = Self {
            request,
            ..Self::default()
        };
        if let Some(user) = user {
            let _ = work.user.set(user);
        }
        Arc::new(work)
    }

    /// Begins something in its name.
    pub fn enter<T>(self: Arc<Self>, begin: impl FnOnce() -> T) -> T {
        let _entered = Context::new().with_value(self).attach();
        begin()
    }

    pub fn user(&self) -> Option<String> {
        self.user.get().map(|id| written("user", *id))
    }

    pub fn task_id(&self) -> Option<String> {
        self.task.as_ref().map(|task| written("task", task.id))
    }

    pub fn operation(&self) -> Option<&OperationLabel> {
        self.operation.get().map(|operation| &**operation)
    }

    /// The first code it has failed with.
    pub fn failure(&self) -> Option<&'static str> {
        self.failure.get().copied()
    }

    /// Does `work` in its name, as a part of `span`.
    pub fn around<F: Future>(
        self: Arc<Self>,
        span: &Span,
        work: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        let context = span.context().with_value(self);
        work.with_context(context)
    }
}

/// Looks at what is worked on here.
pub fn look<T>(at: impl FnOnce(&Work) -> T) -> Option<T> {
    Context::map_current(|context| context.get::<Arc<Work>>().map(|work| at(work)))
}

/// The id of the request that is worked on here.
pub fn request() -> Option<Arc<str>> {
    look(|work| work.request.clone()).flatten()
}

/// Who asks has become known.
pub fn is_for(user: Option<Uuid>) {
    if let Some(user) = user {
        look(|work| {
            let _ = work.user.set(user);
        });
    }
}

/// What is asked for has become known; the first of a batch stands.
pub fn executes(operation: &Arc<OperationLabel>) {
    look(|work| {
        let _ = work.operation.set(Arc::clone(operation));
    });
}

/// It has failed with a code.
pub fn failed(code: &'static str) {
    look(|work| {
        let _ = work.failure.set(code);
    });
}
