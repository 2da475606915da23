//! Operations followed by many: whoever asks for the same and may see the same shares one run and one text.

use std::sync::Arc;

use async_graphql::{
    Data, Name, Request, Response, Value, Variables,
    parser::types::{OperationType, Selection},
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use serde::Serialize;

use super::{Api, Prepared, Requester, error, limits, list::lists::entry_of_list};
use crate::{domain::policy::Viewer, store::sessions::Origin};

/// The subscription fields whose runs are shared, beside every list.
///
/// A field belongs here when each of its items replaces the one before, what it shows depends on nothing of the
/// requester but their reach, and its source answers to the
/// [`Freshness`](crate::live::Freshness) in its context, as `watch` does. A
/// field whose items add up, such as the lines of a log, does not: a follower may miss items that have been overtaken.
pub const SHARED: &[&str] = &["containerUpdated", "node", "taskUpdated"];

/// An answer, written once for all who get it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A response object in JSON.
    Response(Arc<str>),
    /// The list of errors, in JSON, of a request that was refused before any field of it was executed.
    Refused(Arc<str>),
}

impl From<&Response> for Answer {
    fn from(response: &Response) -> Self {
        if is_refused(response) {
            Self::Refused(text(&response.errors))
        } else {
            Self::Response(text(response))
        }
    }
}

fn text(value: &impl Serialize) -> Arc<str> {
    serde_json::to_string(value)
        .unwrap_or_else(|error| {
            tracing::error!(%error, "an answer could not be written");
            "null".to_owned()
        })
        .into()
}

/// Whether the request was refused before any field of it was executed: the errors of fields have a path.
pub fn is_refused(response: &Response) -> bool {
    response.data == Value::Null
        && !response.errors.is_empty()
        && response.errors.iter().all(|error| error.path.is_empty())
}

/// Somebody who follows operations for a while.
#[derive(Clone)]
pub struct Session {
    data: Arc<Data>,
    /// As what they share runs; `None` when they have been refused.
    reach: Option<Viewer>,
}

impl Session {
    pub fn of(requester: Requester) -> Self {
        let reach = requester.viewer.as_ref().ok();
        let reach = reach.map(|viewer| viewer.impersonal());
        let mut data = Data::default();
        data.insert(requester);
        Self {
            data: Arc::new(data),
            reach,
        }
    }
}

/// What a shared run shows, and to whom.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    document: String,
    operation: Option<String>,
    /// In an order of their own, see [`canonical`].
    variables: String,
    reach: Viewer,
}

impl Api {
    /// The answers to any operation: one, or as many as a subscription has.
    pub fn follow(&self, prepared: Prepared, session: &Session) -> BoxStream<'static, Answer> {
        let told = self.told(&prepared);
        told.until_first(self.answers(prepared, session)).boxed()
    }

    fn answers(&self, prepared: Prepared, session: &Session) -> BoxStream<'static, Answer> {
        match session.reach {
            Some(reach) if is_shared(&prepared) => {
                let request = &prepared.request;
                let key = Key {
                    document: request.query.clone(),
                    operation: request.operation_name.clone(),
                    variables: canonical(&request.variables),
                    reach,
                };
                let run = |freshness| {
                    let requester = Requester {
                        viewer: Ok(reach),
                        origin: Origin::default(),
                    };
                    let request = prepared.into_request().data(requester).data(freshness);
                    self.stream(request, Arc::default())
                };
                self.shared.join(key, run)
            }
            _ if prepared.kind == Some(OperationType::Subscription) => {
                self.stream(prepared.into_request(), Arc::clone(&session.data))
            }
            _ => self.once(prepared.into_request(), Arc::clone(&session.data)),
        }
    }

    fn stream(&self, request: Request, data: Arc<Data>) -> BoxStream<'static, Answer> {
        self.schema
            .execute_stream_with_session_data(request, data)
            .map(|response| Answer::from(&error::with_codes(response)))
            .boxed()
    }

    /// The one answer to what is no subscription, in time.
    fn once(&self, request: Request, data: Arc<Data>) -> BoxStream<'static, Answer> {
        let mut answers = self.stream(request, data);
        let longest = self.longest.get();
        let answer = async move {
            match tokio::time::timeout(longest, answers.next()).await {
                Ok(answer) => answer,
                Err(_) => Some(Answer::from(&super::late())),
            }
        };
        stream::once(answer).filter_map(std::future::ready).boxed()
    }

    /// How many shared runs there are.
    pub fn shared_runs(&self) -> usize {
        self.shared.running()
    }
}

/// Whether it is a subscription to one field whose runs are shared.
fn is_shared(prepared: &Prepared) -> bool {
    let document = &prepared.document.document;
    let Some(operation) = limits::chosen(document, prepared.request.operation_name.as_deref())
    else {
        return false;
    };
    let fields = &operation.selection_set.node.items;
    match fields.as_slice() {
        [field] if operation.ty == OperationType::Subscription => match &field.node {
            Selection::Field(field) => {
                let name = field.node.name.node.as_str();
                SHARED.contains(&name) || entry_of_list(name).is_some()
            }
            Selection::FragmentSpread(_) | Selection::InlineFragment(_) => false,
        },
        _ => false,
    }
}

/// The variables in JSON, the fields of every object in the order of their names.
fn canonical(variables: &Variables) -> String {
    fn sort(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.sort_unstable_keys();
                for field in fields.values_mut() {
                    sort(field);
                }
            }
            Value::List(items) => {
                for item in items {
                    sort(item);
                }
            }
            Value::Null
            | Value::Number(_)
            | Value::String(_)
            | Value::Boolean(_)
            | Value::Binary(_)
            | Value::Enum(_) => {}
        }
    }
    let mut variables: Vec<(&Name, Value)> = variables
        .iter()
        .map(|(name, value)| (name, value.clone()))
        .collect();
    for (_, value) in &mut variables {
        sort(value);
    }
    serde_json::to_string(&variables).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_fields_makes_no_other_variables() {
        let read = |text| canonical(&serde_json::from_str::<Variables>(text).unwrap());
        assert_eq!(
            read(r#"{"a": {"x": 1, "y": [{"m": 2, "n": 3}]}, "b": null}"#),
            read(r#"{"b": null, "a": {"y": [{"n": 3, "m": 2}], "x": 1}}"#)
        );
        assert_ne!(read(r#"{"a": "1"}"#), read(r#"{"a": 1}"#));
        assert_ne!(read(r#"{"a": null}"#), read("{}"));
    }

    #[test]
    fn the_shared_fields_are_those_of_the_schema() {
        let sdl = super::super::sdl();
        let (_, fields) = sdl.split_once("type Subscription {").unwrap();
        let (fields, _) = fields.split_once("\n}").unwrap();
        for field in SHARED {
            assert!(
                fields.contains(&format!(" {field}(")),
                "no {field} in {fields}"
            );
        }
    }
}
