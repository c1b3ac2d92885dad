//! A directory beneath which paths are resolved as a container would.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{PathContext, PathError};
use crate::journal::Journal;
use crate::meta::Meta;
use crate::path::RootfsPath;
use crate::resolve::{FinalSymlink, Resolved, Walk};

/// How often an `openat2` is tried again that met a rename on its way (EAGAIN, openat2(2)).
const RETRIES: usize = 16;

/// Set once `openat2` turned out not to be there.
static NO_OPENAT2: AtomicBool = AtomicBool::new(false);

/// A directory descriptor beneath which paths are resolved as a container would: absolute symbolic links and `..`
/// stay inside.
///
/// Errors name the path on the host where the root was opened by path, or below the name given to
/// [`Root::from_fd`].
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
    name: PathBuf,
    pub(crate) journal: Journal,
    in_user_space: bool,
}

impl Root {
    /// Opens a directory of the host as a root, with the journal in extended attributes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, PathError> {
        let path = path.as_ref();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).on("open the directory", path)?;
        Ok(Self::from_fd(fd, path.to_owned()))
    }

    /// Takes an open directory (`O_PATH` is enough) as a root; `name` is what errors call it.
    pub fn from_fd(fd: OwnedFd, name: PathBuf) -> Self {
        Self { fd, name, journal: Journal::xattrs(), in_user_space: false }
    }

    /// The same root with another [`Journal`].
    #[must_use]
    pub fn with_journal(self, journal: Journal) -> Self {
        Self { journal, ..self }
    }

    /// The same root, resolving without `openat2`; for tests of that way.
    #[doc(hidden)]
    #[must_use]
    pub fn resolving_in_user_space(self) -> Self {
        Self { in_user_space: true, ..self }
    }

    /// A second handle of the same directory.
    pub fn try_clone(&self) -> Result<Self, PathError> {
        let fd = self.fd.try_clone().on("open the directory", &self.name)?;
        let (name, journal) = (self.name.clone(), self.journal.clone());
        Ok(Self { fd, name, journal, in_user_space: self.in_user_space })
    }

    /// A folder of this root as a root of its own, with its part of the journal; links are followed.
    pub fn beneath(&self, folder: &RootfsPath) -> Result<Self, PathError> {
        let folder = self.resolve(folder, FinalSymlink::Follow)?;
        let (fd, name) = (self.open_dir(&folder)?, self.name_of(&folder));
        let journal = self.journal.beneath(folder);
        Ok(Self { fd, name, journal, in_user_space: self.in_user_space })
    }

    /// The directory's descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A name of the directory for calls that take a host path: `/proc/self/fd/N`, as long as this value lives.
    pub fn host_path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.fd.as_raw_fd()).into()
    }

    /// What errors call this root.
    pub fn name(&self) -> &Path {
        &self.name
    }

    /// What errors call a path in this root.
    pub fn name_of(&self, path: &RootfsPath) -> PathBuf {
        if path.is_root() { self.name.clone() } else { self.name.join(path.relative()) }
    }

    /// The path without symbolic links. A missing tail is allowed and kept as it is; a dangling link's target is
    /// followed, so the answer is where a file written to `path` would lie. ELOOP after 255 links, ENOTDIR for a
    /// way through something that is no directory.
    pub fn resolve(&self, path: &RootfsPath, last: FinalSymlink) -> Result<RootfsPath, PathError> {
        let mut flags = OFlags::PATH;
        if last == FinalSymlink::Keep {
            flags |= OFlags::NOFOLLOW;
        }
        // Most paths have no link in them, and the kernel can say so in one call.
        match self.openat2(path.relative(), flags, ResolveFlags::NO_SYMLINKS) {
            Some(Ok(_)) => Ok(path.clone()),
            _ => Ok(self.walk(path, last).on("resolve", self.name_of(path))?.path),
        }
    }

    fn walk(&self, path: &RootfsPath, last: FinalSymlink) -> Result<Resolved, Errno> {
        Walk::new(self.as_fd(), path).run(last)
    }

    /// Opens beneath the root by `openat2`; `None` where that is not to be had.
    fn openat2(&self, path: &Path, flags: OFlags, resolve: ResolveFlags) -> Option<Result<OwnedFd, Errno>> {
        if self.in_user_space || NO_OPENAT2.load(Ordering::Relaxed) {
            return None;
        }
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..RETRIES {
            match rustix::fs::openat2(&self.fd, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                // EPERM is what a seccomp profile answers that does not know the call.
                Err(Errno::NOSYS | Errno::PERM) => {
                    NO_OPENAT2.store(true, Ordering::Relaxed);
                    return None;
                }
                answer => return Some(answer),
            }
        }
        None
    }

    fn open_following(&self, path: &RootfsPath, flags: OFlags) -> Result<OwnedFd, Errno> {
        if let Some(answer) = self.openat2(path.relative(), flags, ResolveFlags::empty()) {
            return answer;
        }
        let resolved = self.walk(path, FinalSymlink::Follow)?;
        if resolved.parent_missing {
            return Err(Errno::NOENT);
        }
        let parent = resolved.parent.as_ref().map_or(self.as_fd(), AsFd::as_fd);
        let name = resolved.path.file_name().unwrap_or(OsStr::new("."));
        rustix::fs::openat(parent, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens a directory for the calls of the `*at` family (`O_PATH`); links are followed.
    pub fn open_dir(&self, path: &RootfsPath) -> Result<OwnedFd, PathError> {
        self.open_following(path, OFlags::PATH | OFlags::DIRECTORY)
            .on("open the directory", self.name_of(path))
    }

    /// A handle of a file or directory (`O_PATH`), to mount it or to compare it; links are followed.
    pub fn open_path(&self, path: &RootfsPath) -> Result<OwnedFd, PathError> {
        self.open_following(path, OFlags::PATH).on("open", self.name_of(path))
    }

    /// The folder a path lies in, links on the way followed, and the name in it; for the root itself the root
    /// and `.`.
    pub fn parent_of(&self, path: &RootfsPath) -> Result<(OwnedFd, OsString), PathError> {
        self.parent_at(path).on("find the folder of", self.name_of(path))
    }

    pub(crate) fn parent_at(&self, path: &RootfsPath) -> Result<(OwnedFd, OsString), Errno> {
        let (parent, name) = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => (parent, name.to_owned()),
            _ => (RootfsPath::root(), OsString::from(".")),
        };
        Ok((self.open_following(&parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
    }

    /// What the image says of this path itself: links on the way are followed, one at its end is not. `None` if
    /// there is no such file.
    pub fn meta(&self, path: &RootfsPath) -> Result<Option<Meta>, PathError> {
        let found = self.parent_at(path).and_then(|(dir, name)| {
            let mut meta = Meta::of_inode(dir.as_fd(), &name)?;
            let in_sidecar = self.journal.asks_sidecar().then(|| self.in_sidecar(path)).flatten();
            self.journal.apply(dir.as_fd(), &name, in_sidecar.as_ref(), &mut meta);
            Ok(meta)
        });
        absent_is_none(found).on("stat", self.name_of(path))
    }

    /// What the image says of the file that this path leads to; `None` also for a dangling link.
    pub fn meta_follow(&self, path: &RootfsPath) -> Result<Option<Meta>, PathError> {
        match absent_is_none(self.walk_or_same(path)).on("resolve", self.name_of(path))? {
            Some(resolved) => self.meta(&resolved),
            None => Ok(None),
        }
    }

    /// What a sidecar calls a path: the name without links on the way, so that all ways to a file find its entry.
    /// `None` if there is no sidecar to ask.
    pub(crate) fn in_sidecar(&self, path: &RootfsPath) -> Option<RootfsPath> {
        self.journal.sidecar().map(|_| match self.resolve(path, FinalSymlink::Keep) {
            Ok(resolved) => resolved,
            Err(_) => path.clone(),
        })
    }

    fn walk_or_same(&self, path: &RootfsPath) -> Result<RootfsPath, Errno> {
        match self.openat2(path.relative(), OFlags::PATH, ResolveFlags::NO_SYMLINKS) {
            Some(Ok(_)) => return Ok(path.clone()),
            Some(Err(error @ Errno::NOENT)) => return Err(error),
            _ => {}
        }
        let resolved = self.walk(path, FinalSymlink::Follow)?;
        if resolved.parent_missing { Err(Errno::NOENT) } else { Ok(resolved.path) }
    }

    /// Opens a regular file for reading; links are followed. Anything but a regular file is an error, so a pipe or
    /// a device can neither block nor feed the reader.
    pub fn open_file(&self, path: &RootfsPath) -> Result<File, PathError> {
        let opened = self.open_following(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY);
        let file = opened.map_err(io::Error::from).and_then(|fd| {
            match FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode) {
                FileType::RegularFile => Ok(File::from(fd)),
                FileType::Directory => Err(Errno::ISDIR.into()),
                _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
            }
        });
        file.on("open", self.name_of(path))
    }

    /// Reads a regular file that has at most `limit` bytes; a larger one is an error.
    pub fn read(&self, path: &RootfsPath, limit: u64) -> Result<Vec<u8>, PathError> {
        let mut bytes = Vec::new();
        let read = self.open_file(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes);
        let length = read.on("read", self.name_of(path))?;
        if length as u64 > limit {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge)).on("read", self.name_of(path));
        }
        Ok(bytes)
    }

    /// Reads a regular file of text that has at most `limit` bytes.
    pub fn read_to_string(&self, path: &RootfsPath, limit: u64) -> Result<String, PathError> {
        let text = String::from_utf8(self.read(path, limit)?);
        text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error)).on("read", self.name_of(path))
    }

    /// The names in a directory, sorted by their bytes; links are followed.
    pub fn read_dir(&self, path: &RootfsPath) -> Result<Vec<OsString>, PathError> {
        let opened = self.open_following(path, OFlags::RDONLY | OFlags::DIRECTORY);
        opened.and_then(names_in).on("list", self.name_of(path))
    }

    /// The names in a directory with what the image says of each, sorted by name; links are followed on the way to
    /// the directory, not in it. A file that vanishes meanwhile is left out.
    pub fn read_dir_meta(&self, path: &RootfsPath) -> Result<Vec<(OsString, Meta)>, PathError> {
        let dir =
            self.open_following(path, OFlags::RDONLY | OFlags::DIRECTORY).on("list", self.name_of(path))?;
        let names = dir.try_clone();
        let names = names.and_then(|dir| Ok(names_in(dir)?)).on("list", self.name_of(path))?;
        let mut entries = Vec::with_capacity(names.len());
        let resolved =
            self.journal.asks_sidecar().then(|| self.resolve(path, FinalSymlink::Follow)).transpose()?;
        for name in names {
            match Meta::of_inode(dir.as_fd(), &name) {
                Ok(mut meta) => {
                    let in_sidecar = resolved.as_ref().map(|folder| folder.join(&name));
                    self.journal.apply(dir.as_fd(), &name, in_sidecar.as_ref(), &mut meta);
                    entries.push((name, meta));
                }
                Err(Errno::NOENT) => {}
                Err(error) => return Err(error).on("stat", self.name_of(&path.join(&name))),
            }
        }
        Ok(entries)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A path that does not exist, or leads through something that is no directory, is no error but nothing.
fn absent_is_none<T>(answer: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in an open directory, sorted by their bytes.
pub(crate) fn names_in(dir: OwnedFd) -> Result<Vec<OsString>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    Ok(names)
}
