//! The steps that change files: RUN, COPY and ADD, WORKDIR. Each is: key, then either the cached snapshot, or mount the
//! parents, change the merged tree, and keep the upper directory.

mod copy;
pub(crate) mod folding;
mod mounts;
mod run;
mod ssh;
mod stacked;
mod workdir;

pub(crate) use copy::{made_files, refused};
pub(crate) use run::with_primary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rbuild_dockerfile::CacheWishes;
use rbuild_executor::{Mounted, Overlay};
use rbuild_fs::{Journal, Root, RootfsPath, Timestamp};
use rbuild_store::{
    CacheKey, CacheResult, KeyParts, Lineage, NewRecord, NewSnapshot, Parent, Snapshot, SnapshotInfo, Store,
};

use self::folding::Copied;
use self::stacked::StackedSidecar;
use crate::build::Builder;
use crate::error::{AtSpan, BuildError, Explain, FailureKind, Result};
use crate::event::{Event, StepNumber};
use crate::explain::{Miss, Reasons};
use crate::image::ImageLayer;
use crate::images::open_tree;
use crate::state::{Rootfs, StageState};

/// One step, ready to be looked up or run.
pub(crate) struct Step {
    /// As BuildKit writes it: `[build 3/6] RUN npm install`.
    pub(crate) name: String,
    /// Text of the history entry.
    pub(crate) created_by: String,
    /// What the result depends on.
    pub(crate) parts: KeyParts,
    pub(crate) lineage: Lineage,
    /// Whether the layer will be part of an image, so that packing may begin at once.
    pub(crate) leaves: bool,
    /// Work in a bare folder instead of the merged tree (`COPY --link`).
    pub(crate) bare: bool,
    /// What comments above the instruction ask of the cache.
    pub(crate) wishes: CacheWishes,
}

impl Step {
    /// The instruction as the Dockerfile has it: its variables are not put in, and may be secret.
    fn written(&self) -> &str {
        self.name.split_once("] ").map_or(&self.name, |(_, written)| written)
    }
}

/// Where a step works.
pub(crate) struct Workspace {
    /// The merged tree of its parents, writable; `None` for a step in a bare folder.
    pub(crate) mounted: Option<Mounted>,
    /// File access to it.
    pub(crate) root: Root,
    pub(crate) number: StepNumber,
}

/// Keys that this build is working at or has worked out itself: two stages with the same step do it once.
#[derive(Debug, Default)]
pub(crate) struct Done {
    keys: Mutex<BTreeSet<CacheKey>>,
    busy: Mutex<std::collections::BTreeMap<CacheKey, std::sync::Arc<Mutex<()>>>>,
}

impl Done {
    fn contains(&self, key: &CacheKey) -> bool {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    fn insert(&self, key: CacheKey) {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).insert(key);
    }

    fn turn(&self, key: &CacheKey) -> std::sync::Arc<Mutex<()>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner).entry(key.clone()).or_default().clone()
    }
}

/// What the cache says of a step.
enum LookUp {
    Hit(Snapshot),
    Miss(Miss),
}

fn is_too_old(created: i64, step: &Step) -> bool {
    let age = Timestamp::now().seconds.saturating_sub(created);
    step.wishes.max_age.is_some_and(|most| age > i64::try_from(most.as_secs()).unwrap_or(i64::MAX))
}

impl Builder<'_> {
    /// Takes the state through one step: from the cache, or by `work`.
    pub(crate) fn step(
        &self,
        state: &mut StageState,
        mut step: Step,
        work: impl FnOnce(&Workspace) -> Result<()>,
    ) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        if let Some(epoch) = self.request.epoch.filter(|_| self.request.rewrite_timestamp) {
            step.parts.text("rewrite-timestamp", epoch.to_string());
        }
        let number = self.announce(&step.name);
        let started = Instant::now();
        let key = step.parts.key();
        let turn = self.done.turn(&key);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match self.look_up(state, &step, &key) {
            Ok(LookUp::Hit(snapshot)) => {
                self.events.event(Event::Cached { step: number });
                Ok(snapshot)
            }
            Ok(LookUp::Miss(miss)) => {
                self.tell_why(state, &step, &miss, number);
                self.execute(state, &step, number, work).inspect(|_| {
                    self.events.event(Event::Done { step: number, took: started.elapsed() });
                })
            }
            Err(error) => Err(error),
        };
        let snapshot = result.inspect_err(|error| self.report_failure(number, error))?;
        self.done.insert(key.clone());
        if step.leaves && snapshot.info.diff_id.is_none() {
            self.packing.begin(self.store, self.cancel, snapshot.id);
        }
        state.layers.push(ImageLayer::Snapshot(snapshot.id));
        state.rootfs = Rootfs::Snapshot(snapshot.id);
        state.key = key.to_string();
        state.record(step.created_by, Some(snapshot.info.created));
        Ok(())
    }

    /// The cached result, if there is one that stands on just this state and may be used.
    fn look_up(&self, state: &StageState, step: &Step, key: &CacheKey) -> Result<LookUp> {
        if let Some(miss) = self.refused(step).filter(|_| !self.done.contains(key)) {
            return Ok(LookUp::Miss(miss));
        }
        let store_fault = || "could not read the build cache".to_owned();
        let Some(record) = self.store.cache_record(key).explain(FailureKind::Environment, store_fault)?
        else {
            return Ok(LookUp::Miss(Miss::Unknown));
        };
        if is_too_old(record.created, step) && !self.done.contains(key) {
            return Ok(LookUp::Miss(Miss::TooOld));
        }
        let CacheResult::Snapshot(id) = record.result else { return Ok(LookUp::Miss(Miss::Unknown)) };
        let Some(snapshot) = self.store.snapshot(&id).explain(FailureKind::Environment, store_fault)? else {
            return Ok(LookUp::Miss(Miss::Unknown));
        };
        // The key says how the parents were made. If they were made again since, the result no longer stands on them.
        let same_parent = match (&state.rootfs, snapshot.parent()) {
            (Rootfs::Empty, Parent::None) => true,
            (Rootfs::Image(image), Parent::Layers(chain)) => image.chain() == *chain,
            (Rootfs::Snapshot(id), Parent::Snapshot(parent)) => id == parent,
            _ => false,
        };
        if !same_parent {
            return Ok(LookUp::Miss(Miss::StandsElsewhere));
        }
        self.store.remember(&step.lineage, key).explain(FailureKind::Environment, store_fault)?;
        Ok(LookUp::Hit(snapshot))
    }

    /// Whether the user wants the step carried out whatever is known.
    fn refused(&self, step: &Step) -> Option<Miss> {
        let cache = &self.request.cache;
        let by = if cache.none {
            "--no-cache"
        } else if cache.except_stages.contains(&step.lineage.stage) {
            "--no-cache-filter"
        } else if step.wishes.no_cache {
            "# rbuild: no-cache"
        } else {
            return None;
        };
        Some(Miss::Asked(by.to_owned()))
    }

    /// Says why a step is carried out: of each where that was asked for, else of the first with a reason of its own.
    fn tell_why(&self, state: &StageState, step: &Step, miss: &Miss, number: StepNumber) {
        let told = &self.shared.told;
        if told.load(Ordering::Relaxed) && !self.request.cache.explain {
            return;
        }
        // What cannot be explained is carried out all the same.
        let difference = match miss {
            Miss::Unknown => self.store.explain(&step.lineage, &step.parts).ok().flatten(),
            _ => None,
        };
        let reasons = Reasons::of(miss, state, difference.as_ref());
        let first = reasons.own && !told.swap(true, Ordering::Relaxed);
        self.events.event(Event::Missed { step: number, why: &reasons.lines, first });
    }

    fn execute(
        &self,
        state: &StageState,
        step: &Step,
        number: StepNumber,
        work: impl FnOnce(&Workspace) -> Result<()>,
    ) -> Result<Snapshot> {
        let parent = match state.base {
            // An image that cannot be fetched is shown where it is named, not where its files were first needed.
            Some(span) => self.parent(&state.rootfs).at(span)?,
            None => self.parent(&state.rootfs)?,
        };
        let store_fault = || "could not write to the store".to_owned();
        let (new, lowers) = begin(self.store, &parent)?;
        let (upper, scratch) = (new.upper(), new.work());
        let copied = (!step.bare && !folding::overlays(self.store))
            .then(|| Copied::of(&lowers, scratch.clone(), new.sidecar()))
            .transpose()?;
        let workspace = if step.bare {
            Workspace { mounted: None, root: open_tree(&upper, &new.sidecar())?, number }
        } else {
            let mounted = match &copied {
                Some(copied) => copied.mount()?,
                None => {
                    folding::mount(&Overlay { lowers: &lowers, upper: Some(&upper), work: Some(&scratch) })?
                }
            };
            Workspace { root: mounted_root(&mounted)?, mounted: Some(mounted), number }
        };
        work(&workspace)?;
        drop(workspace);
        if self.cancel.is_cancelled() {
            return Err(BuildError::Cancelled);
        }
        if let Some(copied) = copied {
            copied.write_changes(&upper)?;
        }
        if let (Some(epoch), true) = (self.request.epoch, self.request.rewrite_timestamp) {
            clamp_times(&new.upper(), epoch)?;
        }
        let created = self.request.epoch.unwrap_or_else(|| Timestamp::now().seconds);
        let info = SnapshotInfo { created_by: step.created_by.clone(), created, ..SnapshotInfo::default() };
        let snapshot = new.commit(info).explain(FailureKind::Environment, store_fault)?;
        let record = NewRecord {
            parts: step.parts.clone(),
            lineage: step.lineage.clone(),
            result: CacheResult::Snapshot(snapshot.id),
            diff_id: None,
            created,
            created_by: step.written().to_owned(),
            log: None,
        };
        self.store.put_cache_record(record).explain(FailureKind::Environment, store_fault)?;
        Ok(snapshot)
    }

    fn report_failure(&self, number: StepNumber, error: &BuildError) {
        match error {
            BuildError::Cancelled => self.events.event(Event::Cancelled { step: number }),
            error => self.events.event(Event::Failed { step: number, message: &error.to_string() }),
        }
    }

    /// The tree of a finished state, read-only.
    pub(crate) fn mount_read_only(&self, rootfs: &Rootfs) -> Result<Mounted> {
        folding::tree(self.store, &self.parent(rootfs)?)
    }
}

/// A new upper over the tree of `parent`, and the directories below it, top first.
pub(crate) fn begin(store: &Store, parent: &Parent) -> Result<(NewSnapshot, Vec<PathBuf>)> {
    let fault = || "could not write to the store".to_owned();
    let new = store.begin(parent).explain(FailureKind::Environment, fault)?;
    let lowers = folding::lowers(store, parent)?;
    if let Some(top) = lowers.first() {
        let open = |path: &Path| Root::open(path).explain(FailureKind::Environment, fault);
        copy_root_folder(&open(top)?, &open(&new.upper())?)?;
    }
    Ok((new, lowers))
}

/// File access to a mounted tree.
pub(crate) fn mounted_root(mounted: &Mounted) -> Result<Root> {
    let fd = mounted
        .try_clone_fd()
        .explain(FailureKind::Environment, || "could not keep a mount open".to_owned())?;
    let root = Root::from_fd(fd, "/".into());
    Ok(match sidecar(mounted)? {
        Some(sidecar) => root.with_journal(Journal::with_sidecar(sidecar)),
        None => root,
    })
}

/// The journal of its links, pipes and sockets.
pub(crate) fn sidecar(mounted: &Mounted) -> Result<Option<Arc<StackedSidecar>>> {
    StackedSidecar::of(mounted)
        .explain(FailureKind::Environment, || "could not read the owners of a tree".to_owned())
}

/// Overlay shows the upper's own root folder as `/`: it takes mode, owner, time and attributes from the parent's.
pub(crate) fn copy_root_folder(from: &Root, to: &Root) -> Result<()> {
    let fault = || "could not prepare a root folder".to_owned();
    let slash = RootfsPath::root();
    if let Some(meta) = from.meta(&slash).explain(FailureKind::Environment, fault)? {
        to.set_meta(&slash, &meta).explain(FailureKind::Environment, fault)?;
    }
    for (name, value) in from.xattrs(&slash).explain(FailureKind::Environment, fault)? {
        to.set_xattr(&slash, &name, &value).explain(FailureKind::Environment, fault)?;
    }
    Ok(())
}

/// `rewrite-timestamp`: no time in the layer is after the epoch. Folders last, after all in them.
fn clamp_times(upper: &Path, epoch: i64) -> Result<()> {
    let root = Root::open(upper).explain(FailureKind::Environment, || "could not open a layer".to_owned())?;
    clamp_folder(&root, &RootfsPath::root(), Timestamp::from_seconds(epoch))
        .explain(FailureKind::Environment, || "could not set the times of a layer's files".to_owned())
}

fn clamp_folder(
    root: &Root,
    folder: &RootfsPath,
    epoch: Timestamp,
) -> std::result::Result<(), rbuild_fs::PathError> {
    for (name, meta) in root.read_dir_meta(folder)? {
        let path = folder.join(&name);
        if meta.is_dir() {
            clamp_folder(root, &path, epoch)?;
        }
        if meta.mtime > epoch {
            root.set_mtime(&path, epoch)?;
        }
    }
    Ok(())
}
