//! A look at every engine, asked for by somebody; who does it is `fleet`.

use serde::{Deserialize, Serialize};

use crate::{domain::task::Priority, store::tasks::TaskInput};

#[derive(Clone, Serialize, Deserialize)]
pub struct Input {
    /// Whether it only says what it would do.
    pub dry_run: bool,
}

impl TaskInput for Input {
    const KIND: &'static str = "reconcile";
    const PRIORITY: Priority = Priority::Interactive;
}
