//! What a statement of a migration does to a table that has rows and is in use, as PostgreSQL's documentation of its locks
//! has it.

/// The statement in small letters, without quotes and with single spaces.
fn plain(statement: &str) -> String {
    let small = statement.to_lowercase().replace('"', "");
    let spaced = small.replace('(', " ( ").replace(')', " ) ");
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What comes after the words, some of which may be left out.
fn after<'a>(text: &'a str, words: &[&str], optional: &[&str]) -> Option<&'a str> {
    let mut rest = text;
    for word in words {
        rest = rest.strip_prefix(word)?.trim_start();
        while let Some(more) = optional.iter().find_map(|it| rest.strip_prefix(it)) {
            rest = more.trim_start();
        }
    }
    Some(rest)
}

fn first_word(text: &str) -> &str {
    text.split([' ', ';']).next().unwrap_or_default()
}

/// The parts of a list, at its commas outside of brackets.
fn parts(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0, 0, Vec::new());
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(text[start..].trim());
    found
}

/// Why one `ALTER TABLE` action cannot be borne.
fn of_action(action: &str, contracts: bool) -> Option<&'static str> {
    let has = |words: &str| format!(" {action} ").contains(&format!(" {words} "));
    if action.starts_with("add constraint")
        || action.starts_with("add foreign key")
        || action.starts_with("add check")
    {
        return (!has("not valid") && !has("using index"))
            .then_some("a constraint without NOT VALID is checked for every row under a lock");
    }
    if action.starts_with("add primary key") || action.starts_with("add unique") {
        return Some("a unique constraint builds its index under a lock");
    }
    if action.starts_with("add") {
        if has("not null") && !has("default") {
            return Some("a column without a default cannot be NOT NULL where there are rows");
        }
        if ["references", "check", "unique", "primary key"]
            .iter()
            .any(|word| has(word))
        {
            return Some("a column's constraint is checked for every row under a lock");
        }
        let changes = [
            "random",
            "nextval",
            "clock_timestamp",
            "uuid",
            "stored",
            "serial",
            "bigserial",
        ];
        let default = action.split(" default ").nth(1).unwrap_or_default();
        if changes.iter().any(|word| default.contains(word))
            || has("stored")
            || has("serial")
            || has("bigserial")
        {
            return Some("a default that differs from row to row rewrites the table");
        }
        return None;
    }
    if action.starts_with("alter") && (has("type") || has("set data type")) {
        return Some("another type rewrites the table");
    }
    if action.starts_with("alter") && has("set not null") {
        return Some("SET NOT NULL reads every row under a lock");
    }
    if (action.starts_with("drop column") || action.starts_with("rename")) && !contracts {
        return Some("the version before still uses what this takes away");
    }
    None
}

/// Why a statement cannot be borne by a service that goes on; `is_old` says which tables were there before its step.
pub fn of(statement: &str, contracts: bool, is_old: impl Fn(&str) -> bool) -> Vec<String> {
    const IF: [&str; 3] = ["if not exists", "if exists", "only"];
    let text = plain(statement);
    let danger = |table: &str, why: &str| vec![format!("{table}: {why}")];
    if let Some(rest) = after(&text, &["alter table"], &IF) {
        let table = first_word(rest);
        let actions = rest[table.len()..].trim().trim_end_matches(';');
        if !is_old(table) {
            return Vec::new();
        }
        return parts(actions)
            .into_iter()
            .filter_map(|action| of_action(action, contracts))
            .map(|why| format!("{table}: {why}"))
            .collect();
    }
    let index = after(&text, &["create index"], &IF)
        .or_else(|| after(&text, &["create unique index"], &IF));
    if let Some(rest) = index {
        let table = rest
            .split(" on ")
            .nth(1)
            .map(|rest| first_word(rest.trim_start_matches("only ")));
        return match table {
            Some(table) if is_old(table) && !rest.starts_with("concurrently") => danger(
                table,
                "an index without CONCURRENTLY stops everyone who writes",
            ),
            _ => Vec::new(),
        };
    }
    for (words, why) in [
        (
            "drop table",
            "the version before still uses what this takes away",
        ),
        (
            "truncate table",
            "the version before still uses what this takes away",
        ),
        (
            "truncate",
            "the version before still uses what this takes away",
        ),
        ("vacuum full", "it is written anew under a lock"),
        ("cluster", "it is written anew under a lock"),
        ("lock table", "everyone waits for it"),
        (
            "update",
            "every row is written in one transaction; do so in a task, in batches",
        ),
        (
            "delete from",
            "every row is written in one transaction; do so in a task, in batches",
        ),
    ] {
        let Some(rest) = after(&text, &[words], &IF) else {
            continue;
        };
        let table = first_word(rest);
        let is_part = words == "update" || words == "delete from";
        let is_bearable =
            (is_part && rest.contains(" where ")) || (contracts && why.starts_with("the version"));
        return if is_old(table) && !is_bearable {
            danger(table, why)
        } else {
            Vec::new()
        };
    }
    Vec::new()
}

#[test]
fn what_cannot_be_borne_is_known() {
    for (statement, words) in [
        ("CREATE INDEX task_x ON task (x)", "CONCURRENTLY"),
        (
            "CREATE UNIQUE INDEX IF NOT EXISTS task_x ON \"task\" (x)",
            "CONCURRENTLY",
        ),
        (
            "ALTER TABLE task ADD COLUMN x text NOT NULL",
            "without a default",
        ),
        (
            "ALTER TABLE \"task\" ADD COLUMN \"y\" int, ADD COLUMN \"x\" uuid NOT NULL DEFAULT gen_random_uuid()",
            "rewrites",
        ),
        (
            "ALTER TABLE task ADD COLUMN x uuid REFERENCES account (id)",
            "constraint",
        ),
        (
            "ALTER TABLE task ADD CONSTRAINT c CHECK (x > 0)",
            "NOT VALID",
        ),
        (
            "ALTER TABLE task ADD CONSTRAINT c FOREIGN KEY (x) REFERENCES account (id)",
            "NOT VALID",
        ),
        ("ALTER TABLE task ADD UNIQUE (x)", "unique"),
        ("ALTER TABLE task ALTER COLUMN x TYPE bigint", "rewrites"),
        (
            "ALTER TABLE ONLY task ALTER COLUMN x SET NOT NULL",
            "every row",
        ),
        ("ALTER TABLE task DROP COLUMN x", "takes away"),
        ("ALTER TABLE task RENAME COLUMN x TO y", "takes away"),
        ("DROP TABLE IF EXISTS task", "takes away"),
        ("UPDATE task SET x = 1", "in batches"),
        ("LOCK TABLE task", "waits"),
    ] {
        let found = of(statement, false, |table| table == "task");
        assert!(
            found.len() == 1 && found[0].contains(words),
            "{statement}: {found:?}"
        );
        assert_eq!(
            of(statement, false, |_| false),
            Vec::<String>::new(),
            "of a new table: {statement}"
        );
    }
}

#[test]
fn what_can_be_borne_is_let_through() {
    for statement in [
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS task_x ON task (x)",
        "ALTER TABLE task ADD COLUMN x text",
        "ALTER TABLE task ADD COLUMN x numeric(10, 2) NOT NULL DEFAULT 0",
        "ALTER TABLE task ADD CONSTRAINT c CHECK (x > 0) NOT VALID",
        "ALTER TABLE task VALIDATE CONSTRAINT c",
        "ALTER TABLE task ADD CONSTRAINT c UNIQUE USING INDEX task_x",
        "ALTER TABLE task ALTER COLUMN x SET DEFAULT 1",
        "UPDATE task SET x = 1 WHERE id = 'a'",
        "CREATE TABLE later (id uuid PRIMARY KEY, task_id uuid NOT NULL REFERENCES task (id))",
        "INSERT INTO task (id) VALUES ('a')",
        "SELECT 1 FROM task",
    ] {
        assert_eq!(
            of(statement, false, |table| table == "task"),
            Vec::<String>::new(),
            "{statement}"
        );
    }
    assert_eq!(
        of("ALTER TABLE task DROP COLUMN x", true, |_| true),
        Vec::<String>::new()
    );
}
