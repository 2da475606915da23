//! What the service says about itself, and to whom.

use std::time::Duration;

use url::Url;

use super::{
    Secret,
    key::settings,
    kinds::{Maybe, maybe, millis_or_never, number, secret, text},
};

settings! {
    /// Logs, traces and reports.
    pub struct Telemetry {
        /// part of the ordinary requests that get a line in the log; slow and failed ones always do
        LOG_SAMPLE log_sample: f64 = number(0.0, 0.0..=1.0);
        /// from when on a statement is logged as slow; 0 is never
        SLOW_QUERY_MS slow_query: Option<Duration> = millis_or_never(500, 0..=3_600_000), reloads;
        /// from when on a request or an operation is logged as slow; 0 is never
        SLOW_OPERATION_MS slow_operation: Option<Duration> = millis_or_never(1000, 0..=3_600_000), reloads;
        /// where traces go, by OTLP over HTTP, such as `http://localhost:4318`
        OTEL_EXPORTER_OTLP_ENDPOINT traces_to: Option<Url> = maybe("an http: or https: URL", "none", endpoint);
        /// headers that go with them, percent-encoded
        OTEL_EXPORTER_OTLP_HEADERS trace_headers: Headers = HEADERS;
        /// the service's name in logs and traces
        OTEL_SERVICE_NAME service: String = text("a name", "main-webserver");
        /// part of the requests that are traced
        TRACE_SAMPLE trace_sample: f64 = number(1.0, 0.0..=1.0);
        /// where panics, internal errors and dead letters are reported
        SENTRY_DSN sentry: Option<Secret> = secret("a DSN", "none", dsn);
    }
}

/// Names and values.
pub type Headers = Option<Vec<(String, Secret)>>;

const HEADERS: Maybe<Vec<(String, Secret)>> = maybe("name=value, ...", "none", headers).hidden();

/// An address of HTTP. What stands in it is shown, so nothing secret may.
fn endpoint(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("not a URL, {error}"))?;
    if !["http", "https"].contains(&url.scheme()) || url.host_str().is_none() {
        return Err("neither http:// nor https:// and a host".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        let problem = "has credentials or a query; OTEL_EXPORTER_OTLP_HEADERS is for those";
        return Err(problem.to_owned());
    }
    Ok(url)
}

/// `name=value` by commas, the values percent-encoded (the OpenTelemetry specification, *OTLP Exporter*). What is wrong is
/// said without the pair, which may be a secret.
fn headers(text: &str) -> Result<Vec<(String, Secret)>, String> {
    let mut headers = Vec::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=').ok_or("a pair has no =")?;
        let name = name.trim().to_ascii_lowercase();
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(is_token) {
            return Err("a header has no name that HTTP knows".to_owned());
        }
        let value = decoded(value.trim());
        if value.chars().any(char::is_control) {
            return Err("a value has a control character".to_owned());
        }
        headers.push((name, Secret::new(value)));
    }
    Ok(headers)
}

fn decoded(text: &str) -> String {
    // The library decodes forms, in which a plus is a space.
    let form = format!("v={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(form.as_bytes())
        .next()
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

fn dsn(text: &str) -> Result<Secret, String> {
    let read = text.parse::<sentry_types::Dsn>();
    read.map_err(|error| error.to_string())?;
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn refused(pairs: &[(&str, &str)]) -> String {
        Telemetry::read(&Sources::from_pairs(pairs))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn headers_are_read_as_the_specification_has_them() {
        let sources = Sources::from_pairs(&[(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Basic%20YWJj+==, X-Team = a%2Cb",
        )]);
        let headers = Telemetry::read(&sources).unwrap().trace_headers.unwrap();
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose()))
            .collect();
        assert_eq!(
            headers,
            [("authorization", "Basic YWJj+=="), ("x-team", "a,b")]
        );
    }

    #[test]
    fn a_wrong_one_is_refused_without_its_secret() {
        for (key, value) in [
            ("OTEL_EXPORTER_OTLP_HEADERS", "hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a b=hunter2"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "a=hunter2%0Ab"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://me:hunter2@there"),
            ("SENTRY_DSN", "https://hunter2/nowhere"),
        ] {
            let said = refused(&[(key, value)]);
            assert!(said.starts_with(key) && !said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn a_part_lies_between_none_and_all() {
        for value in ["1.01", "-0.1", "NaN", "half"] {
            assert!(refused(&[("TRACE_SAMPLE", value)]).starts_with("TRACE_SAMPLE"));
        }
    }
}
