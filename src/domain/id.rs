//! Typed identifiers: a UUIDv7 inside, an opaque global id with the type's prefix outside.

use std::{cmp::Ordering, fmt, hash, marker::PhantomData};

use uuid::Uuid;

/// What an [`Id`] points at; the prefix makes ids of different types impossible to mix up on the wire.
pub trait Identified {
    /// Lower-case name in front of the id, such as `container`.
    const PREFIX: &'static str;
    /// What a person calls it in an error message.
    const NOUN: &'static str;
}

/// Identifier of one `T`, ordered by time of creation (RFC 9562, version 7).
pub struct Id<T>(Uuid, PhantomData<fn() -> T>);

impl<T> Id<T> {
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }

    /// The bare UUID, as the database keeps it.
    pub const fn uuid(self) -> Uuid {
        self.0
    }
}

impl<T: Identified> Id<T> {
    /// Reads the form that [`fmt::Display`] writes; `None` for anything else, another type's id among it.
    pub fn parse(text: &str) -> Option<Self> {
        read(T::PREFIX, text).map(Self::new)
    }
}

/// An id with this prefix as it is written outside.
pub fn written(prefix: &str, id: Uuid) -> String {
    format!("{prefix}_{}", id.simple())
}

/// Reads an id with this prefix in the one form that is written.
pub fn read(prefix: &str, text: &str) -> Option<Uuid> {
    let hex = text.strip_prefix(prefix)?.strip_prefix('_')?;
    let is_canonical = hex.len() == 32
        && hex
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    is_canonical.then(|| Uuid::try_parse(hex).ok()).flatten()
}

impl<T: Identified> fmt::Display for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", T::PREFIX, self.0.simple())
    }
}

impl<T: Identified> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// Derives would ask the same of `T`, which is only a marker.
impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Id<T> {}
impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Id<T> {}
impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> hash::Hash for Id<T> {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

macro_rules! identified {
    ($($name:ident = $prefix:literal),* $(,)?) => {
        $(
            #[doc = concat!("Marker of a ", $prefix, "'s id.")]
            #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
            pub enum $name {}
            impl Identified for $name {
                const PREFIX: &'static str = $prefix;
                const NOUN: &'static str = $prefix;
            }
        )*
    };
}
identified!(
    User = "user",
    Session = "session",
    App = "app",
    Region = "region",
    Cluster = "cluster",
    Host = "host",
    Pool = "pool",
    HostCommand = "command",
    Engine = "engine",
    AuditEvent = "event",
    ConnectionLog = "connection",
    LoginEvent = "login",
    Container = "container",
    VirtualMachine = "machine",
    Image = "image",
    Snapshot = "snapshot",
    Task = "task",
    Schedule = "schedule",
    LogFilter = "logfilter",
    Setting = "setting",
    Worker = "worker"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_only_as_its_own_type() {
        let id = Id::<Container>::new(Uuid::from_u128(7));
        assert_eq!(Id::<Container>::parse(&id.to_string()), Some(id));
        assert_eq!(Id::<Task>::parse(&id.to_string()), None);
    }

    #[test]
    fn only_the_canonical_form_is_an_id() {
        for text in [
            "",
            "container_",
            "container_zz",
            "container_0000000000000000000000000000000A",
            "00000000000000000000000000000007",
        ] {
            assert_eq!(Id::<Container>::parse(text), None, "{text:?}");
        }
    }
}
