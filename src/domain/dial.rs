//! A value that can be set anew while others read it.

use std::sync::{Arc, PoisonError, RwLock};

/// A value shared by whoever follows it; a clone is the same dial.
#[derive(Debug, Default, Clone)]
pub struct Dial<T>(Arc<RwLock<T>>);

impl<T: Copy> Dial<T> {
    pub fn new(value: T) -> Self {
        Self(Arc::new(RwLock::new(value)))
    }

    pub fn get(&self) -> T {
        *self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}
