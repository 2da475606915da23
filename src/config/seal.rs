//! Encryption of single values: ChaCha20-Poly1305 (RFC 8439) under a key of the deployment, bound to the place they stand in.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::Secret;
use crate::domain::{Keyring, entropy::secret_bytes};

/// In front of every sealed value: the format's version.
const VERSION: &str = "v1:";

/// What seals and opens.
#[derive(Clone)]
pub(super) struct SealKey([u8; 32]);

/// A value that cannot be opened: another key sealed it, for another place, or it has been changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotOpened;

impl SealKey {
    pub(super) fn new(secret: &Secret) -> Self {
        Self(Keyring::new(secret.expose()).configuration_key())
    }

    fn cipher(&self) -> LessSafeKey {
        #[expect(clippy::expect_used, reason = "the key has the algorithm's length")]
        let key = UnboundKey::new(&CHACHA20_POLY1305, &self.0).expect("32 bytes");
        LessSafeKey::new(key)
    }

    /// `plain`, readable only with this key and as the value of `place`.
    pub(super) fn seal(&self, place: &str, plain: &str) -> String {
        // Random nonces of 96 bits are safe for 2^32 values of a key (NIST SP 800-38D, 8.3).
        let nonce = secret_bytes::<NONCE_LEN>();
        let mut text = plain.as_bytes().to_vec();
        #[expect(clippy::expect_used, reason = "only a text of gigabytes is refused")]
        self.cipher()
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(place.as_bytes()),
                &mut text,
            )
            .expect("a short text");
        let mut sealed = nonce.to_vec();
        sealed.extend(text);
        format!("{VERSION}{}", BASE64_STANDARD.encode(sealed))
    }

    pub(super) fn open(&self, place: &str, sealed: &str) -> Result<String, NotOpened> {
        let coded = sealed.strip_prefix(VERSION).ok_or(NotOpened)?;
        let mut bytes = BASE64_STANDARD.decode(coded).map_err(|_| NotOpened)?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(NotOpened)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| NotOpened)?;
        let plain = self
            .cipher()
            .open_in_place(nonce, Aad::from(place.as_bytes()), text)
            .map_err(|_| NotOpened)?;
        String::from_utf8(plain.to_vec()).map_err(|_| NotOpened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_with_its_key_in_its_place_and_unchanged() {
        let key = SealKey::new(&Secret::new("k".repeat(32)));
        let sealed = key.seal("prod/SECRET_KEY", "hunter2");
        assert!(!sealed.contains("hunter2"));
        assert_ne!(sealed, key.seal("prod/SECRET_KEY", "hunter2"));
        assert_eq!(
            key.open("prod/SECRET_KEY", &sealed).as_deref(),
            Ok("hunter2")
        );
        assert_eq!(key.open("dev/SECRET_KEY", &sealed), Err(NotOpened));
        let other = SealKey::new(&Secret::new("o".repeat(32)));
        assert_eq!(other.open("prod/SECRET_KEY", &sealed), Err(NotOpened));
        let mut bytes = BASE64_STANDARD.decode(&sealed[VERSION.len()..]).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            let changed = format!("{VERSION}{}", BASE64_STANDARD.encode(&bytes));
            assert_eq!(key.open("prod/SECRET_KEY", &changed), Err(NotOpened));
            bytes[at] ^= 1;
        }
        for text in ["", "v1:", "v1:AAAA", "hunter2", "v2:AAAA"] {
            assert_eq!(key.open("prod/SECRET_KEY", text), Err(NotOpened));
        }
    }
}
