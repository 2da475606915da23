//! Where large things are kept: a folder, or a part of an S3 bucket. What they are is the business of who keeps them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions,
    RetryConfig,
    aws::{AmazonS3, AmazonS3Builder},
    local::LocalFileSystem,
    path::Path,
};

use crate::{
    config::{Access, Place},
    domain::{entropy::secret_bytes, keyring::hex},
};

/// Longest time of one request, in which a part of an upload has to fit.
const REQUEST: Duration = Duration::from_secs(120);
const CONNECT: Duration = Duration::from_secs(5);
/// How long a request that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);
const RETRIES: usize = 5;

/// An open place.
#[derive(Clone, Debug)]
pub struct Objects {
    pub store: Arc<dyn ObjectStore>,
    /// The same when it is an S3, for uploads that can be found again after a crash.
    pub bucket: Option<Arc<AmazonS3>>,
    /// The same when it is a folder.
    pub folder: Option<PathBuf>,
    prefix: Path,
}

/// A place that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PlaceDown {
    pub place: String,
    pub problem: String,
}

impl Objects {
    /// Opens `place`; a folder is made, for its owner only. A bucket is not asked for anything yet.
    pub fn open(place: &Place) -> Result<Self, PlaceDown> {
        match place {
            Place::Folder(folder) => {
                let down = |problem: String| PlaceDown {
                    place: folder.display().to_string(),
                    problem,
                };
                make_private(folder).map_err(|error| down(error.to_string()))?;
                let store = LocalFileSystem::new_with_prefix(folder)
                    .map_err(|error| down(error.to_string()))?;
                Ok(Self {
                    store: Arc::new(store.with_fsync(true)),
                    bucket: None,
                    folder: Some(folder.clone()),
                    prefix: Path::default(),
                })
            }
            Place::Bucket {
                bucket,
                prefix,
                access,
            } => {
                let down = |problem: String| PlaceDown {
                    place: format!("s3://{bucket}"),
                    problem,
                };
                let store = open_bucket(bucket, access).map_err(|error| down(error.to_string()))?;
                let store = Arc::new(store);
                Ok(Self {
                    store: Arc::<AmazonS3>::clone(&store),
                    bucket: Some(store),
                    folder: None,
                    prefix: Path::parse(prefix).map_err(|error| down(error.to_string()))?,
                })
            }
        }
    }

    /// The same for what may be missing: a folder that cannot be made keeps nobody from starting, and what is to be put
    /// into it is refused then.
    pub fn open_later(place: &Place) -> Result<Self, PlaceDown> {
        let down = match (Self::open(place), place) {
            (Err(down), Place::Folder(folder)) => (down, folder),
            (opened, _) => return opened,
        };
        let (down, folder) = down;
        tracing::warn!(%down, "what is to be kept there is refused for now");
        let refuse = |problem: String| PlaceDown {
            place: folder.display().to_string(),
            problem,
        };
        let whole = std::path::absolute(folder).map_err(|error| refuse(error.to_string()))?;
        let prefix = Path::from_absolute_path(whole).map_err(|error| refuse(error.to_string()))?;
        Ok(Self {
            store: Arc::new(LocalFileSystem::new().with_fsync(true)),
            bucket: None,
            folder: Some(folder.clone()),
            prefix,
        })
    }

    /// Where the object `name` is; a `/` in it makes folders.
    pub fn path(&self, name: &str) -> Path {
        let parts = name.split('/');
        parts.fold(self.prefix.clone(), object_store::path::Path::join)
    }

    /// What every object's path begins with.
    pub const fn prefix(&self) -> &Path {
        &self.prefix
    }
}

fn open_bucket(bucket: &str, access: &Access) -> Result<AmazonS3, object_store::Error> {
    // The HTTP client has no provider of its own; a second call changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let options = ClientOptions::new()
        .with_timeout(REQUEST)
        .with_connect_timeout(CONNECT);
    let retry = RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: RETRIES,
        retry_timeout: RETRY,
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(&access.region)
        // Not every S3 takes many removals in one request.
        .with_disable_bulk_delete(true)
        .with_client_options(options)
        .with_retry(retry);
    if let Some(endpoint) = &access.endpoint {
        builder = builder
            .with_endpoint(endpoint)
            .with_allow_http(endpoint.starts_with("http://"));
    }
    // Without a key, the machine's own role is asked for one.
    if let (Some(id), Some(secret)) = (&access.key_id, &access.secret) {
        builder = builder
            .with_access_key_id(id)
            .with_secret_access_key(secret.expose());
    }
    builder.build()
}

/// Makes a folder that only its owner looks into.
pub fn make_private(folder: &std::path::Path) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

/// Why a blob is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("there is no blob {0}")]
    Gone(String),
    #[error("{0} unpacks to more than it may")]
    TooLarge(String),
    #[error(transparent)]
    Store(#[from] object_store::Error),
    #[error("the store does not answer within {} s", ANSWER.as_secs())]
    Late,
}

/// Longest wait for a blob.
const ANSWER: Duration = Duration::from_secs(20);

/// Small texts, packed by gzip.
impl Objects {
    /// Writes a text under `name`, all of it or nothing.
    pub async fn put_text(&self, name: &str, text: &str) -> Result<(), BlobError> {
        use std::io::Write as _;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        let packed = packer
            .write_all(text.as_bytes())
            .and_then(|()| packer.finish());
        let packed = packed.map_err(|error| object_store::Error::Generic {
            store: "gzip",
            source: Box::new(error),
        })?;
        let path = self.path(name);
        let put = self.store.put(&path, packed.into());
        within(put).await?;
        Ok(())
    }

    /// What tells this place from others, written with the first question: a process that looks into another folder than the
    /// rest has to know that what it does not find there is not lost.
    pub async fn identity(&self) -> Result<String, BlobError> {
        const NAME: &str = "identity";
        let path = self.path(NAME);
        loop {
            let read = async { self.store.get(&path).await?.bytes().await };
            match within(read).await {
                Ok(bytes) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                Err(BlobError::Store(object_store::Error::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
            let mine = hex(&secret_bytes::<8>());
            let create = PutOptions::from(PutMode::Create);
            let put = self.store.put_opts(&path, mine.clone().into(), create);
            match within(put).await {
                Ok(_) => return Ok(mine),
                // Somebody was quicker.
                Err(BlobError::Store(object_store::Error::AlreadyExists { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The text under `name`, of `most` bytes at most.
    pub async fn text(&self, name: &str, most: u64) -> Result<String, BlobError> {
        use std::io::Read as _;
        let path = self.path(name);
        let read = async { self.store.get(&path).await?.bytes().await };
        let packed = match within(read).await {
            Err(BlobError::Store(object_store::Error::NotFound { .. })) => {
                return Err(BlobError::Gone(name.to_owned()));
            }
            packed => packed?,
        };
        let mut text = String::new();
        let mut unpacked = flate2::read::GzDecoder::new(&packed[..]).take(most + 1);
        let read = unpacked.read_to_string(&mut text);
        read.map_err(|error| object_store::Error::Generic {
            store: "gzip",
            source: Box::new(error),
        })?;
        if text.len() as u64 > most {
            return Err(BlobError::TooLarge(name.to_owned()));
        }
        Ok(text)
    }

    /// Whether there is a blob under `name`.
    pub async fn is_there(&self, name: &str) -> Result<bool, BlobError> {
        let path = self.path(name);
        match within(self.store.head(&path)).await {
            Ok(_) => Ok(true),
            Err(BlobError::Store(object_store::Error::NotFound { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Removes a blob; one that is gone is no error.
    pub async fn remove(&self, name: &str) -> Result<(), BlobError> {
        let path = self.path(name);
        match within(self.store.delete(&path)).await {
            Err(BlobError::Store(object_store::Error::NotFound { .. })) => Ok(()),
            removed => removed,
        }
    }

    /// The names that begin with `folder`, each with when it was written.
    pub fn within(
        &self,
        folder: &str,
    ) -> futures_util::stream::BoxStream<
        'static,
        Result<(String, chrono::DateTime<chrono::Utc>), BlobError>,
    > {
        let prefix = self.prefix.clone();
        let listed = self.store.list(Some(&self.prefix.clone().join(folder)));
        let named = listed.map(move |object| {
            let object = object?;
            let name = object.location.as_ref();
            let name = name.strip_prefix(prefix.as_ref()).unwrap_or(name);
            let name = name.trim_start_matches('/').to_owned();
            Ok((name, object.last_modified))
        });
        named.boxed()
    }
}

async fn within<T>(
    answer: impl Future<Output = Result<T, object_store::Error>>,
) -> Result<T, BlobError> {
    let answer = tokio::time::timeout(ANSWER, answer).await;
    Ok(answer.map_err(|_| BlobError::Late)??)
}
