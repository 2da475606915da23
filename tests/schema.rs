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

#[test]
fn everything_in_the_schema_is_described() {
    let sdl = sdl();
    let (mut is_described, mut is_in_block) = (false, false);
    let mut bare = Vec::new();
    for line in sdl.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with('"') && !trimmed.starts_with("\"\"\"") && !is_in_block {
            is_described = true;
            continue;
        }
        if trimmed.starts_with("\"\"\"") || is_in_block {
            let ends_here = trimmed.ends_with("\"\"\"") && (is_in_block || trimmed.len() > 3);
            is_in_block = !ends_here;
            is_described = true;
            continue;
        }
        // What a member's name says in full needs no sentence.
        let says_itself = trimmed == "id: ID!" || trimmed.is_empty() || trimmed.starts_with(')');
        let says_itself = says_itself
            || [
                "query: Query",
                "mutation: Mutation",
                "subscription: Subscription",
            ]
            .contains(&trimmed);
        if line.starts_with("  ") && !is_described && !says_itself {
            bare.push(trimmed.to_owned());
        }
        is_described = false;
    }
    assert!(bare.is_empty(), "not described: {bare:#?}");
}
