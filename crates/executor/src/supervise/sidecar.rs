//! The owners of links, pipes and sockets, before the run and after it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rbuild_fs::{RootfsPath, Sidecar};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::Owners;
use crate::{SandboxError, sys};

/// What the journals of the layers below say of the merged tree.
pub(crate) fn known_owners(root: BorrowedFd<'_>, sidecar: &dyn Sidecar) -> Owners {
    let mut owners = Owners::default();
    for (path, owner) in sidecar.entries() {
        // One that is gone or has become something else needs no owner.
        if let Ok(fd) = open(root, path.relative())
            && let Ok(stat) = sys::stat(fd.as_fd())
        {
            owners.know(&stat, owner);
        }
    }
    owners
}

/// Writes down what the run has left in the upper directory.
pub(crate) fn write_sidecar(
    upper: &Path,
    root: BorrowedFd<'_>,
    owners: &Owners,
    sidecar: &dyn Sidecar,
) -> Result<(), SandboxError> {
    if owners.written {
        sidecar.mark().map_err(|e| SandboxError::path("note an owner below", upper, e))?;
    }
    if owners.is_empty() {
        return Ok(());
    }
    walk(upper, Path::new(""), &mut |path| {
        let Ok(fd) = open(root, path) else { return Ok(()) };
        let name = RootfsPath::new(path);
        let (now, before) = (owners.kept(fd.as_fd()), sidecar.get(&name));
        if now == before { Ok(()) } else { sidecar.set(&name, now) }
    })
    .map_err(|e| SandboxError::Path {
        action: "keep the owners of links below",
        path: upper.into(),
        source: e,
    })
}

/// Visits every link, pipe and socket below.
fn walk(
    upper: &Path,
    below: &Path,
    visit: &mut dyn FnMut(&Path) -> std::io::Result<()>,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(upper.join(below))? {
        let entry = entry?;
        let (path, kind) = (below.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            walk(upper, &path, visit)?;
        } else if !kind.is_file() {
            visit(&path)?;
        }
    }
    Ok(())
}

fn open(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
    match kind {
        FileType::Symlink | FileType::Fifo | FileType::Socket => Ok(fd),
        _ => Err(Errno::INVAL),
    }
}
