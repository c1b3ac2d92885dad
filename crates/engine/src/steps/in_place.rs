//! A RUN in the container's own root file system, where nothing can be mounted: the root is filled with the parents' tree,
//! what the command changes is found and kept, and the root is wiped. So commands follow one another, and between
//! them the root is as empty as the image for it has it.

use std::path::PathBuf;
use std::sync::{Arc, MutexGuard, PoisonError};

use rbuild_executor::{Claim, InPlace, Mounted};
use rbuild_fs::{FileKind, Meta, Root, RootfsPath, Timestamp};
use rbuild_layer::Kept;

use super::Step;
use super::folding::{Copied, copy_tree};
use crate::build::Builder;
use crate::error::{Explain, Failure, FailureKind, Result};
use crate::images::open_tree;
use crate::request::{Network, OnFailure};

/// The container's root, ours until it is dropped: then it is wiped.
pub(super) struct Ground {
    root: Root,
    kept: Kept,
    /// Of [`MOUNT_POINTS`] those that the image lacks.
    lacking: Vec<RootfsPath>,
    /// Given back after the wipe.
    claim: Arc<Claim>,
}

/// A sandbox makes these where they are missing, and they stay: so they do here.
const MOUNT_POINTS: [&str; 3] = ["/dev", "/proc", "/sys"];

impl Ground {
    /// Takes the root, and wipes it of what an earlier build may have left.
    fn take(container: &InPlace) -> Result<Self> {
        let claim = container.claim().map_err(|why| {
            let failure = Failure::new(FailureKind::Environment, "could not build in place");
            failure.caused_by(why).help("start a new container of the image for it")
        })?;
        let root = Root::open("/").explain(FailureKind::Environment, fault)?;
        let kept = Kept::new(claim.kept().iter().map(RootfsPath::new));
        kept.wipe(&root).explain(FailureKind::Environment, fault)?;
        Ok(Self { root, kept, lacking: Vec::new(), claim: Arc::new(claim) })
    }

    /// Puts into a layer what the container's root cannot show as new.
    pub(super) fn add_mount_points(&self, upper: &Root) -> Result<()> {
        let meta = Meta::new(FileKind::Directory, 0o755, 0, 0, Timestamp::now());
        let made = self.lacking.iter().try_for_each(|path| upper.make(path, &meta, None));
        made.explain(FailureKind::Environment, || "could not write a layer".to_owned())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What cannot be removed is found by the next one to claim the root, who says so.
        let _ = self.kept.wipe(&self.root);
    }
}

fn fault() -> String {
    "could not wipe the container's root file system".to_owned()
}

/// The tree of `lowers` (one, or none) in the container's root, and how to find what changes in it.
pub(super) fn fill(container: &InPlace, lowers: &[PathBuf], sidecar: PathBuf) -> Result<(Mounted, Copied)> {
    let mut ground = Ground::take(container)?;
    let path = PathBuf::from("/");
    let to = open_tree(&path, &sidecar)?;
    ground.lacking = MOUNT_POINTS.map(RootfsPath::new).into();
    if let Some(from) = lowers.first() {
        let from = open_tree(from, &from.with_file_name("sidecar"))?;
        ground.lacking.retain(|path| !matches!(from.meta(path), Ok(Some(_))));
        let kept = &mut ground.kept;
        copy_tree(from, &to, true, &mut |path, meta| kept.lets_in(path, meta))?;
    }
    let mounted = Mounted::in_place(ground.claim.clone()).explain(FailureKind::Environment, fault)?;
    Ok((mounted, Copied::new(path, sidecar, ground.kept.clone(), Some(ground))?))
}

impl Builder<'_> {
    /// The container in whose root this step is to work, with the turn to do so.
    pub(super) fn in_place(&self, step: &Step) -> Option<(&InPlace, MutexGuard<'_, ()>)> {
        let container = self.place.in_place().filter(|_| step.runs)?;
        Some((container, self.shared.root_turn.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Refuses what a RUN cannot have there, before anything is done for it.
    pub(super) fn refuse_in_place(&self, network: Network, insecure: bool, devices: bool) -> Result<()> {
        if self.place.in_place().is_none() {
            return Ok(());
        }
        let options = &self.request.run;
        let refused = [
            (insecure, "`RUN --security=insecure`"),
            (devices, "`RUN --device`"),
            (network == Network::Private, "a private network"),
            (!options.extra_hosts.is_empty(), "`--add-host`"),
            (options.shm_size.is_some(), "`--shm-size`"),
            (self.request.on_failure != OnFailure::Drop, "a failed step that is kept or entered"),
        ];
        match refused.into_iter().find(|(asked, _)| *asked) {
            None => Ok(()),
            Some((_, what)) => {
                let text =
                    format!("{what} cannot be had in place, where there are neither namespaces nor mounts");
                let help = "leave it out, or give rbuild user namespaces: `rbuild doctor` says how";
                Err(Failure::new(FailureKind::Environment, text).help(help).into())
            }
        }
    }
}
