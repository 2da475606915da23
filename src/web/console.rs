//! The GraphiQL console: the build's own files, or a page that loads it from a CDN when there was no npm at build time.

use async_graphql::http::GraphiQLSource;
use include_dir::{Dir, include_dir};
use poem::{
    IntoResponse, Response, handler,
    http::{StatusCode, header},
    web::Path,
};

static FILES: Dir<'_> = include_dir!("$CONSOLE_DIR");

/// Whether the console is inside this binary.
pub const IS_EMBEDDED: bool = cfg!(console_embedded);

fn file(path: &str, cache: &'static str) -> Response {
    let Some(file) = FILES.get_file(path) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let kind = mime_guess::from_path(path).first_or_octet_stream();
    Response::builder()
        .header(header::CONTENT_TYPE, kind.as_ref())
        .header(header::CACHE_CONTROL, cache)
        .body(file.contents())
}

#[handler]
pub fn page() -> Response {
    if IS_EMBEDDED {
        return file("index.html", "no-cache");
    }
    let page = GraphiQLSource::build()
        .endpoint("/graphql")
        .subscription_endpoint("/graphql")
        .finish();
    poem::web::Html(page).into_response()
}

#[handler]
pub fn asset(Path(path): Path<String>) -> Response {
    file(&format!("assets/{path}"), "public, max-age=3600")
}
