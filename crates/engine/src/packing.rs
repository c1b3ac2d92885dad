//! Snapshots' layers as they leave: diff IDs and compressed blobs, made once, beside the steps that follow, and noted with the
//! snapshot.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rbuild_executor::Cancel;
use rbuild_image::DiffId;
use rbuild_layer::{
    Compression, WriteOptions, compress, compress_with, decompress_sniffed, digest_layer, write_layer,
};
use rbuild_store::{Blob, Snapshot, SnapshotId, Store};

use crate::cancel::Cancellable;
use crate::error::{Explain, Failure, FailureKind, Result};
use crate::images::open_tree;

/// Packs the layers of an image in the background, one after the other; each has all cores for its blocks.
#[derive(Debug, Clone)]
pub(crate) struct Packing {
    /// The form that an output will want; without one, layers are digested only.
    compression: Option<Compression>,
    queue: Arc<(Mutex<Queue>, Condvar)>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<SnapshotId>,
    /// A thread is at it; it ends when nothing waits any more.
    running: bool,
    done: Vec<Packed>,
}

/// When a layer was packed.
#[derive(Debug)]
pub(crate) struct Packed {
    /// What made it, as in the history.
    pub(crate) layer: String,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

impl Packing {
    pub(crate) fn new(compression: Option<Compression>) -> Packing {
        Packing { compression, queue: Arc::default() }
    }

    /// Begins to pack the layer of a snapshot.
    pub(crate) fn begin(&self, store: &Store, cancel: &Cancel, id: SnapshotId) {
        let mut queue = self.lock();
        queue.waiting.push_back(id);
        if !std::mem::replace(&mut queue.running, true) {
            let (packing, store, cancel) = (self.clone(), store.clone(), cancel.clone());
            std::thread::spawn(move || packing.work(&store, &cancel));
        }
    }

    fn work(&self, store: &Store, cancel: &Cancel) {
        while let Some(id) = self.next() {
            if cancel.is_cancelled() {
                continue;
            }
            let began = Instant::now();
            let packed = match &self.compression {
                Some(compression) => compressed(store, &id, compression, Some(cancel)).map(drop),
                None => layer_of(store, &id).map(drop),
            };
            // What fails here fails again, with its message, for whoever needs the result.
            if let (Ok(()), Ok(snapshot)) = (packed, snapshot(store, &id)) {
                let layer = snapshot.info.created_by;
                self.lock().done.push(Packed { layer, began, took: began.elapsed() });
            }
        }
    }

    fn next(&self) -> Option<SnapshotId> {
        let mut queue = self.lock();
        let next = queue.waiting.pop_front();
        if next.is_none() {
            queue.running = false;
            self.queue.1.notify_all();
        }
        next
    }

    /// Waits until nothing is under way; tells what was done since the last time.
    pub(crate) fn settle(&self) -> Vec<Packed> {
        let mut queue = self.lock();
        while queue.running {
            queue = self.queue.1.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut queue.done)
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The diff ID of a snapshot's layer and the length of its tar: as noted, else worked out now.
pub(crate) fn layer_of(store: &Store, id: &SnapshotId) -> Result<(DiffId, u64)> {
    let snapshot = snapshot(store, id)?;
    if let (Some(diff_id), Some(size)) = (&snapshot.info.diff_id, snapshot.info.layer_size) {
        return Ok((diff_id.clone(), size));
    }
    let root = open_tree(&snapshot.fs(), &snapshot.sidecar())?;
    let (diff_id, size) = digest_layer(&root, &WriteOptions::default())
        .explain(FailureKind::Environment, || unreadable(&snapshot))?;
    note(store, id, &diff_id, size)?;
    Ok((diff_id, size))
}

/// The layer of a snapshot as a compressed blob; diff ID and blob come from one reading of the files.
pub(crate) fn compressed(
    store: &Store,
    id: &SnapshotId,
    compression: &Compression,
    cancel: Option<&Cancel>,
) -> Result<Blob> {
    let snapshot = snapshot(store, id)?;
    if let Some(diff_id) = &snapshot.info.diff_id
        && let Some(blob) = known(store, diff_id, compression)?
    {
        return Ok(blob);
    }
    let root = open_tree(&snapshot.fs(), &snapshot.sidecar())?;
    let mut out = store.blob_writer().explain(FailureKind::Environment, unwritable)?;
    let packed = compress_with(compression, &mut out, |tar| {
        write_layer(&root, &WriteOptions::default(), &mut Cancellable(tar, cancel)).map(drop)
    })
    .explain(FailureKind::Environment, || unreadable(&snapshot))?;
    if snapshot.info.diff_id.is_none() {
        note(store, id, &packed.diff_id, packed.diff_size)?;
    }
    let blob = out.commit(None).explain(FailureKind::Environment, unwritable)?;
    remember(store, &packed.diff_id, compression, &blob)?;
    Ok(blob)
}

/// A base layer's blob in another form.
pub(crate) fn recompressed(
    store: &Store,
    diff_id: &DiffId,
    blob: &Blob,
    compression: &Compression,
) -> Result<Blob> {
    let fault = || "could not recompress a layer".to_owned();
    if let Some(blob) = known(store, diff_id, compression)? {
        return Ok(blob);
    }
    let file = blob.open().explain(FailureKind::Environment, fault)?;
    let (_, mut tar) = decompress_sniffed(file).explain(FailureKind::Environment, fault)?;
    let mut out = store.blob_writer().explain(FailureKind::Environment, fault)?;
    compress(&mut tar, compression, &mut out).explain(FailureKind::Environment, fault)?;
    let blob = out.commit(None).explain(FailureKind::Environment, fault)?;
    remember(store, diff_id, compression, &blob)?;
    Ok(blob)
}

fn snapshot(store: &Store, id: &SnapshotId) -> Result<Snapshot> {
    let gone = || Failure::new(FailureKind::Environment, format!("snapshot {id} is gone from the store"));
    let found =
        store.snapshot(id).explain(FailureKind::Environment, || "could not read the store".to_owned())?;
    Ok(found.ok_or_else(gone)?)
}

fn known(store: &Store, diff_id: &DiffId, compression: &Compression) -> Result<Option<Blob>> {
    store
        .compressed_blob(diff_id, &compression.id())
        .explain(FailureKind::Environment, || "could not read the store".to_owned())
}

fn remember(store: &Store, diff_id: &DiffId, compression: &Compression, blob: &Blob) -> Result<()> {
    store.put_compressed_blob(diff_id, &compression.id(), blob).explain(FailureKind::Environment, unwritable)
}

fn note(store: &Store, id: &SnapshotId, diff_id: &DiffId, size: u64) -> Result<()> {
    store.set_diff_id(id, diff_id, size).explain(FailureKind::Environment, unwritable)
}

fn unreadable(snapshot: &Snapshot) -> String {
    format!("could not pack the files of `{}`", snapshot.info.created_by)
}

fn unwritable() -> String {
    "could not write to the store".to_owned()
}
