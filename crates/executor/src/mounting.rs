//! The mounts beyond the standard ones: binds, overlays, tmpfs, files in memory, trees of other stages.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;

use crate::beneath::View;
use crate::detached::{bind_of, is_directory, new_tmpfs, writable_copy, write_file};
use crate::plan::{SetupOp, Slot};
use crate::prepare::{Builder, c_string};
use crate::{Mount, MountKind, Overlay, SandboxError, Source, sys};

/// A mount that the child clones out of a parked tree.
pub(crate) struct Parked {
    slot: Slot,
    directory: bool,
    /// To look up what lies below it; a file needs none.
    shown: Option<OwnedFd>,
}

impl Builder<'_> {
    /// One tmpfs with all files that must never be on disk. Returns a clone for each [`MountKind::File`].
    pub(crate) fn memory_files(&mut self) -> Result<BTreeMap<usize, Parked>, SandboxError> {
        if !self.spec.mounts.iter().any(|mount| matches!(mount.kind, MountKind::File { .. })) {
            return Ok(BTreeMap::new());
        }
        let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
        let tmpfs = new_tmpfs(&[("mode", "0700")], flags)?;
        let mut clones = Vec::new();
        for (index, mount) in self.spec.mounts.iter().enumerate() {
            let MountKind::File { content, mode, uid, gid, read_only } = &mount.kind else { continue };
            let name = index.to_string();
            write_file(tmpfs.as_fd(), &name, content, *mode, *uid, *gid)
                .map_err(|e| SandboxError::call("write a file in memory", e))?;
            clones.push((index, c_string("a file name", name.as_ref())?, *read_only));
        }
        let tree = self.slot(tmpfs);
        self.ops.push(SetupOp::Park(tree));
        let mut parked = BTreeMap::new();
        for (index, name, read_only) in clones {
            let slot = self.empty_slot();
            self.ops.push(SetupOp::ClonePart(tree, name, slot, read_only));
            parked.insert(index, Parked { slot, directory: false, shown: None });
        }
        Ok(parked)
    }

    /// The trees of other stages, each stacked for its one mount.
    pub(crate) fn trees(&mut self) -> Result<BTreeMap<usize, Parked>, SandboxError> {
        let mut parked = BTreeMap::new();
        let spec = self.spec;
        for (index, mount) in spec.mounts.iter().enumerate() {
            let (source, upper, work, read_only) = match &mount.kind {
                MountKind::Bind { source, read_only } => (source, None, None, *read_only),
                MountKind::Overlay { source, upper, work } => (source, Some(&**upper), Some(&**work), false),
                MountKind::Tmpfs { .. } | MountKind::File { .. } | MountKind::Device { .. } => continue,
            };
            if let Source::Tree { lowers, path } = source {
                parked.insert(index, self.park(&Overlay { lowers, upper, work }, path, read_only)?);
            }
        }
        Ok(parked)
    }

    fn park(&mut self, overlay: &Overlay<'_>, path: &Path, read_only: bool) -> Result<Parked, SandboxError> {
        let tree = overlay
            .mount()?
            .try_clone_fd()
            .map_err(|e| SandboxError::call("duplicate a mount's descriptor", e))?;
        self.restrict(tree.as_fd(), 0, path)?;
        let inside =
            View::new(tree.try_clone().map_err(|e| SandboxError::call("duplicate a mount's descriptor", e))?);
        let part = inside.resolve(path)?;
        let found = inside.locate(&part).map_err(|_| SandboxError::path("find", path, Errno::NOENT))?;
        let shown = found.open().map_err(|e| SandboxError::path("find in the other tree", path, e))?;
        let directory = is_directory(shown.as_fd())?;
        let tree = self.slot(tree);
        let slot = self.empty_slot();
        self.ops.push(SetupOp::Park(tree));
        self.ops.push(SetupOp::ClonePart(tree, c_string("a path", part.as_os_str())?, slot, read_only));
        Ok(Parked { slot, directory, shown: Some(shown) })
    }

    pub(crate) fn mounts(&mut self, mut parked: BTreeMap<usize, Parked>) -> Result<(), SandboxError> {
        let mut mounts: Vec<(usize, &Mount)> = self.spec.mounts.iter().enumerate().collect();
        // Parents first; the order of equals, where the later covers the earlier, stays.
        mounts.sort_by_key(|(_, mount)| mount.target.components().count());
        for (index, mount) in mounts {
            match parked.remove(&index) {
                Some(parked) => self.attach_parked(parked, &mount.target)?,
                None => self.mount(mount)?,
            }
        }
        Ok(())
    }

    fn attach_parked(&mut self, parked: Parked, target: &Path) -> Result<(), SandboxError> {
        let at = self.view.resolve(target)?;
        let upper = self.spec.root.upper.as_deref();
        let point = self.stubs.mount_point(&self.view, upper, &at, parked.directory, false)?;
        let point = self.slot(point);
        self.ops.push(SetupOp::Attach(parked.slot, point, target.to_string_lossy().into_owned()));
        self.view.add(at, parked.shown);
        Ok(())
    }

    fn mount(&mut self, mount: &Mount) -> Result<(), SandboxError> {
        let target = mount.target.to_string_lossy().into_owned();
        match &mount.kind {
            // Parked before the root was entered.
            MountKind::File { .. } => Ok(()),
            MountKind::Tmpfs { size, mode } => {
                let (size, mode) = (size.map(|s| s.to_string()), format!("{mode:o}"));
                let options = size.iter().map(|s| ("size", s.as_str())).chain([("mode", mode.as_str())]);
                let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
                let tmpfs = new_tmpfs(&options.collect::<Vec<_>>(), flags)?;
                self.attach(tmpfs, &target, true, false).map(drop)
            }
            MountKind::Device { host } => {
                let node = bind_of(&Source::Path(host.clone()))?;
                let kind = rustix::fs::fstat(&node).map(|stat| FileType::from_raw_mode(stat.st_mode));
                match kind {
                    // Not restricted: it is what the mount is for.
                    Ok(FileType::CharacterDevice | FileType::BlockDevice) => {
                        self.attach(node, &target, false, false).map(drop)
                    }
                    _ => Err(SandboxError::path("use as a device", host, Errno::NODEV)),
                }
            }
            MountKind::Bind { source, read_only } => {
                let bind = bind_of(source)?;
                let read_only = if *read_only { sys::ATTR_RDONLY } else { 0 };
                self.restrict(bind.as_fd(), read_only, &mount.target)?;
                let directory = is_directory(bind.as_fd())?;
                self.attach(bind, &target, directory, false).map(drop)
            }
            MountKind::Overlay { source, upper, work } => {
                let (tree, directory) = writable_copy(source, upper, work)?;
                self.restrict(tree.as_fd(), 0, &mount.target)?;
                self.attach(tree, &target, directory, false).map(drop)
            }
        }
    }

    /// No device can be opened in a mount, whoever made the node.
    pub(crate) fn restrict(
        &self,
        mount: BorrowedFd<'_>,
        more: u64,
        target: &Path,
    ) -> Result<(), SandboxError> {
        let attributes = if self.spec.privileged { more } else { more | sys::ATTR_NODEV };
        match attributes {
            0 => Ok(()),
            attributes => sys::mount_setattr(mount, sys::AT_RECURSIVE, attributes, 0)
                .map_err(|e| SandboxError::path("restrict the mount at", target, e)),
        }
    }
}
