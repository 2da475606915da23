//! The pure core: ids, states with their tables of transitions, validated values and the access policy.
//! Nothing here does I/O; the only traits are the sources of time and chance.

pub mod cadence;
pub mod calendar;
pub mod change;
pub mod clock;
pub mod cluster;
pub mod container;
pub mod dial;
pub mod entropy;
pub mod host;
pub mod id;
pub mod keyring;
pub mod machine;
pub mod policy;
pub mod task;
pub mod trace;
pub mod value;
pub mod virtual_machine;

pub use change::{Change, ChangeKind, Table};
pub use clock::{Clock, SystemClock};
pub use dial::Dial;
pub use entropy::Entropy;
pub use id::Id;
pub use keyring::Keyring;
pub use machine::{IllegalTransition, Machine};
