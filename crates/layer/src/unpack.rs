//! Making the entries of an archive in a directory that nothing leaves.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::os::unix::ffi::OsStrExt;

use rbuild_fs::{FileKind, Meta, NewDir, PathError, Root, RootfsPath, Timestamp, journal, kept_in_images};
use rustix::io::Errno;

use crate::LayerError;
use crate::decompress::decompress_sniffed;
use crate::entry::{Entry, EntryKind, as_os};
use crate::overlay::{OPAQUE, is_whiteout, name_in_lower, plain_capability};
use crate::tar_reader::{ContentError, TarReader};

const BUFFER: usize = 256 << 10;

/// How `ADD` unpacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnpackOptions {
    /// Owner and group of everything; `None` keeps those of the archive.
    pub chown: Option<(u32, u32)>,
    /// Time of directories that no entry of the archive tells of; `None` is now.
    pub created: Option<Timestamp>,
}

/// Whether a stream is a tar archive, plain or compressed: its first entry decides, as its name tells nothing.
/// A stream that cannot be read or decoded is none.
pub fn is_archive(reader: impl Read + Send) -> bool {
    decompress_sniffed(reader)
        .is_ok_and(|(_, plain)| matches!(TarReader::new(plain).next_entry(), Ok(Some(_))))
}

/// The time of the newest file in a tar archive, plain or compressed; `None` where it holds no file. Folders and links are
/// dated by whoever packs them, and tell nothing.
///
/// # Errors
/// An archive that is damaged.
pub fn newest_file(reader: impl Read + Send) -> Result<Option<Timestamp>, LayerError> {
    let (_, plain) = decompress_sniffed(reader).map_err(LayerError::Read)?;
    let mut tar = TarReader::new(BufReader::with_capacity(BUFFER, plain));
    let mut newest = None;
    while let Some(entry) = tar.next_entry()? {
        newest = newest.max(time_of_file(&entry));
    }
    Ok(newest)
}

fn time_of_file(entry: &Entry) -> Option<Timestamp> {
    matches!(entry.kind, EntryKind::File | EntryKind::HardLink(_)).then_some(entry.mtime)
}

/// Unpacks a tar archive, plain or compressed, into a directory that is made if it is missing. Entries stay
/// inside that directory whatever their names, links and the links already there say; `.wh.` names mean nothing.
/// The answer is what [`newest_file`] would say.
///
/// # Errors
/// An archive that is damaged, entries that cannot be made.
pub fn unpack_archive(
    reader: impl Read + Send,
    to: &Root,
    destination: &RootfsPath,
    options: &UnpackOptions,
) -> Result<Option<Timestamp>, LayerError> {
    let (uid, gid) = options.chown.unwrap_or((0, 0));
    let new_dir = NewDir { mode: 0o755, uid, gid, mtime: options.created };
    let made = to.create_dir_all(destination, &new_dir)?;
    let inside = to.beneath(destination)?;
    let (_, plain) = decompress_sniffed(reader).map_err(LayerError::Read)?;
    let mut tar = TarReader::new(BufReader::with_capacity(BUFFER, plain));
    let mut unpacker = Unpacker::new(&inside, Target::Tree(*options));
    let mut newest = None;
    while let Some(entry) = tar.next_entry()? {
        newest = newest.max(time_of_file(&entry));
        let path = RootfsPath::new(as_os(&entry.path));
        // What an archive says of its own root is not said of the destination.
        if path.is_root() && entry.kind == EntryKind::Directory {
            continue;
        }
        unpacker.place(&mut tar, &entry, &path).map_err(|error| error.in_entry(&entry.path))?;
    }
    unpacker.finish()?;
    if let Some(created) = options.created {
        made.iter().try_for_each(|path| to.set_mtime(path, created))?;
    }
    Ok(newest)
}

/// What entries are made into.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// An empty directory that becomes a lower of an overlay.
    Lower,
    /// A tree in use.
    Tree(UnpackOptions),
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    Made,
    /// A hard link to a file that is not here.
    MissingTarget(RootfsPath),
}

/// Makes entries one after the other.
pub(crate) struct Unpacker<'a> {
    root: &'a Root,
    target: Target,
    /// Times of directories, to be set when nothing is added to them any more.
    times: BTreeMap<RootfsPath, Timestamp>,
    implied: Vec<RootfsPath>,
    /// The parent of the last entry, which is known to be there.
    parent: Option<RootfsPath>,
}

impl<'a> Unpacker<'a> {
    pub(crate) fn new(root: &'a Root, target: Target) -> Self {
        Self { root, target, times: BTreeMap::new(), implied: Vec::new(), parent: None }
    }

    /// Sets the times of all directories; the answer is those that no entry told of, parents first.
    pub(crate) fn finish(self) -> Result<Vec<RootfsPath>, LayerError> {
        for (path, mtime) in &self.times {
            self.root.set_mtime(path, *mtime)?;
        }
        Ok(self.implied)
    }

    /// Makes one entry at a path, in place of what is there; only a directory stays, and takes the metadata.
    pub(crate) fn place<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        path: &RootfsPath,
    ) -> Result<Placed, LayerError> {
        self.ensure_parent(path)?;
        match &entry.kind {
            EntryKind::Directory => self.directory(entry, path)?,
            EntryKind::File => self.file(tar, entry, path)?,
            EntryKind::HardLink(target) => {
                return self.hard_link(&RootfsPath::new(as_os(target)), path);
            }
            _ => self.special(entry, path)?,
        }
        Ok(Placed::Made)
    }

    /// Makes the folder of a path if it is missing. Links on the way are followed inside the root.
    pub(crate) fn ensure_parent(&mut self, path: &RootfsPath) -> Result<(), LayerError> {
        let Some(parent) = path.parent() else { return Ok(()) };
        if self.parent.as_ref() == Some(&parent) {
            return Ok(());
        }
        self.refuse_dangling(&parent)?;
        let made = self.root.create_dir_all(&parent, &self.new_dir())?;
        for path in made {
            if let Some(mtime) = self.new_dir().mtime {
                self.times.insert(path.clone(), mtime);
            }
            self.implied.push(path);
        }
        self.parent = Some(parent);
        Ok(())
    }

    /// What ADD unpacks makes no folder for a link to point at, as in the reference: such an archive is no whole one.
    fn refuse_dangling(&self, folder: &RootfsPath) -> Result<(), LayerError> {
        if self.is_lower() || self.root.meta_follow(folder)?.is_some() {
            return Ok(());
        }
        let mut path = RootfsPath::root();
        for name in folder.components() {
            path = path.join(name);
            match self.root.meta(&path)? {
                Some(meta) if !meta.is_symlink() => {}
                Some(_) if self.root.meta_follow(&path)?.is_some() => {}
                Some(_) => {
                    let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
                    return Err(PathError::new("follow the link", self.root.name_of(&path), missing).into());
                }
                None => break,
            }
        }
        Ok(())
    }

    /// Removes whatever lies at a path, with what is remembered of it.
    pub(crate) fn clear(&mut self, path: &RootfsPath) -> Result<(), LayerError> {
        self.root.remove_all(path)?;
        self.forget(path);
        Ok(())
    }

    fn forget(&mut self, path: &RootfsPath) {
        self.times.retain(|known, _| !known.starts_with(path));
        self.implied.retain(|known| !known.starts_with(path));
        self.parent = None;
    }

    fn new_dir(&self) -> NewDir {
        match self.target {
            // No entry gives a time, and the clock must not show in a snapshot.
            Target::Lower => NewDir { mtime: Some(Timestamp::from_seconds(0)), ..NewDir::default() },
            Target::Tree(options) => {
                let (uid, gid) = options.chown.unwrap_or((0, 0));
                NewDir { mode: 0o755, uid, gid, mtime: options.created }
            }
        }
    }

    fn meta(&self, entry: &Entry, kind: FileKind) -> Meta {
        let (uid, gid) = match self.target {
            Target::Tree(UnpackOptions { chown: Some(owner), .. }) => owner,
            _ => (entry.uid, entry.gid),
        };
        Meta::new(kind, entry.mode, uid, gid, entry.mtime)
    }

    fn directory(&mut self, entry: &Entry, path: &RootfsPath) -> Result<(), LayerError> {
        let before = self.root.meta(path)?;
        let replaces = before.is_some_and(|meta| !meta.is_dir());
        self.root.make(path, &self.meta(entry, FileKind::Directory), None)?;
        if replaces {
            self.forget(path);
            // What the layers below have at this path was hidden by what the directory replaces.
            if let Target::Lower = self.target {
                self.root.set_xattr(path, OPAQUE, b"y")?;
            }
        }
        self.implied.retain(|implied| implied != path);
        self.times.insert(path.clone(), entry.mtime);
        self.xattrs(entry, path)
    }

    fn file<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        path: &RootfsPath,
    ) -> Result<(), LayerError> {
        let root = self.root;
        let mut new = match root.create_file(path) {
            Err(error) if error.is(Errno::ISDIR) && !path.is_root() => {
                self.clear(path)?;
                root.create_file(path)?
            }
            answer => answer?,
        };
        tar.write_content(entry, new.file()).map_err(|error| match error {
            ContentError::Archive(error) => error,
            ContentError::File(error) => PathError::new("write", self.root.name_of(path), error).into(),
        })?;
        new.finish(&self.meta(entry, FileKind::File))?;
        self.xattrs(entry, path)
    }

    fn special(&mut self, entry: &Entry, path: &RootfsPath) -> Result<(), LayerError> {
        let kind = match &entry.kind {
            EntryKind::Symlink(target) => FileKind::Symlink(as_os(target).into()),
            EntryKind::CharDevice { major: 0, minor: 0 } => return self.null_device(entry, path),
            EntryKind::CharDevice { major, minor } => FileKind::CharDevice { major: *major, minor: *minor },
            EntryKind::BlockDevice { major, minor } => FileKind::BlockDevice { major: *major, minor: *minor },
            _ => FileKind::Fifo,
        };
        let meta = self.meta(entry, kind);
        self.making_room(path, |root| root.make(path, &meta, None))
    }

    /// A device 0:0 that an archive really holds: as a node it would be a whiteout, so it is kept in the
    /// journal like the nodes that the kernel refuses.
    fn null_device(&mut self, entry: &Entry, path: &RootfsPath) -> Result<(), LayerError> {
        let meta = self.meta(entry, FileKind::File);
        self.making_room(path, |root| root.make(path, &meta, None))?;
        let device = Some(FileKind::CharDevice { major: 0, minor: 0 });
        let owner = journal::Owner { uid: meta.uid, gid: meta.gid };
        let kept = journal::Entry { owner, mode: Some(meta.mode), device };
        Ok(self.root.set_xattr(path, journal::XATTR, kept.to_string().as_bytes())?)
    }

    fn hard_link(&mut self, target: &RootfsPath, path: &RootfsPath) -> Result<Placed, LayerError> {
        if target == path {
            return Err(LayerError::damaged(format!("`{path}` is a hard link to itself")));
        }
        match self.root.meta(target)? {
            Some(meta) if !(meta.is_dir() || self.is_lower() && is_whiteout(self.root, target, &meta)?) => {}
            None if self.is_lower() => return Ok(Placed::MissingTarget(target.clone())),
            _ => return Err(LayerError::MissingLinkTarget(target.to_string())),
        }
        self.making_room(path, |root| root.hard_link(target, path))?;
        Ok(Placed::Made)
    }

    fn is_lower(&self) -> bool {
        matches!(self.target, Target::Lower)
    }

    /// Makes something at a path; a directory that is in the way is removed with all it holds.
    fn making_room(
        &mut self,
        path: &RootfsPath,
        make: impl Fn(&Root) -> Result<(), PathError>,
    ) -> Result<(), LayerError> {
        match make(self.root) {
            Err(error) if error.is(Errno::ISDIR) && !path.is_root() => {
                self.clear(path)?;
                Ok(make(self.root)?)
            }
            answer => Ok(answer?),
        }
    }

    fn xattrs(&self, entry: &Entry, path: &RootfsPath) -> Result<(), LayerError> {
        for (name, value) in &entry.xattrs {
            let stored = match self.target {
                Target::Lower => name_in_lower(name),
                Target::Tree(_) => Some(name.clone()).filter(|name| kept_in_images(name)),
            };
            let Some(stored) = stored else { continue };
            let value = plain_capability(stored.as_bytes(), value.clone());
            match self.root.set_xattr(path, &stored, &value) {
                // A file system without attributes loses them whatever we do.
                Err(error) if error.is(Errno::OPNOTSUPP) => {}
                answer => answer?,
            }
        }
        Ok(())
    }
}
