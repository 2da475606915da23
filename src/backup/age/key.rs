//! Keys of age: an identity opens, its recipient closes. Both are written in Bech32 (BIP 173), without its limit of length.

use std::fmt;

use x25519_dalek::{PublicKey, StaticSecret};

use super::derive;
use crate::domain::entropy::secret_bytes;

const SECRET_PREFIX: &str = "age-secret-key-";
const PUBLIC_PREFIX: &str = "age";
const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";

/// A text that is no identity.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an identity as age-keygen prints it: a letter is missing or wrong")]
pub struct BadKey;

/// What opens; it does not show itself.
#[derive(Clone)]
pub struct Identity(StaticSecret);

/// What closes, and may be known to everybody.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Recipient(PublicKey);

impl Identity {
    pub fn generate() -> Self {
        Self(StaticSecret::from(secret_bytes::<32>()))
    }

    /// Reads `AGE-SECRET-KEY-1…`.
    pub fn parse(text: &str) -> Result<Self, BadKey> {
        let text = text.trim();
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(BadKey);
        }
        let bytes = decode(SECRET_PREFIX, &text.to_ascii_lowercase()).ok_or(BadKey)?;
        let bytes: [u8; 32] = bytes.try_into().map_err(|_| BadKey)?;
        Ok(Self(StaticSecret::from(bytes)))
    }

    /// The text that [`Identity::parse`] reads.
    pub fn reveal(&self) -> String {
        encode(SECRET_PREFIX, self.0.as_bytes()).to_ascii_uppercase()
    }

    pub fn recipient(&self) -> Recipient {
        Recipient(PublicKey::from(&self.0))
    }

    /// What the key of a file with this share is wrapped in; `None` for a share nobody makes.
    pub(super) fn wrapping_key(&self, share: &[u8; 32]) -> Option<[u8; 32]> {
        let secret = self.0.diffie_hellman(&PublicKey::from(*share));
        secret
            .was_contributory()
            .then(|| self.recipient().derive(share, secret.as_bytes()))
    }
}

impl Recipient {
    /// A new share, and what a file's key is wrapped in for it.
    pub(super) fn wrapping_key(self) -> ([u8; 32], [u8; 32]) {
        let once = StaticSecret::from(secret_bytes::<32>());
        let share = PublicKey::from(&once).to_bytes();
        let secret = once.diffie_hellman(&self.0);
        (share, self.derive(&share, secret.as_bytes()))
    }

    fn derive(self, share: &[u8; 32], secret: &[u8; 32]) -> [u8; 32] {
        let salt = [share.as_slice(), self.0.as_bytes()].concat();
        derive(&salt, secret, b"age-encryption.org/v1/X25519")
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(PUBLIC_PREFIX, self.0.as_bytes()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.recipient())
    }
}

/// The same bits in groups of another size; `None` when what is left over is not nothing.
fn regroup(groups: &[u8], from: u32, to: u32, is_padded: bool) -> Option<Vec<u8>> {
    let (mut held, mut bits) = (0_u32, 0);
    let mut out = Vec::with_capacity(groups.len() * from as usize / to as usize + 1);
    let mask = (1 << to) - 1;
    for group in groups {
        held = (held << from | u32::from(*group)) & 0xffff;
        bits += from;
        while bits >= to {
            bits -= to;
            out.push(u8::try_from(held >> bits & mask).ok()?);
        }
    }
    let left = held & ((1 << bits) - 1);
    if is_padded && bits > 0 {
        out.push(u8::try_from(left << (to - bits)).ok()?);
    } else if !is_padded && (bits >= from || left != 0) {
        return None;
    }
    Some(out)
}

/// The checksum's remainder, BIP 173.
fn remainder(prefix: &str, groups: impl Iterator<Item = u8>) -> u32 {
    const GENERATOR: [u32; 5] = [
        0x3b6a_57b2,
        0x2650_8e6d,
        0x1ea1_19fa,
        0x3d42_33dd,
        0x2a14_62b3,
    ];
    let high = prefix.bytes().map(|byte| byte >> 5);
    let low = prefix.bytes().map(|byte| byte & 31);
    let mut sum = 1_u32;
    for value in high.chain([0]).chain(low).chain(groups) {
        let top = sum >> 25;
        sum = (sum & 0x01ff_ffff) << 5 ^ u32::from(value);
        for (bit, generator) in GENERATOR.iter().enumerate() {
            if top >> bit & 1 == 1 {
                sum ^= generator;
            }
        }
    }
    sum
}

fn encode(prefix: &str, bytes: &[u8]) -> String {
    let groups = regroup(bytes, 8, 5, true).unwrap_or_default();
    let sum = remainder(prefix, groups.iter().copied().chain([0; 6])) ^ 1;
    let check = (0..6).map(|at| (sum >> (5 * (5 - at)) & 31) as usize);
    let groups = groups.iter().map(|group| usize::from(*group));
    let letters = groups.chain(check).map(|at| char::from(ALPHABET[at]));
    format!("{prefix}1{}", letters.collect::<String>())
}

fn decode(prefix: &str, text: &str) -> Option<Vec<u8>> {
    let letters = text.strip_prefix(prefix)?.strip_prefix('1')?;
    let place = |byte| ALPHABET.iter().position(|letter| *letter == byte);
    let groups: Vec<u8> = letters
        .bytes()
        .map(|byte| place(byte).and_then(|at| u8::try_from(at).ok()))
        .collect::<Option<_>>()?;
    if remainder(prefix, groups.iter().copied()) != 1 {
        return None;
    }
    regroup(groups.get(..groups.len().checked_sub(6)?)?, 5, 8, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Printed by age-keygen 1.1.1.
    const SECRET: &str =
        "AGE-SECRET-KEY-17U47HHE2X3AVSN6R5HYE27YRR0VSX4RK0XT8T3VZ05Z2L37XEZESR4L6DN";
    const PUBLIC: &str = "age1jjqs05k2m4p2n443ekngasf8kjx4je4cwsgwmnspldvnrshg79kqt0gw4v";

    #[test]
    fn an_identity_of_age_keygen_is_read_and_has_its_recipient() {
        let identity = Identity::parse(SECRET).unwrap();
        assert_eq!(identity.recipient().to_string(), PUBLIC);
        assert_eq!(identity.reveal(), SECRET);
        assert!(!format!("{identity:?}").contains("SECRET"));
    }

    #[test]
    fn a_wrong_letter_is_seen() {
        for at in 16..SECRET.len() {
            let mut text = SECRET.to_owned().into_bytes();
            text[at] = if text[at] == b'Q' { b'P' } else { b'Q' };
            let text = String::from_utf8(text).unwrap();
            assert!(Identity::parse(&text).is_err(), "{text}");
        }
    }
}
