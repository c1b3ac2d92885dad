//! Paths inside a root file system.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Component, Path, PathBuf};

/// An absolute, cleaned path inside a root file system (no `..`, no `.`, no double slash); never a host path.
///
/// Cleaning is lexical, as Go's `filepath.Clean` on `"/" + path`; symbolic links are the business of
/// [`Root`](crate::Root).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootfsPath(PathBuf);

impl RootfsPath {
    /// The root itself.
    pub fn root() -> Self {
        Self(PathBuf::from("/"))
    }

    /// Cleans and roots a path: `../../x`, `./x` and `/x/` are all `/x`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let mut clean = Self::root();
        clean.descend(path.as_ref());
        clean
    }

    /// This path followed by another; an absolute one replaces it, `..` goes up but never above the root.
    pub fn join(&self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        if path.is_absolute() {
            return Self::new(path);
        }
        let mut joined = self.clone();
        joined.descend(path);
        joined
    }

    fn descend(&mut self, path: &Path) {
        for component in path.components() {
            match component {
                Component::Normal(name) => self.0.push(name),
                Component::ParentDir => {
                    self.0.pop();
                }
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
    }

    /// The folder this path lies in; `None` for the root.
    pub fn parent(&self) -> Option<Self> {
        self.0.parent().map(|parent| Self(parent.to_owned()))
    }

    /// The last component; `None` for the root.
    pub fn file_name(&self) -> Option<&OsStr> {
        self.0.file_name()
    }

    /// Whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.parent().is_none()
    }

    /// The path with its leading `/`.
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// The path without its leading `/`; empty for the root.
    pub fn relative(&self) -> &Path {
        self.0.strip_prefix("/").unwrap_or(&self.0)
    }

    /// The names on the way, without the root.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &OsStr> + Clone {
        self.relative().iter()
    }

    /// Whether this path is `other` or lies below it.
    pub fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl fmt::Display for RootfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

impl fmt::Debug for RootfsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsRef<Path> for RootfsPath {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

impl From<&str> for RootfsPath {
    fn from(path: &str) -> Self {
        Self::new(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_never_leave_the_root() {
        for (given, clean) in [
            ("", "/"),
            ("/", "/"),
            ("..", "/"),
            ("../../x", "/x"),
            ("a/./b//c/", "/a/b/c"),
            ("a/../../b", "/b"),
            ("//a", "/a"),
            ("/a/..", "/"),
        ] {
            assert_eq!(RootfsPath::new(given).as_path(), Path::new(clean), "{given}");
        }
    }

    #[test]
    fn join_replaces_by_an_absolute_path() {
        let path = RootfsPath::new("/work/dir");
        assert_eq!(path.join("a/b"), "/work/dir/a/b".into());
        assert_eq!(path.join("/a"), "/a".into());
        assert_eq!(path.join("../../../a"), "/a".into());
        assert_eq!(path.join("."), path);
    }

    #[test]
    fn the_root_has_no_parent_and_no_name() {
        let root = RootfsPath::root();
        assert!(root.is_root() && root.parent().is_none() && root.file_name().is_none());
        assert_eq!(root.relative(), Path::new(""));
        assert_eq!(RootfsPath::new("a").parent(), Some(root));
    }
}
