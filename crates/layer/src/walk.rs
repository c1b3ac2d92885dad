//! Walking a tree into tar entries.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rbuild_fs::{FileKind, Meta, PathContext, PathError, Root, RootfsPath, Timestamp};
use rustix::fs::{Mode, OFlags};

use crate::LayerError;
use crate::entry::{Entry, EntryKind};
use crate::overlay::{Attributes, OPAQUE_NAME, WHITEOUT_PREFIX, is_device_node};
use crate::tar_writer::TarWriter;

const BUFFER: usize = 256 << 10;

/// What kind of tree is walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// An overlay's upper directory: whiteouts and opaque directories are told.
    Upper,
    /// A whole root file system.
    Merged,
}

/// How entries are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkOptions {
    pub(crate) form: Form,
    pub(crate) clamp: Option<i64>,
    pub(crate) owners: bool,
}

/// Writes the entries of a tree: by name, parents before children, without the root itself.
pub(crate) struct Walk<'a, W> {
    root: &'a Root,
    options: WalkOptions,
    tar: TarWriter<W>,
    /// Before every path: empty, or a folder's name and a slash.
    folder: Vec<u8>,
    /// Where the first name of a file with several stands, by device and inode.
    names: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
}

impl<'a, W: Write> Walk<'a, W> {
    pub(crate) fn new(root: &'a Root, options: WalkOptions, out: W) -> Self {
        Self::beneath(Vec::new(), root, options, TarWriter::new(out))
    }

    /// Goes on in a tar that was begun already.
    pub(crate) fn beneath(folder: Vec<u8>, root: &'a Root, options: WalkOptions, tar: TarWriter<W>) -> Self {
        Self { root, options, tar, folder, names: HashMap::new(), buffer: vec![0; BUFFER] }
    }

    /// Walks it all; gives back the stream, the number of entries and of bytes.
    pub(crate) fn run(self) -> Result<(W, u64, u64), LayerError> {
        self.part()?.finish()
    }

    /// Walks it all and leaves the tar open.
    pub(crate) fn part(mut self) -> Result<TarWriter<W>, LayerError> {
        self.directory(&RootfsPath::root())?;
        Ok(self.tar)
    }

    /// Writes what lies in a directory.
    fn directory(&mut self, path: &RootfsPath) -> Result<(), LayerError> {
        let entries = self.root.read_dir_meta(path)?;
        if entries.is_empty() {
            return Ok(());
        }
        let dir = self.root.open_dir(path)?;
        entries.iter().try_for_each(|(name, meta)| self.node(&dir, path, name, meta))
    }

    fn node(
        &mut self,
        dir: &OwnedFd,
        parent: &RootfsPath,
        name: &OsStr,
        meta: &Meta,
    ) -> Result<(), LayerError> {
        let path = parent.join(name);
        if self.options.form == Form::Upper && meta.is_whiteout() && is_device_node(dir.as_fd(), name) {
            return self.marker(parent, &[WHITEOUT_PREFIX, name.as_bytes()].concat());
        }
        if self.options.form == Form::Upper && name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            let why = "names that begin with `.wh.` mean removed files".to_owned();
            return Err(LayerError::NotRepresentable { path: path.to_string(), why });
        }
        match &meta.kind {
            FileKind::File => self.file(dir, parent, &path, name, meta),
            FileKind::Directory => self.subdirectory(dir, &path, name, meta),
            // A socket means nothing without the process that listens; tar has no type for it.
            FileKind::Socket => Ok(()),
            other => {
                let kind = kind_of(other);
                self.linked_or(meta, self.entry(&path, kind, meta)).map(drop)
            }
        }
    }

    fn file(
        &mut self,
        dir: &OwnedFd,
        parent: &RootfsPath,
        path: &RootfsPath,
        name: &OsStr,
        meta: &Meta,
    ) -> Result<(), LayerError> {
        let mut file = File::from(self.open(dir.as_fd(), name, path, OFlags::empty())?);
        let attributes = Attributes::read(&file, path.as_path().as_os_str())?;
        if self.options.form == Form::Upper && attributes.whiteout && meta.size == 0 {
            return self.marker(parent, &[WHITEOUT_PREFIX, name.as_bytes()].concat());
        }
        let mut entry = self.entry(path, EntryKind::File, meta);
        entry.size = meta.size;
        entry.xattrs = attributes.kept;
        if self.linked_or(meta, entry)? {
            self.content(&mut file, path, meta.size)?;
        }
        Ok(())
    }

    /// Copies exactly `size` bytes, as the header has promised them already.
    fn content(&mut self, file: &mut File, path: &RootfsPath, size: u64) -> Result<(), LayerError> {
        let mut left = size;
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(BUFFER));
            let count = match file.read(&mut self.buffer[..want]) {
                Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it shrank while being read")),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                answer => answer,
            };
            let count = count.on("read", self.root.name_of(path))?;
            self.tar.content(&self.buffer[..count])?;
            left -= count as u64;
        }
        self.tar.pad(size)
    }

    fn subdirectory(
        &mut self,
        dir: &OwnedFd,
        path: &RootfsPath,
        name: &OsStr,
        meta: &Meta,
    ) -> Result<(), LayerError> {
        let opened = self.open(dir.as_fd(), name, path, OFlags::DIRECTORY)?;
        let attributes = Attributes::read(&opened, path.as_path().as_os_str())?;
        drop(opened);
        let mut entry = self.entry(path, EntryKind::Directory, meta);
        entry.xattrs = attributes.kept;
        self.tar.entry(&entry)?;
        if self.options.form == Form::Upper && attributes.opaque {
            self.marker(path, OPAQUE_NAME)?;
        }
        self.directory(path)
    }

    /// Writes an entry, or a hard link if the file has been written under another name; says whether content
    /// is to follow.
    fn linked_or(&mut self, meta: &Meta, mut entry: Entry) -> Result<bool, LayerError> {
        if meta.nlink > 1 {
            let path = entry.path.clone();
            if let Some(first) = self.names.get(&(meta.device, meta.inode)) {
                entry.kind = EntryKind::HardLink(first.clone());
                entry.size = 0;
                entry.xattrs.clear();
                return self.tar.entry(&entry).map(|()| false);
            }
            self.names.insert((meta.device, meta.inode), path);
        }
        self.tar.entry(&entry).map(|()| true)
    }

    /// Writes a whiteout or an opaque mark; its times and owner mean nothing.
    fn marker(&mut self, parent: &RootfsPath, name: &[u8]) -> Result<(), LayerError> {
        let path = parent.join(OsStr::from_bytes(name));
        let meta = Meta::new(FileKind::File, 0o600, 0, 0, Timestamp::from_seconds(0));
        let entry = self.entry(&path, EntryKind::File, &meta);
        self.tar.entry(&entry)
    }

    fn entry(&self, path: &RootfsPath, kind: EntryKind, meta: &Meta) -> Entry {
        let seconds = self.options.clamp.map_or(meta.mtime.seconds, |clamp| clamp.min(meta.mtime.seconds));
        let (uid, gid) = if self.options.owners { (meta.uid, meta.gid) } else { (0, 0) };
        Entry {
            path: [&self.folder[..], path.relative().as_os_str().as_bytes()].concat(),
            // Modes of links are 0777 to every kernel; nothing else may show in the bytes.
            mode: if matches!(kind, EntryKind::Symlink(_)) { 0o777 } else { meta.mode },
            kind,
            uid,
            gid,
            size: 0,
            mtime: Timestamp::from_seconds(seconds),
            xattrs: Default::default(),
        }
    }

    fn open(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &RootfsPath,
        flags: OFlags,
    ) -> Result<OwnedFd, PathError> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        rustix::fs::openat(dir, name, flags, Mode::empty()).on("open", self.root.name_of(path))
    }
}

fn kind_of(kind: &FileKind) -> EntryKind {
    match kind {
        FileKind::Symlink(target) => EntryKind::Symlink(target.as_os_str().as_bytes().to_vec()),
        FileKind::Fifo => EntryKind::Fifo,
        FileKind::CharDevice { major, minor } => EntryKind::CharDevice { major: *major, minor: *minor },
        FileKind::BlockDevice { major, minor } => EntryKind::BlockDevice { major: *major, minor: *minor },
        FileKind::Directory => EntryKind::Directory,
        FileKind::File | FileKind::Socket => EntryKind::File,
    }
}
