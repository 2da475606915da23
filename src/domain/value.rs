//! Values that cannot be wrong: parsed once at the edge, never checked again inside.

use std::fmt;

/// Why a value was refused, in words for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

fn refuse<T>(reason: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(reason.into()))
}

/// An e-mail address, trimmed and in lower case; at most 254 bytes (RFC 5321).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email(String);

impl Email {
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim().to_lowercase();
        let Some((local, domain)) = text.rsplit_once('@') else {
            return refuse("an e-mail address has the form name@domain");
        };
        let is_plain = |part: &str| {
            !part.is_empty()
                && !part
                    .chars()
                    .any(|c| c.is_whitespace() || c.is_control() || c == '@')
        };
        let is_domain = is_plain(domain)
            && !domain.starts_with(['.', '-'])
            && !domain.ends_with(['.', '-'])
            && !domain.contains("..");
        if !is_plain(local) || !is_domain || text.len() > 254 {
            return refuse("an e-mail address has the form name@domain, at most 254 bytes");
        }
        Ok(Self(text))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A person's name: 1 to 100 characters after trimming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DisplayName(String);

impl DisplayName {
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > 100 || text.chars().any(char::is_control) {
            return refuse("a name has 1 to 100 printable characters");
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A password a person may choose: 12 to 256 characters (NIST SP 800-63B asks for length, not for composition).
#[derive(Clone)]
pub struct NewPassword(String);

impl NewPassword {
    pub fn parse(text: &str) -> Result<Self, Refused> {
        match text.chars().count() {
            12..=256 => Ok(Self(text.to_owned())),
            _ => refuse("a password has 12 to 256 characters"),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for NewPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NewPassword(…)")
    }
}

/// Dots per inch of a container's display, 48 to 480.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dpi(u16);

impl Dpi {
    /// That of a display nobody has said anything about.
    pub const USUAL: Self = Self(96);

    pub fn parse(dpi: i32) -> Result<Self, Refused> {
        match u16::try_from(dpi) {
            Ok(dpi @ 48..=480) => Ok(Self(dpi)),
            Ok(_) | Err(_) => refuse("dpi lies between 48 and 480"),
        }
    }

    pub const fn get(self) -> u16 {
        self.0
    }
}

/// The name of an app or a region: 1 to 63 lower-case letters, digits and dashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slug(String);

impl Slug {
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let is_slug = (1..=63).contains(&text.len())
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if is_slug {
            Ok(Self(text.to_owned()))
        } else {
            refuse("1 to 63 lower-case letters, digits and dashes are expected")
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A client's own key for a request, 1 to 128 visible ASCII characters; the same key gives the same task again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let is_key = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if is_key {
            Ok(Self(text.to_owned()))
        } else {
            refuse("an idempotency key has 1 to 128 visible ASCII characters")
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn e_mail_addresses_are_normalised_or_refused() {
        assert_eq!(
            Email::parse("  Ada@Example.COM ").map(|e| e.as_str().to_owned()),
            Ok("ada@example.com".to_owned())
        );
        assert!(Email::parse("admin@localhost").is_ok());
        for text in [
            "",
            "ada",
            "@x",
            "ada@",
            "a b@x.y",
            "ada@.x",
            "ada@x..y",
            "a\u{0}@x.y",
        ] {
            assert!(Email::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn dpi_has_bounds() {
        assert!(Dpi::parse(48).is_ok() && Dpi::parse(480).is_ok());
        for dpi in [i32::MIN, -96, 0, 47, 481, 65_632, i32::MAX] {
            assert!(Dpi::parse(dpi).is_err(), "{dpi}");
        }
    }
}
