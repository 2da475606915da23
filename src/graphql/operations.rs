//! Operations known beforehand: by the hash of their text, so that a client need not send it, by their name, and as
//! read documents, since the same few texts come again and again.
//!
//! Hashes are those of Apollo's automatic persisted queries: the SHA-256 of the text, in hexadecimal.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroUsize,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_graphql::{
    Request, ServerError, Value,
    parser::{parse_query, types::ExecutableDocument},
};
use lru::LruCache;
use sha2::{Digest as _, Sha256};

use super::{error::Coded, limits, list::ready::Ready, told};
use crate::{domain::keyring::hex, error::AppError, telemetry::work::OperationLabel};

/// Texts from clients that are kept, and the longest of them, in bytes.
const LEARNED: NonZeroUsize = NonZeroUsize::new(1000).unwrap();
const LONGEST: usize = 32 * 1024;

/// A document that was read, and what has become known of it.
pub struct Known {
    pub document: ExecutableDocument,
    /// What is told of its only operation.
    label: OnceLock<Arc<OperationLabel>>,
    /// How it is answered without the executor, found out when the executor has found it valid.
    ready: OnceLock<Option<Ready>>,
}

impl Known {
    /// What may be told of what `request` executes of it.
    pub fn label(&self, request: &Request) -> Arc<OperationLabel> {
        let name = request.operation_name.as_deref();
        let label = || Arc::new(told::label(&self.document, &request.query, name));
        if self.document.operations.iter().count() == 1 {
            Arc::clone(self.label.get_or_init(label))
        } else {
            label()
        }
    }

    /// Notes that the executor took it.
    pub fn is_valid(&self, cost: usize) {
        self.ready
            .get_or_init(|| Ready::compile(&self.document, cost));
    }

    pub fn ready(&self) -> Option<&Ready> {
        self.ready.get()?.as_ref()
    }
}

/// The operations of a process.
pub struct Operations {
    named: BTreeMap<String, Arc<str>>,
    known: HashMap<String, Arc<str>>,
    is_closed: bool,
    learned: Mutex<LruCache<String, Arc<str>>>,
    documents: Mutex<LruCache<String, Arc<Known>>>,
}

impl Default for Operations {
    fn default() -> Self {
        Self {
            named: BTreeMap::new(),
            known: HashMap::new(),
            is_closed: false,
            learned: Mutex::new(LruCache::new(LEARNED)),
            documents: Mutex::new(LruCache::new(LEARNED)),
        }
    }
}

/// A file of operations that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct BadOperations {
    path: String,
    problem: String,
}

pub(super) fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

impl Operations {
    /// Reads a JSON object of names and texts. When `is_closed`, no other operation is executed.
    pub fn load(path: &Path, is_closed: bool) -> Result<Self, BadOperations> {
        let bad = |problem: String| BadOperations {
            path: path.display().to_string(),
            problem,
        };
        let text = std::fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
        let texts: BTreeMap<String, String> =
            serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
        let mut operations = Self {
            is_closed,
            ..Self::default()
        };
        for (name, text) in texts {
            let document = parse_query(&text).map_err(|error| bad(format!("{name}: {error}")))?;
            if document.operations.iter().count() != 1 {
                return Err(bad(format!("{name}: one operation is expected")));
            }
            let text: Arc<str> = text.into();
            operations.known.insert(hash(&text), Arc::clone(&text));
            operations.named.insert(name, text);
        }
        Ok(operations)
    }

    /// Takes further texts as known, those of this service's own programs: they are executed whatever the file has.
    #[must_use]
    pub fn with(mut self, texts: &[&str]) -> Self {
        let texts = texts.iter().map(|text| (hash(text), Arc::from(*text)));
        self.known.extend(texts);
        self
    }

    /// The text of the operation `name`.
    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.get(name).map(|text| &**text)
    }

    /// Puts the text into a request that has only its hash, and remembers one that brings both.
    ///
    /// # Errors
    /// What the client is told: the hash is not known, does not fit, or the operation is not among the allowed ones.
    pub fn resolve(&self, request: &mut Request) -> Result<(), AppError> {
        let asked = match request.extensions.get("persistedQuery") {
            Some(Value::Object(persisted)) => match persisted.get("sha256Hash") {
                Some(Value::String(hash)) => Some(hash.to_ascii_lowercase()),
                _ => return Err(refused("extensions", "persistedQuery has no sha256Hash")),
            },
            _ => None,
        };
        match asked {
            Some(asked) if request.query.is_empty() => {
                let text = self.known.get(&asked).cloned();
                let text = text.or_else(|| lock(&self.learned).get(&asked).cloned());
                request.query = text.ok_or(AppError::PersistedQueryNotFound)?.to_string();
                Ok(())
            }
            _ if self.is_closed => {
                if self.known.contains_key(&hash(&request.query)) {
                    Ok(())
                } else {
                    Err(AppError::Forbidden)
                }
            }
            Some(asked) => {
                if hash(&request.query) != asked {
                    return Err(refused("extensions", "sha256Hash is not that of the query"));
                }
                if request.query.len() <= LONGEST && !self.known.contains_key(&asked) {
                    lock(&self.learned).put(asked, request.query.as_str().into());
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// The document of a text, within the limits.
    pub fn document(&self, text: &str) -> Result<Arc<Known>, ServerError> {
        if let Some(document) = lock(&self.documents).get(text) {
            return Ok(Arc::clone(document));
        }
        let shown = |error: AppError| ServerError::from(Coded(&error));
        limits::check_text(text).map_err(shown)?;
        let document = parse_query(text)?;
        limits::check(&document).map_err(shown)?;
        let document = Arc::new(Known {
            document,
            label: OnceLock::new(),
            ready: OnceLock::new(),
        });
        if text.len() <= LONGEST {
            lock(&self.documents).put(text.to_owned(), Arc::clone(&document));
        }
        Ok(document)
    }
}

fn lock<T>(cache: &Mutex<T>) -> MutexGuard<'_, T> {
    cache.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(field: &'static str, reason: &str) -> AppError {
    AppError::Invalid {
        field,
        reason: reason.to_owned(),
    }
}
