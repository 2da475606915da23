//! Which form an answer has, and its status (the GraphQL over HTTP specification, sections 5 and 6).

use async_graphql::{Response as Answer, ServerError, Value};
use poem::{
    IntoResponse as _, Request, Response,
    http::{StatusCode, header},
};
use serde::Serialize;

use crate::{
    error::AppError,
    graphql::{error, follow::is_refused},
};

/// The form of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// `application/json`: every answer to a readable request has the status 200.
    Json,
    /// `application/graphql-response+json`: a request that could not be executed has a status of its own.
    GraphqlResponse,
    /// `text/event-stream`.
    Events,
}

/// The forms a request accepts, the preferred first.
pub struct Accepted(Vec<Form>);

impl Accepted {
    /// What the `accept` header says; without one it is JSON.
    pub fn of(request: &Request) -> Self {
        let Some(accept) = super::header_text(request, header::ACCEPT) else {
            return Self(vec![Form::Json]);
        };
        let mut ranges: Vec<(f32, Form)> = accept.split(',').flat_map(read_range).collect();
        // Equally wanted forms stay in the order of the header.
        ranges.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut forms = Vec::new();
        for (_, form) in ranges {
            if !forms.contains(&form) {
                forms.push(form);
            }
        }
        Self(forms)
    }

    /// The form of a refusal of what is no GraphQL request, whatever is accepted.
    pub fn of_refusal(&self) -> Form {
        self.of_answer(false).unwrap_or(Form::Json)
    }

    /// The form to answer in: an event stream when nothing else is accepted, or when it is accepted for a subscription.
    pub fn of_answer(&self, is_subscription: bool) -> Option<Form> {
        let streams = self.0.contains(&Form::Events);
        let once = self.0.iter().find(|form| **form != Form::Events).copied();
        match once {
            Some(form) if !(is_subscription && streams) => Some(form),
            _ => streams.then_some(Form::Events),
        }
    }
}

/// One media range: how much it is wanted, and the forms it covers.
fn read_range(range: &str) -> Vec<(f32, Form)> {
    let mut parts = range.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
    let quality = parts
        .filter_map(|part| part.strip_prefix("q="))
        .find_map(|quality| quality.parse().ok())
        .unwrap_or(1.0);
    let forms: &[Form] = match kind.as_str() {
        "application/graphql-response+json" => &[Form::GraphqlResponse],
        "application/json" | "application/*" => &[Form::Json],
        "text/event-stream" | "text/*" => &[Form::Events],
        "*/*" => &[Form::Json, Form::Events],
        _ => &[],
    };
    let is_wanted = quality > 0.0;
    forms
        .iter()
        .filter(|_| is_wanted)
        .map(|form| (quality, *form))
        .collect()
}

/// An answer's text. One to a request that was not executed has no `data`.
#[derive(Serialize)]
struct Text<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a Value>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ServerError],
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    extensions: &'a std::collections::BTreeMap<String, Value>,
}

fn text(answer: &Answer) -> Text<'_> {
    Text {
        data: (!is_refused(answer)).then_some(&answer.data),
        errors: &answer.errors,
        extensions: &answer.extensions,
    }
}

/// The status of a refused request in the form that has one.
fn refusal(answer: &Answer) -> StatusCode {
    let code = answer.errors.iter().find_map(|error| {
        let code = error.extensions.as_ref()?.get("code")?;
        match code {
            Value::String(code) => Some(code.as_str()),
            _ => None,
        }
    });
    match code {
        Some("UNAVAILABLE") => StatusCode::SERVICE_UNAVAILABLE,
        Some("INTERNAL") => StatusCode::INTERNAL_SERVER_ERROR,
        Some("FORBIDDEN") => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_REQUEST,
    }
}

/// Writes one answer.
pub fn write(form: Form, answer: &Answer) -> Response {
    let status = if form == Form::GraphqlResponse && is_refused(answer) {
        refusal(answer)
    } else {
        StatusCode::OK
    };
    write_text(form, status, &text(answer))
}

/// Writes the answers of a batch, in the order of its requests.
pub fn write_all(form: Form, answers: &[Answer]) -> Response {
    let texts: Vec<Text> = answers.iter().map(text).collect();
    write_text(form, StatusCode::OK, &texts)
}

/// Writes an answer that is a text already.
pub fn write_ready(form: Form, text: String) -> Response {
    write_body(form, StatusCode::OK, text.into_bytes())
}

fn write_body(form: Form, status: StatusCode, body: Vec<u8>) -> Response {
    let kind = match form {
        Form::GraphqlResponse => "application/graphql-response+json; charset=utf-8",
        Form::Json | Form::Events => "application/json; charset=utf-8",
    };
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(body)
}

fn write_text(form: Form, status: StatusCode, text: &impl Serialize) -> Response {
    match serde_json::to_vec(text) {
        Ok(body) => write_body(form, status, body),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A refusal of what is no request to be executed.
pub fn refuse(form: Form, status: StatusCode, reason: &AppError) -> Response {
    write_text(form, status, &text(&error::refusal(reason)))
}
