//! What an age file starts with: the file's key, wrapped for whom it is meant.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD as BASE64};
use ring::{
    aead::{Aad, Nonce},
    hmac,
};

use super::{AgeError, Identity, Recipient, aead, derive};

const VERSION: &str = "age-encryption.org/v1";
const STANZA: &str = "-> X25519 ";
const LAST: &str = "---";
/// Longest header that is read.
const HEADER_LIMIT: usize = 16 * 1024;

/// Writes the header of a file with `file_key` for `recipient`.
pub(super) fn write(recipient: &Recipient, file_key: &[u8; 16], out: &mut Vec<u8>) {
    let (share, wrapping) = recipient.wrapping_key();
    let mut wrapped = file_key.to_vec();
    #[expect(
        clippy::expect_used,
        reason = "16 bytes are far below the cipher's limit"
    )]
    aead(&wrapping)
        .seal_in_place_append_tag(once(), Aad::empty(), &mut wrapped)
        .expect("a key fits");
    let mut text = format!(
        "{VERSION}\n{STANZA}{}\n{}\n{LAST}",
        BASE64.encode(share),
        BASE64.encode(wrapped),
    );
    let mac = hmac::sign(&mac_key(file_key), text.as_bytes());
    text.push(' ');
    text.push_str(&BASE64.encode(mac));
    text.push('\n');
    out.extend_from_slice(text.as_bytes());
}

/// The file's key and where the header ends; `None` while it is not complete.
pub(super) fn read(
    file: &[u8],
    identities: &[Identity],
) -> Result<Option<([u8; 16], usize)>, AgeError> {
    let begins = &file[..file.len().min(VERSION.len())];
    if begins != &VERSION.as_bytes()[..begins.len()] {
        return Err(AgeError::Format);
    }
    let Some(last) = find(file, b"\n--- ") else {
        return if file.len() > HEADER_LIMIT {
            Err(AgeError::Format)
        } else {
            Ok(None)
        };
    };
    let signed = last + 1 + LAST.len();
    let Some(length) = find(&file[signed..], b"\n") else {
        return if file.len() - signed > 100 {
            Err(AgeError::Format)
        } else {
            Ok(None)
        };
    };
    let text = std::str::from_utf8(&file[..last]).map_err(|_| AgeError::Format)?;
    let mac = std::str::from_utf8(&file[signed + 1..signed + length])
        .ok()
        .and_then(|mac| BASE64.decode(mac).ok())
        .ok_or(AgeError::Format)?;
    let file_key = unwrap(text, identities)?;
    hmac::verify(&mac_key(&file_key), &file[..signed], &mac).map_err(|_| AgeError::Changed)?;
    Ok(Some((file_key, signed + length + 1)))
}

/// The file's key from the first stanza that is for one of `identities`; stanzas of other kinds are left alone.
fn unwrap(text: &str, identities: &[Identity]) -> Result<[u8; 16], AgeError> {
    let mut lines = text.lines();
    if lines.next() != Some(VERSION) {
        return Err(AgeError::Format);
    }
    while let Some(line) = lines.next() {
        let Some(share) = line.strip_prefix(STANZA) else {
            continue;
        };
        let body = lines.next().ok_or(AgeError::Format)?;
        let decode = |text| BASE64.decode(text).map_err(|_| AgeError::Format);
        let share: [u8; 32] = decode(share)?.try_into().map_err(|_| AgeError::Format)?;
        let wrapped = decode(body)?;
        if wrapped.len() != 32 {
            return Err(AgeError::Format);
        }
        for identity in identities {
            let Some(wrapping) = identity.wrapping_key(&share) else {
                continue;
            };
            let mut wrapped = wrapped.clone();
            let opened = aead(&wrapping).open_in_place(once(), Aad::empty(), &mut wrapped);
            if let Ok(key) = opened {
                return <[u8; 16]>::try_from(&*key).map_err(|_| AgeError::Format);
            }
        }
    }
    Err(AgeError::WrongKey)
}

/// The wrapping key is used once, so its nonce may be nothing.
fn once() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

fn mac_key(file_key: &[u8; 16]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &derive(&[], file_key, b"header"))
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .take(HEADER_LIMIT)
        .position(|window| window == wanted)
}
