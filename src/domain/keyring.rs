//! Keys derived from the one secret of the deployment, each for one purpose.

use std::fmt;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{
    Id,
    id::{Container, VirtualMachine},
};

/// Derives keys; it holds the secret and never shows it.
#[derive(Clone)]
pub struct Keyring(Vec<u8>);

impl Keyring {
    pub fn new(secret: &str) -> Self {
        Self(secret.as_bytes().to_vec())
    }

    /// The key for `purpose` and `context`: HMAC-SHA-256 (RFC 2104) under the secret, the parts told apart by a zero.
    fn derive(&self, purpose: &str, context: &[u8]) -> [u8; 32] {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length");
        mac.update(purpose.as_bytes());
        mac.update(&[0]);
        mac.update(context);
        mac.finalize().into_bytes().into()
    }

    /// What access tokens are signed with.
    pub fn access_token_key(&self) -> [u8; 32] {
        self.derive("access-token", &[])
    }

    /// What secret values of the configuration database are encrypted with.
    pub fn configuration_key(&self) -> [u8; 32] {
        self.derive("configuration", &[])
    }

    /// What tells this deployment from others on the same engine: 16 hexadecimal digits.
    pub fn deployment(&self) -> String {
        hex(&self.derive("deployment", &[])[..8])
    }

    /// The key a container shows to prove which one it is, in hexadecimal. Derived, so that it is stored nowhere.
    pub fn container_key(&self, id: Id<Container>) -> String {
        hex(&self.derive("container", id.uuid().as_bytes()))
    }

    /// The same for a virtual machine.
    pub fn machine_key(&self, id: Id<VirtualMachine>) -> String {
        hex(&self.derive("virtual-machine", id.uuid().as_bytes()))
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(…)")
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn each_container_has_its_own_lasting_key() {
        let keyring = Keyring::new("secret");
        let (one, two) = (Id::new(Uuid::from_u128(1)), Id::new(Uuid::from_u128(2)));
        assert_eq!(
            keyring.container_key(one),
            Keyring::new("secret").container_key(one)
        );
        assert_ne!(keyring.container_key(one), keyring.container_key(two));
        assert_ne!(
            keyring.container_key(one),
            Keyring::new("other").container_key(one)
        );
    }
}
