//! Folders brought into the root and back: by rename where they lie on the same file system, else as copies.

use std::os::fd::AsFd;
use std::path::Path;

use rbuild_fs::{PathError, Root, RootfsPath};
use rustix::fs::{CWD, renameat};
use rustix::io::Errno;

/// Renames a file or folder of this machine to a path of the root; `false` where it would have to be copied.
pub(super) fn move_in(from: &Path, root: &Root, to: &RootfsPath) -> Result<bool, PathError> {
    let (folder, name) = root.parent_of(to)?;
    renamed(renameat(CWD, from, folder.as_fd(), &name), from)
}

/// The way back.
pub(super) fn move_out(root: &Root, from: &RootfsPath, to: &Path) -> Result<bool, PathError> {
    let (folder, name) = root.parent_of(from)?;
    renamed(renameat(folder.as_fd(), &name, CWD, to), to)
}

/// On an overlay the folders of a lower layer cannot be renamed either, and say so in the same way.
fn renamed(outcome: rustix::io::Result<()>, path: &Path) -> Result<bool, PathError> {
    match outcome {
        Ok(()) => Ok(true),
        Err(Errno::XDEV) => Ok(false),
        Err(error) => Err(PathError::new("rename", path, error)),
    }
}

/// Copies a file, or a folder with all in it, to a path that is free.
pub(super) fn copy(from: &Root, path: &RootfsPath, root: &Root, to: &RootfsPath) -> Result<(), PathError> {
    let Some(meta) = from.meta(path)? else {
        return Err(PathError::new("find", from.name_of(path), Errno::NOENT));
    };
    if meta.is_file() {
        root.make(to, &meta, Some(&mut from.open_file(path)?))?;
    } else {
        root.make(to, &meta, None)?;
    }
    if meta.is_dir() {
        copy_contents(from, path, root, to)?;
    }
    if meta.is_dir() || meta.is_file() {
        for (name, value) in from.xattrs(path)? {
            root.set_xattr(to, &name, &value)?;
        }
    }
    // Making what lies in it has changed its time.
    if meta.is_dir() { root.set_meta(to, &meta) } else { Ok(()) }
}

/// Copies what lies in a folder into one that is there.
pub(super) fn copy_contents(
    from: &Root,
    path: &RootfsPath,
    root: &Root,
    to: &RootfsPath,
) -> Result<(), PathError> {
    from.read_dir(path)?.iter().try_for_each(|name| copy(from, &path.join(name), root, &to.join(name)))
}
