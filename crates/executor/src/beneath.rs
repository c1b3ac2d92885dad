//! The sandbox's tree as it will be, before anything of it is mounted: which file tree a path inside lies in.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, openat, readlinkat, statat};
use rustix::io::Errno;

use crate::SandboxError;

/// As the kernel (`MAXSYMLINKS` is 40) and a little more: images may be deep.
const MOST_LINKS: usize = 255;

/// The root and every mount above it, each reached through its own descriptor.
///
/// Paths are resolved here, component by component, as they will be inside: a symlink's target starts at the root of the
/// tree again, `..` stops there, and a component below a mount is looked up in that mount.
#[derive(Debug)]
pub(crate) struct View {
    trees: Vec<Tree>,
}

#[derive(Debug)]
struct Tree {
    /// Relative to the root; empty for the root itself.
    at: PathBuf,
    /// `None` for what only the child can mount: nothing can be looked up there.
    fd: Option<OwnedFd>,
}

/// A place inside one tree.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Index of the tree, the root is 0.
    pub(crate) tree: usize,
    pub(crate) fd: BorrowedFd<'a>,
    /// Without symlinks; empty for the tree's own root.
    pub(crate) rest: &'a Path,
}

impl View {
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { trees: vec![Tree { at: PathBuf::new(), fd: Some(root) }] }
    }

    /// From now on paths at and below `at` (resolved) lie in this tree.
    pub(crate) fn add(&mut self, at: PathBuf, fd: Option<OwnedFd>) {
        self.trees.push(Tree { at, fd });
    }

    pub(crate) fn tree(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.trees.get(index)?.fd.as_ref().map(AsFd::as_fd)
    }

    /// The tree that a resolved path lies in; the error names the mount that can't be looked into.
    pub(crate) fn locate<'a>(&'a self, path: &'a Path) -> Result<Place<'a>, &'a Path> {
        // The latest mount that covers it wins: /a mounted after /a/b hides /a/b.
        let covering = self.trees.iter().enumerate().rev().find(|(_, tree)| path.starts_with(&tree.at));
        let (index, tree) = covering.unwrap_or((0, &self.trees[0]));
        let rest = path.strip_prefix(&tree.at).unwrap_or(path);
        tree.fd.as_ref().map(|fd| Place { tree: index, fd: fd.as_fd(), rest }).ok_or(&tree.at)
    }

    /// The path without symlinks, relative to the root; components that don't exist yet are kept as they are.
    pub(crate) fn resolve(&self, path: &Path) -> Result<PathBuf, SandboxError> {
        let mut todo: VecDeque<OsString> = path.iter().map(OsStr::to_os_string).collect();
        let mut resolved = PathBuf::new();
        let mut links = 0;
        while let Some(component) = todo.pop_front() {
            match component.as_encoded_bytes() {
                b"/" => resolved.clear(),
                b"." => {}
                b".." => {
                    resolved.pop();
                }
                _ => match self.link_at(&resolved.join(&component))? {
                    None => resolved.push(&component),
                    Some(target) => {
                        links += 1;
                        if links > MOST_LINKS {
                            return Err(SandboxError::path("resolve inside the image", path, Errno::LOOP));
                        }
                        for part in target.iter().rev() {
                            todo.push_front(part.to_os_string());
                        }
                    }
                },
            }
        }
        Ok(resolved)
    }

    /// The target if a symlink lies there; nothing for anything else, also for what is missing.
    fn link_at(&self, path: &Path) -> Result<Option<PathBuf>, SandboxError> {
        let Ok(place) = self.locate(path) else { return Ok(None) };
        if place.rest.as_os_str().is_empty() {
            return Ok(None);
        }
        match readlinkat(place.fd, place.rest, Vec::new()) {
            Ok(target) => Ok(Some(PathBuf::from(OsString::from_vec(target.into_bytes())))),
            Err(Errno::INVAL | Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(e) => Err(SandboxError::path("read the symlink", Path::new("/").join(path), e)),
        }
    }
}

impl Place<'_> {
    /// What lies there, if anything.
    pub(crate) fn file_type(&self) -> Result<Option<FileType>, Errno> {
        let (path, flags) = self.or_itself();
        match statat(self.fd, path, flags) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A descriptor that stands for the place, to mount upon.
    pub(crate) fn open(&self) -> Result<OwnedFd, Errno> {
        let path = if self.rest.as_os_str().is_empty() { Path::new(".") } else { self.rest };
        openat(self.fd, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    fn or_itself(&self) -> (&Path, AtFlags) {
        if self.rest.as_os_str().is_empty() {
            (self.rest, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)
        } else {
            (self.rest, AtFlags::SYMLINK_NOFOLLOW)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::overlay::open_directory;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_dots_stay_inside_and_cross_mounts() {
        let root = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("var")).unwrap();
        std::fs::create_dir(root.path().join("run")).unwrap();
        symlink("/run", root.path().join("var/run")).unwrap();
        symlink("../../../../etc/passwd", root.path().join("escape")).unwrap();
        symlink("loop", root.path().join("loop")).unwrap();
        symlink("/var", other.path().join("back")).unwrap();
        let mut view = View::new(open_directory(root.path()).unwrap());
        view.add("run".into(), Some(open_directory(other.path()).unwrap()));
        for (path, expected) in [
            ("/var/run/x", "run/x"),
            ("var/../../x", "x"),
            ("/escape", "etc/passwd"),
            ("/var/run/back/new", "var/new"),
            ("/", ""),
        ] {
            assert_eq!(view.resolve(path.as_ref()).unwrap(), Path::new(expected), "{path}");
        }
        assert!(view.resolve("/loop".as_ref()).is_err());
        assert_eq!(view.locate(Path::new("run/x")).unwrap().tree, 1);
        assert_eq!(view.locate(Path::new("runner")).unwrap().tree, 0);
    }
}
