//! Text that does not show itself in logs or errors.

use std::fmt;

/// A secret; only [`Secret::expose`] gives it out.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A URL without its password, for a person to read.
    pub fn without_password(&self) -> String {
        url::Url::parse(&self.0).map_or_else(
            |_| "…".to_owned(),
            |mut url| {
                if url.password().is_some() {
                    let _ = url.set_password(Some("…"));
                }
                url.set_query(None);
                url.to_string().replace("%E2%80%A6", "…")
            },
        )
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}
