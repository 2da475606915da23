//! For load balancers and people: is it alive, can it work.

use poem::{
    Response, handler,
    http::{StatusCode, header},
    web::Data,
};
use serde_json::json;

use super::Web;

/// The process runs.
#[handler]
pub fn alive() -> &'static str {
    "ok\n"
}

/// It can do its work: the database answers. Without the event bus it works too, only later, and says so.
#[handler]
pub async fn ready(web: Data<&Web>) -> Response {
    let (database, bus) = tokio::join!(web.store.ping(), web.bus.ping());
    let database = database.map_err(|error| {
        tracing::warn!(%error, "not ready");
        "away"
    });
    let bus = bus.map_err(|_| "away");
    let status = if database.is_ok() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let word = |checked: Result<(), &'static str>| checked.err().unwrap_or("ok");
    let body = json!({ "database": word(database), "events": word(bus) });
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json")
        .body(format!("{body}\n"))
}
