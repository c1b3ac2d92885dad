//! Deep stacks, folded: overlayfs takes 500 lowers at most, and each costs a little at every mount.
//!
//! Of every [`DEPTH`] lowers from the bottom the merged tree is copied once into a snapshot of its own, which stands in
//! for them from then on. The steps' own snapshots stay as they are: they are the layers of the image.

use std::path::PathBuf;

use rbuild_context::{SelectOptions, Tree};
use rbuild_executor::Overlay;
use rbuild_fs::{Root, RootfsPath};
use rbuild_layer::copy::{CopyOptions, copy};
use rbuild_store::{MemoLinks, Parent, Resource, SnapshotId, SnapshotInfo, Store};

use super::{copy_root_folder, mounted_root};
use crate::error::{Explain, FailureKind, Result};

/// Memo kind: the snapshot that stands in for a stack.
const FOLDED: &str = "folded";
/// Lowers that are folded into one.
const DEPTH: usize = 100;

/// The directories to mount for the tree of `parent`, top first: at most twice [`DEPTH`], and the base image's layers.
pub(crate) fn lowers(store: &Store, parent: &Parent) -> Result<Vec<PathBuf>> {
    let fault = || "could not read the store".to_owned();
    let Parent::Snapshot(top) = parent else {
        return store.lowers(parent).explain(FailureKind::Environment, fault);
    };
    let chain = store.chain(top).explain(FailureKind::Environment, fault)?;
    if chain.len() < 2 * DEPTH {
        return store.lowers(parent).explain(FailureKind::Environment, fault);
    }
    // Counted from the bottom, so that a growing stack finds what it folded before.
    let kept = DEPTH + chain.len() % DEPTH;
    let folded = folded(store, &chain[kept].id)?;
    let mut lowers: Vec<PathBuf> = chain[..kept].iter().map(rbuild_store::Snapshot::fs).collect();
    lowers.extend(store.lowers(&Parent::Snapshot(folded)).explain(FailureKind::Environment, fault)?);
    Ok(lowers)
}

/// The snapshot with the whole tree up to and including `top`.
fn folded(store: &Store, top: &SnapshotId) -> Result<SnapshotId> {
    let fault = || "could not fold a deep stack of snapshots".to_owned();
    let key = top.to_string();
    let known: Option<SnapshotId> = store.memo(FOLDED, &key).explain(FailureKind::Environment, fault)?;
    if let Some(known) = known {
        return Ok(known);
    }
    let below = lowers(store, &Parent::Snapshot(*top))?;
    let mounted = Overlay { lowers: &below, upper: None, work: None }
        .mount()
        .explain(FailureKind::Environment, fault)?;
    let new = store.begin(&Parent::None).explain(FailureKind::Environment, fault)?;
    let to = crate::images::open_tree(&new.upper(), &new.sidecar())?;
    copy_tree(mounted_root(&mounted)?, &to)?;
    drop((mounted, to));
    let info = SnapshotInfo { created_by: "folded".to_owned(), ..SnapshotInfo::default() };
    let snapshot = new.commit(info).explain(FailureKind::Environment, fault)?;
    let links =
        MemoLinks { keeps: vec![Resource::Snapshot(snapshot.id)], about: vec![Resource::Snapshot(*top)] };
    store.put_memo(FOLDED, &key, &snapshot.id, &links).explain(FailureKind::Environment, fault)?;
    Ok(snapshot.id)
}

/// Everything, owners, times and links included; the root folder's own data last.
fn copy_tree(from: Root, to: &Root) -> Result<()> {
    let fault = || "could not fold a deep stack of snapshots".to_owned();
    let tree = Tree::rootfs(from);
    let all = tree.select("/", &SelectOptions::default()).explain(FailureKind::Environment, fault)?;
    copy(&tree, &[all], to, &RootfsPath::root(), true, &CopyOptions::default())
        .explain(FailureKind::Environment, fault)?;
    copy_root_folder(tree.root(), to)
}
