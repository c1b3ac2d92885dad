//! How much is in the store.

use std::fs;

use crate::Store;
use crate::error::Result;
use crate::inventory::{Inventory, measure};
use crate::session::names;

/// A number of things and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Share {
    /// How many.
    pub count: u64,
    /// Lengths of their files, each inode once.
    pub bytes: u64,
}

impl Share {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.count += 1;
        self.bytes += bytes;
    }
}

/// What the store holds, by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Blobs.
    pub blobs: Share,
    /// Downloads under way or broken off.
    pub partial: Share,
    /// Snapshots, under all id maps.
    pub snapshots: Share,
    /// Base layers as applied, under all id maps.
    pub layers: Share,
    /// Cache records.
    pub cache: Share,
    /// Memos.
    pub memos: Share,
    /// Tags.
    pub tags: Share,
    /// Copies of cache mounts.
    pub mounts: Share,
    /// Builds with logs.
    pub logs: Share,
}

impl Usage {
    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let Self { blobs, partial, snapshots, layers, cache, memos, tags, mounts, logs } = self;
        [blobs, partial, snapshots, layers, cache, memos, tags, mounts, logs]
            .iter()
            .map(|share| share.bytes)
            .sum()
    }
}

impl Store {
    /// Bytes of one snapshot's own files on disk; 0 where it is not here.
    pub fn snapshot_bytes(&self, id: &crate::SnapshotId) -> Result<u64> {
        match self.snapshot(id)? {
            Some(snapshot) => self.tree_bytes(crate::layout::parent(&snapshot.fs())),
            None => Ok(0),
        }
    }

    /// Counts everything. Each tree is measured once in its life; the rest is a list of names and lengths.
    pub fn usage(&self) -> Result<Usage> {
        let layout = &self.inner.layout;
        let inventory = Inventory::read(layout)?;
        let mut usage = Usage::default();
        inventory.blobs.values().for_each(|(_, bytes)| usage.blobs.add(*bytes));
        inventory.cache.iter().for_each(|entry| usage.cache.add(entry.bytes));
        inventory.memos.iter().for_each(|entry| usage.memos.add(entry.bytes));
        inventory.tags.iter().for_each(|entry| usage.tags.add(entry.bytes));
        for tree in inventory.snapshots.values() {
            usage.snapshots.add(self.tree_bytes(&tree.dir)?);
        }
        for tree in inventory.layers.values().flatten() {
            usage.layers.add(self.tree_bytes(&tree.dir)?);
        }
        for id in names(&layout.dir("mounts"))? {
            let folder = layout.dir("mounts").join(id);
            for copy in names(&folder)?.iter().filter(|name| !name.contains('.')) {
                usage.mounts.add(measure(&folder.join(copy))?);
            }
        }
        for build in names(&layout.dir("logs"))? {
            usage.logs.add(measure(&layout.dir("logs").join(build))?);
        }
        for name in names(&layout.dir("partial"))? {
            usage
                .partial
                .add(fs::metadata(layout.dir("partial").join(name)).map_or(0, |metadata| metadata.len()));
        }
        Ok(usage)
    }
}
