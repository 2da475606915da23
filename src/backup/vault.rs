//! Where backups are kept. A backup is there once its manifest is; what is being written or removed has a mark, so that
//! what a crash leaves is found and taken away.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    Error, MultipartId, ObjectStoreExt as _, multipart::MultipartStore as _, path::Path,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{BackupError, Manifest, upload::Upload};
use crate::{config::Place, objects::Objects};

const MANIFEST: &str = ".json";
const MARK: &str = ".mark";
/// Manifests and marks read at once.
const TOGETHER: usize = 8;
/// Most bytes of a manifest.
const LONGEST: u64 = 1 << 20;
/// How long a mark of somebody else's is left alone.
const ABANDONED: TimeDelta = TimeDelta::hours(24);
/// How long a small write lasts at the most.
const MOMENT: TimeDelta = TimeDelta::minutes(2);
/// Longest answer to a small request.
const ANSWER: Duration = Duration::from_secs(60);

/// Says what is being written or removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Mark {
    pub name: String,
    pub object: String,
    pub origin: String,
    pub at: DateTime<Utc>,
    /// Of an S3's multipart upload.
    pub upload: Option<MultipartId>,
    pub is_removal: bool,
}

/// An open store of backups.
#[derive(Clone, Debug)]
pub struct Vault(pub(super) Objects);

impl Vault {
    pub fn open(place: &Place) -> Result<Self, BackupError> {
        Objects::open(place)
            .map(Self)
            .map_err(|down| BackupError::Store {
                doing: format!("opening {}", down.place),
                problem: down.problem,
                may_pass: true,
            })
    }

    /// The newest backups, the newest first, at most `limit`.
    pub async fn list(&self, limit: usize) -> Result<Vec<Manifest>, BackupError> {
        let mut names = self.names(MANIFEST).await?;
        names.sort_unstable_by(|one, other| other.cmp(one));
        names.truncate(limit);
        let reads = names.into_iter().map(|name| async move {
            match self.read_small::<Manifest>(&name, MANIFEST).await {
                Ok(manifest) => Ok(Some(manifest)),
                // Removed since it was listed.
                Err(BackupError::NotFound(_)) => Ok(None),
                Err(BackupError::Damaged { name, problem }) => {
                    tracing::warn!(backup = name, problem, "a manifest cannot be read");
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        let found: Vec<Option<Manifest>> = futures_util::stream::iter(reads)
            .buffered(TOGETHER)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The backup of that name, or the newest one for `latest`: one that was found bad is none.
    pub async fn find(&self, name: &str) -> Result<Manifest, BackupError> {
        if name != "latest" {
            let is_name = name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if !is_name {
                return Err(BackupError::NotFound(name.to_owned()));
            }
            return self.read_small(name, MANIFEST).await;
        }
        let backups = self.list(usize::MAX).await?;
        let newest = backups.into_iter().find(|backup| !backup.is_bad());
        newest.ok_or_else(|| BackupError::NotFound("yet".to_owned()))
    }

    /// Makes a backup one, or tells more of it.
    pub(super) async fn publish(&self, manifest: &Manifest) -> Result<(), BackupError> {
        self.write_small(&manifest.name, MANIFEST, manifest).await
    }

    /// Whether a backup is one.
    async fn is_published(&self, name: &str) -> Result<bool, BackupError> {
        match self.read_small::<Manifest>(name, MANIFEST).await {
            Ok(_) => Ok(true),
            Err(BackupError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins to write a backup's data, under a mark.
    pub(super) async fn begin(&self, mut mark: Mark) -> Result<Upload, BackupError> {
        let path = self.0.path(&mark.object);
        let Some(bucket) = &self.0.bucket else {
            self.write_small(&mark.name, MARK, &mark).await?;
            let parts = self.0.store.put_multipart(&path).await;
            return Ok(Upload::to_folder(
                parts.map_err(failed("beginning to write"))?,
            ));
        };
        let id = bucket.create_multipart(&path).await;
        let id = id.map_err(failed("beginning an upload"))?;
        mark.upload = Some(id.clone());
        if let Err(error) = self.write_small(&mark.name, MARK, &mark).await {
            let _ = bucket.abort_multipart(&path, &id).await;
            return Err(error);
        }
        Ok(Upload::to_bucket(bucket.clone(), path, id))
    }

    pub(super) async fn unmark(&self, name: &str) -> Result<(), BackupError> {
        self.delete(&self.small(name, MARK)).await
    }

    /// The data of a backup.
    pub(super) async fn read(
        &self,
        manifest: &Manifest,
    ) -> Result<BoxStream<'static, Result<Bytes, BackupError>>, BackupError> {
        let path = self.0.path(&manifest.object);
        let found = self.0.store.get(&path).await.map_err(|error| match error {
            Error::NotFound { .. } => BackupError::Damaged {
                name: manifest.name.clone(),
                problem: "its data are gone".to_owned(),
            },
            error => failed("reading")(error),
        })?;
        Ok(found.into_stream().map_err(failed("reading")).boxed())
    }

    /// Removes a backup.
    pub(super) async fn remove(
        &self,
        manifest: &Manifest,
        at: DateTime<Utc>,
    ) -> Result<(), BackupError> {
        let mark = Mark {
            name: manifest.name.clone(),
            object: manifest.object.clone(),
            origin: "removal".to_owned(),
            at,
            upload: None,
            is_removal: true,
        };
        self.write_small(&mark.name, MARK, &mark).await?;
        self.take_away(&mark).await
    }

    /// Takes away what crashes have left: of `origin` at once, as it has begun anew; of others after a day. How many.
    pub(super) async fn clear(
        &self,
        origin: &str,
        now: DateTime<Utc>,
    ) -> Result<usize, BackupError> {
        let mut cleared = 0;
        if let Some(folder) = &self.0.folder {
            cleared += remove_forgotten(folder, now).map_err(BackupError::file(folder))?;
        }
        for name in self.names(MARK).await? {
            let mark: Mark = match self.read_small(&name, MARK).await {
                Ok(mark) => mark,
                Err(BackupError::NotFound(_)) => continue,
                Err(error) => return Err(error),
            };
            let is_ours = mark.is_removal || mark.origin == origin;
            if is_ours || mark.at < now - ABANDONED {
                self.take_away(&mark).await?;
                cleared += 1;
            }
        }
        Ok(cleared)
    }

    /// Removes what `mark` tells of, unless it has become a backup meanwhile.
    async fn take_away(&self, mark: &Mark) -> Result<(), BackupError> {
        let path = self.0.path(&mark.object);
        if mark.is_removal {
            self.delete(&self.small(&mark.name, MANIFEST)).await?;
        } else if self.is_published(&mark.name).await? {
            return self.unmark(&mark.name).await;
        }
        if let (Some(bucket), Some(id)) = (&self.0.bucket, &mark.upload) {
            match bucket.abort_multipart(&path, id).await {
                // It was completed, or has been ended before.
                Ok(()) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(failed("ending an upload")(error)),
            }
        }
        if let Some(folder) = &self.0.folder {
            remove_unfinished(folder, &mark.object).map_err(BackupError::file(folder))?;
        }
        self.delete(&path).await?;
        self.unmark(&mark.name).await
    }

    async fn names(&self, ending: &str) -> Result<Vec<String>, BackupError> {
        // The library takes a folder that is gone for an empty one.
        if let Some(folder) = self.0.folder.as_deref().filter(|folder| !folder.is_dir()) {
            return Err(BackupError::Store {
                doing: "listing".to_owned(),
                problem: format!("{} is no folder", folder.display()),
                may_pass: true,
            });
        }
        let prefix = Some(self.0.prefix()).filter(|prefix| !prefix.as_ref().is_empty());
        let listed = self.0.store.list_with_delimiter(prefix);
        let listed = within(listed).await?.map_err(failed("listing"))?;
        let names = listed.objects.iter().filter_map(|object| {
            let name = object.location.filename()?.strip_suffix(ending)?;
            Some(name.to_owned())
        });
        Ok(names.collect())
    }

    fn small(&self, name: &str, ending: &str) -> Path {
        self.0.path(&format!("{name}{ending}"))
    }

    async fn write_small(
        &self,
        name: &str,
        ending: &str,
        what: &impl Serialize,
    ) -> Result<(), BackupError> {
        let text = serde_json::to_vec_pretty(what).map_err(|error| BackupError::Damaged {
            name: name.to_owned(),
            problem: error.to_string(),
        })?;
        let path = self.small(name, ending);
        let put = self.0.store.put(&path, text.into());
        within(put).await?.map_err(failed("writing"))?;
        Ok(())
    }

    async fn read_small<T: DeserializeOwned>(
        &self,
        name: &str,
        ending: &str,
    ) -> Result<T, BackupError> {
        let path = self.small(name, ending);
        let read = async {
            let found = self.0.store.get(&path).await?;
            if found.meta.size > LONGEST {
                return Ok(Bytes::new());
            }
            found.bytes().await
        };
        let text = within(read).await?.map_err(|error| match error {
            Error::NotFound { .. } => BackupError::NotFound(name.to_owned()),
            error => failed("reading")(error),
        })?;
        serde_json::from_slice(&text).map_err(|error| BackupError::Damaged {
            name: name.to_owned(),
            problem: format!("its manifest cannot be read, {error}"),
        })
    }

    async fn delete(&self, path: &Path) -> Result<(), BackupError> {
        match within(self.0.store.delete(path)).await? {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed("removing")(error)),
        }
    }
}

/// Whether the library has left it: the name it was writing, with `#` and a number behind it.
fn is_unfinished(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| {
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// Removes unfinished writes nobody comes back to; how many. A small one lasts a moment, and no mark tells of it.
fn remove_forgotten(folder: &std::path::Path, now: DateTime<Utc>) -> std::io::Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_unfinished(&name) {
            continue;
        }
        let is_small = [MARK, MANIFEST]
            .iter()
            .any(|ending| name.contains(&format!("{ending}#")));
        let life = if is_small { MOMENT } else { ABANDONED };
        let written = entry.metadata().and_then(|found| found.modified());
        if written.is_ok_and(|at| DateTime::<Utc>::from(at) < now - life)
            && std::fs::remove_file(entry.path()).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes what an unfinished write of `object` has left in `folder`: the library writes beside the name, with `#` and a
/// number behind it.
fn remove_unfinished(folder: &std::path::Path, object: &str) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(object)?.strip_prefix('#'));
        if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            match std::fs::remove_file(entry.path()) {
                // The write's own end was quicker.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
    }
    Ok(())
}

async fn within<T>(answer: impl Future<Output = T>) -> Result<T, BackupError> {
    let answer = tokio::time::timeout(ANSWER, answer).await;
    answer.map_err(|_| BackupError::Store {
        doing: "waiting".to_owned(),
        problem: format!("no answer within {} s", ANSWER.as_secs()),
        may_pass: true,
    })
}

/// What a failure of the library means.
pub(super) fn failed(doing: &'static str) -> impl Fn(Error) -> BackupError {
    move |error| BackupError::Store {
        doing: doing.to_owned(),
        may_pass: !matches!(
            error,
            Error::InvalidPath { .. }
                | Error::NotSupported { .. }
                | Error::NotImplemented { .. }
                | Error::PermissionDenied { .. }
                | Error::Unauthenticated { .. }
                | Error::UnknownConfigurationKey { .. }
        ),
        // One line, of a length a person reads.
        problem: error
            .to_string()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .take(400)
            .collect(),
    }
}
