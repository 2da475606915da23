//! Passwords: argon2id, hashed off the async threads and only a few at once.

use argon2::{
    Algorithm, Argon2, Params, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::phc::PasswordHash,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::Semaphore;

use crate::{
    domain::{entropy::secret_bytes, value::NewPassword},
    error::AppError,
};

/// Memory in KiB, passes and lanes: the OWASP Password Storage Cheat Sheet's first choice for argon2id.
const COST: (u32, u32, u32) = (19_456, 2, 1);
/// Hashes computed at the same time; the others wait, so that a burst of log-ins does not take every core.
const AT_ONCE: usize = 4;

/// Hashes and checks passwords.
#[derive(Debug)]
pub struct Passwords {
    turns: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
        }
    }
}

fn argon2id() -> Argon2<'static> {
    let (memory, passes, lanes) = COST;
    #[expect(
        clippy::expect_used,
        reason = "the three constants are within argon2's bounds, which a test shows"
    )]
    let params = Params::new(memory, passes, lanes, None).expect("valid cost");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

impl Passwords {
    /// The hash of `password` in PHC form, with a salt of its own.
    pub async fn hash(&self, password: &NewPassword) -> Result<String, AppError> {
        let password = password.as_str().to_owned();
        self.aside(move || {
            argon2id()
                .hash_password(password.as_bytes())
                .map(|hash: PasswordHash| hash.to_string())
                .map_err(|error| AppError::internal(std::io::Error::other(error.to_string())))
        })
        .await?
    }

    /// Whether `password` has this hash. Without a hash it takes as long and says no, so that the time does not tell
    /// which addresses have an account.
    pub async fn is_right(&self, password: &str, hash: Option<String>) -> Result<bool, AppError> {
        let password = password.to_owned();
        self.aside(move || {
            if let Some(Ok(hash)) = hash.as_deref().map(PasswordHash::new) {
                return argon2id()
                    .verify_password(password.as_bytes(), &hash)
                    .is_ok();
            }
            let _: Result<PasswordHash, _> = argon2id().hash_password(password.as_bytes());
            false
        })
        .await
    }

    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, AppError> {
        let _turn = self.turns.acquire().await.map_err(AppError::internal)?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(AppError::internal)
    }
}

/// A password nobody has chosen: 128 random bits in 22 characters.
pub fn generate() -> String {
    URL_SAFE_NO_PAD.encode(secret_bytes::<16>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_passes() {
        let passwords = Passwords::default();
        let chosen = NewPassword::parse("correct horse battery").unwrap();
        let hash = passwords.hash(&chosen).await.unwrap();
        assert!(
            hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{hash}"
        );
        assert!(
            passwords
                .is_right("correct horse battery", Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .is_right("correct horse batterx", Some(hash))
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .is_right("correct horse battery", None)
                .await
                .unwrap()
        );
        assert!(
            !passwords
                .is_right("x", Some("no hash".to_owned()))
                .await
                .unwrap()
        );
    }
}
