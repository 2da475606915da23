//! Words of errors without what nobody else may read: addresses of people, passwords in URLs, tokens, keys.

/// What stands in the place of what was there.
const GONE: &str = "[redacted]";
/// The shortest word that is taken for a key, in characters.
const KEY: usize = 24;

/// `text` without what looks like a secret or like an address of a person. Ids of ours stay.
pub(super) fn redacted(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut is_credential = false;
    for word in words(text) {
        if word.chars().all(|c| !is_of_word(c)) {
            clean.push_str(word);
            continue;
        }
        let is_name = ["bearer", "basic"]
            .iter()
            .any(|name| word.eq_ignore_ascii_case(name));
        if is_credential || is_secret(word) {
            clean.push_str(GONE);
        } else {
            clean.push_str(word);
        }
        is_credential = is_name;
    }
    clean
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || "_-.@+/:%=~$".contains(c)
}

/// The words of a text and what stands between them, by turns.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let kind = is_of_word(first);
        let end = rest.find(|c| is_of_word(c) != kind).unwrap_or(rest.len());
        let (word, more) = rest.split_at(end);
        rest = more;
        Some(word)
    })
}

fn is_secret(word: &str) -> bool {
    // An address of a person, or one with a password before its host.
    if word.contains('@') {
        return true;
    }
    let parts = word
        .split(['=', ':', '/', '.'])
        .map(|part| part.trim_matches('-'));
    // The first part of a JSON Web Token, which is short.
    if parts.clone().any(|part| part.starts_with("eyJ")) {
        return true;
    }
    let mut long = parts.filter(|part| part.len() >= KEY);
    long.any(|part| !is_id(part) && has_mixture(part))
}

/// An id as it is written outside, or a UUID.
fn is_id(part: &str) -> bool {
    let bare = part.rsplit('_').next().unwrap_or(part);
    let hex: String = bare.chars().filter(|c| *c != '-').collect();
    let is_uuid = hex.len() == 32 && hex.chars().all(|c| c.is_ascii_hexdigit());
    is_uuid && (part.contains('_') || part.contains('-'))
}

/// Letters and digits, as keys have them; long names of things have letters alone.
fn has_mixture(part: &str) -> bool {
    part.chars().any(|c| c.is_ascii_digit()) && part.chars().any(|c| c.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_else_may_read_is_gone() {
        for (text, clean) in [
            (
                "Key (email)=(ada@example.com) exists",
                "Key (email)=([redacted]) exists",
            ),
            (
                "postgres://me:hunter2@db:5432/x is away",
                "[redacted] is away",
            ),
            (
                "Authorization: Bearer abc",
                "Authorization: Bearer [redacted]",
            ),
            (
                "token eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln bad",
                "token [redacted] bad",
            ),
            ("key=9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "[redacted]"),
            (
                "$argon2id$v=19$m=19456$c29tZXNhbHQxMjM0NTY3ODkwMTIzNDU",
                "[redacted]",
            ),
        ] {
            assert_eq!(redacted(text), clean);
        }
    }

    #[test]
    fn what_helps_to_find_the_fault_stays() {
        for text in [
            "task_01a20d39854a700084d7af5cd2bb4e5c has no row",
            "src/queue/worker.rs:123:9: index out of bounds: the len is 3",
            "the connection was refused (os error 111)",
            "duplicate key value violates unique constraint \"container_idempotency_key_by_owner\"",
            "0190c1a2-1111-7abc-8def-0123456789ab is gone",
        ] {
            assert_eq!(redacted(text), text);
        }
    }
}
