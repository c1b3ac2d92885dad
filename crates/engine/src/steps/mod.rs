//! The steps that change files: RUN, COPY and ADD, WORKDIR. Each is: key, then either the cached snapshot, or mount the
//! parents, change the merged tree, and keep the upper directory.

mod cdi;
mod copy;
mod devices;
mod ended;
pub(crate) mod folding;
mod in_place;
mod look_up;
mod mounts;
mod opened;
mod run;
mod ssh;
mod stacked;
mod workdir;

pub(crate) use copy::{Remote, made_files, refused, remote_source};
pub(crate) use run::{PlannedRun, standard_mounts, with_primary};

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rbuild_dockerfile::CacheWishes;
use rbuild_executor::{Mounted, Overlay};
use rbuild_fs::{Journal, Root, RootfsPath, Timestamp};
use rbuild_store::{
    CacheKey, CacheResult, DistantLayer, KeyParts, Lineage, NewRecord, NewSnapshot, Parent, Snapshot,
    SnapshotInfo, Store, chain_on,
};

use self::folding::Copied;
use self::look_up::{LookUp, MyTurn, Outcome};
use self::stacked::StackedSidecar;
use crate::build::Builder;
use crate::error::{AtSpan, BuildError, Explain, FailureKind, Result};
use crate::event::{Event, Phase, StepNumber};
use crate::explain::Miss;
use crate::image::{ImageLayer, LayerStack};
use crate::images::open_tree;
use crate::packing::layer_of;
use crate::shared_cache::{Made, TreeContent};
use crate::state::{Rootfs, StageState};

/// One step, ready to be looked up or run.
pub(crate) struct Step {
    /// As BuildKit writes it: `[build 3/6] RUN npm install`.
    pub(crate) name: String,
    /// Text of the history entry.
    pub(crate) created_by: String,
    /// What the result depends on.
    pub(crate) parts: KeyParts,
    /// What was asked about trees for it.
    pub(crate) contents: Vec<TreeContent>,
    pub(crate) lineage: Lineage,
    /// Whether the layer will be part of an image, so that packing may begin at once.
    pub(crate) leaves: bool,
    /// Work in a bare folder instead of the merged tree (`COPY --link`).
    pub(crate) bare: bool,
    /// A command works in it, which in place needs the container's own root.
    pub(crate) runs: bool,
    /// When its key was begun.
    pub(crate) begun: Instant,
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
        let started = Instant::now();
        self.spent(Phase::Key, &step.name, step.begun);
        let number = self.announce(&step.name);
        let key = step.parts.key();
        let turn = self.done.turn(&key);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut anew = false;
        let result = match self.look_up(state, &step, &key) {
            Ok(LookUp::Hit(result)) => {
                self.events.event(Event::Cached { step: number });
                Ok(*result)
            }
            Ok(LookUp::Miss(miss)) => {
                self.in_turn(state, &step, &key, number, &miss).and_then(|turn| match turn {
                    MyTurn::Done(result) => {
                        self.events.event(Event::Cached { step: number });
                        Ok(result)
                    }
                    MyTurn::Begins(_turn) => {
                        anew = matches!(miss, Miss::Asked(_) | Miss::TooOld);
                        self.tell_why(state, &step, &miss, number);
                        self.execute(state, &step, number, work).map(Outcome::Snapshot).inspect(|_| {
                            self.events.event(Event::Done { step: number, took: started.elapsed() });
                        })
                    }
                })
            }
            Err(error) => Err(error),
        };
        let outcome = result.inspect_err(|error| self.report_failure(number, error))?;
        self.done.insert(key.clone());
        self.advance(state, step, key, outcome, anew)
    }

    /// The state after a step that gave this.
    fn advance(
        &self,
        state: &mut StageState,
        step: Step,
        key: CacheKey,
        outcome: Outcome,
        anew: bool,
    ) -> Result<()> {
        let (created, origin) = match outcome {
            Outcome::Snapshot(snapshot) => {
                if step.leaves && snapshot.info.diff_id.is_none() {
                    self.packing.begin(self.store, self.cancel, snapshot.id);
                }
                let next =
                    |chain: String| Some(chain_on(&chain, snapshot.info.diff_id.as_ref()?).0.to_string());
                state.chain = state.chain.take().and_then(next);
                state.layers.push(ImageLayer::Snapshot(snapshot.id));
                state.rootfs = Rootfs::Snapshot(snapshot.id);
                (snapshot.info.created, None)
            }
            Outcome::Layer { layer, distant, created } => {
                state.rootfs = Rootfs::Layers(Arc::new(self.stacked(state, &layer, &distant)?));
                state.chain = Some(distant.chain_id().0.to_string());
                state.layers.push(layer);
                (created, Some(distant.origin))
            }
        };
        state.key = key.to_string();
        let (layer, kept) = (state.layers.len() - 1, step.leaves);
        let contents = step.contents;
        state.made.push(Made { key, layer, created, anew, origin, kept, contents });
        let (stage, name) = (step.lineage.stage, step.name);
        state.record(step.created_by, Some(created));
        self.stop_if_reached(state, &stage, &name)
    }

    /// The layers of a state, and one of a shared cache on top.
    fn stacked(&self, state: &StageState, layer: &ImageLayer, distant: &DistantLayer) -> Result<LayerStack> {
        if let Rootfs::Layers(stack) = &state.rootfs {
            return Ok(stack.with(layer.clone(), &distant.diff_id));
        }
        let layers = || state.layers.iter().chain([layer]);
        let diff_ids = layers().map(|layer| match layer {
            ImageLayer::Blob { diff_id, .. } => Ok(diff_id.clone()),
            // It is known: without it the shared cache is not asked.
            ImageLayer::Snapshot(id) => layer_of(self.store, id).map(|(diff_id, _)| diff_id),
        });
        let diff_ids = diff_ids.collect::<Result<Vec<_>>>()?;
        Ok(LayerStack::new(layers().cloned().collect(), &diff_ids, "the shared cache".to_owned()))
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
        let upper = new.upper();
        let in_place = self.in_place(step);
        let (workspace, mut copied) = if step.bare {
            (Workspace { mounted: None, root: open_tree(&upper, &new.sidecar())?, number }, None)
        } else {
            let (mounted, copied) = match &in_place {
                Some((container, _turn)) => {
                    let (mounted, copied) = in_place::fill(container, &lowers, new.sidecar())?;
                    (mounted, Some(copied))
                }
                None => mount_over(self.store, &new, &lowers)?,
            };
            (Workspace { root: mounted_root(&mounted)?, mounted: Some(mounted), number }, copied)
        };
        let outcome = match work(&workspace) {
            Ok(()) if self.cancel.is_cancelled() => Err(BuildError::Cancelled),
            outcome => outcome,
        };
        if let (Some(mounted), Some(copied)) = (&workspace.mounted, &mut copied) {
            copied.accept(&mounted.put_back())?;
        }
        drop(workspace);
        match (outcome, copied) {
            (Err(error), _) if !self.keeps_failed(number) => return Err(error),
            (outcome, copied) => {
                copied.map_or(Ok(()), |copied| copied.write_changes(&upper))?;
                if let Err(error) = outcome {
                    self.keep_failed(number, new, step)?;
                    return Err(error);
                }
            }
        }
        drop(in_place);
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

/// The merged tree, writable; without overlays it is a copy, whose changes are to be found.
pub(crate) fn mount_over(
    store: &Store,
    new: &NewSnapshot,
    lowers: &[PathBuf],
) -> Result<(Mounted, Option<Copied>)> {
    let (upper, scratch) = (new.upper(), new.work());
    if folding::overlays(store) {
        let overlay = Overlay { lowers, upper: Some(&upper), work: Some(&scratch) };
        return Ok((folding::mount(&overlay)?, None));
    }
    let copied = Copied::of(lowers, scratch, new.sidecar())?;
    Ok((copied.mount()?, Some(copied)))
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
