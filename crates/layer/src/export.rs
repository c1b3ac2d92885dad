//! A whole root file system as one tar or as a directory of the caller's.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::Path;

use rbuild_fs::{FileKind, Journal, Meta, PathContext, Root, RootfsPath, Timestamp};
use rustix::io::Errno;

use crate::entry::{Entry, EntryKind};
use crate::tar_writer::TarWriter;
use crate::walk::{Form, Walk, WalkOptions};
use crate::{LayerError, LayerSummary};

/// How `type=tar` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlatOptions {
    /// No time in the archive is later than this, in seconds since 1970.
    pub clamp: Option<i64>,
    /// Keeps owners; otherwise everything is root's.
    pub owners: bool,
}

impl Default for FlatOptions {
    fn default() -> Self {
        Self { clamp: None, owners: true }
    }
}

/// How `type=local` is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExportOptions {
    /// No time in the directory is later than this, in seconds since 1970.
    pub clamp: Option<i64>,
    /// Removes what the destination has beyond the tree (`mode=delete`).
    pub delete: bool,
}

/// Writes a root file system as one tar: every entry but the root's own and sockets, sorted, without whiteouts.
///
/// # Errors
/// A tree that cannot be read, an `out` that cannot be written.
pub fn write_flat(
    root: &Root,
    options: &FlatOptions,
    out: &mut dyn Write,
) -> Result<LayerSummary, LayerError> {
    let walk = WalkOptions { form: Form::Merged, clamp: options.clamp, owners: options.owners };
    let (_, entries, bytes) = Walk::new(root, walk, out).run()?;
    Ok(LayerSummary { entries, bytes })
}

/// Writes several root file systems as one tar, each in a folder of its name, which is root's and as old as the epoch.
///
/// # Errors
/// As [`write_flat`].
pub fn write_flat_folders(
    trees: &[(String, &Root)],
    options: &FlatOptions,
    out: &mut dyn Write,
) -> Result<LayerSummary, LayerError> {
    let walk = WalkOptions { form: Form::Merged, clamp: options.clamp, owners: options.owners };
    let mut tar = TarWriter::new(out);
    for (name, root) in trees {
        tar.entry(&Entry {
            path: name.clone().into_bytes(),
            kind: EntryKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: Timestamp::from_seconds(0),
            xattrs: Default::default(),
        })?;
        tar = Walk::beneath(format!("{name}/").into_bytes(), root, walk, tar).part()?;
    }
    let (_, entries, bytes) = tar.finish()?;
    Ok(LayerSummary { entries, bytes })
}

/// Copies a root file system into a directory of the host, which is made if it is missing. Files belong to
/// whoever runs this (uid 0 of our user namespace is the caller outside); modes, times, links and hard links are
/// kept. Devices and sockets are left out: they are of no use outside a container. Links in the destination are
/// never followed out of it.
///
/// # Errors
/// Files that cannot be read or written.
pub fn export_tree(root: &Root, destination: &Path, options: &ExportOptions) -> Result<(), LayerError> {
    fs::create_dir_all(destination).on("create the directory", destination)?;
    let to = Root::open(destination)?.with_journal(Journal::none());
    let mut export = Export { from: root, to: &to, options, names: HashMap::new() };
    export.directory(&RootfsPath::root())
}

struct Export<'a> {
    from: &'a Root,
    to: &'a Root,
    options: &'a ExportOptions,
    /// Where files with several names were written first, by device and inode.
    names: HashMap<(u64, u64), RootfsPath>,
}

impl Export<'_> {
    fn directory(&mut self, path: &RootfsPath) -> Result<(), LayerError> {
        let entries = self.from.read_dir_meta(path)?;
        if self.options.delete {
            self.delete_others(path, &entries)?;
        }
        for (name, meta) in &entries {
            let path = path.join(name);
            let meta = self.as_callers(meta);
            if self.is_linked(&path, &meta)? {
                continue;
            }
            self.node(&path, &meta)?;
        }
        Ok(())
    }

    fn node(&mut self, path: &RootfsPath, meta: &Meta) -> Result<(), LayerError> {
        match meta.kind {
            FileKind::File => {
                let mut content = self.from.open_file(path)?;
                self.make_room(path)?;
                self.to.make(path, meta, Some(&mut content))?;
            }
            FileKind::Directory => {
                // Open to us until it is filled, whatever its mode will be.
                self.to.make(path, &Meta { mode: 0o700, ..meta.clone() }, None)?;
                self.directory(path)?;
                self.to.set_meta(path, meta)?;
            }
            FileKind::Symlink(_) | FileKind::Fifo => {
                self.make_room(path)?;
                self.to.make(path, meta, None)?;
            }
            FileKind::Socket | FileKind::CharDevice { .. } | FileKind::BlockDevice { .. } => {}
        }
        Ok(())
    }

    /// A directory of an earlier export must not be in the way of a file.
    fn make_room(&self, path: &RootfsPath) -> Result<(), LayerError> {
        if self.to.meta(path)?.is_some_and(|meta| meta.is_dir()) {
            self.to.remove_all(path)?;
        }
        Ok(())
    }

    /// Makes a second name of a file that has been written; false if it has not.
    fn is_linked(&mut self, path: &RootfsPath, meta: &Meta) -> Result<bool, LayerError> {
        if meta.nlink < 2 || meta.is_dir() {
            return Ok(false);
        }
        if let Some(first) = self.names.get(&(meta.device, meta.inode)) {
            self.make_room(path)?;
            match self.to.hard_link(first, path) {
                // The destination's file system has no hard links, or no more of them: a copy will do.
                Err(error) if error.is(Errno::PERM) || error.is(Errno::MLINK) => return Ok(false),
                answer => answer?,
            }
            return Ok(true);
        }
        self.names.insert((meta.device, meta.inode), path.clone());
        Ok(false)
    }

    fn as_callers(&self, meta: &Meta) -> Meta {
        let mut meta = Meta { uid: 0, gid: 0, ..meta.clone() };
        if let Some(clamp) = self.options.clamp.filter(|clamp| *clamp < meta.mtime.seconds) {
            meta.mtime = rbuild_fs::Timestamp::from_seconds(clamp);
        }
        meta
    }

    fn delete_others(&self, path: &RootfsPath, entries: &[(OsString, Meta)]) -> Result<(), LayerError> {
        let wanted: BTreeSet<_> = entries.iter().map(|(name, _)| name).collect();
        for name in self.to.read_dir(path)?.iter().filter(|name| !wanted.contains(name)) {
            self.to.remove_all(&path.join(name))?;
        }
        Ok(())
    }
}
