//! Resolution of paths beneath a root, component by component.
//!
//! `openat2(RESOLVE_IN_ROOT)` opens a path as a container would, but does not tell the path it found, and it cannot
//! say where a file that does not exist yet *would* lie. For these, and where `openat2` is not to be had (before
//! Linux 5.6, or refused by a seccomp profile), the walk below does the same with one `O_PATH` descriptor per
//! component: a name is looked up only in a directory that is held open, so no rename can lead outside.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::path::RootfsPath;

/// Symbolic links followed before ELOOP; the kernel stops at 40, libpathrs and container runtimes at 255.
const MAX_LINKS: usize = 255;

/// What to do with a symbolic link in the last component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinalSymlink {
    /// Follow it, as `open` does.
    Follow,
    /// Keep it, as `lstat` does.
    Keep,
}

/// One step on the way: the name, and the directory it is, where there is such a directory and it was needed.
struct Step {
    name: OsString,
    dir: Option<OwnedFd>,
}

/// A walk from the root; see the module's description.
pub(crate) struct Walk<'a> {
    root: BorrowedFd<'a>,
    steps: Vec<Step>,
    todo: VecDeque<OsString>,
    links: usize,
    missing: bool,
}

/// The end of a walk.
pub(crate) struct Resolved {
    /// The path without symbolic links; a missing tail is as it was given.
    pub(crate) path: RootfsPath,
    /// The last directory on the way that was opened, to look up the last component in; `None` is the root. Only
    /// meaningful where all but the last component exist.
    pub(crate) parent: Option<OwnedFd>,
    /// Whether a folder on the way is missing, also one that `..` leads out of again.
    pub(crate) parent_missing: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(root: BorrowedFd<'a>, path: &RootfsPath) -> Self {
        let todo = path.components().map(OsStr::to_owned).collect();
        Self { root, steps: Vec::new(), todo, links: 0, missing: false }
    }

    pub(crate) fn run(mut self, last: FinalSymlink) -> Result<Resolved, Errno> {
        while let Some(name) = self.todo.pop_front() {
            if name == ".." {
                self.missing |= self.steps.pop().is_some_and(|step| step.dir.is_none());
                continue;
            }
            let is_last = self.todo.is_empty();
            match self.link_target(&name)? {
                Some(target) if !is_last || last == FinalSymlink::Follow => self.follow(&target)?,
                _ => self.enter(name, is_last)?,
            }
        }
        Ok(self.finish())
    }

    /// The directory the next name is looked up in; `None` if it does not exist.
    fn current(&self) -> Option<BorrowedFd<'_>> {
        match self.steps.last() {
            Some(step) => step.dir.as_ref().map(AsFd::as_fd),
            None => Some(self.root),
        }
    }

    fn link_target(&self, name: &OsStr) -> Result<Option<PathBuf>, Errno> {
        let Some(dir) = self.current() else { return Ok(None) };
        match rustix::fs::readlinkat(dir, name, Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
            // Not a link, or no such name.
            Err(Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn follow(&mut self, target: &Path) -> Result<(), Errno> {
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        if target.is_absolute() {
            self.steps.clear();
        }
        for component in target.components().rev() {
            match component {
                Component::Normal(name) => self.todo.push_front(name.to_owned()),
                Component::ParentDir => self.todo.push_front("..".into()),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok(())
    }

    fn enter(&mut self, name: OsString, is_last: bool) -> Result<(), Errno> {
        let dir = match self.current() {
            // The last component may be anything and need not exist.
            Some(dir) if !is_last => open_dir_at(dir, &name)?,
            _ => None,
        };
        self.steps.push(Step { name, dir });
        Ok(())
    }

    fn finish(mut self) -> Resolved {
        let mut path = PathBuf::from("/");
        path.extend(self.steps.iter().map(|step| &step.name));
        let path = RootfsPath::new(path);
        self.steps.pop();
        let parent_missing = self.missing || self.current().is_none();
        let parent = self.steps.pop().and_then(|step| step.dir);
        Resolved { path, parent, parent_missing }
    }
}

/// Opens a directory without following a link; `None` if there is no such name.
fn open_dir_at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
