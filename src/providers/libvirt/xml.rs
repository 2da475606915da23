//! The little XML that is read and written: texts between tags, and values that cannot end them.

use std::fmt::Write as _;

/// A text or an attribute's value as XML has it. What XML has no way to write, control characters, is left out.
pub(super) fn escaped(text: &str) -> String {
    let mut whole = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' | '>' | '&' | '"' | '\'' | '\t' | '\n' | '\r' => {
                let _ = write!(whole, "&#{};", u32::from(letter));
            }
            '\u{0}'..'\u{20}' | '\u{fffe}' | '\u{ffff}' => {}
            other => whole.push(other),
        }
    }
    whole
}

/// The text of the first element with this name, attributes or not, and nothing in it but text.
pub(super) fn text_of(xml: &str, name: &str) -> Option<String> {
    let opening = format!("<{name}");
    let mut rest = xml;
    loop {
        rest = &rest[rest.find(&opening)? + opening.len()..];
        if rest.starts_with(['>', ' ', '/']) {
            break;
        }
    }
    let (attributes, rest) = rest.split_once('>')?;
    if attributes.ends_with('/') {
        return Some(String::new());
    }
    let (text, _) = rest.split_once('<')?;
    unescaped(text)
}

fn unescaped(text: &str) -> Option<String> {
    let mut pieces = text.split('&');
    let mut whole = pieces.next()?.to_owned();
    for piece in pieces {
        let (name, rest) = piece.split_once(';')?;
        whole.push(match name {
            "lt" => '<',
            "gt" => '>',
            "amp" => '&',
            "quot" => '"',
            "apos" => '\'',
            other => {
                let digits = other.strip_prefix('#')?;
                let code = match digits.strip_prefix('x') {
                    Some(hex) => u32::from_str_radix(hex, 16),
                    None => digits.parse(),
                };
                char::from_u32(code.ok()?)?
            }
        });
        whole.push_str(rest);
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_ends_nothing() {
        let text = "a <b> & 'c' \"d\"\n\u{e4}";
        let xml = format!("<x:a/><x:record y='1'>{}</x:record>", escaped(text));
        assert_eq!(text_of(&xml, "x:record").as_deref(), Some(text));
        assert_eq!(text_of(&xml, "x:a").as_deref(), Some(""));
        assert_eq!(text_of(&xml, "x:rec"), None);
        assert_eq!(escaped("a\u{1}b"), "ab");
        assert_eq!(
            text_of("<a>&lt;&#x41;&amp;</a>", "a").as_deref(),
            Some("<A&")
        );
    }
}
