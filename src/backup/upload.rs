//! Writing a backup's data: in parts, of which a few are held at a time, and nothing is there before the last.

use std::sync::Arc;

use object_store::{
    MultipartId, MultipartUpload, PutPayload,
    aws::AmazonS3,
    multipart::{MultipartStore as _, PartId},
    path::Path,
};
use ring::digest::{Context, SHA256};
use tokio::task::JoinSet;

use super::{BackupError, vault::failed};
use crate::domain::keyring::hex;

/// Bytes of each of the first thousand parts; those after them have a multiple, as an S3 takes 10,000 parts and no more.
const PART: usize = 8 << 20;
const GROWS_AFTER: usize = 1000;
/// Parts on their way at once.
const TOGETHER: usize = 2;

/// An unfinished write.
pub(super) struct Upload {
    way: Way,
    waiting: Vec<u8>,
    count: usize,
    bytes: u64,
    digest: Context,
}

enum Way {
    Folder(Box<dyn MultipartUpload>),
    Bucket {
        bucket: Arc<AmazonS3>,
        path: Path,
        id: MultipartId,
        under_way: JoinSet<Result<(usize, PartId), object_store::Error>>,
        written: Vec<(usize, PartId)>,
    },
}

/// What was written: bytes, and their SHA-256.
pub(super) struct Written {
    pub bytes: u64,
    pub sha256: String,
}

impl Upload {
    pub(super) fn to_folder(parts: Box<dyn MultipartUpload>) -> Self {
        Self::by(Way::Folder(parts))
    }

    pub(super) fn to_bucket(bucket: Arc<AmazonS3>, path: Path, id: MultipartId) -> Self {
        Self::by(Way::Bucket {
            bucket,
            path,
            id,
            under_way: JoinSet::new(),
            written: Vec::new(),
        })
    }

    fn by(way: Way) -> Self {
        Self {
            way,
            waiting: Vec::new(),
            count: 0,
            bytes: 0,
            digest: Context::new(&SHA256),
        }
    }

    /// Where the next bytes are put; [`Upload::flow`] sends them on.
    pub(super) const fn waiting(&mut self) -> &mut Vec<u8> {
        &mut self.waiting
    }

    /// Sends what makes a part.
    pub(super) async fn flow(&mut self) -> Result<(), BackupError> {
        loop {
            let size = PART * (1 + self.count / GROWS_AFTER);
            if self.waiting.len() < size {
                return Ok(());
            }
            let rest = self.waiting.split_off(size);
            let part = std::mem::replace(&mut self.waiting, rest);
            self.send(part).await?;
        }
    }

    async fn send(&mut self, part: Vec<u8>) -> Result<(), BackupError> {
        self.bytes += part.len() as u64;
        self.digest.update(&part);
        let number = self.count;
        self.count += 1;
        let payload = PutPayload::from(part);
        match &mut self.way {
            Way::Folder(parts) => parts.put_part(payload).await.map_err(failed("writing")),
            Way::Bucket {
                bucket,
                path,
                id,
                under_way,
                written,
            } => {
                while under_way.len() >= TOGETHER {
                    written.extend(joined(under_way).await?);
                }
                let (bucket, path, id) = (Arc::clone(bucket), path.clone(), id.clone());
                under_way.spawn(async move {
                    let part = bucket.put_part(&path, &id, number, payload).await?;
                    Ok((number, part))
                });
                Ok(())
            }
        }
    }

    /// Sends the last part and puts the object in its place.
    pub(super) async fn complete(mut self) -> Result<Written, BackupError> {
        let last = std::mem::take(&mut self.waiting);
        if !last.is_empty() || self.count == 0 {
            self.send(last).await?;
        }
        match self.way {
            Way::Folder(mut parts) => {
                parts.complete().await.map_err(failed("writing"))?;
            }
            Way::Bucket {
                bucket,
                path,
                id,
                mut under_way,
                mut written,
            } => {
                while !under_way.is_empty() {
                    written.extend(joined(&mut under_way).await?);
                }
                written.sort_unstable_by_key(|(number, _)| *number);
                let parts = written.into_iter().map(|(_, part)| part).collect();
                let completed = bucket.complete_multipart(&path, &id, parts).await;
                completed.map_err(failed("completing an upload"))?;
            }
        }
        Ok(Written {
            bytes: self.bytes,
            sha256: hex(self.digest.finish().as_ref()),
        })
    }
}

async fn joined(
    under_way: &mut JoinSet<Result<(usize, PartId), object_store::Error>>,
) -> Result<Option<(usize, PartId)>, BackupError> {
    match under_way.join_next().await {
        None => Ok(None),
        Some(Ok(part)) => part.map(Some).map_err(failed("uploading a part")),
        Some(Err(error)) => Err(BackupError::Store {
            doing: "uploading a part".to_owned(),
            problem: error.to_string(),
            may_pass: true,
        }),
    }
}
