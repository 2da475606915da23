//! The file format of age, version 1, to one X25519 recipient (C2SP, `age.md`), a piece at a time: what is written here
//! `age --decrypt --identity KEY` opens, without this program.

mod header;
mod key;

use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf,
};

pub use key::{Identity, Recipient};

use crate::domain::entropy::secret_bytes;

/// Plain bytes of a chunk; each but the last has just so many.
const CHUNK: usize = 64 * 1024;
/// What sealing adds to a chunk.
const TAG: usize = 16;

/// Why a file could not be opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AgeError {
    #[error("it is not in age's format")]
    Format,
    /// None of the identities is meant.
    #[error("it is encrypted to another key")]
    WrongKey,
    /// A bit is not as it was written.
    #[error("it has been changed since it was written")]
    Changed,
    #[error("its end is missing")]
    Cut,
}

/// The keys of one file's chunks, in their order.
struct Chunks {
    key: LessSafeKey,
    counter: u128,
}

impl Chunks {
    fn new(file_key: &[u8; 16], nonce: &[u8; 16]) -> Self {
        let key = derive(nonce, file_key, b"payload");
        Self {
            key: aead(&key),
            counter: 0,
        }
    }

    /// STREAM's nonce: eleven bytes of the chunk's number, one that says whether it is the last.
    fn nonce(&mut self, is_last: bool) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..11].copy_from_slice(&self.counter.to_be_bytes()[5..]);
        nonce[11] = u8::from(is_last);
        self.counter += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Closes a file, a piece at a time.
pub struct Encryptor {
    chunks: Chunks,
    /// Less than a chunk, or a whole one that may be the last.
    waiting: Vec<u8>,
}

impl Encryptor {
    /// Begins a file to `recipient`; what it starts with goes to `out`.
    pub fn new(recipient: &Recipient, out: &mut Vec<u8>) -> Self {
        let file_key = secret_bytes::<16>();
        let nonce = secret_bytes::<16>();
        header::write(recipient, &file_key, out);
        out.extend_from_slice(&nonce);
        Self {
            chunks: Chunks::new(&file_key, &nonce),
            waiting: Vec::with_capacity(CHUNK + TAG),
        }
    }

    /// Takes more of the plain bytes and appends what is closed by them.
    pub fn push(&mut self, mut plain: &[u8], out: &mut Vec<u8>) {
        while !plain.is_empty() {
            if self.waiting.len() == CHUNK {
                self.seal(false, out);
            }
            let taken = plain.len().min(CHUNK - self.waiting.len());
            self.waiting.extend_from_slice(&plain[..taken]);
            plain = &plain[taken..];
        }
    }

    /// Appends the last chunk.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.seal(true, out);
    }

    fn seal(&mut self, is_last: bool, out: &mut Vec<u8>) {
        let nonce = self.chunks.nonce(is_last);
        #[expect(
            clippy::expect_used,
            reason = "a chunk is far below the cipher's limit"
        )]
        self.chunks
            .key
            .seal_in_place_append_tag(nonce, Aad::empty(), &mut self.waiting)
            .expect("a chunk fits");
        out.extend_from_slice(&self.waiting);
        self.waiting.clear();
    }
}

/// Opens a file, a piece at a time. Bytes come out only after their chunk has proved to be whole.
pub struct Decryptor<'a> {
    identities: &'a [Identity],
    /// `None` while the header is not complete.
    chunks: Option<Chunks>,
    waiting: Vec<u8>,
    is_first: bool,
}

impl<'a> Decryptor<'a> {
    pub const fn new(identities: &'a [Identity]) -> Self {
        Self {
            identities,
            chunks: None,
            waiting: Vec::new(),
            is_first: true,
        }
    }

    /// Takes more of the file and appends what is open by it.
    pub fn push(&mut self, closed: &[u8], out: &mut Vec<u8>) -> Result<(), AgeError> {
        self.waiting.extend_from_slice(closed);
        if self.chunks.is_none() {
            let Some((file_key, used)) = header::read(&self.waiting, self.identities)? else {
                return Ok(());
            };
            let Some(nonce) = self.waiting.get(used..used + 16) else {
                return Ok(());
            };
            let nonce = nonce.try_into().map_err(|_| AgeError::Format)?;
            self.chunks = Some(Chunks::new(&file_key, &nonce));
            self.waiting.drain(..used + 16);
        }
        // A whole chunk may be the last, so it waits for a byte behind it.
        let mut opened = 0;
        while self.waiting.len() - opened > CHUNK + TAG {
            let end = opened + CHUNK + TAG;
            Self::open(&mut self.chunks, &mut self.waiting[opened..end], false, out)?;
            self.is_first = false;
            opened = end;
        }
        self.waiting.drain(..opened);
        Ok(())
    }

    /// Opens the last chunk; an error when the file ends where it should not.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), AgeError> {
        if self.chunks.is_none() || self.waiting.len() < TAG {
            return Err(AgeError::Cut);
        }
        // Only a file of nothing ends with a chunk of nothing.
        if self.waiting.len() == TAG && !self.is_first {
            return Err(AgeError::Format);
        }
        let mut tried = self.waiting.clone();
        match Self::open(&mut self.chunks, &mut tried, true, out) {
            Err(AgeError::Changed) => {
                // A chunk that opens as one in the middle has lost what followed it.
                if let Some(chunks) = &mut self.chunks {
                    chunks.counter -= 1;
                }
                let mut nothing = Vec::new();
                match Self::open(&mut self.chunks, &mut self.waiting, false, &mut nothing) {
                    Ok(()) => Err(AgeError::Cut),
                    Err(error) => Err(error),
                }
            }
            opened => opened,
        }
    }

    fn open(
        chunks: &mut Option<Chunks>,
        closed: &mut [u8],
        is_last: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), AgeError> {
        let chunks = chunks.as_mut().ok_or(AgeError::Cut)?;
        let nonce = chunks.nonce(is_last);
        let plain = chunks
            .key
            .open_in_place(nonce, Aad::empty(), closed)
            .map_err(|_| AgeError::Changed)?;
        out.extend_from_slice(plain);
        Ok(())
    }
}

/// HKDF-SHA-256 (RFC 5869), 32 bytes.
fn derive(salt: &[u8], secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut derived = [0; 32];
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, salt).extract(secret);
    #[expect(clippy::expect_used, reason = "32 bytes are one block")]
    extracted
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|block| block.fill(&mut derived))
        .expect("one block");
    derived
}

fn aead(key: &[u8; 32]) -> LessSafeKey {
    #[expect(clippy::expect_used, reason = "the cipher's keys have 32 bytes")]
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(plain: &[u8], identity: &Identity) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encryptor = Encryptor::new(&identity.recipient(), &mut out);
        for piece in plain.chunks(1000) {
            encryptor.push(piece, &mut out);
        }
        encryptor.finish(&mut out);
        out
    }

    fn opened(file: &[u8], identity: &Identity, piece: usize) -> Result<Vec<u8>, AgeError> {
        let identities = [identity.clone()];
        let mut decryptor = Decryptor::new(&identities);
        let mut out = Vec::new();
        for piece in file.chunks(piece) {
            decryptor.push(piece, &mut out)?;
        }
        decryptor.finish(&mut out)?;
        Ok(out)
    }

    fn plain(length: usize) -> Vec<u8> {
        (0..length)
            .map(|at| u8::try_from(at * 7 % 251).unwrap())
            .collect()
    }

    #[test]
    fn what_is_closed_opens_again_at_every_length_around_a_chunk() {
        let identity = Identity::generate();
        for length in [
            0,
            1,
            1000,
            CHUNK - 1,
            CHUNK,
            CHUNK + 1,
            3 * CHUNK,
            3 * CHUNK + 5,
        ] {
            let file = closed(&plain(length), &identity);
            for piece in [1 << 20, 4093] {
                assert_eq!(opened(&file, &identity, piece).unwrap(), plain(length));
            }
        }
    }

    #[test]
    fn another_key_is_told_from_damage() {
        let file = closed(b"text", &Identity::generate());
        let other = opened(&file, &Identity::generate(), 100);
        assert_eq!(other, Err(AgeError::WrongKey));
        assert_eq!(
            opened(
                b"PGDMP and so on, for longer than a line\n",
                &Identity::generate(),
                100
            ),
            Err(AgeError::Format)
        );
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let identity = Identity::generate();
        let file = closed(&plain(CHUNK + 100), &identity);
        for at in (0..400)
            .chain((400..file.len()).step_by(1009))
            .chain([file.len() - 1])
        {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(opened(&changed, &identity, 5000).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_missing_end_is_seen_at_every_place() {
        let identity = Identity::generate();
        let file = closed(&plain(2 * CHUNK + 100), &identity);
        let header = file.len() - (2 * CHUNK + 100 + 3 * TAG);
        for length in (0..file.len()).step_by(997).chain([
            header,
            header + CHUNK + TAG,
            header + 2 * (CHUNK + TAG),
        ]) {
            assert!(
                opened(&file[..length], &identity, 5000).is_err(),
                "cut at {length}"
            );
        }
        let between = &file[..header + CHUNK + TAG];
        assert_eq!(opened(between, &identity, 5000), Err(AgeError::Cut));
    }
}
