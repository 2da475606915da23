//! A start that cannot be is refused in one clear line, whatever is wrong.

use futures_util::{StreamExt as _, stream};
use main_webserver::config::KEYS;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tokio::process::Command;

use crate::harness::{
    Ground,
    process::{command, output_of},
};

const STARTS: usize = 100;
const SECRET: &str = "hunter2hunter2";

/// Texts that some setting or other takes for wrong.
const GARBAGE: &[&str] = &[
    "-1",
    "eighty",
    "99999999999999999999",
    "1.5",
    "💥",
    "a b\tc",
    "://",
    "http://",
    "mysql://u:hunter2hunter2@h/d",
    "postgres://",
    "postgres://u:hunter2hunter2@h:99999/d",
    "redis://[",
    "0x10",
    "yes",
    "ON",
    "/",
    "\u{7f}",
    "dev ",
    "unix:/var/run/docker.sock",
    "info,=,",
];

/// One bad start: what is set, what the line has to name.
struct Start {
    settings: Vec<(String, String)>,
    names: String,
}

fn wrong_value(rng: &mut StdRng) -> Start {
    loop {
        let key = &KEYS[rng.random_range(0..KEYS.len())];
        let text = *GARBAGE.choose(rng).unwrap();
        // The parts of a database's URL are looked at together with their host.
        let is_part = key.name.starts_with("POSTGRES_");
        if !is_part && key.check(text).is_err() {
            return Start {
                settings: vec![(key.name.to_owned(), text.to_owned())],
                names: key.name.to_owned(),
            };
        }
    }
}

fn wrong_name(rng: &mut StdRng) -> Start {
    loop {
        let mut name = KEYS[rng.random_range(0..KEYS.len())].name.to_owned();
        name.insert(rng.random_range(0..=name.len()), 'X');
        if main_webserver::config::key(&name).is_none() {
            return Start {
                settings: vec![("--set".to_owned(), format!("{name}={SECRET}"))],
                names: name,
            };
        }
    }
}

/// Single faults of the machine around the service.
fn wrong_place(rng: &mut StdRng, ground: &Ground) -> Start {
    let folder = ground.folder().display();
    let file = format!("{folder}/a-file");
    let starts: &[(&[(&str, String)], &str)] = &[
        (
            &[
                ("DATA_DIR", file.clone()),
                ("DATABASE_URL", String::new()),
                ("SECRET_KEY", String::new()),
            ],
            "a-file",
        ),
        (
            &[(
                "DATABASE_URL",
                "postgres://u:hunter2hunter2@127.0.0.1:1/d".to_owned(),
            )],
            "127.0.0.1:1/d",
        ),
        (&[("DATABASE_URL", format!("sqlite://{file}/x"))], "a-file"),
        (
            &[("DATABASE_URL", format!("sqlite://{folder}/text"))],
            "text",
        ),
        (
            &[(
                "CONFIG_DB_URL",
                "postgres://u:hunter2hunter2@127.0.0.1:1/d".to_owned(),
            )],
            "CONFIG_DB_URL",
        ),
        (
            &[("CONFIG_DB_URL", format!("sqlite://{folder}/empty?mode=rwc"))],
            "config init",
        ),
        (
            &[("CONFIG_DB_URL", format!("sqlite://{folder}/none"))],
            "CONFIG_DB_URL",
        ),
        (&[("SECRET_KEY_FILE", file.clone())], "SECRET_KEY"),
        (
            &[
                ("SECRET_KEY_FILE", "/no/such".to_owned()),
                ("SECRET_KEY", String::new()),
            ],
            "SECRET_KEY_FILE",
        ),
        (&[("HOST", "192.0.2.1".to_owned())], "PORT"),
        (
            &[("HOST_DEAD_SECONDS", "10".to_owned())],
            "HOST_STALE_SECONDS",
        ),
        (
            &[("HEARTBEAT_SECONDS", "60".to_owned())],
            "HOST_STALE_SECONDS",
        ),
        (
            &[("PERSISTED_ONLY", "on".to_owned())],
            "PERSISTED_OPERATIONS",
        ),
        (
            &[("PERSISTED_OPERATIONS", "/no/such".to_owned())],
            "PERSISTED_OPERATIONS",
        ),
        (&[("PERSISTED_OPERATIONS", file)], "PERSISTED_OPERATIONS"),
        (&[("--env-file", format!("{folder}/text"))], "text"),
    ];
    let (settings, names) = starts.choose(rng).unwrap();
    Start {
        settings: settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        names: (*names).to_owned(),
    }
}

fn of(ground: &Ground, start: &Start) -> Command {
    let mut arguments = vec!["serve"];
    for (name, value) in &start.settings {
        if name.starts_with("--") {
            arguments.extend([name.as_str(), value.as_str()]);
        }
    }
    let mut command = command(ground, &arguments);
    for (name, value) in start
        .settings
        .iter()
        .filter(|(name, _)| !name.starts_with("--"))
    {
        command.env(name, value);
    }
    command
}

#[tokio::test]
async fn a_hundred_random_bad_starts_end_in_one_clear_line_each() {
    let ground = Ground::new().await;
    std::fs::write(ground.folder().join("a-file"), "neither JSON nor a folder").unwrap();
    std::fs::write(
        ground.folder().join("text"),
        "this is no line of settings\n".repeat(200),
    )
    .unwrap();
    let seed = 20_261_128;
    let mut rng = StdRng::seed_from_u64(seed);
    let starts: Vec<Start> = (0..STARTS)
        .map(|_| match rng.random_range(0..10) {
            0..5 => wrong_value(&mut rng),
            5..7 => wrong_name(&mut rng),
            _ => wrong_place(&mut rng, &ground),
        })
        .collect();
    let outputs = stream::iter(&starts)
        .map(|start| output_of(of(&ground, start)))
        .buffered(4);
    let outputs: Vec<_> = outputs.collect().await;
    for (start, (code, out, err)) in starts.iter().zip(outputs) {
        let what = format!("{:?}\n{out}{err}", start.settings);
        assert_eq!((code, out.as_str()), (1, ""), "{what}");
        assert_eq!(err.trim_end().lines().count(), 1, "{what}");
        assert!(
            err.starts_with("error: ") && err.contains(&start.names),
            "{what}"
        );
        assert!(!err.contains("panicked") && !err.contains(SECRET), "{what}");
    }
    ground.clear().await;
}
