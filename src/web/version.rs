//! Which build answers, and what it offers.

use std::sync::{Arc, LazyLock};

use poem::{Response, handler, http::header, web::Data};
use serde_json::json;

use super::Web;
use crate::{
    graphql,
    telemetry::{build, process},
};

/// The SHA-256 of the schema's text: two processes with the same one offer the same.
static SCHEMA: LazyLock<String> = LazyLock::new(graphql::schema_hash);

/// Version, commit, time of the build, environment, schema and start of this process.
#[handler]
pub async fn show(web: Data<&Arc<Web>>) -> Response {
    let build = build::info();
    let body = json!({
        "version": build.version,
        "commit": build.commit,
        "built_at": build.built_at,
        "environment": web.environment.as_str(),
        "schema": *SCHEMA,
        "started_at": process::started(),
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .body(format!("{body}\n"))
}
