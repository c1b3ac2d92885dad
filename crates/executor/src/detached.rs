//! Mounts that are attached nowhere yet, and what is put into them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rbuild_fs::Owner;
use rbuild_fs::journal::{Entry, XATTR};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags, chmodat, chownat, fstat, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen, open_tree,
};
use rustix::process::{Gid, Uid};

use crate::{Overlay, SandboxError, Source};

pub(crate) fn new_tmpfs(
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, SandboxError> {
    let failed = |e| SandboxError::call("make a tmpfs", e);
    let fs = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    // What `mount` shows in its first column.
    fsconfig_set_string(&fs, "source", "tmpfs").map_err(failed)?;
    for (key, value) in options {
        fsconfig_set_string(&fs, *key, *value).map_err(failed)?;
    }
    fsconfig_create(&fs).map_err(failed)?;
    fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)
}

pub(crate) fn write_file(
    dir: BorrowedFd<'_>,
    name: &str,
    content: &[u8],
    mode: u32,
    uid: u32,
    gid: u32,
) -> std::io::Result<()> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(dir, name, flags, Mode::from(0o600))?);
    file.write_all(content)?;
    // The owner first: a change of owner takes setuid bits away.
    match rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        // Not an id of this place: kept for the supervisor. A tmpfs has attributes since Linux 6.6.
        Err(Errno::INVAL) => {
            let entry = Entry { owner: Owner { uid, gid }, mode: None, device: None };
            let _ = rustix::fs::fsetxattr(&file, XATTR, entry.to_string().as_bytes(), XattrFlags::empty());
        }
        outcome => outcome?,
    }
    rustix::fs::fchmod(&file, Mode::from(mode))?;
    Ok(())
}

/// An empty file to bind something upon.
pub(crate) fn new_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(dir, name, flags, Mode::from(0o666)).map(drop)
}

pub(crate) fn set_mode(dir: &OwnedFd, name: impl rustix::path::Arg, mode: u32) -> Result<(), Errno> {
    chmodat(dir, name, Mode::from(mode), AtFlags::empty())
}

pub(crate) fn clone_tree(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, SandboxError> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(dir, path, flags).map_err(|e| SandboxError::path("clone the mount of", path, e))
}

pub(crate) fn bind_of(source: &Source) -> Result<OwnedFd, SandboxError> {
    match source {
        Source::Path(path) => clone_tree(CWD, path),
        Source::Fd(fd) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE
                | OpenTreeFlags::OPEN_TREE_CLOEXEC
                | OpenTreeFlags::AT_RECURSIVE
                | OpenTreeFlags::AT_EMPTY_PATH;
            open_tree(&**fd, "", flags).map_err(|e| SandboxError::call("clone the mount of a descriptor", e))
        }
        // Parked, never bound.
        Source::Tree { path, .. } => Err(SandboxError::path("bind", path, Errno::INVAL)),
    }
}

/// What is written to the result never reaches the source: an overlay over a folder, a copy of a file.
pub(crate) fn writable_copy(
    source: &Source,
    upper: &Path,
    work: &Path,
) -> Result<(OwnedFd, bool), SandboxError> {
    let path = match source {
        Source::Path(path) => path.clone(),
        Source::Fd(fd) => PathBuf::from(crate::overlay::proc_path(fd.as_fd())),
        Source::Tree { path, .. } => return Err(SandboxError::path("copy", path, Errno::INVAL)),
    };
    let metadata = std::fs::metadata(&path).map_err(|e| SandboxError::path("look at", &path, e))?;
    if !metadata.is_dir() {
        let copy = upper.join("file");
        std::fs::copy(&path, &copy).map_err(|e| SandboxError::path("copy", &path, e))?;
        let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        chownat(CWD, &copy, Some(uid), Some(gid), AtFlags::empty())
            .map_err(|e| SandboxError::path("change the owner of", &copy, e))?;
        return Ok((clone_tree(CWD, &copy)?, false));
    }
    let mounted = Overlay { lowers: &[path], upper: Some(upper), work: Some(work) }.mount()?;
    let tree = mounted.try_clone_fd().map_err(|e| SandboxError::call("duplicate a mount's descriptor", e))?;
    Ok((tree, true))
}

pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, SandboxError> {
    let stat = fstat(fd).map_err(|e| SandboxError::call("look at a mount", e))?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}
