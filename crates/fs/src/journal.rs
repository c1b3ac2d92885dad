//! What the kernel refuses this process, kept beside the file and put back on reading.
//!
//! In a user namespace `chown` to an id outside the map answers EINVAL and `mknod` of a device EPERM, yet base images
//! hold both. So the node is made as far as the kernel allows, and the truth is kept
//!
//! - in the extended attribute [`XATTR`] of regular files and directories. A refused device node is an empty regular
//!   file with that attribute. Value: `v1 uid=<n> gid=<n>[ mode=<octal>][ dev=c:<major>:<minor>|b:<major>:<minor>]`;
//! - in a [`Sidecar`] for symbolic links, pipes and sockets, which cannot carry `user.*` attributes (xattr(7)).
//!
//! A command run in the tree may change the file later, and copy-up carries the attribute along, so an entry counts
//! only as far as it can still be true: its owner while the inode still belongs to us (a successful `chown` since
//! then wins), its device while the file is empty, its mode while the permission bits are the ones it was written with.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::error::{PathContext, PathError};
use crate::meta::{FileKind, Meta};
use crate::path::RootfsPath;

/// Name of the attribute that holds an entry.
pub const XATTR: &str = "user.rbuild.meta";

/// Owner and group of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a file should be in the image, as far as the kernel refused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The owner.
    pub owner: Owner,
    /// The mode, where the inode could not carry it: setuid and setgid bits are not given to a file whose owner was
    /// refused, or it would run as the wrong user.
    pub mode: Option<u32>,
    /// The device a placeholder stands for.
    pub device: Option<FileKind>,
}

impl Entry {
    /// Parses an attribute's value; `None` for anything else, as an attribute can come from anywhere.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(value).ok()?.split(' ');
        if words.next() != Some("v1") {
            return None;
        }
        let (mut uid, mut gid, mut mode, mut device) = (None, None, None, None);
        for word in words {
            match word.split_once('=')? {
                ("uid", n) => uid = Some(n.parse().ok()?),
                ("gid", n) => gid = Some(n.parse().ok()?),
                ("mode", n) => mode = Some(u32::from_str_radix(n, 8).ok().filter(|mode| *mode <= 0o7777)?),
                ("dev", text) => device = Some(parse_device(text)?),
                _ => return None,
            }
        }
        Some(Self { owner: Owner { uid: uid?, gid: gid? }, mode, device })
    }
}

fn parse_device(text: &str) -> Option<FileKind> {
    let mut parts = text.split(':');
    let class = parts.next()?;
    let (major, minor) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    match (class, parts.next()) {
        ("c", None) => Some(FileKind::CharDevice { major, minor }),
        ("b", None) => Some(FileKind::BlockDevice { major, minor }),
        _ => None,
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "v1 uid={} gid={}", self.owner.uid, self.owner.gid)?;
        if let Some(mode) = self.mode {
            write!(f, " mode={mode:o}")?;
        }
        match self.device {
            Some(FileKind::CharDevice { major, minor }) => write!(f, " dev=c:{major}:{minor}"),
            Some(FileKind::BlockDevice { major, minor }) => write!(f, " dev=b:{major}:{minor}"),
            _ => Ok(()),
        }
    }
}

/// Where owners are kept that the kernel refused for files without `user.*` attributes. Paths are without links on
/// the way.
pub trait Sidecar: Send + Sync + fmt::Debug {
    /// The owner kept for this path.
    fn get(&self, path: &RootfsPath) -> Option<Owner>;
    /// Keeps an owner for this path, or forgets it.
    fn set(&self, path: &RootfsPath, owner: Option<Owner>) -> io::Result<()>;
    /// All that is kept, in the order of the paths.
    fn entries(&self) -> Vec<(RootfsPath, Owner)>;
    /// Whether nothing is kept here; attributes of files may hold entries all the same.
    fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }
    /// Notes that some file of the tree has an entry, here or in its attribute.
    fn mark(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The sidecar of a tree, for the part of it that lies below a folder.
#[derive(Debug)]
pub(crate) struct Beneath {
    pub(crate) sidecar: Arc<dyn Sidecar>,
    pub(crate) folder: RootfsPath,
}

impl Sidecar for Beneath {
    fn get(&self, path: &RootfsPath) -> Option<Owner> {
        self.sidecar.get(&self.folder.join(path.relative()))
    }

    fn set(&self, path: &RootfsPath, owner: Option<Owner>) -> io::Result<()> {
        self.sidecar.set(&self.folder.join(path.relative()), owner)
    }

    fn entries(&self) -> Vec<(RootfsPath, Owner)> {
        let all = self.sidecar.entries().into_iter();
        all.filter_map(|(path, owner)| {
            Some((RootfsPath::new(path.as_path().strip_prefix(self.folder.as_path()).ok()?), owner))
        })
        .collect()
    }

    fn is_empty(&self) -> bool {
        self.sidecar.is_empty()
    }

    fn mark(&self) -> io::Result<()> {
        self.sidecar.mark()
    }
}

/// Which parts of the journal a tree has.
#[derive(Clone, Debug)]
pub struct Journal {
    xattrs: bool,
    sidecar: Option<Arc<dyn Sidecar>>,
}

impl Journal {
    /// No journal: a plain directory such as a build context. Costs nothing on reading; what the kernel refuses is
    /// an error on writing.
    pub fn none() -> Self {
        Self { xattrs: false, sidecar: None }
    }

    /// The journal in extended attributes; one `lgetxattr` for each regular file and directory. A refused owner of a
    /// symbolic link, pipe or socket is forgotten.
    pub fn xattrs() -> Self {
        Self { xattrs: true, sidecar: None }
    }

    /// Extended attributes and a sidecar for the files that cannot have them.
    pub fn with_sidecar(sidecar: Arc<dyn Sidecar>) -> Self {
        Self { xattrs: true, sidecar: Some(sidecar) }
    }

    /// Whether a sidecar has something to say.
    pub(crate) fn asks_sidecar(&self) -> bool {
        self.sidecar.as_ref().is_some_and(|sidecar| !sidecar.is_empty())
    }

    /// The journal of a folder of the tree.
    pub(crate) fn beneath(&self, folder: RootfsPath) -> Self {
        let below = |sidecar: &Arc<dyn Sidecar>| Arc::new(Beneath { sidecar: sidecar.clone(), folder }) as _;
        Self { xattrs: self.xattrs, sidecar: self.sidecar.as_ref().map(below) }
    }

    pub(crate) fn sidecar(&self) -> Option<&dyn Sidecar> {
        self.sidecar.as_deref()
    }

    /// Whether refused metadata is kept at all.
    pub(crate) fn keeps(&self) -> bool {
        self.xattrs
    }

    /// Puts back what the kernel refused. A journal that cannot be read is no journal: attributes are not to be had
    /// on every file system, and the inode's own data is the answer then.
    pub(crate) fn apply(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: Option<&RootfsPath>,
        meta: &mut Meta,
    ) {
        match meta.kind {
            FileKind::File | FileKind::Directory if self.xattrs => {
                if let Some(entry) = read_entry(dir, name) {
                    apply_entry(&entry, meta);
                }
            }
            FileKind::Symlink(_) | FileKind::Fifo | FileKind::Socket if meta.uid == own_uid() => {
                let kept = self.sidecar.as_ref().zip(path).and_then(|(sidecar, path)| sidecar.get(path));
                if let Some(owner) = kept {
                    (meta.uid, meta.gid) = (owner.uid, owner.gid);
                }
            }
            _ => {}
        }
    }

    /// Keeps what the kernel refused, in the attribute of a file.
    pub(crate) fn keep_on_inode(&self, dir: BorrowedFd<'_>, name: &OsStr, entry: &Entry) -> io::Result<()> {
        let (host, flags) = (proc_path(dir, name), rustix::fs::XattrFlags::empty());
        rustix::fs::lsetxattr(host, XATTR, entry.to_string().as_bytes(), flags)?;
        self.sidecar.as_ref().map_or(Ok(()), |sidecar| sidecar.mark())
    }

    /// Forgets the attribute of a file.
    pub(crate) fn forget_on_inode(&self, dir: BorrowedFd<'_>, name: &OsStr) {
        if self.xattrs {
            // Absent, or attributes are not to be had here: nothing to forget either way.
            let _ = rustix::fs::lremovexattr(proc_path(dir, name), XATTR);
        }
    }
}

fn apply_entry(entry: &Entry, meta: &mut Meta) {
    if meta.uid == own_uid() {
        (meta.uid, meta.gid) = (entry.owner.uid, entry.owner.gid);
    }
    if let Some(mode) = entry.mode
        && mode & 0o777 == meta.mode & 0o777
    {
        meta.mode = mode;
    }
    if let Some(device) = &entry.device
        && meta.kind == FileKind::File
        && meta.size == 0
    {
        meta.kind = device.clone();
    }
}

/// The name of a file in an open directory for the calls that take no descriptor: `getxattrat` came only with
/// Linux 6.13.
pub(crate) fn proc_path(dir: BorrowedFd<'_>, name: &OsStr) -> PathBuf {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name.as_bytes());
    std::ffi::OsString::from_vec(path).into()
}

fn read_entry(dir: BorrowedFd<'_>, name: &OsStr) -> Option<Entry> {
    let mut value = [0u8; 128];
    let length = rustix::fs::lgetxattr(proc_path(dir, name), XATTR, &mut value[..]).ok()?;
    Entry::parse(value.get(..length)?)
}

/// The user that owns what this process makes: 0 in the namespaces of rbuild.
fn own_uid() -> u32 {
    static UID: OnceLock<u32> = OnceLock::new();
    *UID.get_or_init(|| rustix::process::geteuid().as_raw())
}

/// A sidecar in one text file, appended to as entries come: `<uid> <gid> <path>` keeps, `- - <path>` forgets, the
/// last line of a path wins. In paths `\` is written `\\` and a newline `\n`; other bytes stay as they are. A last
/// line without newline was cut by a crash and does not count.
#[derive(Debug)]
pub struct FileSidecar {
    file: PathBuf,
    owners: Mutex<BTreeMap<RootfsPath, Owner>>,
}

impl FileSidecar {
    /// Reads the file; one that does not exist yet is empty and made with the first entry.
    pub fn open(file: impl Into<PathBuf>) -> Result<Self, PathError> {
        let file = file.into();
        let text = match fs::read(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            read => read.on("read the journal", &file)?,
        };
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        if whole < text.len() {
            // The next line must not be glued to one that a crash cut.
            let cut =
                fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(whole as u64));
            cut.on("repair the journal", &file)?;
        }
        let mut owners = BTreeMap::new();
        for line in text.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n")) {
            match parse_line(line) {
                Some((path, Some(owner))) => drop(owners.insert(path, owner)),
                Some((path, None)) => drop(owners.remove(&path)),
                None => {}
            }
        }
        Ok(Self { file, owners: Mutex::new(owners) })
    }

    /// Whether some file of the tree has, or had, an entry: the file is made with the first.
    pub fn is_marked(&self) -> bool {
        self.file.exists()
    }
}

impl Sidecar for FileSidecar {
    fn get(&self, path: &RootfsPath) -> Option<Owner> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(path).copied()
    }

    fn set(&self, path: &RootfsPath, owner: Option<Owner>) -> io::Result<()> {
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = fs::OpenOptions::new().append(true).create(true).open(&self.file)?;
        file.write_all(&format_line(path, owner))?;
        match owner {
            Some(owner) => owners.insert(path.clone(), owner),
            None => owners.remove(path),
        };
        Ok(())
    }

    fn entries(&self) -> Vec<(RootfsPath, Owner)> {
        let owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.iter().map(|(path, owner)| (path.clone(), *owner)).collect()
    }

    fn is_empty(&self) -> bool {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn mark(&self) -> io::Result<()> {
        fs::OpenOptions::new().append(true).create(true).open(&self.file).map(drop)
    }
}

fn format_line(path: &RootfsPath, owner: Option<Owner>) -> Vec<u8> {
    let mut head = String::new();
    let written = match owner {
        Some(owner) => write!(head, "{} {} ", owner.uid, owner.gid),
        None => write!(head, "- - "),
    };
    debug_assert!(written.is_ok(), "writing to a string");
    let mut line = head.into_bytes();
    for byte in path.as_path().as_os_str().as_bytes() {
        match byte {
            b'\\' => line.extend(b"\\\\"),
            b'\n' => line.extend(b"\\n"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    line
}

fn parse_line(line: &[u8]) -> Option<(RootfsPath, Option<Owner>)> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (uid, gid, escaped) = (parts.next()?, parts.next()?, parts.next()?);
    let mut bytes = escaped.iter();
    let mut path = Vec::with_capacity(escaped.len());
    while let Some(byte) = bytes.next() {
        path.push(match byte {
            b'\\' if bytes.next()? == &b'n' => b'\n',
            other => *other,
        });
    }
    let path = RootfsPath::new(Path::new(OsStr::from_bytes(&path)));
    if (uid, gid) == (b"-", b"-") {
        return Some((path, None));
    }
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse().ok();
    Some((path, Some(Owner { uid: number(uid)?, gid: number(gid)? })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::Timestamp;

    fn entry(mode: Option<u32>, device: Option<FileKind>) -> Entry {
        Entry { owner: Owner { uid: 70000, gid: 5 }, mode, device }
    }

    #[test]
    fn entries_are_written_and_read_back() {
        let device = FileKind::CharDevice { major: 1, minor: 3 };
        for (entry, text) in [
            (entry(None, None), "v1 uid=70000 gid=5"),
            (entry(Some(0o4755), None), "v1 uid=70000 gid=5 mode=4755"),
            (entry(None, Some(device)), "v1 uid=70000 gid=5 dev=c:1:3"),
        ] {
            assert_eq!(entry.to_string(), text);
            assert_eq!(Entry::parse(text.as_bytes()), Some(entry));
        }
    }

    #[test]
    fn what_is_no_entry_is_ignored() {
        for text in [
            "",
            "v2 uid=1 gid=1",
            "v1 uid=1",
            "v1 uid=-1 gid=1",
            "v1 uid=1 gid=1 dev=x:1:1",
            "v1 uid=1 gid=1 dev=c:1",
            "v1 uid=1 gid=1 dev=c:1:1:1",
            "v1 uid=1 gid=1 mode=99999",
            "v1 uid=1 gid=1 x",
        ] {
            assert_eq!(Entry::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn an_entry_counts_only_while_it_can_be_true() {
        let ours = || {
            let mut meta = Meta::new(FileKind::File, 0o755, own_uid(), 0, Timestamp::default());
            meta.size = 0;
            meta
        };
        let device = FileKind::BlockDevice { major: 8, minor: 1 };
        let full = entry(Some(0o4755), Some(device.clone()));

        let mut meta = ours();
        apply_entry(&full, &mut meta);
        assert_eq!((meta.uid, meta.gid, meta.mode, meta.kind), (70000, 5, 0o4755, device));

        let mut changed = Meta { uid: own_uid() + 1, mode: 0o700, size: 3, ..ours() };
        let before = changed.clone();
        apply_entry(&full, &mut changed);
        assert_eq!(changed, before, "chown, chmod and a write since then win");
    }

    #[test]
    fn a_sidecar_survives_reopening_and_odd_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("journal");
        let (odd, gone) = (RootfsPath::new("/a\\n b\n\\c"), RootfsPath::new("/gone"));
        let owner = Owner { uid: 1, gid: 4294967294 };
        let sidecar = FileSidecar::open(&file).unwrap();
        assert!(sidecar.is_empty());
        sidecar.set(&odd, Some(owner)).unwrap();
        sidecar.set(&gone, Some(owner)).unwrap();
        sidecar.set(&gone, None).unwrap();
        fs::OpenOptions::new().append(true).open(&file).unwrap().write_all(b"7 7 /cut").unwrap();

        let again = FileSidecar::open(&file).unwrap();
        assert_eq!(again.entries(), [(odd, owner)]);
    }
}
