//! Everything that is in a store, read at once: for collection, verification, and after a loss of power. Nothing else
//! reads it all.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rbuild_fs::{PathContext, PathError};
use rbuild_image::{ChainId, Digest};
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::cache::CacheResult;
use crate::error::Result;
use crate::layout::Layout;
use crate::lock::Hold;
use crate::memo::Memo;
use crate::session::{Session, names};
use crate::{
    CacheRecord, ImageRecord, LayerInfo, Parent, Resource, SnapshotId, SnapshotInfo, Store, StoreError,
    record,
};

/// One document.
#[derive(Debug)]
pub(crate) struct Entry<T> {
    pub(crate) path: PathBuf,
    /// Time of last use.
    pub(crate) used: SystemTime,
    pub(crate) bytes: u64,
    pub(crate) record: Result<T>,
}

/// The folder of a snapshot or base layer.
#[derive(Debug)]
pub(crate) struct Tree<I> {
    pub(crate) id_map: String,
    pub(crate) dir: PathBuf,
    /// None if it does not parse.
    pub(crate) info: Option<I>,
}

#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) blobs: BTreeMap<Digest, (PathBuf, u64)>,
    pub(crate) snapshots: BTreeMap<SnapshotId, Tree<SnapshotInfo>>,
    pub(crate) layers: BTreeMap<ChainId, Vec<Tree<LayerInfo>>>,
    pub(crate) cache: Vec<Entry<CacheRecord>>,
    pub(crate) memos: Vec<Entry<Memo<IgnoredAny>>>,
    pub(crate) tags: Vec<Entry<ImageRecord>>,
    /// Names where none of ours can be.
    pub(crate) strange: Vec<PathBuf>,
}

impl Inventory {
    pub(crate) fn read(layout: &Layout) -> Result<Self> {
        let mut all =
            Self { cache: cache_entries(layout)?, tags: entries(&layout.dir("tags"))?, ..Self::default() };
        for kind in names(&layout.dir("memo"))? {
            all.memos.extend(entries(&layout.dir("memo").join(kind))?);
        }
        all.read_blobs(&layout.dir("blobs"))?;
        all.read_trees(layout)?;
        Ok(all)
    }

    fn read_blobs(&mut self, folder: &Path) -> Result<()> {
        for algorithm in names(folder)? {
            for hex in names(&folder.join(&algorithm))? {
                let path = folder.join(&algorithm).join(&hex);
                match (format!("{algorithm}:{hex}").parse(), fs::symlink_metadata(&path)) {
                    (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => {}
                    (_, Err(error)) => return Err(error).on("examine", &path).map_err(Into::into),
                    (Ok(digest), Ok(metadata)) => drop(self.blobs.insert(digest, (path, metadata.len()))),
                    (Err(_), Ok(_)) => self.strange.push(path),
                }
            }
        }
        Ok(())
    }

    fn read_trees(&mut self, layout: &Layout) -> Result<()> {
        for (id_map, name, dir) in trees(&layout.dir("snapshots"))? {
            match name.parse() {
                Ok(id) => drop(self.snapshots.insert(id, tree(id_map, dir)?)),
                Err(_) => self.strange.push(dir),
            }
        }
        for (id_map, name, dir) in trees(&layout.dir("layers"))? {
            match chain_id(&name) {
                Some(chain_id) => self.layers.entry(chain_id).or_default().push(tree(id_map, dir)?),
                None => self.strange.push(dir),
            }
        }
        Ok(())
    }

    /// What `resource` itself stands on.
    pub(crate) fn needs(&self, resource: &Resource) -> Vec<Resource> {
        let Resource::Snapshot(id) = resource else { return Vec::new() };
        match self.snapshots.get(id).and_then(|tree| tree.info.as_ref()).map(|info| &info.parent) {
            None | Some(Parent::None) => Vec::new(),
            Some(Parent::Snapshot(parent)) => vec![Resource::Snapshot(*parent)],
            Some(Parent::Layers(layers)) => layers.iter().cloned().map(Resource::Layer).collect(),
        }
    }

    /// `roots` and all they stand on, without what is in `known` already (whose needs are in it, too).
    pub(crate) fn reach(
        &self,
        roots: impl IntoIterator<Item = Resource>,
        known: &BTreeSet<Resource>,
    ) -> BTreeSet<Resource> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<Resource> = roots.into_iter().collect();
        while let Some(resource) = open.pop() {
            if !known.contains(&resource) && reached.insert(resource.clone()) {
                open.extend(self.needs(&resource));
            }
        }
        reached
    }

    /// Whether it is here and can be read. Says nothing of what it stands on.
    pub(crate) fn has(&self, resource: &Resource) -> bool {
        match resource {
            Resource::Blob(digest) => self.blobs.contains_key(digest),
            Resource::Snapshot(id) => self.snapshots.get(id).is_some_and(|tree| tree.info.is_some()),
            Resource::Layer(chain_id) => {
                self.layers.get(chain_id).is_some_and(|trees| trees.iter().any(|tree| tree.info.is_some()))
            }
        }
    }

    /// Bytes of `resource` on disk.
    pub(crate) fn bytes(&self, session: &Session, resource: &Resource) -> Result<u64> {
        match resource {
            Resource::Blob(digest) => Ok(self.blobs.get(digest).map_or(0, |(_, bytes)| *bytes)),
            Resource::Snapshot(id) => self.snapshots.get(id).map_or(Ok(0), |tree| disk(session, &tree.dir)),
            Resource::Layer(chain_id) => {
                self.layers.get(chain_id).into_iter().flatten().map(|tree| disk(session, &tree.dir)).sum()
            }
        }
    }
}

/// What a cache record refers to.
pub(crate) fn record_needs(record: &CacheRecord) -> Vec<Resource> {
    match record.result {
        CacheResult::Snapshot(id) => vec![Resource::Snapshot(id)],
        CacheResult::Layer(_) | CacheResult::Metadata(_) => Vec::new(),
    }
}

/// The same with what it would rather not lose: of a layer that lies elsewhere, what of it was brought here.
pub(crate) fn record_keeps(all: &Inventory, record: &CacheRecord) -> Vec<Resource> {
    match &record.result {
        CacheResult::Layer(layer) => {
            let brought =
                [Resource::Layer(layer.chain_id()), Resource::Blob(layer.descriptor.digest.clone())];
            brought.into_iter().filter(|resource| all.has(resource)).collect()
        }
        _ => record_needs(record),
    }
}

/// All cache records.
pub(crate) fn cache_entries(layout: &Layout) -> Result<Vec<Entry<CacheRecord>>> {
    let folder = layout.dir("cache");
    let mut all = Vec::new();
    for shard in names(&folder)? {
        all.extend(entries(&folder.join(shard))?);
    }
    Ok(all)
}

/// All documents in a folder; one that another process removes meanwhile is left out.
pub(crate) fn entries<T: DeserializeOwned>(folder: &Path) -> Result<Vec<Entry<T>>> {
    let mut entries = Vec::new();
    for name in names(folder)? {
        let path = folder.join(name);
        let metadata = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.on("examine", &path)?,
        };
        let used = metadata.modified().on("examine", &path)?;
        match record::read(&path).transpose() {
            Some(record) => entries.push(Entry { path, used, bytes: metadata.len(), record }),
            None => continue,
        }
    }
    Ok(entries)
}

/// Whether the snapshot is under any id map.
pub(crate) fn is_elsewhere(layout: &Layout, id: &SnapshotId) -> Result<bool> {
    let folder = layout.dir("snapshots");
    Ok(names(&folder)?
        .iter()
        .any(|id_map| folder.join(id_map).join(id.to_string()).join("info.json").exists()))
}

/// `(id map, name, path)` of every folder two levels below `folder`.
fn trees(folder: &Path) -> Result<Vec<(String, String, PathBuf)>> {
    let mut found = Vec::new();
    for id_map in names(folder)? {
        for name in names(&folder.join(&id_map))? {
            let path = folder.join(&id_map).join(&name);
            found.push((id_map.clone(), name, path));
        }
    }
    Ok(found)
}

fn tree<I: DeserializeOwned>(id_map: String, dir: PathBuf) -> Result<Tree<I>> {
    let info = match record::read(&dir.join("info.json")) {
        Err(StoreError::Damaged { .. }) => None,
        other => other?,
    };
    Ok(Tree { id_map, dir, info })
}

/// A layer's folder has the digits only; their number tells the algorithm.
fn chain_id(hex: &str) -> Option<ChainId> {
    let algorithm = if hex.len() == 128 { "sha512" } else { "sha256" };
    format!("{algorithm}:{hex}").parse().ok()
}

/// Bytes of the files of a tree, each inode once: measured once, as a published tree never changes, and kept in `disk`
/// beside it. The caller holds the gate; who does not takes [`Store::tree_bytes`].
pub(crate) fn disk(session: &Session, dir: &Path) -> Result<u64> {
    match noted(dir) {
        Some(bytes) => Ok(bytes),
        None => {
            let bytes = measure(&dir.join("fs"))?;
            note(session, dir, bytes)?;
            Ok(bytes)
        }
    }
}

fn noted(dir: &Path) -> Option<u64> {
    fs::read_to_string(dir.join("disk")).ok()?.parse().ok()
}

fn note(session: &Session, dir: &Path, bytes: u64) -> Result<()> {
    let temporary = session.temporary("disk");
    fs::write(&temporary, bytes.to_string()).on("write", &temporary)?;
    // The tree may have been collected meanwhile: then there is nowhere to note it, which is no matter.
    if fs::rename(&temporary, dir.join("disk")).is_err() {
        record::remove(&temporary)?;
    }
    Ok(())
}

impl Store {
    /// Bytes of a tree, as [`disk`] has them. The walk goes without the gate, the note is made under it: a file that came into a
    /// tree when its deletion had begun would make that fail.
    pub(crate) fn tree_bytes(&self, dir: &Path) -> Result<u64> {
        if let Some(bytes) = noted(dir) {
            return Ok(bytes);
        }
        let bytes = measure(&dir.join("fs"))?;
        let _gate = self.gate(Hold::Shared)?;
        note(&self.inner.session, dir, bytes)?;
        Ok(bytes)
    }
}

/// Sum of the lengths of all regular files below `path`, each inode once. What may not be looked into counts nothing: it
/// belongs to another id map, and is not ours to collect either.
pub(crate) fn measure(path: &Path) -> Result<u64, PathError> {
    let (mut bytes, mut seen, mut open) = (0, HashSet::new(), vec![path.to_owned()]);
    while let Some(folder) = open.pop() {
        let entries = match fs::read_dir(&folder) {
            Err(error) if is_out_of_reach(&error) => continue,
            other => other.on("list", &folder)?,
        };
        for entry in entries {
            let entry = entry.on("list", &folder)?;
            let metadata = match entry.metadata() {
                Err(error) if is_out_of_reach(&error) => continue,
                other => other.on("examine", entry.path())?,
            };
            if metadata.is_dir() {
                open.push(entry.path());
            } else if metadata.is_file() && (metadata.nlink() == 1 || seen.insert(metadata.ino())) {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}

fn is_out_of_reach(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
}
