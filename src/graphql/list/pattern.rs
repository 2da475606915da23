//! Patterns of SQL's `LIKE`, in the words of each database.

use crate::store::keeps_text;

/// Longest pattern, in characters; SQLite takes 50,000 bytes.
const PATTERN: usize = 1000;

/// A pattern of SQL's `LIKE`, taken apart because the databases write it differently.
#[derive(Clone, Debug, PartialEq)]
pub struct Pattern(pub Vec<Part>);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part {
    Any,
    One,
    Letter(char),
}

impl Pattern {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut letters = bounded(text)?.chars();
        while let Some(letter) = letters.next() {
            parts.push(match letter {
                '%' => Part::Any,
                '_' => Part::One,
                '\\' => Part::Letter(letters.next().ok_or("a pattern ends in a backslash")?),
                letter => Part::Letter(letter),
            });
        }
        Ok(Self(parts))
    }

    pub fn prefix(text: &str) -> Result<Self, String> {
        let letters = bounded(text)?.chars().map(Part::Letter);
        Ok(Self(letters.chain([Part::Any]).collect()))
    }

    /// For `LIKE` with the backslash as escape; in lower case (of ASCII) for both sides when the case does not count.
    pub fn like(&self, ignores_case: bool) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Any => text.push('%'),
                Part::One => text.push('_'),
                Part::Letter(letter) => {
                    if matches!(letter, '%' | '_' | '\\') {
                        text.push('\\');
                    }
                    text.push(if ignores_case {
                        letter.to_ascii_lowercase()
                    } else {
                        *letter
                    });
                }
            }
        }
        text
    }

    /// For SQLite's `GLOB`, which minds the case.
    pub fn glob(&self) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Any => text.push('*'),
                Part::One => text.push('?'),
                Part::Letter(letter @ ('*' | '?' | '[')) => text.extend(['[', *letter, ']']),
                Part::Letter(letter) => text.push(*letter),
            }
        }
        text
    }
}

fn bounded(text: &str) -> Result<&str, String> {
    if !keeps_text(text) {
        return Err("a pattern has no zero byte".to_owned());
    }
    if text.chars().nth(PATTERN).is_some() {
        return Err(format!("a pattern has {PATTERN} characters at most"));
    }
    Ok(text)
}
