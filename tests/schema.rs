//! The printed schema is the code's, and every operation in `tests/operations` fits it.

use main_webserver::graphql::sdl;

#[test]
fn schema_graphql_is_in_step() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.graphql");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, sdl()).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        kept == sdl(),
        "schema.graphql is out of step: cargo run -- schema > schema.graphql"
    );
}
