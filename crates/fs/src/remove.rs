//! Removing trees, whatever their modes and however deep.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{PathContext, PathError};
use crate::root::names_in;

/// Levels walked with one descriptor and one stack frame each; what is deeper is first moved up.
const MAX_DEPTH: usize = 64;

/// Removes a file, or a directory with all below it, of the host. Links are removed, never followed; folders without
/// permissions are opened up; depth does not matter. What is not there is no error.
pub fn remove_tree(path: impl AsRef<Path>) -> Result<(), PathError> {
    let path = path.as_ref();
    let Some(name) = path.file_name() else { return Err(Errno::INVAL).on("remove", path) };
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Err(Errno::NOENT) => Ok(()),
        opened => opened.and_then(|dir| remove_at(dir.as_fd(), name)).on("remove", path),
    }
}

/// Removes a name in an open directory with all below it.
pub(crate) fn remove_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    if remove_one(dir, name)? {
        return Ok(());
    }
    let top = open_writable(dir, name)?;
    let mut removal = Removal { top: top.as_fd(), moved: VecDeque::new(), count: 0 };
    removal.empty(top.as_fd(), 0)?;
    while let Some(name) = removal.moved.pop_front() {
        let deep = open_writable(top.as_fd(), &name)?;
        removal.empty(deep.as_fd(), 0)?;
        rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR)?;
    }
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Removes anything but a directory with something in it; the answer is whether it is gone.
fn remove_one(dir: BorrowedFd<'_>, name: &OsStr) -> Result<bool, Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => return Ok(true),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error),
    }
    match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Opens a directory to list and empty it; one that its own mode closes is opened up first.
fn open_writable(dir: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let path = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let handle = rustix::fs::openat(dir, name, path, Mode::empty())?;
    if rustix::fs::fstat(&handle)?.st_mode & 0o700 != 0o700 {
        // chmod of the descriptor, not of the name: a link that took its place would be followed. A refusal is no
        // matter for root; for others the open below says it.
        let _ =
            rustix::fs::chmod(format!("/proc/self/fd/{}", handle.as_raw_fd()), Mode::from_raw_mode(0o700));
    }
    rustix::fs::openat(&handle, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

struct Removal<'a> {
    top: BorrowedFd<'a>,
    /// Folders moved up into the top one because they lay too deep.
    moved: VecDeque<OsString>,
    count: usize,
}

impl Removal<'_> {
    fn empty(&mut self, dir: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
        for name in names_in(dir.try_clone_to_owned().map_err(|_| Errno::MFILE)?)? {
            if self.moved.contains(&name) || remove_one(dir, &name)? {
                continue;
            }
            let below = open_writable(dir, &name)?;
            if depth == MAX_DEPTH {
                self.move_up(dir, &name)?;
                continue;
            }
            self.empty(below.as_fd(), depth + 1)?;
            rustix::fs::unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
        loop {
            self.count += 1;
            let up = OsString::from(format!(".rbuild-removed-{}", self.count));
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(dir, name, self.top, &up, flags) {
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    self.moved.push_back(up);
                    return Ok(());
                }
            }
        }
    }
}
