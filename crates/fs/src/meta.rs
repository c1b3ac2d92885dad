//! What an image says of a file: the inode's data with the journal applied.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, FileType, Stat};

use crate::error::{PathContext, PathError};
use crate::journal::Journal;

/// A time as the kernel and tar headers keep it: seconds since 1970 and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z; negative before.
    pub seconds: i64,
    /// Nanoseconds within the second, below 1 000 000 000.
    pub nanos: u32,
}

impl Timestamp {
    /// A whole second.
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanos: 0 }
    }

    /// The time of the clock now.
    pub fn now() -> Self {
        SystemTime::now().into()
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Self { seconds: after.as_secs() as i64, nanos: after.subsec_nanos() },
            Err(before) => {
                // Before the epoch: the nanoseconds count up from the second below.
                let before = before.duration();
                let up = Duration::from_secs(before.as_secs() + 1) - before;
                let whole = up.subsec_nanos() == 0;
                let seconds = -(before.as_secs() as i64) - i64::from(!whole);
                Self { seconds, nanos: up.subsec_nanos() }
            }
        }
    }
}

/// The kind of a file, with what belongs to the kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and its target, verbatim.
    Symlink(PathBuf),
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device; 0:0 is an overlay's whiteout.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// What an image says of a file: the inode's data with the journal applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Kind, link target, device numbers.
    pub kind: FileKind,
    /// Permission bits with setuid, setgid and sticky: `mode & 0o7777`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of a regular file; what the file system says for the others.
    pub size: u64,
    /// Time of the last change of the content.
    pub mtime: Timestamp,
    /// Number of hard links.
    pub nlink: u64,
    /// Device the inode lies on (`st_dev`).
    pub device: u64,
    /// Number of the inode.
    pub inode: u64,
    /// Time of the last change of the inode.
    pub ctime: Timestamp,
}

impl Meta {
    /// The description of a node to be made: kind, mode, owner and mtime; the inode's own data is zero.
    pub fn new(kind: FileKind, mode: u32, uid: u32, gid: u32, mtime: Timestamp) -> Self {
        let mode = mode & 0o7777;
        Self { kind, mode, uid, gid, size: 0, mtime, nlink: 1, device: 0, inode: 0, ctime: mtime }
    }

    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        self.kind == FileKind::File
    }

    /// Whether it is a symbolic link.
    pub fn is_symlink(&self) -> bool {
        matches!(self.kind, FileKind::Symlink(_))
    }

    /// Whether it is a whiteout of an overlay's upper directory: a character device 0:0.
    pub fn is_whiteout(&self) -> bool {
        self.kind == FileKind::CharDevice { major: 0, minor: 0 }
    }

    /// Reads an inode's data without following a link and without the journal.
    pub(crate) fn of_inode(dir: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Self> {
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes(),
            _ => Vec::new(),
        };
        Ok(Self::from_stat(&stat, OsString::from_vec(target).into()))
    }

    #[expect(clippy::unnecessary_cast, reason = "the widths of these fields differ between architectures")]
    fn from_stat(stat: &Stat, target: PathBuf) -> Self {
        let (major, minor) = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => FileKind::Directory,
            FileType::Symlink => FileKind::Symlink(target),
            FileType::Fifo => FileKind::Fifo,
            FileType::Socket => FileKind::Socket,
            FileType::CharacterDevice => FileKind::CharDevice { major, minor },
            FileType::BlockDevice => FileKind::BlockDevice { major, minor },
            FileType::RegularFile | FileType::Unknown => FileKind::File,
        };
        let time = |seconds, nanos| Timestamp { seconds, nanos };
        Self {
            kind,
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            nlink: stat.st_nlink as u64,
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as u32),
        }
    }
}

/// What an image says of a name in an open directory; the last symbolic link is not followed, `None` if there is
/// no such name. The journal in extended attributes is applied, one in a sidecar is not (see
/// [`Root::meta`](crate::Root::meta)).
pub fn meta_at(dir: BorrowedFd<'_>, name: impl AsRef<OsStr>) -> Result<Option<Meta>, PathError> {
    let name = name.as_ref();
    match Meta::of_inode(dir, name) {
        Ok(mut meta) => {
            Journal::xattrs().apply(dir.as_fd(), name, None, &mut meta);
            Ok(Some(meta))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error).on("stat", name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_times_before_the_epoch_keep_their_order() {
        let at = |millis: u64| Timestamp::from(UNIX_EPOCH - Duration::from_millis(millis));
        assert_eq!(at(1500), Timestamp { seconds: -2, nanos: 500_000_000 });
        assert_eq!(at(1000), Timestamp { seconds: -1, nanos: 0 });
        assert!(at(1) < Timestamp::from(UNIX_EPOCH));
    }
}
