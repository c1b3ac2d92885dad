//! Trees without overlayfs, where it is not to be had: what a stack of directories shows, as one directory; and what a
//! command changed in a directory, as a layer of the stack.
//!
//! - [`merge`] makes second names for the files of the stack, so it costs folders and links but no content. What it makes
//!   is read only from then on.
//! - A command works in a copy of that. [`Baseline`] remembers inode and time of change of all in it, [`write_changes`]
//!   finds what no longer has them and links it into an upper directory such as overlayfs would have left.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use rbuild_fs::{FileKind, Meta, Root, RootfsPath, Timestamp, Xattrs};

use crate::LayerError;
use crate::kept::Kept;
use crate::overlay::{OPAQUE, is_opaque, is_whiteout, make_whiteout};

/// Makes in the empty `into` what the directories of a stack, the topmost first, show together.
///
/// # Errors
/// Files that can be neither linked nor copied.
pub fn merge(stack: &[Root], into: &Root) -> Result<(), LayerError> {
    for layer in stack.iter().rev() {
        Merge { layer, into }.folder(&RootfsPath::root())?;
    }
    Ok(())
}

/// One directory of the stack, laid over what is there already.
struct Merge<'a> {
    layer: &'a Root,
    into: &'a Root,
}

impl Merge<'_> {
    fn folder(&self, path: &RootfsPath) -> Result<(), LayerError> {
        for (name, meta) in self.layer.read_dir_meta(path)? {
            let below = path.join(&name);
            if meta.is_dir() {
                self.directory(&below)?;
                continue;
            }
            self.into.remove_all(&below)?;
            if !is_whiteout(self.layer, &below, &meta)? {
                self.into.take(&below, self.layer, &meta)?;
            }
        }
        finish_folder(self.layer, self.into, path)
    }

    fn directory(&self, path: &RootfsPath) -> Result<(), LayerError> {
        match self.into.meta(path)? {
            Some(there) if there.is_dir() && !is_opaque(self.layer, path)? => {}
            Some(_) => {
                self.into.remove_all(path)?;
                open_folder(self.into, path)?;
            }
            None => open_folder(self.into, path)?,
        }
        self.folder(path)
    }
}

/// How a tree was before a command worked in it.
#[derive(Debug)]
pub struct Baseline {
    /// By folder: what lies in it.
    folders: BTreeMap<RootfsPath, BTreeMap<OsString, Known>>,
    root: Option<Folder>,
    /// What lies in the tree and is no part of it.
    kept: Kept,
}

#[derive(Debug)]
struct Known {
    inode: u64,
    changed: Timestamp,
    /// `None` for anything but a directory.
    folder: Option<Folder>,
}

/// What a directory's own entry in a layer holds.
#[derive(Debug, PartialEq, Eq)]
struct Folder {
    mode: u32,
    uid: u32,
    gid: u32,
    modified: Timestamp,
    xattrs: Xattrs,
}

impl Folder {
    fn of(tree: &Root, path: &RootfsPath, meta: &Meta) -> Result<Self, LayerError> {
        let Meta { mode, uid, gid, mtime: modified, .. } = *meta;
        Ok(Self { mode, uid, gid, modified, xattrs: tree.xattrs(path)? })
    }
}

impl Baseline {
    /// Looks at all of a tree, and returns when the clock that stamps changes has moved on: a change in the same tick
    /// would not show.
    pub fn of(tree: &Root) -> Result<Self, LayerError> {
        Self::without(tree, Kept::default())
    }

    /// The same for a tree in which others have something too: what is kept from wiping is never a change.
    pub fn without(tree: &Root, kept: Kept) -> Result<Self, LayerError> {
        let mut folders = BTreeMap::new();
        let mut latest = Timestamp::default();
        let mut todo = vec![RootfsPath::root()];
        while let Some(path) = todo.pop() {
            let mut names = BTreeMap::new();
            for (name, meta) in tree.read_dir_meta(&path)? {
                let below = path.join(&name);
                if kept.contains(&below) {
                    continue;
                }
                latest = latest.max(meta.ctime);
                let folder = meta.is_dir().then(|| Folder::of(tree, &below, &meta)).transpose()?;
                if folder.is_some() {
                    todo.push(below);
                }
                names.insert(name, Known { inode: meta.inode, changed: meta.ctime, folder });
            }
            folders.insert(path, names);
        }
        let slash = RootfsPath::root();
        let root = tree.meta(&slash)?.map(|meta| Folder::of(tree, &slash, &meta)).transpose()?;
        while coarse_clock() <= latest {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(Self { folders, root, kept })
    }

    /// A file that is known to be as it was has got another time of change.
    pub fn accept(&mut self, tree: &Root, path: &RootfsPath) -> Result<(), LayerError> {
        let (Some(meta), Some(parent), Some(name)) = (tree.meta(path)?, path.parent(), path.file_name())
        else {
            return Ok(());
        };
        let known = self.folders.get_mut(&parent).and_then(|names| names.get_mut(name));
        if let Some(known) = known.filter(|known| known.inode == meta.inode) {
            known.changed = meta.ctime;
        }
        Ok(())
    }
}

/// The clock by which file systems stamp changes (current_time() of the kernel): it goes in ticks of some milliseconds.
fn coarse_clock() -> Timestamp {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Timestamp { seconds: now.tv_sec, nanos: now.tv_nsec as u32 }
}

/// Fills the empty `upper` with what differs from the baseline, in overlayfs's form: whiteouts, opaque directories. Files
/// are the same inodes in both trees, so neither may be written to any more.
pub fn write_changes(before: &Baseline, tree: &Root, upper: &Root) -> Result<(), LayerError> {
    let mut changes = Changes { before, tree, upper, made: BTreeSet::new() };
    let slash = RootfsPath::root();
    changes.folder(&slash, true)?;
    // From the deepest, and after all that lies in them, so that their times stay.
    for path in changes.made.iter().rev() {
        finish_folder(tree, upper, path)?;
    }
    let same = tree.meta(&slash)?.map(|meta| Folder::of(tree, &slash, &meta)).transpose()?;
    if changes.made.is_empty() && same == before.root {
        return Ok(());
    }
    finish_folder(tree, upper, &slash)
}

struct Changes<'a> {
    before: &'a Baseline,
    tree: &'a Root,
    upper: &'a Root,
    /// Folders made in the upper.
    made: BTreeSet<RootfsPath>,
}

impl Changes<'_> {
    /// `known`: it is the folder that the baseline has under this name.
    fn folder(&mut self, path: &RootfsPath, known: bool) -> Result<(), LayerError> {
        let before = self.before.folders.get(path).filter(|_| known);
        let mut now = self.tree.read_dir_meta(path)?;
        now.retain(|(name, _)| !self.before.kept.contains(&path.join(name)));
        for (name, meta) in &now {
            let was = before.and_then(|names| names.get(name));
            let below = path.join(name);
            match (meta.is_dir(), was) {
                (true, was) => self.directory(&below, meta, was)?,
                (false, Some(was)) if was.inode == meta.inode && was.changed == meta.ctime => {}
                (false, _) => {
                    self.ensure(path)?;
                    self.upper.take(&below, self.tree, meta)?;
                }
            }
        }
        let there: BTreeSet<&OsStr> = now.iter().map(|(name, _)| name.as_os_str()).collect();
        for name in
            before.into_iter().flat_map(BTreeMap::keys).filter(|name| !there.contains(name.as_os_str()))
        {
            self.ensure(path)?;
            make_whiteout(self.upper, &path.join(name))?;
        }
        Ok(())
    }

    fn directory(&mut self, path: &RootfsPath, meta: &Meta, was: Option<&Known>) -> Result<(), LayerError> {
        let same = was.filter(|was| was.inode == meta.inode && was.folder.is_some());
        match same {
            Some(was) => {
                let touched = was.changed != meta.ctime
                    && was.folder.as_ref() != Some(&Folder::of(self.tree, path, meta)?);
                if touched {
                    self.ensure(path)?;
                }
            }
            None => {
                self.ensure(path)?;
                if was.is_some() {
                    self.upper.set_xattr(path, OPAQUE, b"y")?;
                }
            }
        }
        self.folder(path, same.is_some())
    }

    /// Makes a folder of the upper and those above it.
    fn ensure(&mut self, path: &RootfsPath) -> Result<(), LayerError> {
        if path.is_root() || self.made.contains(path) {
            return Ok(());
        }
        if let Some(parent) = path.parent() {
            self.ensure(&parent)?;
        }
        open_folder(self.upper, path)?;
        self.made.insert(path.clone());
        Ok(())
    }
}

/// A folder that is open to us until it is finished.
fn open_folder(root: &Root, path: &RootfsPath) -> Result<(), LayerError> {
    let meta = Meta::new(FileKind::Directory, 0o700, 0, 0, Timestamp::from_seconds(0));
    Ok(root.make(path, &meta, None)?)
}

/// Gives a folder mode, owner, time and attributes of the same folder elsewhere.
fn finish_folder(from: &Root, to: &Root, path: &RootfsPath) -> Result<(), LayerError> {
    let Some(meta) = from.meta(path)? else { return Ok(()) };
    let attributes = from.xattrs(path)?;
    for name in to.xattrs(path)?.keys().filter(|name| !attributes.contains_key(*name)) {
        to.remove_xattr(path, name)?;
    }
    for (name, value) in attributes {
        to.set_xattr(path, name, &value)?;
    }
    Ok(to.set_meta(path, &meta)?)
}
