//! What files are in the image, where the one id of this place cannot say it: read and kept in the journal.
//!
//! Regular files and folders carry it in the attribute of [`rbuild_fs::journal`]. What cannot (links, pipes, sockets, a file
//! system without attributes) is kept in memory for the time of the run, under the inode's number and its time of birth: a
//! number alone would be given to another file. An entry that came from below has no time of birth: its inode stays as long
//! as the layer, and a copy-up keeps the number but not the time.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};

use rbuild_fs::FileKind;
use rbuild_fs::journal::{Entry, Owner, XATTR};
use rustix::fs::{AtFlags, CWD, Mode, XattrFlags, chmodat, chownat, getxattr, removexattr, setxattr};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use crate::supervise::caller::by_number;
use crate::sys;

const TYPE: u32 = libc::S_IFMT;
const SET_UID: u32 = libc::S_ISUID;
const SET_GID: u32 = libc::S_ISGID;
const GROUP_RUNS: u32 = libc::S_IXGRP;
const ROOT: Owner = Owner { uid: 0, gid: 0 };

/// Seconds and nanoseconds.
type Birth = (i64, u32);

/// An open file: the inode, and what the image says.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) stat: libc::stat,
    entry: Option<Entry>,
}

impl Seen {
    /// Whether the image says something else than the inode.
    pub(super) fn differs(&self) -> bool {
        self.entry.is_some()
    }

    /// Whether the inode is one that this place may change.
    fn is_ours(&self) -> bool {
        self.stat.st_uid == 0
    }

    pub(super) fn kind(&self) -> u32 {
        self.stat.st_mode & TYPE
    }

    pub(super) fn is_folder(&self) -> bool {
        self.kind() == libc::S_IFDIR
    }

    pub(super) fn is_link(&self) -> bool {
        self.kind() == libc::S_IFLNK
    }

    pub(super) fn owner(&self) -> Owner {
        match &self.entry {
            Some(entry) if self.is_ours() => entry.owner,
            _ => Owner { uid: self.stat.st_uid, gid: self.stat.st_gid },
        }
    }

    /// Permission bits with setuid, setgid and sticky. A `chmod` since then wins.
    pub(super) fn mode(&self) -> u32 {
        let own = self.stat.st_mode & 0o7777;
        match &self.entry {
            Some(Entry { mode: Some(mode), .. }) if mode & 0o777 == own & 0o777 => *mode,
            _ => own,
        }
    }

    /// The device that a placeholder stands for, as type and numbers.
    pub(super) fn device(&self) -> Option<(u32, u32, u32)> {
        let entry = self.entry.as_ref()?;
        match entry.device {
            _ if self.kind() != libc::S_IFREG || self.stat.st_size != 0 => None,
            Some(FileKind::CharDevice { major, minor }) => Some((libc::S_IFCHR, major, minor)),
            Some(FileKind::BlockDevice { major, minor }) => Some((libc::S_IFBLK, major, minor)),
            _ => None,
        }
    }

    /// Type and mode in one, as `st_mode` has them.
    pub(super) fn type_and_mode(&self) -> u32 {
        self.device().map_or(self.kind(), |(kind, ..)| kind) | self.mode()
    }
}

#[derive(Debug)]
struct Kept {
    /// `None` for any.
    born: Option<Birth>,
    entry: Entry,
}

/// The journal of one run.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    /// By device and inode.
    memory: HashMap<(u64, u64), Kept>,
    /// Some file was given an entry.
    pub(crate) written: bool,
}

impl Owners {
    /// What a sidecar of a lower layer says of a file.
    pub(crate) fn know(&mut self, stat: &libc::stat, owner: Owner) {
        let entry = Entry { owner, mode: None, device: None };
        self.memory.insert(key(stat), Kept { born: None, entry });
    }

    /// Whether nothing is kept in memory.
    pub(crate) fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// The owner kept in memory for an open file.
    pub(crate) fn kept(&self, fd: BorrowedFd<'_>) -> Option<Owner> {
        let stat = sys::stat(fd).ok()?;
        self.in_memory(fd, &stat).map(|entry| entry.owner)
    }

    /// Looks at an open file.
    pub(super) fn look(&self, fd: BorrowedFd<'_>) -> Result<Seen, Errno> {
        let stat = sys::stat(fd)?;
        let entry = match stat.st_mode & TYPE {
            libc::S_IFREG | libc::S_IFDIR if stat.st_uid == 0 => {
                attribute(fd).or_else(|| self.in_memory(fd, &stat))
            }
            _ => self.in_memory(fd, &stat),
        };
        Ok(Seen { stat, entry })
    }

    fn in_memory(&self, fd: BorrowedFd<'_>, stat: &libc::stat) -> Option<Entry> {
        let kept = self.memory.get(&key(stat))?;
        (kept.born.is_none() || kept.born == born(fd)).then(|| kept.entry.clone())
    }

    /// Gives a file an owner, as `chown` of a process that may.
    pub(super) fn chown(&mut self, fd: BorrowedFd<'_>, seen: &Seen, owner: Owner) -> Result<(), Errno> {
        // Has an overlay copy it up, takes capabilities away, and refuses what is read-only or not ours.
        chownat(fd, "", Some(Uid::ROOT), Some(Gid::ROOT), AtFlags::EMPTY_PATH)?;
        let mut mode = seen.mode();
        if !seen.is_folder() {
            mode &= !SET_UID;
            if mode & GROUP_RUNS != 0 {
                mode &= !SET_GID;
            }
        }
        self.keep(fd, owner, mode, seen)
    }

    /// Forgets what the journal says of a file: the inode is right from now on.
    pub(super) fn forget(&mut self, fd: BorrowedFd<'_>, seen: &Seen) -> Result<(), Errno> {
        self.write(fd, seen, None)
    }

    /// Gives a file a mode. One that the journal says nothing of is better left to the kernel.
    pub(super) fn chmod(&mut self, fd: BorrowedFd<'_>, seen: &Seen, mode: u32) -> Result<(), Errno> {
        // The kernel says whether it may be.
        chmodat(CWD, by_number(fd), Mode::from(mode & 0o1777), AtFlags::empty())?;
        self.keep(fd, seen.owner(), mode & 0o7777, seen)
    }

    /// What a new file is: made by `owner`, or the placeholder of a device.
    pub(super) fn keep_new(
        &mut self,
        fd: BorrowedFd<'_>,
        owner: Owner,
        mode: Option<u32>,
        device: Option<FileKind>,
    ) -> Result<(), Errno> {
        let stat = sys::stat(fd)?;
        // A number may have been another's.
        self.memory.remove(&key(&stat));
        let entry = device.map(|device| Entry { owner, mode: None, device: Some(device) });
        let mode = mode.unwrap_or(stat.st_mode & 0o7777);
        self.keep(fd, owner, mode, &Seen { stat, entry })
    }

    fn keep(&mut self, fd: BorrowedFd<'_>, owner: Owner, mode: u32, seen: &Seen) -> Result<(), Errno> {
        let device = seen.entry.as_ref().and_then(|entry| entry.device.clone());
        let plain = owner == ROOT && device.is_none();
        // The bits would let the file run as the user of this place.
        let on_inode = if plain { mode } else { mode & !(SET_UID | SET_GID) };
        if !seen.is_link() && on_inode != sys::stat(fd)?.st_mode & 0o7777 {
            chmodat(CWD, by_number(fd), Mode::from(on_inode), AtFlags::empty())?;
        }
        let entry = (!plain).then(|| Entry { owner, mode: (on_inode != mode).then_some(mode), device });
        self.write(fd, seen, entry)
    }

    fn write(&mut self, fd: BorrowedFd<'_>, seen: &Seen, entry: Option<Entry>) -> Result<(), Errno> {
        self.written |= entry.is_some();
        if matches!(seen.kind(), libc::S_IFREG | libc::S_IFDIR) {
            let written = match &entry {
                Some(entry) => {
                    let value = entry.to_string();
                    setxattr(by_number(fd), XATTR, value.as_bytes(), XattrFlags::empty())
                }
                None if seen.differs() => removexattr(by_number(fd), XATTR),
                None => return Ok(()),
            };
            match written {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        let before = self.memory.remove(&key(&seen.stat));
        if let Some(entry) = entry {
            let born = match before {
                Some(Kept { born: None, .. }) => None,
                _ => born(fd),
            };
            self.memory.insert(key(&sys::stat(fd)?), Kept { born, entry });
        }
        Ok(())
    }
}

fn key(stat: &libc::stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn born(fd: BorrowedFd<'_>) -> Option<Birth> {
    let statx = sys::statx(fd.as_fd(), 0, libc::STATX_BTIME).ok()?;
    let known = statx.stx_mask & libc::STATX_BTIME != 0;
    known.then_some((statx.stx_btime.tv_sec, statx.stx_btime.tv_nsec))
}

fn attribute(fd: BorrowedFd<'_>) -> Option<Entry> {
    let mut value = [0_u8; 128];
    let length = getxattr(by_number(fd), XATTR, &mut value[..]).ok()?;
    Entry::parse(value.get(..length)?)
}
