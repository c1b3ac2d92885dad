//! The rules of power loss: what no `syncfs` has covered is not believed under another boot.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rbuild_fs::PathContext;

use crate::blob::hash_file;
use crate::error::Result;
use crate::inventory::{Inventory, record_needs};
use crate::layout::Layout;
use crate::lock::{self, Hold};
use crate::mount::Ready;
use crate::session::names;
use crate::{Resource, Store, record};

/// How much earlier than the marker a blob may seem to have been written: the clock may have been set meanwhile.
const CLOCK_SLACK: Duration = Duration::from_secs(24 * 3600);

/// One `syncfs` for everything published so far, by this session and by those that died before it.
pub(crate) fn finish(store: &Store) -> Result<bool> {
    let layout = &store.inner.layout;
    let covered = dead_markers(layout)?;
    let synced = store.inner.session.make_durable(|| store.sync())?;
    if synced {
        for name in covered {
            record::remove(&layout.dir("undurable").join(name))?;
        }
    }
    Ok(synced)
}

fn dead_markers(layout: &Layout) -> Result<Vec<String>> {
    let mut dead = Vec::new();
    for name in names(&layout.dir("undurable"))? {
        if !lock::is_held(&layout.dir("leases").join(&name))? {
            dead.push(name);
        }
    }
    Ok(dead)
}

/// Sessions of another boot whose writes may be lost. A living one of another boot is on another machine.
fn lost_sessions(layout: &Layout, boot_id: &str) -> Result<BTreeSet<String>> {
    let mut lost = BTreeSet::new();
    for name in dead_markers(layout)? {
        let marker = layout.dir("undurable").join(&name);
        let boot = record::read_text(&marker)?;
        // Without text, the session died before it had published anything, or the marker is gone again.
        if boot.is_some_and(|boot| boot.trim() != boot_id) {
            lost.insert(name);
        }
    }
    Ok(lost)
}

/// Drops what a loss of power may have torn, and what depends on it.
pub(crate) fn recover(store: &Store, boot_id: &str) -> Result<()> {
    let layout = &store.inner.layout;
    if lost_sessions(layout, boot_id)?.is_empty() {
        return Ok(());
    }
    let _gate = store.gate(Hold::Exclusive)?;
    // Another process may have done it while this one waited.
    let lost = lost_sessions(layout, boot_id)?;
    if lost.is_empty() {
        return Ok(());
    }
    let mut inventory = Inventory::read(layout)?;
    drop_torn_blobs(layout, &lost, &mut inventory)?;
    drop_lost(&lost, &mut inventory)?;
    drop_dangling(store, &mut inventory)?;
    drop_mounts(layout, &lost)?;
    // Only when the removals are on disk may the markers go.
    store.sync()?;
    for name in lost {
        record::remove(&layout.dir("undurable").join(name))?;
    }
    Ok(())
}

/// Re-reads the blobs written since the first of the lost sessions began, and removes those that are not what they should be.
fn drop_torn_blobs(layout: &Layout, lost: &BTreeSet<String>, inventory: &mut Inventory) -> Result<()> {
    let mut since = i64::MAX;
    for name in lost {
        let marker = layout.dir("undurable").join(name);
        since = since.min(fs::metadata(&marker).on("examine", &marker)?.mtime());
    }
    since = since.saturating_sub(CLOCK_SLACK.as_secs().cast_signed());
    let mut torn = Vec::new();
    for (digest, (path, _)) in &inventory.blobs {
        let changed = fs::metadata(path).on("examine", path)?.ctime();
        if changed >= since && hash_file(path, digest.digester())?.finish() != *digest {
            record::remove(path)?;
            torn.push(digest.clone());
        }
    }
    torn.iter().for_each(|digest| drop(inventory.blobs.remove(digest)));
    Ok(())
}

/// Removes the records that the lost sessions wrote and those that do not parse, and forgets such trees.
fn drop_lost(lost: &BTreeSet<String>, all: &mut Inventory) -> Result<()> {
    retain(&mut all.cache, |record| !lost.contains(&record.session))?;
    retain(&mut all.memos, |memo| !lost.contains(&memo.session))?;
    retain(&mut all.tags, |image| !lost.contains(&image.session))?;
    for tree in all.snapshots.values_mut() {
        tree.info.take_if(|info| lost.contains(&info.session));
    }
    for tree in all.layers.values_mut().flatten() {
        tree.info.take_if(|info| lost.contains(&info.session));
    }
    Ok(())
}

/// Removes the trees that are forgotten or stand on something forgotten, and the records that refer to such.
fn drop_dangling(store: &Store, all: &mut Inventory) -> Result<()> {
    loop {
        let dangling: Vec<_> = all
            .snapshots
            .iter()
            .filter(|(id, tree)| {
                tree.info.is_some() && !all.needs(&Resource::Snapshot(**id)).iter().all(|need| all.has(need))
            })
            .map(|(id, _)| *id)
            .collect();
        if dangling.is_empty() {
            break;
        }
        for id in dangling {
            all.snapshots.entry(id).and_modify(|tree| tree.info = None);
        }
    }
    let mut cache = std::mem::take(&mut all.cache);
    retain(&mut cache, |record| record_needs(record).iter().all(|need| all.has(need)))?;
    let mut memos = std::mem::take(&mut all.memos);
    retain(&mut memos, |memo| memo.links.keeps.iter().chain(&memo.links.about).all(|need| all.has(need)))?;
    let mut tags = std::mem::take(&mut all.tags);
    retain(&mut tags, |image| image.keeps.iter().all(|need| all.has(need)))?;

    let snapshots = all.snapshots.values().filter(|tree| tree.info.is_none()).map(|tree| &tree.dir);
    let layers = all.layers.values().flatten().filter(|tree| tree.info.is_none()).map(|tree| &tree.dir);
    for dir in snapshots.chain(layers) {
        let doomed = store.inner.session.temporary("lost");
        fs::rename(dir, &doomed).on("remove", dir)?;
        // As in the sweep: what another id map owns may have to wait for a process that can delete it.
        _ = rbuild_fs::remove_tree(&doomed);
    }
    Ok(())
}

/// Keeps the entries that parse and pass, and removes the files of the others.
fn retain<T>(entries: &mut Vec<crate::inventory::Entry<T>>, keep: impl Fn(&T) -> bool) -> Result<()> {
    for entry in entries.extract_if(.., |entry| !entry.record.as_ref().is_ok_and(&keep)) {
        record::remove(&entry.path)?;
    }
    Ok(())
}

/// Removes the cache mounts that a lost session used last: tools trust what they find in their caches.
fn drop_mounts(layout: &Layout, lost: &BTreeSet<String>) -> Result<()> {
    for id in names(&layout.dir("mounts"))? {
        let folder = layout.dir("mounts").join(id);
        for name in names(&folder)?.iter().filter(|name| name.ends_with(".ready")) {
            drop_mount(&folder.join(name), lost)?;
        }
    }
    Ok(())
}

fn drop_mount(ready: &Path, lost: &BTreeSet<String>) -> Result<()> {
    let last = record::read_or_drop::<Ready>(ready)?;
    if last.is_some_and(|last| lost.contains(&last.session)) {
        // Without its marker the copy counts as not set up, and is emptied by its next user.
        record::remove(ready)?;
    }
    Ok(())
}
