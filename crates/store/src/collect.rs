//! Collection: what nothing uses goes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rbuild_fs::PathContext;

use crate::error::Result;
use crate::inventory::{Inventory, disk, measure, record_keeps};
use crate::lock::{self, Hold};
use crate::mount::ready_path;
use crate::session::{Sessions, names};
use crate::{Parent, Resource, Share, SnapshotId, Store, record};

/// The id map whose processes can delete anything.
const ROOT_MAP: &str = "root";

/// What may stay although no tag and no running build uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PruneOptions {
    /// Cache records, memos, broken-off downloads, cache mounts and logs unused for longer go.
    pub max_age: Option<Duration>,
    /// Bytes of blobs, snapshots and base layers together; above it the cache records used longest ago go first. What tags
    /// and running builds use stays even beyond it.
    pub max_bytes: Option<u64>,
    /// Also remove cache mounts that nobody uses, by `max_age` (without one: all of them).
    pub mounts: bool,
    /// The time of the call.
    pub now: SystemTime,
}

impl PruneOptions {
    /// Removes everything that no tag and no running build uses.
    #[must_use]
    pub fn everything(now: SystemTime) -> Self {
        Self { max_age: Some(Duration::ZERO), max_bytes: Some(0), mounts: true, now }
    }

    fn is_too_old(&self, used: SystemTime) -> bool {
        self.max_age.is_some_and(|max| self.now.duration_since(used).unwrap_or_default() >= max)
    }
}

/// What collection removed: exact numbers, as [`Store::usage`] counted them before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PruneReport {
    /// Blobs.
    pub blobs: Share,
    /// Snapshots.
    pub snapshots: Share,
    /// Base layers as applied.
    pub layers: Share,
    /// Cache records.
    pub cache: Share,
    /// Memos.
    pub memos: Share,
    /// Broken-off downloads.
    pub partial: Share,
    /// Copies of cache mounts.
    pub mounts: Share,
    /// Logs, by build.
    pub logs: Share,
}

impl PruneReport {
    /// All bytes removed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let Self { blobs, snapshots, layers, cache, memos, partial, mounts, logs } = self;
        [blobs, snapshots, layers, cache, memos, partial, mounts, logs].iter().map(|share| share.bytes).sum()
    }
}

impl Store {
    /// Removes what is beyond the limits and in no use. Builds may run meanwhile: they wait only while the decision is
    /// made, not while files are deleted.
    pub fn prune(&self, options: &PruneOptions) -> Result<PruneReport> {
        self.measure_trees()?;
        let mut report = PruneReport::default();
        let doomed = {
            let _gate = self.gate(Hold::Exclusive)?;
            let inventory = Inventory::read(&self.inner.layout)?;
            let kept = self.decide(&inventory, options)?;
            self.remove_records(&inventory, &kept, &mut report)?;
            self.detach(&inventory, &kept.resources, &mut report)?
        };
        for path in doomed {
            rbuild_fs::remove_tree(&path)?;
        }
        self.prune_partial(options, &mut report)?;
        self.prune_logs(options, &mut report)?;
        self.prune_lineage(options)?;
        if options.mounts {
            self.prune_mounts(options, &mut report)?;
        }
        Ok(report)
    }

    /// [`Store::prune`] if the last one that this asked for is longer ago than `every`: what a build does at its end. Otherwise
    /// it costs one `stat`; the first time only makes a note.
    pub fn prune_if_due(&self, options: &PruneOptions, every: Duration) -> Result<Option<PruneReport>> {
        let stamp = self.inner.layout.dir("pruned");
        let last = fs::metadata(&stamp).and_then(|metadata| metadata.modified());
        // A stamp a little ahead of `now` is as recent; one far ahead comes from a clock that has been set back.
        let age = |last| options.now.duration_since(last).unwrap_or_else(|ahead| ahead.duration());
        let last = last.ok();
        if last.is_some_and(|last| age(last) < every) {
            return Ok(None);
        }
        fs::write(&stamp, "").on("write", &stamp)?;
        // A store that was never asked is a new one and has nothing to be rid of.
        last.map(|_| self.prune(options)).transpose()
    }

    /// Measures new trees before the gate is taken for good, since that walks them.
    fn measure_trees(&self) -> Result<()> {
        let inventory = Inventory::read(&self.inner.layout)?;
        let snapshots = inventory.snapshots.values().map(|tree| &tree.dir);
        for dir in snapshots.chain(inventory.layers.values().flatten().map(|tree| &tree.dir)) {
            self.tree_bytes(dir)?;
        }
        Ok(())
    }

    /// What stays: what is in use, and the records within the limits with what they refer to.
    fn decide(&self, all: &Inventory, options: &PruneOptions) -> Result<Kept> {
        let tags = all.tags.iter().filter_map(|entry| entry.record.as_ref().ok());
        let in_use = Sessions::read(&self.inner.layout)?.leased.into_iter();
        let roots = tags.flat_map(|image| image.keeps.clone()).chain(in_use).chain(self.out_of_reach(all));
        let mut kept = Kept::default();
        let mut bytes = self.keep(all, &mut kept, roots)?;
        for candidate in candidates(all) {
            if options.is_too_old(candidate.used) {
                continue;
            }
            let more = self.bytes(all, &all.reach(candidate.needs.clone(), &kept.resources))?;
            // What refers only to things in use costs nothing.
            if more == 0 || options.max_bytes.is_none_or(|max| bytes + more <= max) {
                bytes += self.keep(all, &mut kept, candidate.needs)?;
                kept.records.insert(candidate.path);
            }
        }
        kept.drop_orphaned_memos(all);
        Ok(kept)
    }

    /// Adds `roots`, with all they stand on, to what stays, and returns the bytes that this adds.
    fn keep(
        &self,
        all: &Inventory,
        kept: &mut Kept,
        roots: impl IntoIterator<Item = Resource>,
    ) -> Result<u64> {
        let new = all.reach(roots, &kept.resources);
        let bytes = self.bytes(all, &new)?;
        kept.resources.extend(new);
        Ok(bytes)
    }

    fn bytes(&self, all: &Inventory, resources: &BTreeSet<Resource>) -> Result<u64> {
        resources.iter().map(|resource| all.bytes(&self.inner.session, resource)).sum()
    }

    /// Snapshots of other id maps: this process may be unable to delete their files.
    fn out_of_reach(&self, all: &Inventory) -> impl Iterator<Item = Resource> {
        let others = all.snapshots.iter().filter(|(_, tree)| !self.can_delete(&tree.id_map));
        others.map(|(id, _)| Resource::Snapshot(*id)).collect::<Vec<_>>().into_iter()
    }

    fn can_delete(&self, id_map: &str) -> bool {
        self.id_map() == ROOT_MAP || self.id_map() == id_map
    }

    /// Records go before what they refer to.
    fn remove_records(&self, all: &Inventory, kept: &Kept, report: &mut PruneReport) -> Result<()> {
        for entry in all.cache.iter().filter(|entry| !kept.records.contains(&entry.path)) {
            if record::remove(&entry.path)? {
                report.cache.add(entry.bytes);
            }
        }
        for entry in all.memos.iter().filter(|entry| !kept.records.contains(&entry.path)) {
            if record::remove(&entry.path)? {
                report.memos.add(entry.bytes);
            }
        }
        Ok(())
    }

    /// Takes the names away of what does not stay: children before parents, snapshots before layers. The files are
    /// deleted later, from the returned paths.
    fn detach(
        &self,
        all: &Inventory,
        kept: &BTreeSet<Resource>,
        report: &mut PruneReport,
    ) -> Result<Vec<PathBuf>> {
        let mut doomed = Vec::new();
        for id in children_first(all) {
            let Some(tree) = all.snapshots.get(&id).filter(|_| !kept.contains(&Resource::Snapshot(id)))
            else {
                continue;
            };
            report.snapshots.add(self.detach_one(&tree.dir, &mut doomed)?);
        }
        for (_, trees) in all.layers.iter().filter(|(id, _)| !kept.contains(&Resource::Layer((*id).clone())))
        {
            for tree in trees.iter().filter(|tree| self.can_delete(&tree.id_map)) {
                report.layers.add(self.detach_one(&tree.dir, &mut doomed)?);
            }
        }
        for (digest, (path, bytes)) in &all.blobs {
            if !kept.contains(&Resource::Blob(digest.clone())) && record::remove(path)? {
                report.blobs.add(*bytes);
            }
        }
        Ok(doomed)
    }

    fn detach_one(&self, dir: &Path, doomed: &mut Vec<PathBuf>) -> Result<u64> {
        let bytes = disk(&self.inner.session, dir)?;
        let away = self.inner.session.temporary("collected");
        fs::rename(dir, &away).on("remove", dir)?;
        doomed.push(away);
        Ok(bytes)
    }

    /// Downloads that nobody is at. Their own lock is the proof, and held while the name goes.
    fn prune_partial(&self, options: &PruneOptions, report: &mut PruneReport) -> Result<()> {
        let folder = self.inner.layout.dir("partial");
        for name in names(&folder)? {
            let path = folder.join(name);
            let Ok(metadata) = fs::metadata(&path) else { continue };
            let used = metadata.modified().on("examine", &path)?;
            if !options.is_too_old(used) {
                continue;
            }
            let lock = lock::try_acquire(&path, Hold::Exclusive)?;
            if lock.is_some() && record::remove(&path)? {
                report.partial.add(metadata.len());
            }
        }
        Ok(())
    }

    fn prune_logs(&self, options: &PruneOptions, report: &mut PruneReport) -> Result<()> {
        let folder = self.inner.layout.dir("logs");
        for build in names(&folder)? {
            let path = folder.join(build);
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if used.is_ok_and(|used| options.is_too_old(used)) {
                report.logs.add(measure(&path)?);
                rbuild_fs::remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// Lists of earlier keys, and nothing else: advice, too small to count.
    fn prune_lineage(&self, options: &PruneOptions) -> Result<()> {
        let folder = self.inner.layout.dir("lineage");
        for name in names(&folder)? {
            let path = folder.join(name);
            let used = fs::metadata(&path).and_then(|metadata| metadata.modified());
            if used.is_ok_and(|used| options.is_too_old(used)) {
                record::remove(&path)?;
            }
        }
        Ok(())
    }

    fn prune_mounts(&self, options: &PruneOptions, report: &mut PruneReport) -> Result<()> {
        let mounts = self.inner.layout.dir("mounts");
        for id in names(&mounts)? {
            let folder = mounts.join(id);
            for copy in names(&folder)?.into_iter().filter(|name| !name.contains('.')) {
                self.prune_mount(&folder.join(copy), options, report)?;
            }
        }
        Ok(())
    }

    /// The marker goes first: a copy without it counts as not set up. The lock file stays, others may wait for it.
    fn prune_mount(&self, copy: &Path, options: &PruneOptions, report: &mut PruneReport) -> Result<()> {
        let ready = ready_path(copy);
        let used = fs::metadata(&ready).and_then(|metadata| metadata.modified());
        if used.is_ok_and(|used| !options.is_too_old(used) && options.max_age.is_some()) {
            return Ok(());
        }
        if let Some(_lock) = lock::try_acquire(&copy.with_extension("lock"), Hold::Exclusive)? {
            record::remove(&ready)?;
            report.mounts.add(measure(copy)?);
            rbuild_fs::remove_tree(copy)?;
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Kept {
    resources: BTreeSet<Resource>,
    /// Cache records and memos, by path.
    records: BTreeSet<PathBuf>,
}

impl Kept {
    /// A memo about something that does not stay is of no more use.
    fn drop_orphaned_memos(&mut self, all: &Inventory) {
        for entry in &all.memos {
            let about = entry.record.iter().flat_map(|memo| &memo.links.about);
            if !about.into_iter().all(|resource| self.resources.contains(resource)) {
                self.records.remove(&entry.path);
            }
        }
    }
}

/// A record that stays if it is within the limits.
struct Candidate {
    path: PathBuf,
    used: SystemTime,
    needs: Vec<Resource>,
}

/// Cache records and memos that can be read and refer to what is there, last used first.
fn candidates(all: &Inventory) -> Vec<Candidate> {
    let cache = all.cache.iter().filter_map(|entry| {
        let needs = record_keeps(all, entry.record.as_ref().ok()?);
        Some(Candidate { path: entry.path.clone(), used: entry.used, needs })
    });
    let memos = all.memos.iter().filter_map(|entry| {
        let needs = entry.record.as_ref().ok()?.links.keeps.clone();
        Some(Candidate { path: entry.path.clone(), used: entry.used, needs })
    });
    let there = |candidate: &Candidate| candidate.needs.iter().all(|need| all.has(need));
    let mut candidates: Vec<_> = cache.chain(memos).filter(there).collect();
    candidates.sort_by(|one, other| other.used.cmp(&one.used).then_with(|| one.path.cmp(&other.path)));
    candidates
}

/// All snapshots, the deepest first.
fn children_first(all: &Inventory) -> Vec<SnapshotId> {
    let depth = |id: &SnapshotId| {
        let mut depth = 0;
        let mut next = Some(*id);
        // No chain is longer than there are snapshots; one that runs in a circle is cut there.
        while let Some(id) = next.filter(|_| depth <= all.snapshots.len()) {
            depth += 1;
            next = match all.snapshots.get(&id).and_then(|tree| tree.info.as_ref()).map(|info| &info.parent) {
                Some(Parent::Snapshot(parent)) => Some(*parent),
                _ => None,
            };
        }
        depth
    };
    let mut ids: Vec<_> = all.snapshots.keys().copied().collect();
    ids.sort_by_cached_key(|id| std::cmp::Reverse(depth(id)));
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SnapshotInfo;
    use crate::inventory::Tree;

    #[test]
    fn a_child_comes_before_its_parent_whatever_their_names() {
        let id = |digit: &str| digit.repeat(32).parse::<SnapshotId>().unwrap();
        let mut all = Inventory::default();
        for (name, parent) in
            [("1", Some("2")), ("2", Some("0")), ("0", None), ("3", Some("1")), ("4", Some("4"))]
        {
            let parent = parent.map_or(Parent::None, |parent| Parent::Snapshot(id(parent)));
            let info = Some(SnapshotInfo { parent, ..SnapshotInfo::default() });
            all.snapshots.insert(id(name), Tree { id_map: "test".into(), dir: PathBuf::new(), info });
        }
        // The fourth runs in a circle, as no store of ours does, and must not run us in one.
        assert_eq!(children_first(&all), ["4", "3", "1", "2", "0"].map(id));
    }
}
