//! Layers as trees of the store: several at a time, then from the bottom up what they only imply.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rbuild_executor::Cancel;
use rbuild_fs::{FileSidecar, Journal, Root};
use rbuild_image::{ChainId, Descriptor, DiffId};
use rbuild_layer::{
    AppliedLayer, LayerError, WriteOptions, apply_layer, decompress_sniffed, settle_layer, write_layer,
};
use rbuild_store::{LayerInfo, LayerSlot, NewLayer, Parent, SnapshotId, Store};

use crate::cancel::Cancellable;
use crate::error::{BuildError, Explain, Failure, FailureKind, Result};
use crate::event::{Event, StepNumber};
use crate::image::{ImageLayer, LayerStack, Origin};
use crate::state::Rootfs;

use super::Images;

/// Layers that are fetched and unpacked at the same time.
const SIDE_BY_SIDE: usize = 4;

impl Images<'_> {
    /// The store's name for the tree of a state; a base image's layers are brought here first.
    pub(crate) fn parent(&self, rootfs: &Rootfs) -> Result<Parent> {
        match rootfs {
            Rootfs::Empty => Ok(Parent::None),
            Rootfs::Snapshot(id) => Ok(Parent::Snapshot(*id)),
            Rootfs::Layers(stack) => {
                self.unpack(stack)?;
                Ok(Parent::Layers(stack.chain.clone()))
            }
        }
    }

    /// Fetches and unpacks what is missing of the layers, several at a time.
    pub(crate) fn unpack(&self, stack: &LayerStack) -> Result<()> {
        let chain = &stack.chain;
        let Some(top) = chain.last() else { return Ok(()) };
        let slot = self
            .unpacking
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(top.clone())
            .or_default()
            .clone();
        let mut done = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if *done {
            return Ok(());
        }
        let fault = || "could not read the store".to_owned();
        let mut missing = false;
        for id in chain {
            missing |= self.store.layer(id).explain(FailureKind::Environment, fault)?.is_none();
        }
        if missing {
            let number =
                self.steps.announce(self.events, &format!("[internal] fetch and unpack {}", stack.label));
            let started = Instant::now();
            match self.unpack_missing(stack, number) {
                Ok(()) => self.events.event(Event::Done { step: number, took: started.elapsed() }),
                Err(error) => {
                    let message = error.to_string();
                    self.events.event(match &error {
                        BuildError::Cancelled => Event::Cancelled { step: number },
                        _ => Event::Failed { step: number, message: &message },
                    });
                    return Err(error);
                }
            }
        }
        *done = true;
        Ok(())
    }

    /// The right to make each missing layer is taken from the bottom up before any is made. Builds that want the same
    /// layers then wait for each other along the chain; in any other order, two could each hold what the other waits for.
    fn unpack_missing(&self, stack: &LayerStack, number: StepNumber) -> Result<()> {
        let chain = &stack.chain;
        let fault = || "could not begin an unpacked layer".to_owned();
        let mut missing = Vec::new();
        for (height, (id, layer)) in chain.iter().zip(&stack.layers).enumerate() {
            match self.store.begin_layer(id).explain(FailureKind::Environment, fault)? {
                LayerSlot::Ready(_) => {}
                LayerSlot::New(new) => missing.push(Missing { height, new, layer }),
            }
        }
        let workers = SIDE_BY_SIDE.min(missing.len());
        let queue = Mutex::new(missing.into_iter());
        let take = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let applied = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(missing) = take() {
                        let (height, result) = (missing.height, self.apply(missing, number));
                        applied.lock().unwrap_or_else(PoisonError::into_inner).push((height, result));
                    }
                });
            }
        });
        // From the bottom up: what a layer only implies is known once those below it are.
        let mut applied = applied.into_inner().unwrap_or_else(PoisonError::into_inner);
        applied.sort_by_key(|(height, _)| *height);
        for (height, result) in applied {
            result?.settle(self.store, &chain[..height])?;
        }
        Ok(())
    }

    fn apply(&self, missing: Missing<'_>, number: StepNumber) -> Result<Unsettled> {
        let Missing { new, layer, .. } = missing;
        match layer {
            ImageLayer::Blob { diff_id, descriptor, origin } => self
                .apply_blob(new, diff_id, descriptor, origin, number)
                .inspect_err(|error| self.distant.failed(&descriptor.digest, error)),
            ImageLayer::Snapshot(id) => self.apply_snapshot(new, id),
        }
    }

    fn apply_blob(
        &self,
        new: NewLayer,
        diff_id: &DiffId,
        descriptor: &Descriptor,
        origin: &Origin,
        number: StepNumber,
    ) -> Result<Unsettled> {
        let fault = || format!("could not unpack the layer {}", descriptor.digest);
        let blob = self.blob(descriptor, origin, number)?;
        let file = Cancellable(blob.open().explain(FailureKind::Environment, fault)?, self.cancel);
        let root = open_tree(&new.fs(), &new.sidecar())?;
        let applied = decompress_sniffed(file)
            .map_err(LayerError::Read)
            .and_then(|(_, mut tar)| apply_layer(&mut tar, &root));
        if self.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        let applied = applied.explain(origin.fault(), fault)?;
        if applied.diff_id != *diff_id {
            let message = format!("the layer {} is not what its image's config says", descriptor.digest);
            let cause = format!("its content is {}, the config says {}", applied.diff_id.0, diff_id.0);
            return Err(Failure::new(origin.fault(), message).caused_by(cause).into());
        }
        Ok(Unsettled { new, root, applied })
    }

    /// A snapshot under layers of a shared cache becomes a layer as they are: its tar is written and read at once.
    fn apply_snapshot(&self, new: NewLayer, id: &SnapshotId) -> Result<Unsettled> {
        let fault = || format!("could not make a layer of the snapshot {id}");
        let snapshot =
            self.store.snapshot(id).explain(FailureKind::Environment, fault)?.ok_or_else(|| {
                Failure::new(FailureKind::Environment, format!("snapshot {id} is gone from the store"))
            })?;
        let from = open_tree(&snapshot.fs(), &snapshot.sidecar())?;
        let root = open_tree(&new.fs(), &new.sidecar())?;
        let (mut reader, writer) = io::pipe().explain(FailureKind::Environment, fault)?;
        let applied = std::thread::scope(|scope| {
            let written = scope.spawn(move || {
                let mut buffered = io::BufWriter::with_capacity(256 << 10, writer);
                write_layer(&from, &WriteOptions::default(), &mut buffered)?;
                buffered.flush().map_err(LayerError::Write)
            });
            let applied = apply_layer(&mut Cancellable(&mut reader, self.cancel), &root);
            // A writer whose reader failed has only the pipe to complain of.
            drop(reader);
            match written.join() {
                Ok(written) => applied.and_then(|applied| written.map(|()| applied)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        });
        Ok(Unsettled { new, root, applied: applied.explain(FailureKind::Environment, fault)? })
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.cancel.is_some_and(Cancel::is_cancelled)
    }
}

/// A layer that this process is to unpack, with so many layers below it.
struct Missing<'a> {
    height: usize,
    new: NewLayer,
    layer: &'a ImageLayer,
}

/// A layer whose entries are all there, before it is complete.
struct Unsettled {
    new: NewLayer,
    root: Root,
    applied: AppliedLayer,
}

impl Unsettled {
    fn settle(self, store: &Store, below: &[ChainId]) -> Result<()> {
        let Unsettled { new, root, applied } = self;
        let fault = || "could not complete an unpacked layer".to_owned();
        // An entry for the root is rare; without one the root of the layers below counts.
        if (applied.needs_settling() || !applied.has_root) && !below.is_empty() {
            let mounted = crate::steps::folding::tree(store, &Parent::Layers(below.to_vec()))?;
            let lower = crate::steps::mounted_root(&mounted)?;
            settle_layer(&root, &applied, &lower).explain(FailureKind::Environment, fault)?;
            if !applied.has_root {
                crate::steps::copy_root_folder(&lower, &root)?;
            }
        }
        let implied = applied.implied.iter().map(|path| path.relative().to_owned()).collect();
        let info = LayerInfo { size: applied.size, implied, ..LayerInfo::default() };
        new.commit(info).explain(FailureKind::Environment, fault)?;
        Ok(())
    }
}

/// A snapshot's or a layer's own directory, with the journal beside it.
pub(crate) fn open_tree(fs: &Path, sidecar: &Path) -> Result<Root> {
    let fault = || "could not open a tree of the store".to_owned();
    let sidecar = FileSidecar::open(PathBuf::from(sidecar)).explain(FailureKind::Environment, fault)?;
    let root = Root::open(fs).explain(FailureKind::Environment, fault)?;
    Ok(root.with_journal(Journal::with_sidecar(Arc::new(sidecar))))
}
