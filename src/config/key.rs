//! What a setting is: its name, its type, what it is for. Help, documentation, reading and checking all follow from it.

use std::sync::LazyLock;

use super::{Settings, Sources};

/// The type of a setting: what it accepts, what holds when nothing is set, and how a text is read.
pub(super) trait Kind {
    type Value;

    /// What is accepted, for a person.
    fn accepts(&self) -> String;

    /// What holds when nothing is set, for a person.
    fn usual(&self) -> String;

    /// The value, or what is wrong with the text. A secret's text is never a part of the problem.
    fn read(&self, text: Option<&str>, sources: &Sources) -> Result<Self::Value, String>;

    /// Whether it is encrypted where it is stored, and masked where it is shown.
    fn is_secret(&self) -> bool {
        false
    }

    /// A text as it is shown.
    fn shown(&self, text: &str) -> String {
        text.to_owned()
    }
}

type Check = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;
type Show = Box<dyn Fn(&str) -> String + Send + Sync>;

/// A setting, with its type put aside.
pub struct Key {
    pub name: &'static str,
    pub what: String,
    pub accepts: String,
    /// What holds when nothing is set; empty when that is nothing.
    pub usual: String,
    pub is_secret: bool,
    /// Whether a running process follows a change.
    pub reloads: bool,
    /// Whether it says where the others are, and so cannot be stored with them.
    pub is_local: bool,
    check: Check,
    show: Show,
}

impl Key {
    pub(super) fn new<K: Kind + Clone + Send + Sync + 'static>(
        name: &'static str,
        what: &str,
        kind: K,
        flags: &[&str],
    ) -> Self {
        let (accepts, usual, is_secret) = (kind.accepts(), kind.usual(), kind.is_secret());
        let shown = kind.clone();
        Self {
            name,
            what: what.trim().to_owned(),
            accepts,
            usual,
            is_secret,
            reloads: flags.contains(&"reloads"),
            is_local: flags.contains(&"local"),
            check: Box::new(move |text| kind.read(Some(text), &Sources::default()).map(|_| ())),
            show: Box::new(move |text| shown.shown(text)),
        }
    }

    /// What is wrong with `text` as its value, if anything is.
    pub fn check(&self, text: &str) -> Result<(), String> {
        (self.check)(text)
    }

    /// `text` without what is secret in it.
    pub fn shown(&self, text: &str) -> String {
        (self.show)(text)
    }

    /// What it accepts, with the default in brackets.
    pub fn expected(&self) -> String {
        if self.usual.is_empty() {
            self.accepts.clone()
        } else {
            format!("{} [{}]", self.accepts, self.usual)
        }
    }
}

/// Every setting, in the order `--help` shows them.
pub static KEYS: LazyLock<Vec<Key>> = LazyLock::new(Settings::keys);

/// The setting called `name`.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The known name that takes the fewest edits to reach, when that is few.
pub fn nearest(name: &str) -> Option<&'static str> {
    let wanted = name.to_uppercase();
    KEYS.iter()
        .map(|key| (edits(&wanted, key.name), key.name))
        .min()
        .filter(|(distance, _)| *distance <= 3.max(name.len() / 3))
        .map(|(_, name)| name)
}

/// Levenshtein distance, by rows.
fn edits(from: &str, to: &str) -> usize {
    let to = to.as_bytes();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// Declares a group of settings: a struct, its keys, and its reading. A field is
///
/// ```text
/// /// what it is for
/// NAME field: Type = kind, flag…;
/// ```
///
/// with the flags `reloads` (a running process follows a change) and `local` (it is never stored with the others). Names
/// that another's kind reads stand under `also`, groups in this one under `groups`.
macro_rules! settings {
    (
        $(#[$about:meta])*
        pub struct $Group:ident {
            $( $(#[doc = $what:literal])+ $KEY:ident $field:ident: $Type:ty = $kind:expr $(, $flag:ident)*; )*
        }
        $( also { $( $(#[doc = $also_what:literal])+ $ALSO:ident = $also:expr; )* } )?
        $( groups { $( $nested:ident: $Nested:ty ),* $(,)? } )?
    ) => {
        $(#[$about])*
        #[allow(clippy::doc_markdown, reason = "what `--help` shows, as plain words")]
        #[derive(Debug, Clone)]
        pub struct $Group {
            $( $(#[doc = $what])+ pub $field: $Type, )*
            $( $( #[doc = "A group of its own."] pub $nested: $Nested, )* )?
        }

        impl $Group {
            pub(super) fn keys() -> Vec<$crate::config::key::Key> {
                #[allow(unused_mut)]
                let mut keys = vec![
                    $( $crate::config::key::Key::new(stringify!($KEY), concat!($($what),+), $kind, &[$(stringify!($flag)),*]), )*
                    $( $( $crate::config::key::Key::new(stringify!($ALSO), concat!($($also_what),+), $also, &[]), )* )?
                ];
                $( $( keys.extend(<$Nested>::keys()); )* )?
                keys
            }

            pub(super) fn read(sources: &$crate::config::Sources) -> Result<Self, $crate::config::ConfigError> {
                Ok(Self {
                    $( $field: sources.read(stringify!($KEY), &$kind)?, )*
                    $( $( $nested: <$Nested>::read(sources)?, )* )?
                })
            }
        }
    };
}
pub(super) use settings;
