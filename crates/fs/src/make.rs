//! Making nodes, with what the kernel refuses kept in the journal.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::error::{PathContext, PathError};
use crate::journal::{Entry, Owner};
use crate::meta::{FileKind, Meta, Timestamp};
use crate::path::RootfsPath;
use crate::remove::remove_at;
use crate::resolve::FinalSymlink;
use crate::root::Root;

/// Setuid and setgid.
const SET_ID_BITS: u32 = 0o6000;

/// The kernel's answers for an id outside the map (EINVAL), and for what a user namespace may not do (EPERM).
const REFUSED: [Errno; 2] = [Errno::INVAL, Errno::PERM];

/// What directories that have to be made are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDir {
    /// Permission bits; the umask does not count.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change; `None` leaves the clock's.
    pub mtime: Option<Timestamp>,
}

impl Default for NewDir {
    /// 0755, root, now.
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: None }
    }
}

/// A regular file being written: fill [`NewFile::file`], then [`NewFile::finish`].
#[derive(Debug)]
pub struct NewFile<'a> {
    root: &'a Root,
    path: RootfsPath,
    dir: OwnedFd,
    name: OsString,
    file: File,
}

impl NewFile<'_> {
    /// The open file; `std::io::copy` from another `File` copies within the kernel.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file its owner, mode and time.
    pub fn finish(self, meta: &Meta) -> Result<(), PathError> {
        let (dir, new) = (self.dir.as_fd(), Some(self.file.as_fd()));
        let node = Node { root: self.root, dir, name: &self.name, path: &self.path, new };
        node.finish(meta, true).on("set the owner, mode or time of", self.root.name_of(&self.path))
    }
}

impl Root {
    /// Makes a directory with all its parents; existing ones are left alone, links are followed also where they
    /// dangle. The answer is what was made, parents first.
    pub fn create_dir_all(&self, path: &RootfsPath, new: &NewDir) -> Result<Vec<RootfsPath>, PathError> {
        let path = self.resolve(path, FinalSymlink::Follow)?;
        let mut missing = Vec::new();
        let mut next = Some(path);
        while let Some(path) = next {
            match self.meta(&path)? {
                Some(meta) if meta.is_dir() => break,
                Some(_) => return Err(Errno::NOTDIR).on("create the directory", self.name_of(&path)),
                None => next = path.parent(),
            }
            missing.push(path);
        }
        missing.reverse();
        for path in &missing {
            self.create_dir(path, new)?;
        }
        Ok(missing)
    }

    fn create_dir(&self, path: &RootfsPath, new: &NewDir) -> Result<(), PathError> {
        let made = self.parent_at(path).and_then(|(dir, name)| {
            rustix::fs::mkdirat(&dir, &name, Mode::from_raw_mode(0o700))?;
            Ok((dir, name))
        });
        let (dir, name) = made.on("create the directory", self.name_of(path))?;
        let mut meta = Meta::new(FileKind::Directory, new.mode, new.uid, new.gid, Timestamp::default());
        let node = Node { root: self, dir: dir.as_fd(), name: &name, path, new: None };
        let finished = match new.mtime {
            Some(mtime) => {
                meta.mtime = mtime;
                node.finish(&meta, true)
            }
            None => node.own(&meta, true).map(drop),
        };
        finished.on("set the owner, mode or time of", self.name_of(path))
    }

    /// Makes a node as `meta` says (kind, mode, owner, mtime), with content if it is a regular file. The folder must
    /// exist; links on the way to it are followed. What lies there is replaced by a new inode, so other hard links
    /// of it stay as they are; only a directory is never replaced: for a directory it takes the metadata, for
    /// anything else it is an error (EISDIR).
    pub fn make(
        &self,
        path: &RootfsPath,
        meta: &Meta,
        content: Option<&mut dyn Read>,
    ) -> Result<(), PathError> {
        if meta.is_file() {
            let mut new = self.create_file(path)?;
            if let Some(content) = content {
                io::copy(content, new.file()).on("write", self.name_of(path))?;
            }
            return new.finish(meta);
        }
        let (dir, name) = self.parent_of(path)?;
        let node = Node { root: self, dir: dir.as_fd(), name: &name, path, new: None };
        let own_inode = node.create(&meta.kind).on("create", self.name_of(path))?;
        node.finish(meta, own_inode).on("set the owner, mode or time of", self.name_of(path))
    }

    /// Begins a regular file in place of what lies there; see [`Root::make`]. It has mode 0600 until finished.
    pub fn create_file(&self, path: &RootfsPath) -> Result<NewFile<'_>, PathError> {
        let created = self.parent_at(path).and_then(|(dir, name)| {
            let file = replacing(dir.as_fd(), &name, || new_file(dir.as_fd(), &name))?;
            Ok(NewFile { root: self, path: path.clone(), dir, name, file })
        });
        created.on("create", self.name_of(path))
    }

    /// Gives an existing file owner, mode and time; its kind is not changed, a link at the path's end not followed.
    pub fn set_meta(&self, path: &RootfsPath, meta: &Meta) -> Result<(), PathError> {
        let set = self.parent_at(path).and_then(|(dir, name)| {
            let found = Meta::of_inode(dir.as_fd(), &name)?;
            Ok((dir, name, found))
        });
        let (dir, name, found) = set.on("stat", self.name_of(path))?;
        let node = Node { root: self, dir: dir.as_fd(), name: &name, path, new: None };
        // A placeholder of a device stays one.
        let placeholder = found.is_file() && is_device(&meta.kind);
        let kind = if placeholder { meta.kind.clone() } else { found.kind.clone() };
        let own_inode = found.is_dir() || found.is_file();
        let finished = node.finish(&Meta { kind, ..meta.clone() }, own_inode);
        finished.on("set the owner, mode or time of", self.name_of(path))
    }

    /// Sets the time of last change (and of last access) of a file; a link at the path's end is not followed.
    pub fn set_mtime(&self, path: &RootfsPath, mtime: Timestamp) -> Result<(), PathError> {
        let set = self.parent_at(path).and_then(|(dir, name)| set_times(dir.as_fd(), &name, mtime));
        set.on("set the time of", self.name_of(path))
    }

    /// Makes a second name for a file; links at the ends of both paths are not followed. A file at `new` is
    /// replaced, a directory not.
    pub fn hard_link(&self, existing: &RootfsPath, new: &RootfsPath) -> Result<(), PathError> {
        let (from_dir, from) = self.parent_of(existing)?;
        let (to_dir, to) = self.parent_of(new)?;
        let linked = replacing(to_dir.as_fd(), &to, || {
            rustix::fs::linkat(&from_dir, &from, &to_dir, &to, AtFlags::empty())
        });
        linked.on("link to", self.name_of(existing))
    }

    /// Gives a file of another root (not a directory) the same name here, which must be free: as a second name of its
    /// inode where one can be had, else as a copy. `meta` is what that root says of it; what a journal says comes along.
    pub fn take(&self, path: &RootfsPath, from: &Root, meta: &Meta) -> Result<(), PathError> {
        let (from_dir, from_name) = from.parent_of(path)?;
        let (to_dir, to_name) = self.parent_of(path)?;
        match rustix::fs::linkat(&from_dir, &from_name, &to_dir, &to_name, AtFlags::empty()) {
            Ok(()) => {
                let sidecars = self.journal.sidecar().zip(from.journal.sidecar());
                let kept =
                    sidecars.and_then(|(to, sidecar)| Some((to, sidecar.get(&from.in_sidecar(path)?)?)));
                match (kept, self.in_sidecar(path)) {
                    (Some((to, owner)), Some(path)) => {
                        to.set(&path, Some(owner)).on("keep the owner of", self.name_of(&path))
                    }
                    _ => Ok(()),
                }
            }
            // Another file system, as many names as an inode can have, or somebody else's file (protected_hardlinks).
            Err(Errno::XDEV | Errno::MLINK | Errno::PERM) => self.copy_from(path, from, meta),
            Err(error) => Err(error).on("link to", from.name_of(path)),
        }
    }

    fn copy_from(&self, path: &RootfsPath, from: &Root, meta: &Meta) -> Result<(), PathError> {
        if !meta.is_file() {
            return self.make(path, meta, None);
        }
        self.make(path, meta, Some(&mut from.open_file(path)?))?;
        from.xattrs(path)?.iter().try_for_each(|(name, value)| self.set_xattr(path, name, value))
    }

    /// Renames a file or directory within the root, as rename(2). A sidecar's entry goes along for the file itself,
    /// not for what lies below a directory.
    pub fn rename(&self, from: &RootfsPath, to: &RootfsPath) -> Result<(), PathError> {
        let (from_dir, from_name) = self.parent_of(from)?;
        let (to_dir, to_name) = self.parent_of(to)?;
        let kept = self.journal.sidecar().zip(self.in_sidecar(from).zip(self.in_sidecar(to)));
        rustix::fs::renameat(&from_dir, &from_name, &to_dir, &to_name).on("rename", self.name_of(from))?;
        if let Some((sidecar, (from, to))) = kept
            && let Some(owner) = sidecar.get(&from)
        {
            let moved = sidecar.set(&to, Some(owner)).and_then(|()| sidecar.set(&from, None));
            moved.on("keep the owner of", self.name_of(&to))?;
        }
        Ok(())
    }

    /// Removes a file, or a directory with all below it; a link is removed, never followed. What is not there is no
    /// error; the root itself is emptied, not removed.
    pub fn remove_all(&self, path: &RootfsPath) -> Result<(), PathError> {
        if path.is_root() {
            return self.read_dir(path)?.iter().try_for_each(|name| self.remove_all(&path.join(name)));
        }
        let removed = match self.parent_at(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
            Err(error) => Err(error),
            Ok((dir, name)) => remove_at(dir.as_fd(), &name),
        };
        removed.on("remove", self.name_of(path))
    }
}

/// A name in an open directory while it is made.
struct Node<'a> {
    root: &'a Root,
    dir: BorrowedFd<'a>,
    name: &'a OsStr,
    path: &'a RootfsPath,
    /// A regular file that was made just now, still open: calls on it look up no name, and it has no attribute to forget.
    new: Option<BorrowedFd<'a>>,
}

impl Node<'_> {
    /// Makes anything but a regular file; the answer is whether its inode can carry the journal's attribute.
    fn create(&self, kind: &FileKind) -> Result<bool, Errno> {
        let (dir, name) = (self.dir, self.name);
        match kind {
            FileKind::File => replacing(dir, name, || new_file(dir, name)).map(|_| true),
            FileKind::Directory => self.create_dir().map(|()| true),
            FileKind::Symlink(target) => {
                replacing(dir, name, || rustix::fs::symlinkat(target, dir, name)).map(|()| false)
            }
            FileKind::Fifo => replacing(dir, name, || mknod(dir, name, FileType::Fifo, 0, 0)).map(|()| false),
            FileKind::Socket => {
                replacing(dir, name, || mknod(dir, name, FileType::Socket, 0, 0)).map(|()| false)
            }
            FileKind::CharDevice { major, minor } => {
                self.create_device(FileType::CharacterDevice, *major, *minor)
            }
            FileKind::BlockDevice { major, minor } => {
                self.create_device(FileType::BlockDevice, *major, *minor)
            }
        }
    }

    fn create_dir(&self) -> Result<(), Errno> {
        let (dir, name) = (self.dir, self.name);
        match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) if Meta::of_inode(dir, name)?.is_dir() => Ok(()),
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
                rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))
            }
            answer => answer,
        }
    }

    /// A device node, or the placeholder of one the kernel refuses. A whiteout (0:0) is never refused (Linux 5.8).
    fn create_device(&self, class: FileType, major: u32, minor: u32) -> Result<bool, Errno> {
        let (dir, name) = (self.dir, self.name);
        match replacing(dir, name, || mknod(dir, name, class, major, minor)) {
            Err(error) if REFUSED.contains(&error) && self.root.journal.keeps() => {
                replacing(dir, name, || new_file(dir, name)).map(|_| true)
            }
            answer => answer.map(|()| false),
        }
    }

    /// Owner, mode and time, in the order in which one does not undo the other.
    fn finish(&self, meta: &Meta, own_inode: bool) -> io::Result<()> {
        self.own(meta, own_inode)?;
        let timed = match self.new {
            Some(file) => rustix::fs::futimens(file, &times(meta.mtime)),
            None => set_times(self.dir, self.name, meta.mtime),
        };
        Ok(timed?)
    }

    /// Owner and mode; what the kernel refuses goes to the journal.
    fn own(&self, meta: &Meta, own_inode: bool) -> io::Result<()> {
        let refused = match self.chown(meta.uid, meta.gid) {
            Ok(()) => false,
            Err(error) if REFUSED.contains(&error) && self.root.journal.keeps() => true,
            Err(error) => return Err(error.into()),
        };
        let placeholder = own_inode && is_device(&meta.kind);
        let mode = if refused { meta.mode & !SET_ID_BITS } else { meta.mode };
        if !meta.is_symlink() {
            // After chown, which takes setuid and setgid away.
            self.chmod(Mode::from_raw_mode(mode))?;
        }
        let entry = (refused || placeholder).then(|| Entry {
            owner: Owner { uid: meta.uid, gid: meta.gid },
            mode: (mode != meta.mode).then_some(meta.mode),
            device: placeholder.then(|| meta.kind.clone()),
        });
        if own_inode { self.journal_on_inode(entry) } else { self.journal_in_sidecar(entry) }
    }

    fn chown(&self, uid: u32, gid: u32) -> Result<(), Errno> {
        // All ones means "leave as it is" to the kernel and is no owner.
        if uid == u32::MAX || gid == u32::MAX {
            return Err(Errno::INVAL);
        }
        let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match self.new {
            Some(file) => rustix::fs::fchown(file, uid, gid),
            None => rustix::fs::chownat(self.dir, self.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    fn chmod(&self, mode: Mode) -> Result<(), Errno> {
        match self.new {
            Some(file) => rustix::fs::fchmod(file, mode),
            None => rustix::fs::chmodat(self.dir, self.name, mode, AtFlags::empty()),
        }
    }

    fn journal_on_inode(&self, entry: Option<Entry>) -> io::Result<()> {
        let journal = &self.root.journal;
        match entry {
            Some(entry) => journal.keep_on_inode(self.dir, self.name, &entry),
            None if self.new.is_some() => Ok(()),
            None => {
                journal.forget_on_inode(self.dir, self.name);
                Ok(())
            }
        }
    }

    fn journal_in_sidecar(&self, entry: Option<Entry>) -> io::Result<()> {
        let Some((sidecar, path)) = self.root.journal.sidecar().zip(self.root.in_sidecar(self.path)) else {
            return Ok(());
        };
        match entry {
            Some(entry) => sidecar.set(&path, Some(entry.owner)),
            None if sidecar.get(&path).is_some() => sidecar.set(&path, None),
            None => Ok(()),
        }
    }
}

fn is_device(kind: &FileKind) -> bool {
    matches!(kind, FileKind::CharDevice { .. } | FileKind::BlockDevice { .. })
}

/// Makes something with a fresh name: what has that name is removed and the making tried again.
fn replacing<T>(dir: BorrowedFd<'_>, name: &OsStr, make: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
    match make() {
        Err(Errno::EXIST) => {
            rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
            make()
        }
        answer => answer,
    }
}

fn new_file(dir: BorrowedFd<'_>, name: &OsStr) -> Result<File, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o600))?.into())
}

fn mknod(dir: BorrowedFd<'_>, name: &OsStr, class: FileType, major: u32, minor: u32) -> Result<(), Errno> {
    rustix::fs::mknodat(dir, name, class, Mode::from_raw_mode(0o600), rustix::fs::makedev(major, minor))
}

fn set_times(dir: BorrowedFd<'_>, name: &OsStr, mtime: Timestamp) -> Result<(), Errno> {
    rustix::fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW)
}

fn times(mtime: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
