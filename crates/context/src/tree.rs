//! A tree that COPY, ADD and mounts read from.

use std::fs::{self, File};
use std::path::Path;

use rbuild_fs::{FileKind, Journal, Meta, PathContext, PathError, Root, RootfsPath, Xattrs};

use crate::error::ContextError;
use crate::ignore::{IgnoreFile, IgnoreRule};
use crate::pattern::PatternSet;

/// A tree that COPY, ADD and mounts read from.
///
/// Two kinds: the directory of a build context, and the root file system of a stage or an image. What is in an image
/// must not depend on who builds it, so in a context directory every file belongs to root, has no extended
/// attributes, and a socket is an empty regular file; and its ignore file applies. A root file system is read as it
/// is.
#[derive(Debug)]
pub struct Tree {
    root: Root,
    context: bool,
    ignore: IgnoreFile,
}

impl Tree {
    /// A context directory of the host, seen through its ignore file.
    pub fn directory(path: impl AsRef<Path>, ignore: Option<IgnoreFile>) -> Result<Self, ContextError> {
        let path = path.as_ref();
        let absolute = fs::canonicalize(path).on("open the directory", path).map_err(ContextError::Open)?;
        let root = Root::open(absolute).map_err(ContextError::Open)?.with_journal(Journal::none());
        Ok(Self { root, context: true, ignore: ignore.unwrap_or_default() })
    }

    /// The root file system of a stage or an image: owners, special files and attributes are kept.
    pub fn rootfs(root: Root) -> Self {
        Self { root, context: false, ignore: IgnoreFile::default() }
    }

    /// The directory beneath which the tree lies.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// Whether this is a context directory.
    pub fn is_context(&self) -> bool {
        self.context
    }

    /// Whether the ignore file excludes this path (relative to the tree, or rooted in it).
    pub fn ignored(&self, path: impl AsRef<Path>) -> bool {
        self.ignored_by(path).is_some()
    }

    /// The line of the ignore file that excludes this path.
    pub fn ignored_by(&self, path: impl AsRef<Path>) -> Option<&IgnoreRule> {
        let path = RootfsPath::new(path);
        if path.is_root() { None } else { self.ignore.ignored_by(&path.relative().to_string_lossy()) }
    }

    /// What the tree says of a path itself (a last symbolic link is not followed), whether ignored or not.
    pub fn meta(&self, path: &RootfsPath) -> Result<Option<Meta>, PathError> {
        Ok(self.root.meta(path)?.map(|meta| self.seen(meta)))
    }

    /// The extended attributes the tree says a file has.
    pub fn xattrs(&self, path: &RootfsPath) -> Result<Xattrs, PathError> {
        if self.context { Ok(Xattrs::new()) } else { self.root.xattrs(path) }
    }

    /// The content of a regular file with this metadata; `None` if it has none (and for what only counts as an empty
    /// file, such as a socket of the context).
    pub fn content(&self, path: &RootfsPath, meta: &Meta) -> Result<Option<File>, PathError> {
        if meta.is_file() && meta.size > 0 { self.root.open_file(path).map(Some) } else { Ok(None) }
    }

    pub(crate) fn ignore_patterns(&self) -> &PatternSet {
        self.ignore.patterns()
    }

    /// An inode's data as this tree shows it.
    pub(crate) fn seen(&self, meta: Meta) -> Meta {
        if !self.context {
            return meta;
        }
        match meta.kind {
            FileKind::Socket => Meta { kind: FileKind::File, size: 0, uid: 0, gid: 0, ..meta },
            _ => Meta { uid: 0, gid: 0, ..meta },
        }
    }
}
