//! Reading GraphQL requests out of bodies and query strings.

use async_graphql::{
    BatchRequest, Extensions, Request, Variables,
    parser::types::{BaseType, OperationDefinition},
};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Most requests of one batch.
pub const BATCH: usize = 8;

/// A request's parameters, as the GraphQL over HTTP specification names them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Parameters {
    query: Option<String>,
    operation_name: Option<String>,
    variables: Variables,
    extensions: Extensions,
}

impl Parameters {
    fn into_request(self) -> Result<Request, String> {
        // A persisted operation is asked for by its hash alone.
        if self.query.is_none() && !self.extensions.contains_key("persistedQuery") {
            return Err("the parameter query is missing".to_owned());
        }
        let mut request = Request::new(self.query.unwrap_or_default()).variables(self.variables);
        request.operation_name = self.operation_name;
        request.extensions = self.extensions;
        Ok(request)
    }
}

/// Reads a body: one request, or a list of them.
///
/// # Errors
/// What is wrong with it, for people.
pub fn body(bytes: &[u8]) -> Result<BatchRequest, String> {
    let problem = |error: serde_json::Error| format!("not a GraphQL request in JSON: {error}");
    match bytes.trim_ascii_start().first() {
        Some(b'[') => {
            let batch: Vec<Parameters> = serde_json::from_slice(bytes).map_err(problem)?;
            if !(1..=BATCH).contains(&batch.len()) {
                return Err(format!("a batch has 1 to {BATCH} requests"));
            }
            let batch = batch.into_iter().map(Parameters::into_request);
            Ok(BatchRequest::Batch(batch.collect::<Result<_, _>>()?))
        }
        // A list would be read as the object's fields in order.
        Some(b'{') => {
            let one: Parameters = serde_json::from_slice(bytes).map_err(problem)?;
            Ok(BatchRequest::Single(one.into_request()?))
        }
        _ => Err("a GraphQL request is expected, a JSON object with a query".to_owned()),
    }
}

/// Reads one request, as an operation on a socket has it.
///
/// # Errors
/// What is wrong with it, for people.
pub fn one(text: &[u8]) -> Result<Request, String> {
    match body(text)? {
        BatchRequest::Single(request) => Ok(request),
        BatchRequest::Batch(_) => Err("one request is expected".to_owned()),
    }
}

/// Reads a query string; variables and extensions in it are JSON.
pub fn query_string(text: &str) -> Result<Request, String> {
    let mut parameters = Parameters::default();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        let refused =
            |error: serde_json::Error| format!("{name}: a JSON object is expected: {error}");
        match &*name {
            _ if value.is_empty() => {}
            "query" => parameters.query = Some(value.into_owned()),
            "operationName" => parameters.operation_name = Some(value.into_owned()),
            "variables" => parameters.variables = serde_json::from_str(&value).map_err(refused)?,
            "extensions" => {
                parameters.extensions = serde_json::from_str(&value).map_err(refused)?;
            }
            _ => {}
        }
    }
    parameters.into_request()
}

/// The variables of `operation` in a query string. What is declared as a number, a truth value, a list or an object is
/// read as JSON, the rest as the text it is.
pub fn variables_of(operation: &OperationDefinition, text: &str) -> Result<Variables, String> {
    let mut variables = Map::new();
    for (name, value) in url::form_urlencoded::parse(text.as_bytes()) {
        let declared = operation
            .variable_definitions
            .iter()
            .find(|definition| definition.node.name.node.as_str() == name);
        let declared = declared.ok_or_else(|| format!("{name}: there is no such variable"))?;
        let is_text = match &declared.node.var_type.node.base {
            BaseType::Named(kind) => !matches!(kind.as_str(), "Int" | "Float" | "Boolean"),
            BaseType::List(_) => false,
        };
        let value = match serde_json::from_str(&value) {
            Ok(read @ (Value::Object(_) | Value::Array(_))) => read,
            Ok(read) if !is_text => read,
            _ => Value::String(value.into_owned()),
        };
        variables.insert(name.into_owned(), value);
    }
    Ok(Variables::from_json(Value::Object(variables)))
}

/// The variables in a body: a JSON object, or nothing.
pub fn variables_in(bytes: &[u8]) -> Result<Variables, String> {
    if bytes.trim_ascii().is_empty() {
        return Ok(Variables::default());
    }
    serde_json::from_slice(bytes)
        .map_err(|error| format!("a JSON object with the variables is expected: {error}"))
}
