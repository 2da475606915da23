//! A dump on its way: out, counted and closed; back, checked and opened. A few pieces are held at a time.

use bytes::Bytes;
use futures_util::StreamExt as _;
use ring::digest::{Context, SHA256};
use tokio::sync::mpsc;

use super::{
    AgeError, BackupError, Identity, Manifest, Vault, Watcher,
    age::{Decryptor, Encryptor, Recipient},
    upload::Upload,
};
use crate::domain::keyring::hex;

/// Pieces between two parties.
pub(super) const PIECES: usize = 8;
/// Bytes between two words about progress.
const TELLS: u64 = 64 << 20;

/// A part of the whole work, in percent, and how much it is about.
pub(super) struct Span<'a> {
    pub watcher: &'a dyn Watcher,
    pub from: u8,
    pub to: u8,
    pub doing: &'static str,
    /// Bytes, about; 0 when nobody knows.
    pub whole: u64,
}

impl Span<'_> {
    async fn tell(&self, done: u64) -> Result<(), BackupError> {
        let share = done.min(self.whole) * u64::from(self.to - self.from);
        let percent = share.checked_div(self.whole).unwrap_or_default();
        let percent = self.from + u8::try_from(percent).unwrap_or_default();
        let message = format!("{}, {} MiB", self.doing, done >> 20);
        self.watcher.progress(percent, &message).await
    }
}

/// Writes what comes from `dump`, closed for `recipient` where there is one; the number of bytes that came.
pub(super) async fn out(
    mut dump: mpsc::Receiver<Bytes>,
    recipient: Option<Recipient>,
    upload: &mut Upload,
    span: Span<'_>,
) -> Result<u64, BackupError> {
    let mut closing = recipient.map(|recipient| Encryptor::new(&recipient, upload.waiting()));
    let (mut bytes, mut told) = (0, 0);
    while let Some(piece) = dump.recv().await {
        bytes += piece.len() as u64;
        match &mut closing {
            Some(closing) => closing.push(&piece, upload.waiting()),
            None => upload.waiting().extend_from_slice(&piece),
        }
        upload.flow().await?;
        if bytes - told >= TELLS {
            told = bytes;
            span.tell(bytes).await?;
        }
    }
    if let Some(closing) = closing {
        closing.finish(upload.waiting());
    }
    Ok(bytes)
}

/// Sends the dump of a backup to `dump`, opened; an error when a byte of it is not what was written.
///
/// What is encrypted proves itself before it is sent on. What is not has come all the way before it is known to be whole,
/// so nothing may come of it before this has ended well.
pub(super) async fn back(
    vault: &Vault,
    manifest: &Manifest,
    identities: &[Identity],
    dump: mpsc::Sender<Bytes>,
    span: Span<'_>,
) -> Result<(), BackupError> {
    let name = || manifest.name.clone();
    let damaged = |problem: String| BackupError::Damaged {
        name: name(),
        problem,
    };
    if manifest.encryption.is_some() && identities.is_empty() {
        return Err(BackupError::NoKey { name: name() });
    }
    let opened = |result: Result<(), AgeError>| {
        result.map_err(|error| match (error, &manifest.encryption) {
            (AgeError::WrongKey, Some(encryption)) => BackupError::WrongKey {
                name: name(),
                recipient: encryption.recipient.clone(),
            },
            (error, _) => damaged(error.to_string()),
        })
    };
    let mut opening = manifest
        .encryption
        .as_ref()
        .map(|_| Decryptor::new(identities));
    let mut digest = Context::new(&SHA256);
    let (mut bytes, mut told) = (0, 0);
    let mut pieces = vault.read(manifest).await?;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        bytes += piece.len() as u64;
        digest.update(&piece);
        let plain = match &mut opening {
            Some(opening) => {
                let mut plain = Vec::new();
                opened(opening.push(&piece, &mut plain))?;
                Bytes::from(plain)
            }
            None => piece,
        };
        // Whoever reads may have had enough; whether that is because of the data is seen at their end.
        if !plain.is_empty() && !dump.is_closed() {
            let _ = dump.send(plain).await;
        }
        if bytes - told >= TELLS {
            told = bytes;
            span.tell(bytes).await?;
        }
    }
    if let Some(opening) = opening {
        let mut plain = Vec::new();
        opened(opening.finish(&mut plain))?;
        let _ = dump.send(plain.into()).await;
    }
    if bytes != manifest.bytes {
        let problem = format!("it has {bytes} bytes instead of {}", manifest.bytes);
        return Err(damaged(problem));
    }
    if hex(digest.finish().as_ref()) != manifest.sha256 {
        return Err(damaged("its SHA-256 is another".to_owned()));
    }
    Ok(())
}
