//! One tree in place of a stack of directories: where the stack is too deep for an overlay, and where there are no overlays.
//!
//! Overlayfs takes 500 lowers at most, and each costs a little at every mount: of every [`DEPTH`] lowers from the bottom
//! the merged tree is copied once into a snapshot of its own, which stands in for them from then on. Without overlayfs
//! (see [`overlays`]) each tree is made that way, of links and not of copies. The steps' own snapshots stay as they are:
//! they are the layers of the image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rbuild_context::{SelectOptions, Tree};
use rbuild_executor::{Mounted, Overlay};
use rbuild_fs::{FileSidecar, Meta, Root, RootfsPath, Sidecar};
use rbuild_image::ChainId;
use rbuild_layer::copy::{CopyOptions, copy};
use rbuild_layer::{Kept, flat};
use rbuild_store::{MemoLinks, NewSnapshot, Parent, Resource, SnapshotId, SnapshotInfo, Store};

use super::in_place::Ground;
use super::{copy_root_folder, mounted_root};
use crate::error::{Explain, FailureKind, Result};
use crate::images::open_tree;

/// Memo kinds: the snapshot that stands in for a stack, for one that is too deep and for one that cannot be mounted.
const FOLDED: &str = "folded";
const FLAT: &str = "flat";
/// Lowers that are folded into one.
const DEPTH: usize = 100;

/// Whether directories of this store can be mounted over each other; found out once for each store.
pub(crate) fn overlays(store: &Store) -> bool {
    static KNOWN: Mutex<BTreeMap<PathBuf, bool>> = Mutex::new(BTreeMap::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    *known.entry(store.root().to_owned()).or_insert_with(|| Overlay::probe(store.root()).is_ok())
}

/// The tree of `parent`, read-only.
pub(crate) fn tree(store: &Store, parent: &Parent) -> Result<Mounted> {
    mount(&Overlay { lowers: &lowers(store, parent)?, upper: None, work: None })
}

pub(crate) fn mount(overlay: &Overlay<'_>) -> Result<Mounted> {
    overlay.mount().explain(FailureKind::Environment, || "could not mount a root file system".to_owned())
}

/// The directories to mount for the tree of `parent`, top first: at most twice [`DEPTH`] of steps and as many of layers; one
/// alone where there are no overlays.
pub(crate) fn lowers(store: &Store, parent: &Parent) -> Result<Vec<PathBuf>> {
    let fault = || "could not read the store".to_owned();
    if !overlays(store) {
        return flat_lowers(store, parent);
    }
    let top = match parent {
        Parent::None => return Ok(Vec::new()),
        Parent::Layers(layers) => return layer_lowers(store, layers),
        Parent::Snapshot(top) => top,
    };
    let chain = store.chain(top).explain(FailureKind::Environment, fault)?;
    if chain.len() < 2 * DEPTH {
        let mut stack: Vec<PathBuf> = chain.iter().map(rbuild_store::Snapshot::fs).collect();
        if let Some(Parent::Layers(layers)) = chain.last().map(rbuild_store::Snapshot::parent) {
            stack.extend(layer_lowers(store, layers)?);
        }
        return Ok(stack);
    }
    // Counted from the bottom, so that a growing stack finds what it folded before.
    let kept = DEPTH + chain.len() % DEPTH;
    let folded = folded(store, &chain[kept].id)?;
    let mut lowers: Vec<PathBuf> = chain[..kept].iter().map(rbuild_store::Snapshot::fs).collect();
    lowers.extend(store.lowers(&Parent::Snapshot(folded)).explain(FailureKind::Environment, fault)?);
    Ok(lowers)
}

/// The same for layers: no image has many, but the results of many steps in a shared cache are layers, too.
fn layer_lowers(store: &Store, layers: &[ChainId]) -> Result<Vec<PathBuf>> {
    let fault = || "could not read the store".to_owned();
    if layers.len() < 2 * DEPTH {
        return store.lowers(&Parent::Layers(layers.to_vec())).explain(FailureKind::Environment, fault);
    }
    let (below, kept) = layers.split_at(layers.len() - DEPTH - layers.len() % DEPTH);
    let top = &below[below.len() - 1];
    let folded = stand_in(store, FOLDED, top.0.as_str(), Resource::Layer(top.clone()), |new| {
        copy_stack(&layer_lowers(store, below)?, new)
    })?;
    let mut lowers = store.lowers(&Parent::Layers(kept.to_vec())).explain(FailureKind::Environment, fault)?;
    lowers.extend(store.lowers(&Parent::Snapshot(folded)).explain(FailureKind::Environment, fault)?);
    Ok(lowers)
}

/// The snapshot with the whole tree up to and including `top`, copied.
fn folded(store: &Store, top: &SnapshotId) -> Result<SnapshotId> {
    stand_in(store, FOLDED, &top.to_string(), Resource::Snapshot(*top), |new| {
        copy_stack(&lowers(store, &Parent::Snapshot(*top))?, new)
    })
}

fn copy_stack(lowers: &[PathBuf], new: &NewSnapshot) -> Result<()> {
    let mounted = mount(&Overlay { lowers, upper: None, work: None })?;
    let to = open_tree(&new.upper(), &new.sidecar())?;
    copy_tree(mounted_root(&mounted)?, &to, false, &mut |_, _| true)
}

/// The one directory that shows all of the stack, made of links to its files.
fn flat_lowers(store: &Store, parent: &Parent) -> Result<Vec<PathBuf>> {
    let fault = || "could not read the store".to_owned();
    let stack = match parent {
        Parent::None => return Ok(Vec::new()),
        Parent::Layers(layers) => return flat_layers(store, layers),
        Parent::Snapshot(id) => {
            let snapshot = store.chain(id).explain(FailureKind::Environment, fault)?.swap_remove(0);
            let below = flat_lowers(store, snapshot.parent())?;
            [vec![snapshot.fs()], below].concat()
        }
    };
    let Parent::Snapshot(id) = parent else { return Ok(stack) };
    flat_stack(store, &id.to_string(), Resource::Snapshot(*id), stack)
}

fn flat_layers(store: &Store, layers: &[ChainId]) -> Result<Vec<PathBuf>> {
    let stack = store
        .lowers(&Parent::Layers(layers.to_vec()))
        .explain(FailureKind::Environment, || "could not read the store".to_owned())?;
    match layers.last() {
        Some(top) => flat_stack(store, top.0.as_str(), Resource::Layer(top.clone()), stack),
        None => Ok(stack),
    }
}

fn flat_stack(store: &Store, key: &str, about: Resource, stack: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    if stack.len() < 2 {
        return Ok(stack);
    }
    let fault = || "could not lay snapshots over each other".to_owned();
    let made = stand_in(store, FLAT, key, about, |new| {
        let open = |fs: &PathBuf| open_tree(fs, &fs.with_file_name("sidecar"));
        let roots = stack.iter().map(open).collect::<Result<Vec<_>>>()?;
        let sidecar = FileSidecar::open(new.sidecar()).explain(FailureKind::Environment, fault)?;
        // Attributes come along with the files.
        if stack.iter().any(|fs| fs.with_file_name("sidecar").exists()) {
            sidecar.mark().explain(FailureKind::Environment, fault)?;
        }
        let into = open_tree(&new.upper(), &new.sidecar())?;
        flat::merge(&roots, &into).explain(FailureKind::Environment, fault)
    })?;
    store.lowers(&Parent::Snapshot(made)).explain(FailureKind::Environment, fault)
}

/// A snapshot that shows what a stack shows: made now, or before.
fn stand_in(
    store: &Store,
    kind: &'static str,
    key: &str,
    about: Resource,
    make: impl FnOnce(&NewSnapshot) -> Result<()>,
) -> Result<SnapshotId> {
    let fault = || "could not keep a tree in the store".to_owned();
    let known: Option<SnapshotId> = store.memo(kind, key).explain(FailureKind::Environment, fault)?;
    if let Some(known) = known
        && store.snapshot(&known).explain(FailureKind::Environment, fault)?.is_some()
    {
        return Ok(known);
    }
    let new = store.begin(&Parent::None).explain(FailureKind::Environment, fault)?;
    make(&new)?;
    let info = SnapshotInfo { created_by: kind.to_owned(), ..SnapshotInfo::default() };
    let snapshot = new.commit(info).explain(FailureKind::Environment, fault)?;
    let links = MemoLinks { keeps: vec![Resource::Snapshot(snapshot.id)], about: vec![about] };
    store.put_memo(kind, key, &snapshot.id, &links).explain(FailureKind::Environment, fault)?;
    Ok(snapshot.id)
}

/// A writable tree of a step without overlays: a copy of its parents', which takes all changes.
pub(crate) struct Copied {
    path: PathBuf,
    sidecar: PathBuf,
    baseline: flat::Baseline,
    /// The container's own root, which is wiped after all else.
    ground: Option<Ground>,
}

impl Copied {
    /// Copies the tree of `lowers` (one, or none) into the empty folder `path`.
    pub(crate) fn of(lowers: &[PathBuf], path: PathBuf, sidecar: PathBuf) -> Result<Self> {
        let to = open_tree(&path, &sidecar)?;
        if let Some(from) = lowers.first() {
            let from = open_tree(from, &from.with_file_name("sidecar"))?;
            copy_tree(from, &to, true, &mut |_, _| true)?;
        }
        Self::new(path, sidecar, Kept::default(), None)
    }

    /// A tree as it is now, but for what is kept.
    pub(super) fn new(path: PathBuf, sidecar: PathBuf, kept: Kept, ground: Option<Ground>) -> Result<Self> {
        let fault = || "could not look at a root file system".to_owned();
        let tree = open_tree(&path, &sidecar)?;
        let baseline = flat::Baseline::without(&tree, kept).explain(FailureKind::Environment, fault)?;
        Ok(Copied { path, sidecar, baseline, ground })
    }

    /// These files are as they were, whatever their time of change.
    pub(super) fn accept(&mut self, paths: &[RootfsPath]) -> Result<()> {
        let tree = open_tree(&self.path, &self.sidecar)?;
        let accepted = paths.iter().try_for_each(|path| self.baseline.accept(&tree, path));
        accepted.explain(FailureKind::Environment, || "could not find what a step has changed".to_owned())
    }

    /// The tree, as an overlay would show it.
    pub(crate) fn mount(&self) -> Result<Mounted> {
        mount(&Overlay { lowers: &[], upper: Some(&self.path), work: None })
    }

    /// Puts what has changed into an empty upper directory.
    pub(super) fn write_changes(&self, upper: &Path) -> Result<()> {
        let (tree, upper) = (open_tree(&self.path, &self.sidecar)?, open_tree(upper, &self.sidecar)?);
        flat::write_changes(&self.baseline, &tree, &upper)
            .explain(FailureKind::Environment, || "could not find what a step has changed".to_owned())?;
        self.ground.as_ref().map_or(Ok(()), |ground| ground.add_mount_points(&upper))
    }
}

/// Everything that is let in, owners and times included; the root folder's own data last. Names of one file stay that, or
/// become files of their own.
pub(super) fn copy_tree(
    from: Root,
    to: &Root,
    split_links: bool,
    lets_in: &mut dyn FnMut(&RootfsPath, &Meta) -> bool,
) -> Result<()> {
    let options = CopyOptions { split_links, ..CopyOptions::default() };
    let fault = || "could not copy a root file system".to_owned();
    let tree = Tree::rootfs(from);
    let mut all = tree.select("/", &SelectOptions::default()).explain(FailureKind::Environment, fault)?;
    for found in &mut all.matches {
        found.entries.retain(|entry| lets_in(&RootfsPath::root().join(&entry.path), &entry.meta));
    }
    copy(&tree, &[all], to, &RootfsPath::root(), true, &options).explain(FailureKind::Environment, fault)?;
    copy_root_folder(tree.root(), to)
}
