//! Whose turn it is to carry out a step: several builds that want the same one do it once.

use std::fs::File;
use std::path::PathBuf;

use crate::error::Result;
use crate::lock;
use crate::{CacheKey, Store, record};

/// The right to carry out the step with one key, until it is dropped or its process ends.
#[derive(Debug)]
pub struct Turn {
    path: PathBuf,
    _lock: File,
}

impl Store {
    /// The right to carry out the step with this key, or nothing while another thread or process has it. Whoever waited
    /// looks for a record first: it is most likely there.
    pub fn try_turn(&self, key: &CacheKey) -> Result<Option<Turn>> {
        let path = self.inner.layout.step_lock(key);
        Ok(lock::try_acquire_named(&path)?.map(|lock| Turn { path, _lock: lock }))
    }
}

impl Drop for Turn {
    /// The lock file loses its name while the lock is held, so that whoever has it open begins anew.
    fn drop(&mut self) {
        _ = record::remove(&self.path);
    }
}
