//! Short access tokens (signed, RFC 7519) and long refresh tokens (random, kept as a hash, spent once).

use std::{
    num::NonZeroUsize,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use lru::LruCache;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    domain::{
        Id,
        entropy::secret_bytes,
        id::{Host, Session, User},
        keyring::hex,
    },
    error::AppError,
};

const ISSUER: &str = "main-webserver";
const AUDIENCE: &str = "main-webserver-api";
/// No token of ours is longer.
const LONGEST: usize = 2048;
/// How many tokens that were found valid are remembered.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    aud: String,
    sub: String,
    sid: String,
    iat: i64,
    exp: i64,
}

/// Signs and checks access tokens.
pub struct AccessTokens {
    signing: EncodingKey,
    checking: DecodingKey,
    validation: Validation,
    /// What they say: a token is shown again and again, and its signature does not change.
    valid: Mutex<LruCache<Box<str>, Claimed>>,
}

/// Whom a valid token names.
#[derive(Clone, Copy)]
pub struct Claimed {
    pub user: Id<User>,
    pub session: Id<Session>,
    pub expires: DateTime<Utc>,
}

impl AccessTokens {
    pub fn new(key: &[u8; 32]) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(&[AUDIENCE]);
        validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
        // The library would ask the machine's clock; `verify` asks ours.
        validation.validate_exp = false;
        Self {
            signing: EncodingKey::from_secret(key),
            checking: DecodingKey::from_secret(key),
            validation,
            valid: Mutex::new(LruCache::new(REMEMBERED)),
        }
    }

    /// A token for this login, and when it ends.
    pub fn sign(
        &self,
        user: Id<User>,
        session: Id<Session>,
        life: Duration,
        now: DateTime<Utc>,
    ) -> Result<(String, DateTime<Utc>), AppError> {
        let expires = now + life;
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud: AUDIENCE.to_owned(),
            sub: user.to_string(),
            sid: session.to_string(),
            iat: now.timestamp(),
            exp: expires.timestamp(),
        };
        let token = encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(AppError::internal)?;
        Ok((token, expires))
    }

    /// Whom `token` names, if it is one of ours and not over.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claimed, AppError> {
        let known = self.valid().get(token).copied();
        let claimed = known.map_or_else(|| self.read(token), Ok)?;
        if claimed.expires <= now {
            return Err(AppError::Unauthenticated("the access token has expired"));
        }
        Ok(claimed)
    }

    fn valid(&self) -> MutexGuard<'_, LruCache<Box<str>, Claimed>> {
        self.valid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a token of ours says, from now on remembered.
    fn read(&self, token: &str) -> Result<Claimed, AppError> {
        const WRONG: AppError = AppError::Unauthenticated("the access token is not valid");
        if token.len() > LONGEST {
            return Err(WRONG);
        }
        let claims = decode::<Claims>(token, &self.checking, &self.validation)
            .map_err(|_| WRONG)?
            .claims;
        let user = Id::parse(&claims.sub).ok_or(WRONG)?;
        let session = Id::parse(&claims.sid).ok_or(WRONG)?;
        let expires = DateTime::from_timestamp(claims.exp, 0).ok_or(WRONG)?;
        let claimed = Claimed {
            user,
            session,
            expires,
        };
        self.valid().put(token.into(), claimed);
        Ok(claimed)
    }
}

/// A refresh token, a registration token or a host's secret: 256 random bits for the client, their hash for the database.
pub struct SecretToken {
    pub token: String,
    pub hash: String,
}

impl SecretToken {
    pub fn generate() -> Self {
        let token = URL_SAFE_NO_PAD.encode(secret_bytes::<32>());
        Self {
            hash: Self::hash_of(&token),
            token,
        }
    }

    /// The hash a presented token is looked up by. The token is as random as the hash, so a plain SHA-256 will do.
    pub fn hash_of(token: &str) -> String {
        hex(&Sha256::digest(token.as_bytes()))
    }
}

/// What a host's agent shows: the host's id, and a secret of which only the hash is kept.
pub struct HostCredential;

impl HostCredential {
    /// The text an agent keeps and sends as its bearer token.
    pub fn write(host: Id<Host>, secret: &str) -> String {
        format!("{host}.{secret}")
    }

    /// The host and the hash of the secret; `None` for what is no host's credential.
    pub fn read(text: &str) -> Option<(Id<Host>, String)> {
        let (host, secret) = text.split_once('.')?;
        Some((Id::parse(host)?, SecretToken::hash_of(secret)))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_token_is_good_for_its_time_and_its_key_only() {
        let (user, session) = (Id::new(Uuid::from_u128(1)), Id::new(Uuid::from_u128(2)));
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let tokens = AccessTokens::new(&[1; 32]);
        let (token, expires) = tokens
            .sign(user, session, Duration::from_secs(900), now)
            .unwrap();
        assert_eq!(tokens.verify(&token, now).unwrap().session, session);
        assert!(tokens.verify(&token, expires).is_err());
        assert!(AccessTokens::new(&[2; 32]).verify(&token, now).is_err());
        for broken in [
            "",
            "a.b.c",
            &token[1..],
            &format!("{token}x"),
            &"x".repeat(10_000),
        ] {
            assert_eq!(
                tokens.verify(broken, now).err().map(|e| e.code()),
                Some("UNAUTHENTICATED"),
                "{broken}"
            );
        }
        // An unsigned token, as the "none" attack sends it.
        let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", token.split('.').nth(1).unwrap());
        assert!(tokens.verify(&unsigned, now).is_err());
    }
}
