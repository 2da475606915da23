//! Who may import whom. An arrow back is a bug, and this says where it is.

use std::{collections::BTreeMap, fs, path::Path};

/// A room, and the rooms it may use.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("error", &["domain"]),
    ("config", &["domain"]),
    ("telemetry", &["config", "domain"]),
    ("redis", &["config", "error"]),
    ("store", &["domain", "error", "config", "telemetry"]),
    ("objects", &["domain", "config"]),
    (
        "backup",
        &["domain", "config", "objects", "store", "telemetry"],
    ),
    ("live", &["domain", "error", "store", "config", "redis"]),
    ("providers", &["domain", "config", "telemetry"]),
    ("agent", &["domain", "error", "config", "providers"]),
    (
        "queue",
        &[
            "domain",
            "error",
            "store",
            "live",
            "config",
            "objects",
            "redis",
            "telemetry",
        ],
    ),
    (
        "tasks",
        &["domain", "error", "store", "backup", "providers", "queue"],
    ),
    (
        "fleet",
        &["domain", "error", "store", "providers", "queue", "tasks"],
    ),
    ("auth", &["domain", "error", "store"]),
    (
        "services",
        &[
            "domain",
            "error",
            "config",
            "store",
            "auth",
            "backup",
            "objects",
            "tasks",
            "telemetry",
        ],
    ),
    (
        "graphql",
        &[
            "domain",
            "error",
            "store",
            "backup",
            "live",
            "services",
            "tasks",
            "telemetry",
        ],
    ),
    (
        "web",
        &[
            "domain",
            "error",
            "config",
            "store",
            "auth",
            "graphql",
            "live",
            "providers",
            "services",
            "telemetry",
        ],
    ),
];

#[test]
fn rooms_use_only_the_rooms_below_them() {
    let rooms: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    let mut wrong = Vec::new();
    each_source(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
        &mut |path, text| {
            let room = path.split(['/', '.']).next().unwrap();
            let Some(allowed) = rooms.get(room) else {
                return;
            };
            let text = text.split("#[cfg(test)]").next().unwrap();
            for (at, used) in uses(text) {
                if used != room && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{path}:{at}: {room} uses {used}"));
                }
            }
        },
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Each `crate::room` of a file with its line, those inside `use crate::{…}` included.
fn uses(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let word = |rest: &str| {
        rest.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect::<String>()
    };
    for (start, _) in text.match_indices("crate::") {
        let at = text[..start].lines().count();
        let rest = &text[start + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((at, word(rest)));
            continue;
        };
        let mut depth = 1;
        let mut is_start = true;
        for (index, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            if depth == 1 && is_start && c.is_alphabetic() {
                found.push((at, word(&group[index..])));
                is_start = false;
            }
            if depth == 1 && c == ',' {
                is_start = true;
            }
        }
    }
    found.retain(|(_, name)| name.chars().next().is_some_and(char::is_lowercase));
    found
}

fn each_source(folder: &Path, see: &mut impl FnMut(&str, &str)) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/src/");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != "console" || path.join("mod.rs").exists() {
                each_source(&path, see);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            see(path.to_str().unwrap().strip_prefix(root).unwrap(), &text);
        }
    }
}
