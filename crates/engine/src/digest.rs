//! Diff IDs of snapshots: worked out once, beside the steps that follow, and noted with the snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rbuild_image::DiffId;
use rbuild_layer::{WriteOptions, digest_layer};
use rbuild_store::{SnapshotId, Store};

use crate::error::{Explain, Failure, FailureKind, Result};
use crate::images::open_tree;

/// Digests snapshots in the background.
#[derive(Debug, Default, Clone)]
pub(crate) struct Digests {
    running: Arc<(Mutex<BTreeMap<SnapshotId, usize>>, Condvar)>,
}

impl Digests {
    /// Begins to digest the layer of a snapshot; [`Digests::wait`] has the result.
    pub(crate) fn begin(&self, store: &Store, id: SnapshotId) {
        let (running, changed) = &*self.running;
        *running.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default() += 1;
        let (store, shared) = (store.clone(), self.running.clone());
        let _ = changed;
        rayon::spawn(move || {
            // What fails here fails again, with its message, for whoever needs the result.
            let _ = layer_of(&store, &id);
            let (running, changed) = &*shared;
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            changed.notify_all();
        });
    }

    /// The diff ID and the length of the layer's tar, waiting for the background where it is at it.
    pub(crate) fn wait(&self, store: &Store, id: &SnapshotId) -> Result<(DiffId, u64)> {
        let (running, changed) = &*self.running;
        let mut guard = running.lock().unwrap_or_else(PoisonError::into_inner);
        while guard.contains_key(id) {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        layer_of(store, id)
    }

    /// Waits until nothing is under way.
    pub(crate) fn settle(&self) {
        let (running, changed) = &*self.running;
        let mut guard = running.lock().unwrap_or_else(PoisonError::into_inner);
        while !guard.is_empty() {
            guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The diff ID of a snapshot's layer and the length of its tar: as noted, else worked out now.
pub(crate) fn layer_of(store: &Store, id: &SnapshotId) -> Result<(DiffId, u64)> {
    let snapshot = store
        .snapshot(id)
        .explain(FailureKind::Environment, || "could not read the store".to_owned())?
        .ok_or_else(|| {
            Failure::new(FailureKind::Environment, format!("snapshot {id} is gone from the store"))
        })?;
    if let (Some(diff_id), Some(size)) = (&snapshot.info.diff_id, snapshot.info.layer_size) {
        return Ok((diff_id.clone(), size));
    }
    let (diff_id, size) =
        digest_layer(&open_tree(&snapshot.fs(), &snapshot.sidecar())?, &WriteOptions::default())
            .explain(FailureKind::Environment, || {
                format!("could not read the files of `{}`", snapshot.info.created_by)
            })?;
    store
        .set_diff_id(id, &diff_id, size)
        .explain(FailureKind::Environment, || "could not write to the store".to_owned())?;
    Ok((diff_id, size))
}
